//! The kernel's own segmentation, held against ours.

use nix::unistd::write;
use ocserv_common::offload::checksum::{fold, pseudo_header, sum};
use ocserv_common::offload::segment::Segmenter;
use ocserv_common::offload::vnet::{
    GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CHECKSUM, VnetHeader,
};

use super::traffic::{Random, seed};
use super::*;

/// From a host behind `vpnt0` to one behind `vpnt1`, which the kernel forwards.
struct Super {
    is_ipv4: bool,
    is_tcp: bool,
    flags: u8,
    options: &'static [u8],
    payload: usize,
    size: u16,
}

impl Super {
    fn network_len(&self) -> usize {
        if self.is_ipv4 { 20 } else { 40 }
    }

    fn header(&self) -> VnetHeader {
        let gso_type = match (self.is_tcp, self.is_ipv4) {
            (true, true) => GSO_TCPV4,
            (true, false) => GSO_TCPV6,
            (false, _) => GSO_UDP_L4,
        };
        let transport = if self.is_tcp {
            20 + self.options.len()
        } else {
            8
        };
        let has_cwr = self.is_tcp && self.flags & 0x80 != 0;
        let ecn = if has_cwr { GSO_ECN } else { 0 };
        VnetHeader {
            flags: NEEDS_CHECKSUM,
            gso_type: gso_type | ecn,
            header_len: (self.network_len() + transport) as u16,
            gso_size: self.size,
            checksum_start: self.network_len() as u16,
            checksum_offset: if self.is_tcp { 16 } else { 6 },
        }
    }

    fn bytes(&self, ttl: u8) -> Vec<u8> {
        let mut transport = vec![0x10, 0, 0, 9];
        if self.is_tcp {
            transport.extend([0xff, 0xff, 0xfe, 1, 0, 0, 0, 7]);
            let len = 5 + self.options.len() as u8 / 4;
            transport.extend([len << 4, self.flags, 1, 2, 0, 0, 0, 0]);
            transport.extend(self.options);
        } else {
            transport.extend((8 + self.payload as u16).to_be_bytes());
            transport.extend([0, 0]);
        }
        transport.extend((0..self.payload).map(|n| (n * 7) as u8));
        let protocol = if self.is_tcp { 6 } else { 17 };
        let mut packet = self.network(ttl, protocol, transport.len());
        let addresses = if self.is_ipv4 { 12..20 } else { 8..40 };
        let pseudo = fold(pseudo_header(&packet[addresses], protocol, transport.len()));
        let field = if self.is_tcp { 16 } else { 6 };
        transport[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
        packet.extend(transport);
        packet
    }

    fn network(&self, ttl: u8, protocol: u8, len: usize) -> Vec<u8> {
        if !self.is_ipv4 {
            let mut header = vec![0x60, 0, 0, 5];
            header.extend((len as u16).to_be_bytes());
            header.extend([protocol, ttl]);
            for net in [9, 8] {
                header.extend([0xfd, net, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
            }
            return header;
        }
        let mut header = vec![0x45, 2];
        header.extend((20 + len as u16).to_be_bytes());
        header.extend([0xff, 0xfe, 0x40, 0, ttl, protocol, 0, 0]);
        header.extend([10, 9, 0, 2, 10, 8, 0, 2]);
        let checksum = !fold(sum(&header));
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header
    }

    fn our_segments(&self, ttl: u8) -> Vec<Vec<u8>> {
        let mut packet = self.bytes(ttl);
        let mut segmenter = Segmenter::new(&self.header(), &mut packet, 2048).unwrap();
        let mut buffer = [0; 2048];
        let mut all = Vec::new();
        while let Some(len) = segmenter.next(&packet, &mut buffer) {
            all.push(buffer[..len].to_vec());
        }
        all
    }
}

/// Two devices that the kernel forwards between; the second one without super-packets.
fn routed() -> [TunDevice; 2] {
    let devices = [(9, true), (8, false)].map(|(net, super_packets)| {
        let mut device = TunDevice::create_with("vpnt%d", 1, super_packets).unwrap();
        device.set_mtu(1500).unwrap();
        device.set_up().unwrap();
        let name = device.name();
        ip(&format!("addr add 10.{net}.0.1/24 dev {name}"));
        ip(&format!("addr add fd0{net}::1/64 dev {name} nodad"));
        device
    });
    for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        std::fs::write(format!("/proc/sys/net/{switch}"), "1").unwrap();
    }
    devices
}

/// Waits for `count` packets of the test's flow.
fn forwarded(queue: &mut TunQueue, count: usize) -> Vec<Vec<u8>> {
    let mut batch = PacketBatch::new(8, 2048);
    let mut all = Vec::new();
    while all.len() < count {
        let mut fds = [PollFd::new(queue.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::from(5000u16)).unwrap() == 0 {
            break;
        }
        for index in 0..queue.recv_batch(&mut batch).unwrap() {
            let packet = batch.packet(index);
            let transport = if packet[0] == 0x45 { 20 } else { 40 };
            if packet.get(transport..transport + 4) == Some(&[0x10, 0, 0, 9]) {
                all.push(packet.to_vec());
            }
        }
    }
    all
}

const TIMESTAMPS: &[u8] = &[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];

#[test]
fn a_tun_device_cuts_as_we_do() {
    in_own_network(|| {
        let [near, far] = routed();
        let mut far = queues(&far);
        for (is_ipv4, is_tcp) in [(true, true), (false, true), (true, false), (false, false)] {
            for (flags, options, payload, size) in [
                (0x10, &[][..], 2800, 1400),
                (0x99, TIMESTAMPS, 3001, 1001),
                (0x18, TIMESTAMPS, 60_000, 1400),
                (0x11, &[], 101, 100),
                (0x50, &[], 1000, 17),
            ] {
                let sample = Super {
                    is_ipv4,
                    is_tcp,
                    flags,
                    options,
                    payload,
                    size,
                };
                let mut bytes = sample.header().to_bytes().to_vec();
                bytes.extend(sample.bytes(64));
                write(&near.queues()[0], &bytes)
                    .unwrap_or_else(|error| panic!("{error}: {:?}", sample.header()));
                let ours = sample.our_segments(63);
                assert_eq!(forwarded(&mut far[0], ours.len()), ours);
            }
        }
    });
}

/// What the kernel's own sockets could have made.
fn random_super(random: &mut Random) -> Super {
    let is_tcp = random.below(2) == 0;
    let size = 1 + random.below(1400);
    // UDP has at most 128 segments, and the device's queue room for some hundreds.
    let segments = 2 + random.below(if is_tcp { 200 } else { 120 });
    let payload = size * (segments - 1) + 1 + random.below(size);
    Super {
        is_ipv4: random.below(2) == 0,
        is_tcp,
        flags: [0x10, 0x18, 0x11, 0x90, 0x99, 0x50, 0x31][random.below(7) as usize],
        options: [&[][..], TIMESTAMPS, &[1, 1, 1, 1]][random.below(3) as usize],
        payload: payload.min(60_000) as usize,
        size: size as u16,
    }
}

#[test]
fn a_tun_device_cuts_random_super_packets_as_we_do() {
    const COUNT: usize = 200;
    let seed = seed();
    in_own_network(move || {
        let [near, far] = routed();
        let mut far = queues(&far);
        let mut random = Random(seed);
        for _ in 0..COUNT {
            let sample = random_super(&mut random);
            let mut bytes = sample.header().to_bytes().to_vec();
            bytes.extend(sample.bytes(64));
            write(&near.queues()[0], &bytes)
                .unwrap_or_else(|error| panic!("{error}: {:?}", sample.header()));
            let ours = sample.our_segments(63);
            let theirs = forwarded(&mut far[0], ours.len());
            assert!(theirs == ours, "{:?}", sample.header());
        }
    });
}

#[test]
fn the_kernel_cuts_what_we_put_together_into_what_it_was() {
    in_own_network(|| {
        let [near, far] = routed();
        let (mut near_queue, mut far) = (queues(&near), queues(&far));
        let before = received(&near);
        let mut expected = 0;
        for (is_ipv4, is_tcp) in [(true, true), (false, true), (true, false), (false, false)] {
            let sample = Super {
                is_ipv4,
                is_tcp,
                flags: 0x18,
                options: TIMESTAMPS,
                payload: 40_000,
                size: 1300,
            };
            let packets = sample.our_segments(64);
            let sent = near_queue[0].send_batch(packets.iter().map(Vec::as_slice));
            assert_eq!((sent.sent, sent.refused), (packets.len(), 0));
            let back = forwarded(&mut far[0], packets.len());
            assert_eq!(back, sample.our_segments(63));
            expected += 1;
        }
        assert_eq!(received(&near) - before, expected);
    });
}

/// Packets that the host got from the device; of a super-packet it counts one.
pub fn received(device: &TunDevice) -> u64 {
    counted(device, "RX:")
}

/// Packets of one direction.
pub fn counted(device: &TunDevice, direction: &str) -> u64 {
    let output = Command::new("ip")
        .args(["-s", "-o", "link", "show", "dev", device.name()])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let counts = text.split(direction).nth(1).unwrap().split('\\').nth(1);
    let mut counts = counts.unwrap().split_whitespace();
    counts.nth(1).unwrap().parse().unwrap()
}
