//! Random traffic of a few flows between two hosts, 10.9.0.2 and 10.8.0.2, `fd09::2` and `fd08::2`.

use std::hash::{BuildHasher, RandomState};

use ocserv_common::offload::checksum::{fold, pseudo_header, sum};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP6: u8 = 58;
/// Length of the name of what may belong to any flow.
pub const ANY_FLOW: usize = 1;

/// Another one each time, told when a test fails; `TRAFFIC_SEED` repeats one.
pub fn seed() -> u64 {
    let seed = std::env::var("TRAFFIC_SEED").map_or_else(
        |_| RandomState::new().hash_one(0),
        |seed| seed.parse().unwrap(),
    );
    println!("TRAFFIC_SEED={seed}");
    seed
}

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Whether one of 100 draws hits.
    fn percent(&mut self, share: u64) -> bool {
        self.below(100) < share
    }
}

/// A flow, and what its next packet has.
struct Flow {
    is_ipv4: bool,
    protocol: u8,
    port: u16,
    size: usize,
    sequence: u32,
    id: u16,
    tos: u8,
    ttl: u8,
    dont_fragment: bool,
    options: Vec<u8>,
}

/// Packets without end.
pub struct Packets<'a> {
    random: &'a mut Random,
    flows: Vec<Flow>,
    /// Whose turn it is: packets of a flow come in trains.
    at: usize,
}

impl<'a> Packets<'a> {
    pub fn new(random: &'a mut Random) -> Self {
        let flows = (0..6).map(|port| random_flow(random, port)).collect();
        Self {
            random,
            flows,
            at: 0,
        }
    }
}

fn random_flow(random: &mut Random, port: u16) -> Flow {
    const PROTOCOLS: [u8; 5] = [TCP, TCP, TCP, UDP, UDP];
    const OPTIONS: [&[u8]; 3] = [&[], &[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8], &[1, 1, 1, 1]];
    Flow {
        is_ipv4: random.percent(50),
        protocol: if random.percent(8) {
            ICMP
        } else {
            PROTOCOLS[random.below(5) as usize]
        },
        port,
        size: [1, 40, 100, 536, 1200, 1400][random.below(6) as usize],
        sequence: random.next() as u32,
        id: random.next() as u16,
        tos: if random.percent(20) { 2 } else { 0 },
        ttl: 64,
        dont_fragment: random.percent(60),
        options: OPTIONS[random.below(3) as usize].to_vec(),
    }
}

impl Iterator for Packets<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        if self.random.percent(25) {
            self.at = self.random.below(6) as usize;
        }
        let flow = &mut self.flows[self.at];
        let packet = flow.packet(self.random);
        Some(packet)
    }
}

impl Flow {
    /// Its next packet, with something odd about every fourth.
    fn packet(&mut self, random: &mut Random) -> Vec<u8> {
        let odd = if random.percent(25) {
            random.below(18)
        } else {
            u64::MAX
        };
        let len = match odd {
            0 => 0,
            1 | 2 => random.below(self.size as u64 + 1) as usize,
            3 => self.size + 1,
            _ => self.size,
        };
        let mut flags = 0x10;
        match odd {
            4 => flags = 0x18,
            5 => flags = [0x11, 0x90, 0x50, 0x02, 0x30][random.below(5) as usize],
            6 => self.tos = random.below(4) as u8,
            7 => self.ttl = 63 + random.below(2) as u8,
            8 => self.sequence = self.sequence.wrapping_add(7),
            9 => self.id ^= 0x55,
            10 => self.dont_fragment ^= true,
            _ => {}
        }
        let payload: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
        let mut transport = self.transport(flags, &payload);
        self.complete(&mut transport);
        match odd {
            // A damaged checksum or payload.
            11 => *transport.last_mut().unwrap() ^= 0x10,
            12 if self.protocol == UDP => transport[6..8].fill(0),
            _ => {}
        }
        let packet = self.network(odd, transport);
        self.sequence = self.sequence.wrapping_add(len as u32);
        self.id = self.id.wrapping_add(1);
        packet
    }

    fn transport(&self, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut transport = Vec::new();
        match self.protocol {
            TCP => {
                transport.extend(4096u16.to_be_bytes());
                transport.extend(self.port.to_be_bytes());
                transport.extend(self.sequence.to_be_bytes());
                transport.extend([0, 0, 0, 9, (5 + self.options.len() as u8 / 4) << 4, flags]);
                transport.extend([1, 2, 0, 0, 0, 0]);
                transport.extend(&self.options);
            }
            UDP => {
                transport.extend(4096u16.to_be_bytes());
                transport.extend(self.port.to_be_bytes());
                transport.extend((8 + payload.len() as u16).to_be_bytes());
                transport.extend([0, 0]);
            }
            _ => {
                let echo = if self.is_ipv4 { 8 } else { 128 };
                transport.extend([echo, 0, 0, 0, 0, self.port as u8, 0, self.sequence as u8]);
            }
        }
        transport.extend(payload);
        transport
    }

    /// Computes the checksum.
    fn complete(&self, transport: &mut [u8]) {
        let (field, pseudo) = match (self.protocol, self.is_ipv4) {
            (TCP, _) => (16, self.pseudo(TCP, transport.len())),
            (UDP, _) => (6, self.pseudo(UDP, transport.len())),
            (_, true) => (2, 0),
            (_, false) => (2, self.pseudo(ICMP6, transport.len())),
        };
        let mut checksum = !fold(pseudo + sum(transport));
        if checksum == 0 && self.protocol == UDP {
            checksum = 0xffff;
        }
        transport[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
    }

    fn pseudo(&self, protocol: u8, len: usize) -> u32 {
        let mut addresses = Vec::new();
        for net in [9, 8] {
            addresses.extend(self.address(net));
        }
        pseudo_header(&addresses, protocol, len)
    }

    fn address(&self, net: u8) -> Vec<u8> {
        if self.is_ipv4 {
            return vec![10, net, 0, 2];
        }
        let mut address = vec![0xfd, net];
        address.resize(15, 0);
        address.push(2);
        address
    }

    fn network(&self, odd: u64, transport: Vec<u8>) -> Vec<u8> {
        let mut packet = if self.is_ipv4 {
            self.ipv4(odd, transport.len())
        } else {
            self.ipv6(odd, transport.len())
        };
        packet.extend(transport);
        if odd == 13 {
            // Behind its end.
            packet.push(0);
        }
        packet
    }

    fn ipv4(&self, odd: u64, len: usize) -> Vec<u8> {
        let options: &[u8] = if odd == 14 { &[1, 1, 1, 0] } else { &[] };
        let header_len = 20 + options.len();
        let mut header = vec![0x40 | (header_len / 4) as u8, self.tos];
        header.extend(((header_len + len) as u16).to_be_bytes());
        header.extend(self.id.to_be_bytes());
        let place: u16 = match odd {
            15 => 0x2000,
            16 => 0x0010,
            _ => u16::from(self.dont_fragment) << 14,
        };
        header.extend(place.to_be_bytes());
        header.extend([self.ttl, self.protocol, 0, 0]);
        header.extend(self.address(9));
        header.extend(self.address(8));
        header.extend(options);
        let checksum = !fold(sum(&header)) ^ u16::from(odd == 17);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header
    }

    fn ipv6(&self, odd: u64, len: usize) -> Vec<u8> {
        let protocol = if self.protocol == ICMP {
            ICMP6
        } else {
            self.protocol
        };
        // Padding for the destination; the first and the second fragment.
        let (next, extension): (u8, &[u8]) = match odd {
            14 => (60, &[protocol, 0, 1, 4, 0, 0, 0, 0]),
            15 => (44, &[protocol, 0, 0, 1, 0, 0, 0, 7]),
            16 => (44, &[protocol, 0, 0, 0x80, 0, 0, 0, 7]),
            _ => (protocol, &[]),
        };
        let label = if odd == 17 { 6 } else { 5 };
        let mut header = vec![0x60 | self.tos >> 4, self.tos << 4, 0, label];
        header.extend(((extension.len() + len) as u16).to_be_bytes());
        header.extend([next, self.ttl]);
        header.extend(self.address(9));
        header.extend(self.address(8));
        header.extend(extension);
        header
    }
}

/// A packet that ends a case; of another port than all.
pub fn last() -> Vec<u8> {
    let flow = Flow {
        is_ipv4: true,
        protocol: UDP,
        port: LAST_PORT,
        size: 1,
        sequence: 0,
        id: 0,
        tos: 0,
        ttl: 64,
        dont_fragment: true,
        options: Vec::new(),
    };
    let mut transport = flow.transport(0, &[1]);
    flow.complete(&mut transport);
    flow.network(u64::MAX, transport)
}

const LAST_PORT: u16 = 999;

pub fn is_last(packet: &[u8]) -> bool {
    packet[0] == 0x45 && packet.get(22..24) == Some(&LAST_PORT.to_be_bytes())
}

/// Not the kernel's own.
pub fn is_ours(packet: &[u8]) -> bool {
    match packet[0] >> 4 {
        4 => packet.get(12..16) == Some(&[10, 9, 0, 2]),
        _ => packet.get(8..10) == Some(&[0xfd, 9]) && packet.get(23) == Some(&2),
    }
}

/// Names the flow of a packet. One that may belong to any flow of its hosts has the version alone.
pub fn flow_of(packet: &[u8]) -> Vec<u8> {
    let version = packet[0] >> 4;
    let (plain, protocol, transport) = match version {
        4 => (
            packet[0] == 0x45 && packet[6] & 0x3f == 0 && packet[7] == 0,
            packet[9],
            20,
        ),
        _ => (true, packet[6], 40),
    };
    let ports = packet.get(transport..transport + 4);
    match ports {
        Some(ports) if plain && matches!(protocol, TCP | UDP) => {
            [&[version, protocol], ports].concat()
        }
        _ => vec![version],
    }
}

/// Identifications of packets with DF mean nothing, and do not survive.
pub fn without_free_id(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}
