//! Records by TC, which is what `xdp = auto` means behind veth.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};
use ocserv_tests::bed::{GATEWAY4, GATEWAY6, LAN4};
use ocserv_tests::datapath::{self, Datapath, packets};
use ocserv_tests::{
    Bed, Client, Config, Login, Namespace, Server, datagrams, scenario, traffic, wait,
};

/// The gateway's address towards the lan.
const INNER4: &str = "10.20.0.1";

fn config(bed: &Bed) -> Config {
    Config::new(bed)
        .set("xdp", "auto")
        .set("xdp-max-record", "1530")
}

/// All kinds of traffic, by one of the gateway's addresses.
fn everything_passes(gateway: &str) {
    scenario(|bed| {
        let server = datapath::start(bed, &config(bed))?;
        let mode = Datapath::of(&server)?.device("wan0");
        ensure!(mode.as_deref() == Some("wan tc"), "{mode:?}");
        let client = Login::new().to_address(gateway).connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &client)?;
        traffic::ping_all_ways(bed, &client)?;
        traffic::transfer_all_ways(bed, &client, 300_000)?;
        datagrams::pass_all_ways(bed, &client, 200)?;
        datagrams::pass_all_ways(bed, &client, 1000)?;
        // What merged meanwhile passed in user space.
        datapath::wait_in_kernel(&server, &client)?;
        let now = Datapath::of(&server)?;
        for reason in ["replay", "authentication", "malformed", "frame"] {
            ensure!(now.dropped(reason)? == 0, "{now:?}");
        }
        Ok(())
    });
}

/// Whether the kernel merges what the client's device receives.
fn merges(bed: &Bed) -> Result<bool> {
    let features = bed.gateway().must("ethtool", &["-k", "wan0"])?;
    Ok(features.contains("generic-receive-offload: on"))
}

#[test]
fn the_device_merges_as_long_as_the_server_runs() {
    scenario(|bed| {
        ensure!(!merges(bed)?);
        let mut server = Server::start(bed, &config(bed))?;
        ensure!(merges(bed)?);
        ensure!(server.terminate(wait::LONG)?.success());
        ensure!(!merges(bed)?);
        // Who has switched it on keeps it.
        bed.gateway()
            .must("ethtool", &["-K", "wan0", "gro", "on"])?;
        let mut server = Server::start(bed, &config(bed))?;
        ensure!(server.terminate(wait::LONG)?.success());
        ensure!(merges(bed)?);
        Ok(())
    });
}

#[test]
fn everything_passes_by_tc() {
    everything_passes(GATEWAY4);
}

#[test]
fn everything_passes_by_tc_over_ipv6_outside() {
    everything_passes(GATEWAY6);
}

#[test]
fn auto_means_the_driver_elsewhere_and_tc_where_it_has_no_xdp() {
    scenario(|bed| {
        let gateway = bed.gateway();
        gateway.ip("tuntap add tap0 mode tap")?;
        gateway.ip("link add bridge0 type bridge")?;
        let mut config = config(bed);
        for device in ["wan0", "tap0", "bridge0"] {
            gateway.ip(&format!("link set {device} up"))?;
            config = config.add("xdp-interface", device);
        }
        let now = Datapath::of(&Server::start(bed, &config)?)?;
        let modes = ["wan0", "tap0", "bridge0"].map(|device| now.device(device));
        let modes = modes.each_ref().map(Option::as_deref);
        let expected = ["wan tc", "wan native", "wan tc"].map(Some);
        ensure!(modes == expected, "{modes:?}");
        Ok(())
    });
}

#[test]
fn records_whose_checksum_nobody_completed_pass_in_the_kernel() {
    scenario(|bed| {
        let server = Server::start(bed, &config(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &client)?;
        traffic::transfer_all_ways(bed, &client, 300_000)?;
        datapath::wait_in_kernel(&server, &client)?;
        damage_stays(bed, &server, &client)
    });
}

#[test]
fn what_the_kernel_verified_of_a_record_is_not_said_of_its_packet() {
    scenario(|bed| {
        // Verifies the outer checksum.
        bed.gateway()
            .must("ethtool", &["-K", "wan0", "gro", "on"])?;
        let server = datapath::start(bed, &config(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &client)?;
        damage_stays(bed, &server, &client)
    });
}

/// Datagrams with wrong checksums must reach neither the gateway's own sockets nor the lan's.
fn damage_stays(bed: &Bed, server: &Server, client: &Client) -> Result<()> {
    const PAIRS: u8 = 20;
    let from = client.namespace();
    let source: Ipv4Addr = client.address4()?.parse()?;
    for (to, address) in [(bed.gateway(), INNER4), (bed.lan(), LAN4)] {
        let before = packets(server)?;
        let receiver = to.run(|| UdpSocket::bind((address, 0)))??;
        receiver.set_read_timeout(Some(Duration::from_secs(2)))?;
        let target = SocketAddrV4::new(address.parse()?, receiver.local_addr()?.port());
        for number in 0..PAIRS {
            for is_damaged in [true, false] {
                let payload = [number, is_damaged.into()];
                send(from, target, &[udp(source, target, &payload, is_damaged)])?;
            }
        }
        for number in 0..PAIRS {
            let mut payload = [0xff; 2];
            receiver.recv(&mut payload)?;
            ensure!(payload == [number, 0], "{payload:?} at {address}");
        }
        let added = packets(server)?.kernel_rx - before.kernel_rx;
        ensure!(added >= u64::from(PAIRS), "{added}");
    }
    Ok(())
}

/// A finished checksum may look like one that is still to be completed. Such a packet is left to user space,
/// and those behind it must not overtake it.
#[test]
fn what_looks_as_if_its_checksum_were_open_stays_in_its_place() {
    const GROUPS: u8 = 10;
    const GROUP: u8 = 5;
    scenario(|bed| {
        let server = datapath::start(bed, &config(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &client)?;
        let own = client.address4()?;
        let receiver = client
            .namespace()
            .run(|| UdpSocket::bind((own.as_str(), 0)))??;
        receiver.set_read_timeout(Some(Duration::from_secs(2)))?;
        let target = SocketAddrV4::new(own.parse()?, receiver.local_addr()?.port());
        let source = LAN4.parse()?;
        let (before, counted) = (Datapath::of(&server)?, packets(&server)?);
        for first in (0..GROUPS * GROUP).step_by(GROUP.into()) {
            let numbers = first..first + GROUP;
            let mut datagrams: Vec<_> = numbers
                .clone()
                .map(|number| udp(source, target, &body(number, [0, 0]), false))
                .collect();
            datagrams[2] = looks_open(source, target, first + 2)?;
            send(bed.lan(), target, &datagrams)?;
            for expected in numbers {
                let mut payload = [0xff; BODY];
                receiver.recv(&mut payload)?;
                ensure!(payload[0] == expected, "{payload:?} for {expected}");
            }
            // User space is done with them, and the session is the kernel's again.
            std::thread::sleep(Duration::from_millis(100));
        }
        let left = Datapath::of(&server)?.left("form")? - before.left("form")?;
        ensure!(left == u64::from(GROUPS), "{left}");
        let in_kernel = packets(&server)?.kernel_tx - counted.kernel_tx;
        ensure!(in_kernel >= 2 * u64::from(GROUPS), "{in_kernel}");
        Ok(())
    });
}

const PORT: u16 = 5000;
/// Bytes of a datagram that might be a record.
const BODY: usize = 20;

fn body(number: u8, last: [u8; 2]) -> [u8; BODY] {
    let mut body = [number; BODY];
    body[BODY - 2..].copy_from_slice(&last);
    body
}

/// A datagram whose checksum, which is complete, is the sum of the pseudo header.
fn looks_open(from: Ipv4Addr, to: SocketAddrV4, number: u8) -> Result<Vec<u8>> {
    let open = sum(&pseudo_header(from, *to.ip(), 8 + BODY as u16));
    let plain = udp(from, to, &body(number, [0, 0]), false);
    let found = u16::from_be_bytes([plain[6], plain[7]]);
    // What makes the sum of all words the open one's complement.
    let missing = sum(&[!open, found].map(u16::to_be_bytes).concat());
    let datagram = udp(from, to, &body(number, missing.to_be_bytes()), false);
    ensure!(datagram[6..8] == open.to_be_bytes());
    Ok(datagram)
}

/// A datagram with its checksum, or a wrong one.
fn udp(from: Ipv4Addr, to: SocketAddrV4, payload: &[u8], is_damaged: bool) -> Vec<u8> {
    let len = (8 + payload.len()) as u16;
    let mut bytes = [PORT, to.port(), len, 0].map(u16::to_be_bytes).concat();
    bytes.extend(payload);
    // 0 would stand for no checksum.
    let mut checksum = match !sum(&[pseudo_header(from, *to.ip(), len), bytes.clone()].concat()) {
        0 => 0xffff,
        right => right,
    };
    if is_damaged {
        checksum ^= if checksum == 1 { 2 } else { 1 };
    }
    bytes[6..8].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

fn pseudo_header(from: Ipv4Addr, to: Ipv4Addr, len: u16) -> Vec<u8> {
    const PROTOCOL: u16 = 17;
    let rest = [PROTOCOL, len].map(u16::to_be_bytes).concat();
    [[from.octets(), to.octets()].concat(), rest].concat()
}

/// The sum of words, folded (RFC 1071).
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2);
    let mut sum: u32 = words
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Sends them as they are.
fn send(from: &Namespace, to: SocketAddrV4, datagrams: &[Vec<u8>]) -> Result<()> {
    let raw = from.run(|| {
        socket(
            AddressFamily::Inet,
            SockType::Raw,
            SockFlag::empty(),
            SockProtocol::Udp,
        )
    })??;
    let to = SockaddrIn::from(SocketAddrV4::new(*to.ip(), 0));
    for datagram in datagrams {
        sendto(raw.as_raw_fd(), datagram, &to, MsgFlags::empty())?;
    }
    Ok(())
}
