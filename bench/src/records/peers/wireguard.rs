//! WireGuard in user space. Kernels here have no WireGuard of their own.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::Result;
use ocserv_tests::bed::GATEWAY4;
use ocserv_tests::{Bed, Namespace, process};

use super::pair::Pair;

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 31, 0, 2);
/// The control socket of such a program is in `/run/wireguard`, the same for all namespaces: here it is
/// in a `/run` of its own, which goes with the processes.
const SCRIPT: &str = r#"
set -e
address=$1 settings=$2 routes=$3
shift 3
mount -t tmpfs none /run
"$@" wg0 &
tries=0
until wg set wg0 $settings; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ]
    sleep 0.1
done
ip address add "$address" dev wg0
ip link set wg0 up mtu 1420
for route in $routes; do ip route add "$route" dev wg0; done
wait
"#;

/// Starts both ends of a program, which gets the name of a device.
///
/// # Errors
/// When one does not start, or no packet passes.
pub fn start(program: &[&str]) -> Result<Pair> {
    Pair::of_programs(CLIENT, |bed| {
        let [of_server, of_client] = [make_key(bed, "server")?, make_key(bed, "client")?];
        let own = |name: &str| {
            bed.directory()
                .join(format!("{name}.wg"))
                .display()
                .to_string()
        };
        let server = format!(
            "listen-port 51820 private-key {} peer {of_client} allowed-ips {CLIENT}/32",
            own("server")
        );
        let client = format!(
            "private-key {} peer {of_server} allowed-ips 0.0.0.0/0 endpoint {GATEWAY4}:51820",
            own("client")
        );
        Ok([
            end(bed.gateway(), ["10.31.0.1/24", &server, ""], program),
            end(
                bed.client(0),
                ["10.31.0.2/32", &client, "10.20.0.0/24"],
                program,
            ),
        ])
    })
}

/// Writes a private key and returns the public one.
fn make_key(bed: &Bed, name: &str) -> Result<String> {
    const MAKE: &str = "umask 77; wg genkey >\"$1\" && wg pubkey <\"$1\"";
    let path = bed.directory().join(format!("{name}.wg"));
    let key = process::run("sh", &["-c", MAKE, "key", &path.display().to_string()])?;
    Ok(key.trim().to_owned())
}

/// `ip netns exec` gives it mounts of its own.
fn end(namespace: &Namespace, arguments: [&str; 3], program: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace.name(), "sh", "-c", SCRIPT, "end"]);
    command.args(arguments).args(program);
    command.env("WG_SUDO", "1");
    command
}
