//! One ICMP echo, to see whether an address is in use (`ping-leases`).

use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

const ECHO_REQUEST_V4: u8 = 8;
const ECHO_REPLY_V4: u8 = 0;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;

/// Whether somebody at `address` answers within `wait`. Errors count as silence.
pub async fn answers(address: IpAddr, wait: Duration) -> bool {
    let probe = tokio::task::spawn_blocking(move || probe(address, wait));
    matches!(probe.await, Ok(Ok(true)))
}

fn probe(address: IpAddr, wait: Duration) -> std::io::Result<bool> {
    let (domain, protocol, request, reply) = match address {
        IpAddr::V4(_) => (
            Domain::IPV4,
            Protocol::ICMPV4,
            ECHO_REQUEST_V4,
            ECHO_REPLY_V4,
        ),
        IpAddr::V6(_) => (
            Domain::IPV6,
            Protocol::ICMPV6,
            ECHO_REQUEST_V6,
            ECHO_REPLY_V6,
        ),
    };
    let mut socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    // Connected: only this address is heard.
    socket.connect(&SocketAddr::new(address, 0).into())?;
    socket.send(&echo(request, address.is_ipv4()))?;
    let deadline = Instant::now() + wait;
    let mut buffer = [0; 512];
    while let Some(left) = deadline.checked_duration_since(Instant::now()) {
        socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let length = socket.read(&mut buffer)?;
        // A raw IPv4 socket delivers the IP header too, IPv6 does not.
        let header = if address.is_ipv4() {
            usize::from(buffer[0] & 0x0f) * 4
        } else {
            0
        };
        if buffer[..length].get(header) == Some(&reply) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// An echo request with identifier 1, sequence 1 and no data; the kernel fills in the checksum of
/// ICMPv6 only.
fn echo(kind: u8, with_checksum: bool) -> [u8; 8] {
    let mut packet = [kind, 0, 0, 0, 0, 1, 0, 1];
    if with_checksum {
        let sum = u32::from(u16::from_be_bytes([kind, 0])) + 1 + 1;
        let checksum = !(sum as u16);
        packet[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_answers() {
        assert!(probe("127.0.0.1".parse().unwrap(), Duration::from_secs(2)).unwrap());
    }

    #[test]
    fn the_checksum_is_that_of_rfc_1071() {
        assert_eq!(echo(8, true), [8, 0, 0xf7, 0xfd, 0, 1, 0, 1]);
    }
}
