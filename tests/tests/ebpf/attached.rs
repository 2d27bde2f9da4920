//! The programs on devices: from a client's frame to the LAN and back, by way of the host's stack.
//!
//! The devices are tap devices in a namespace of their own; the test is what is behind them.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use aya::programs::{SchedClassifier, TcAttachType};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{MsgFlags, send};
use nix::unistd::read;
use ocserv_common::kernel::Counted;
use ocserv_daemon::kernel_path::{DeviceRole, Mode};
use ocserv_sys::tun::TunDevice;

use crate::bed::{Bed, FLOW4, FLOW6, LOCAL4, client_channel};
use crate::direct::one_hop;
use crate::net::{HOST_MAC, LAN_MAC, ROUTER_MAC, WAN_MAC, empty, ifindex, ip};
use crate::packets::{Client, bare, ethernet, frame, inner};
use crate::seal;

/// How long a packet may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// See `net::alone`: the same addresses.
const LINES: &str = "\
link set lo up
link set wan address 02:00:00:00:01:01 mtu 2000 up
link set lan address 02:00:00:00:02:01 up
link set tun0 up
address add 198.51.100.1/24 dev wan
address add 2001:db8::1/64 dev wan nodad
address add 10.20.0.1/16 dev lan
address add fd00:20::1/64 dev lan nodad
route add 10.9.0.0/24 dev tun0
route add fd00::/112 dev tun0
route add 192.0.2.0/24 via 198.51.100.254
neighbour add 198.51.100.254 lladdr 02:00:00:00:01:02 dev wan nud permanent
neighbour add 2001:db8::77 lladdr 02:00:00:00:01:02 dev wan nud permanent
neighbour add 10.20.0.2 lladdr 02:00:00:00:02:02 dev lan nud permanent
neighbour add fd00:20::2 lladdr 02:00:00:00:02:02 dev lan nud permanent
";

/// A gateway with its three devices.
struct Gateway {
    bed: Bed,
    wan: tun::Device,
    lan: tun::Device,
    tun: TunDevice,
}

impl Gateway {
    /// With the programs on its devices. The session is at `flow`.
    fn new(flow: (&str, &str), mode: Mode) -> Result<Self> {
        let (wan, lan) = (tap("wan")?, tap("lan")?);
        let tun = TunDevice::create("tun0", 1)?;
        ip(LINES)?;
        let tun_ifindex = tun.index()?;
        let mut bed = Bed::with(|options| options.tun_ifindex = tun_ifindex)?;
        bed.ifindex = ifindex("wan")?;
        bed.install(0, 1, flow)?;
        bed.hear(0);
        let wan_device = (bed.ifindex, "wan");
        let got = bed.kernel.attach(wan_device, DeviceRole::Wan, &[mode])?;
        assert_eq!(got, mode);
        bed.kernel
            .attach((tun_ifindex, "tun0"), DeviceRole::Tun, &[])?;
        Ok(Self { bed, wan, lan, tun })
    }
}

fn tap(name: &str) -> Result<tun::Device> {
    let mut configuration = tun::Configuration::default();
    configuration.tun_name(name).layer(tun::Layer::L2);
    let device = tun::Device::new(&configuration)?;
    device.set_nonblock()?;
    Ok(device)
}

/// Waits for something that `take` makes out of a packet; others pass by.
fn wait<T>(
    mut next: impl FnMut(&mut [u8]) -> std::io::Result<usize>,
    take: impl Fn(&[u8]) -> Option<T>,
) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    let mut buffer = vec![0; 4096];
    loop {
        match next(&mut buffer) {
            Ok(len) => {
                if let Some(found) = take(&buffer[..len]) {
                    return Ok(found);
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error.into()),
        }
        if Instant::now() > deadline {
            bail!("nothing came");
        }
    }
}

/// A frame from the client with the gateway's Ethernet address.
fn from_client(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[..6].copy_from_slice(&WAN_MAC);
    bytes[6..12].copy_from_slice(&ROUTER_MAC);
    bytes
}

/// What the LAN gets of an inner packet.
fn to_host(packet: &[u8]) -> Vec<u8> {
    let bytes = ethernet(&one_hop(packet));
    [&HOST_MAC[..], &LAN_MAC, &bytes[12..]].concat()
}

fn from_host(packet: &[u8]) -> Vec<u8> {
    let bytes = ethernet(packet);
    [&LAN_MAC[..], &HOST_MAC, &bytes[12..]].concat()
}

const MODES: [Mode; 3] = [Mode::Native, Mode::Generic, Mode::Tc];

/// Both families, in all modes.
fn ways() -> impl Iterator<Item = ((&'static str, &'static str), Mode)> {
    [FLOW4, FLOW6]
        .into_iter()
        .flat_map(|flow| MODES.map(|mode| (flow, mode)))
}

#[test]
fn records_reach_the_lan_by_the_host_s_stack() {
    for (flow, mode) in ways() {
        empty(|| {
            let mut gateway = Gateway::new(flow, mode)?;
            let mut client = Client::new(1);
            for (n, len) in [60, 61, 200, 1280, 1500].into_iter().enumerate() {
                for packet in [
                    inner("10.9.0.5", "10.20.0.2", len),
                    inner("fd00::5", "fd00:20::2", len),
                ] {
                    let mut bytes = from_client(client.frame(flow, &packet));
                    if n % 2 == 1 {
                        bytes.splice(12..12, [0x81, 0, 0, 5]);
                    }
                    gateway.wan.write_all(&bytes)?;
                    let expected = to_host(&packet);
                    let lan = &mut gateway.lan;
                    wait(
                        |buffer| lan.read(buffer),
                        |got| (got == expected).then_some(()),
                    )
                    .with_context(|| format!("{len} bytes, {mode:?}"))?;
                }
            }
            assert_eq!(gateway.bed.count(Counted::RxPackets), 10);
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn packets_of_the_lan_reach_the_client_sealed() {
    for (flow, mode) in ways() {
        empty(|| {
            let mut gateway = Gateway::new(flow, mode)?;
            let udp = if flow == FLOW4 { 34 } else { 54 };
            for (n, len) in [60, 61, 200, 1280, 1500].into_iter().enumerate() {
                for (m, packet) in [
                    inner("10.20.0.2", "10.9.0.5", len),
                    bare("fd00:20::2", "fd00::5", len),
                ]
                .into_iter()
                .enumerate()
                {
                    gateway.lan.write_all(&from_host(&packet))?;
                    let wan = &mut gateway.wan;
                    let is_record = |got: &[u8]| got.get(udp..udp + 2) == Some(&[1, 187][..]);
                    let got = wait(
                        |buffer| wan.read(buffer),
                        |got| is_record(got).then(|| got.to_vec()),
                    )
                    .with_context(|| format!("{len} bytes, {mode:?}"))?;
                    let opened = seal::open(&got, flow, &client_channel(1), 0, false);
                    assert_eq!(opened.packet, one_hop(&packet));
                    assert_eq!(opened.sequence, (2 * n + m + 1) as u64);
                }
            }
            assert_eq!(gateway.bed.count(Counted::TxPackets), 10);
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn what_the_programs_leave_reaches_sockets_and_the_tun_device() {
    for mode in MODES {
        empty(|| {
            let mut gateway = Gateway::new(FLOW4, mode)?;
            let socket = UdpSocket::bind(LOCAL4)?;
            socket.set_nonblocking(true)?;
            let mut client = Client::new(1);
            let control = client.record(3, b"dpd");
            gateway
                .wan
                .write_all(&from_client(frame(FLOW4, &control)))?;
            wait(
                |buffer| socket.recv(buffer),
                |got| (got == control).then_some(()),
            )?;
            let other = inner("10.20.0.2", "10.9.0.77", 60);
            gateway.lan.write_all(&from_host(&other))?;
            let queue = &gateway.tun.queues()[0];
            let expected = one_hop(&other);
            // The device's own header stands before the packet.
            wait(
                |buffer| Ok(read(queue, buffer)?),
                |got| got.ends_with(&expected).then_some(()),
            )
        })
        .unwrap();
    }
}

/// The client's machine, whose records come in two pieces of memory each.
fn client_of_pieces(name: &str) -> Result<UdpSocket> {
    ip(&format!(
        "link set {name} up\n\
         address add 192.0.2.77/24 dev {name}\n\
         route add 198.51.100.0/24 dev {name}\n\
         neighbour add 198.51.100.1 lladdr 02:00:00:00:01:01 dev {name} nud permanent\n"
    ))?;
    let socket = UdpSocket::bind(FLOW4.0)?;
    socket.connect(FLOW4.1)?;
    Ok(socket)
}

#[test]
fn packets_in_several_pieces_of_memory_are_made_whole() {
    const LENGTHS: [usize; 4] = [60, 61, 500, 1400];
    const MORE: MsgFlags = MsgFlags::from_bits_retain(nix::libc::MSG_MORE);
    empty(|| {
        ip("link add wan address 02:00:00:00:01:01 type veth peer name out")?;
        let tun = TunDevice::create("tun0", 1)?;
        ip("link set lo up\n\
            link set wan up\n\
            link set tun0 up\n\
            address add 198.51.100.1/24 dev wan\n\
            address add 10.20.0.1/16 dev lo\n\
            route add 192.0.2.0/24 dev wan\n\
            route add 10.9.0.0/24 dev tun0\n")?;
        let tun_ifindex = tun.index()?;
        let mut bed = Bed::with(|options| options.tun_ifindex = tun_ifindex)?;
        bed.install(0, 1, FLOW4)?;
        let wan = (ifindex("wan")?, "wan");
        bed.kernel.attach(wan, DeviceRole::Wan, &[Mode::Tc])?;
        let receiver = UdpSocket::bind("10.20.0.1:53")?;
        receiver.set_read_timeout(Some(PATIENCE))?;
        let (to_client, own) = std::sync::mpsc::channel();
        let (to_gateway, thread) = std::sync::mpsc::channel();
        thread::scope(|scope| {
            let sending = scope.spawn(move || -> Result<()> {
                unshare(CloneFlags::CLONE_NEWNET)?;
                to_gateway.send(nix::unistd::gettid())?;
                own.recv()?;
                let socket = client_of_pieces("out")?;
                let mut client = Client::new(1);
                for len in LENGTHS {
                    let record = client.record(0, &inner("10.9.0.5", "10.20.0.1", len));
                    let (first, rest) = record.split_at(20);
                    send(socket.as_raw_fd(), first, MORE)?;
                    send(socket.as_raw_fd(), rest, MsgFlags::empty())?;
                }
                Ok(())
            });
            ip(&format!("link set out netns {}", thread.recv()?))?;
            to_client.send(())?;
            for len in LENGTHS {
                let mut buffer = [0; 2000];
                let got = receiver.recv(&mut buffer)?;
                assert_eq!(buffer[..got], inner("10.9.0.5", "10.20.0.1", len)[28..]);
            }
            sending.join().expect("the client")
        })?;
        assert_eq!(bed.count(Counted::RxPackets), LENGTHS.len() as u64);
        Ok(())
    })
    .unwrap();
}

/// Another's program that ends the chain would give inner packets to the stack as the device's own.
#[test]
fn what_takes_records_comes_before_other_programs() {
    for (mode, program) in [(Mode::Native, "tc_deliver"), (Mode::Tc, "tc_rx")] {
        empty(|| {
            let _device = tap("wan")?;
            let wan = (ifindex("wan")?, "wan");
            let mut other = Bed::new()?;
            other.kernel.attach(wan, DeviceRole::Wan, &[Mode::Tc])?;
            let mut bed = Bed::new()?;
            bed.kernel.attach(wan, DeviceRole::Wan, &[mode])?;
            let own: &SchedClassifier = bed
                .kernel
                .ebpf_mut()
                .program(program)
                .context("no such program")?
                .try_into()?;
            let own = own.info()?.id();
            let (_, chain) = SchedClassifier::query_tcx("wan", TcAttachType::Ingress)?;
            let chain: Vec<_> = chain.iter().map(|program| program.id()).collect();
            assert_eq!((chain.len(), chain[0]), (2, own), "{chain:?}");
            Ok(())
        })
        .unwrap();
    }
}
