//! The headers of a group that passes as one.

use super::checksum::{fold, pseudo_header, sum};
use super::coalesce::{Group, Kind};
use super::flow::addresses;
use super::vnet::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CHECKSUM, VNET_HEADER, VnetHeader};
use super::{IPV4_HEADER, IPV6_HEADER, TCP, TCP_CHECKSUM, UDP, UDP_CHECKSUM, get8, put};

/// Longest headers of a group: of the device, of IPv6, and TCP with options.
pub const MAX_HEADERS: usize = VNET_HEADER + IPV6_HEADER + 60;

const PSH: u8 = 0x08;

impl Group {
    /// What stands before its packets' payloads: the device's header, and those of its `first` packet,
    /// changed. Writes into `out` and returns the length. Of a single packet it is the device's header
    /// alone, and the whole packet follows.
    pub fn write_headers(&self, first: &[u8], out: &mut [u8; MAX_HEADERS]) -> usize {
        let (is_ipv4, gso_type) = match self.kind() {
            Kind::Single => {
                put(out, 0, &VnetHeader::default().to_bytes());
                return VNET_HEADER;
            }
            Kind::TcpV4 => (true, GSO_TCPV4),
            Kind::TcpV6 => (false, GSO_TCPV6),
            Kind::Udp => (get8(first, 0) >> 4 == 4, GSO_UDP_L4),
        };
        let network = if is_ipv4 { IPV4_HEADER } else { IPV6_HEADER };
        let is_tcp = gso_type != GSO_UDP_L4;
        let field = if is_tcp { TCP_CHECKSUM } else { UDP_CHECKSUM };
        let header = VnetHeader {
            flags: NEEDS_CHECKSUM,
            gso_type,
            header_len: self.headers,
            gso_size: self.size,
            checksum_start: network as u16,
            checksum_offset: field as u16,
        };
        put(out, 0, &header.to_bytes());
        let end = VNET_HEADER + self.headers_len();
        let headers = out.get_mut(VNET_HEADER..end).unwrap_or_default();
        put(headers, 0, first.get(..self.headers_len()).unwrap_or(&[]));
        self.write_transport(headers, network, is_tcp);
        self.write_network(headers, is_ipv4);
        end
    }

    fn write_transport(&self, headers: &mut [u8], network: usize, is_tcp: bool) {
        let len = usize::from(self.total) - network;
        let (protocol, field) = if is_tcp {
            (TCP, TCP_CHECKSUM)
        } else {
            (UDP, UDP_CHECKSUM)
        };
        // The kernel completes it for each segment.
        let pseudo = fold(pseudo_header(addresses(headers), protocol, len));
        put(headers, network + field, &pseudo.to_be_bytes());
        if !is_tcp {
            put(headers, network + 4, &(len as u16).to_be_bytes());
        } else if self.push {
            let flags = get8(headers, network + 13) | PSH;
            put(headers, network + 13, &[flags]);
        }
    }

    fn write_network(&self, headers: &mut [u8], is_ipv4: bool) {
        if !is_ipv4 {
            let len = self.total - IPV6_HEADER as u16;
            put(headers, 4, &len.to_be_bytes());
            return;
        }
        put(headers, 2, &self.total.to_be_bytes());
        put(headers, 10, &[0, 0]);
        let checksum = !fold(sum(headers.get(..IPV4_HEADER).unwrap_or(&[])));
        put(headers, 10, &checksum.to_be_bytes());
    }
}
