//! Packets for tests.

use super::checksum::{fold, pseudo_header, sum};
use super::{IPV4_HEADER, IPV6_HEADER, TCP, UDP, put};

/// A packet to be made.
#[derive(Clone, Debug)]
pub struct Sample {
    pub is_ipv4: bool,
    pub is_tcp: bool,
    pub port: u16,
    pub tos: u8,
    pub ttl: u8,
    pub id: u16,
    pub dont_fragment: bool,
    pub sequence: u32,
    pub acknowledgement: u32,
    pub window: u16,
    pub flags: u8,
    /// TCP options, a multiple of 4 bytes.
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Sample {
    /// Data in the middle of a TCP connection, or a datagram.
    pub fn new(is_ipv4: bool, is_tcp: bool, port: u16) -> Self {
        Self {
            is_ipv4,
            is_tcp,
            port,
            tos: 0,
            ttl: 64,
            id: 0xfffe,
            dont_fragment: true,
            sequence: 0xffff_ff00,
            acknowledgement: 7,
            window: 500,
            flags: 0x10,
            options: Vec::new(),
            payload: Vec::new(),
        }
    }

    /// With this many bytes that begin with `start`.
    pub fn payload(mut self, start: u8, len: usize) -> Self {
        self.payload = (0..len).map(|n| start.wrapping_add(n as u8)).collect();
        self
    }

    /// What would follow it, with `len` bytes.
    pub fn next(&self, len: usize) -> Self {
        let mut next = self.clone().payload(self.payload.len() as u8, len);
        next.sequence = self.sequence.wrapping_add(self.payload.len() as u32);
        next.id = self.id.wrapping_add(1);
        next
    }

    /// Its bytes, with right checksums.
    pub fn bytes(&self) -> Vec<u8> {
        let transport = self.transport();
        let (protocol, field) = if self.is_tcp { (TCP, 16) } else { (UDP, 6) };
        let mut packet = self.network(protocol, transport.len());
        let network = packet.len();
        packet.extend(transport);
        let addresses = if self.is_ipv4 { 12..20 } else { 8..40 };
        let pseudo = pseudo_header(&packet[addresses], protocol, packet.len() - network);
        let checksum = !fold(pseudo + sum(&packet[network..]));
        // To UDP alone 0 would mean "none".
        let checksum = match checksum {
            0 if !self.is_tcp => 0xffff,
            other => other,
        };
        put(&mut packet, network + field, &checksum.to_be_bytes());
        packet
    }

    fn network(&self, protocol: u8, len: usize) -> Vec<u8> {
        if !self.is_ipv4 {
            let mut header = vec![0x60 | self.tos >> 4, self.tos << 4, 0, 5];
            header.extend((len as u16).to_be_bytes());
            header.extend([protocol, self.ttl]);
            for last in [2, 1] {
                header.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
            }
            assert_eq!(header.len(), IPV6_HEADER);
            return header;
        }
        let mut header = vec![0x45, self.tos];
        header.extend(((IPV4_HEADER + len) as u16).to_be_bytes());
        header.extend(self.id.to_be_bytes());
        header.extend([
            u8::from(self.dont_fragment) << 6,
            0,
            self.ttl,
            protocol,
            0,
            0,
        ]);
        header.extend([10, 9, 0, 2, 10, 9, 0, 1]);
        let checksum = !fold(sum(&header));
        put(&mut header, 10, &checksum.to_be_bytes());
        header
    }

    fn transport(&self) -> Vec<u8> {
        let mut header = 4096u16.to_be_bytes().to_vec();
        header.extend(self.port.to_be_bytes());
        if self.is_tcp {
            header.extend(self.sequence.to_be_bytes());
            header.extend(self.acknowledgement.to_be_bytes());
            header.extend([(5 + self.options.len() as u8 / 4) << 4, self.flags]);
            header.extend(self.window.to_be_bytes());
            header.extend([0; 4]);
            header.extend(&self.options);
        } else {
            header.extend((8 + self.payload.len() as u16).to_be_bytes());
            header.extend([0; 2]);
        }
        header.extend(&self.payload);
        header
    }
}
