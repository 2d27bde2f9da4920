//! OpenVPN: UDP, a tun device, AES-256-GCM, the data channel in user space.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::Result;
use ocserv_tests::Bed;
use ocserv_tests::bed::{GATEWAY4, HOST};
use ocserv_tests::pki::KeyKind;

use super::pair::Pair;

/// The server's first lease.
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 31, 0, 2);
const SERVER: &str = "--server 10.31.0.0 255.255.255.0 --topology subnet --dh none";
const BOTH: &str = "--dev ovpn0 --dev-type tun --proto udp4 --port 1194 --disable-dco \
                    --data-ciphers AES-256-GCM --allow-compression no --verb 3";

/// Starts both ends.
///
/// # Errors
/// When one does not start, or no packet passes.
pub fn start() -> Result<Pair> {
    Pair::of_programs(CLIENT, |bed| {
        bed.issue_certificate("visitor", "visitor", KeyKind::P256, None)?;
        let mut server = end(bed, "server");
        server.args(SERVER.split(' '));
        let mut client = end(bed, "visitor");
        client.args(["--client", "--nobind", "--remote", GATEWAY4]);
        client.args(["--route", "10.20.0.0", "255.255.255.0"]);
        client.args(["--verify-x509-name", HOST, "name"]);
        Ok([server, client])
    })
}

fn end(bed: &Bed, identity: &str) -> Command {
    let file = |name: &str| bed.directory().join(name);
    let mut command = Command::new("openvpn");
    command.args(BOTH.split_whitespace());
    command.arg("--ca").arg(file("ca.pem"));
    command.arg("--cert").arg(file(&format!("{identity}.pem")));
    command.arg("--key").arg(file(&format!("{identity}.key")));
    command
}
