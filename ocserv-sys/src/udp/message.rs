//! The parts of `msghdr`: names and control messages, built and read without trust in their bytes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{Marking, canonical};

/// Room for a packet info, a marking and a segment size of either family, and for what a socket that was
/// handed over may tell besides.
pub(super) const CONTROL_LEN: usize = 128;

/// Control messages must be aligned as `cmsghdr`.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(super) struct Control(pub(super) [u8; CONTROL_LEN]);

impl Control {
    pub(super) const EMPTY: Self = Self([0; CONTROL_LEN]);
}

/// Length of a `cmsghdr`, and the rounding of lengths: both are 8-byte words on the 64-bit systems
/// that this project supports.
const HEADER: usize = size_of::<libc::cmsghdr>();
const WORD: usize = size_of::<usize>();

fn aligned(len: usize) -> usize {
    len.next_multiple_of(WORD)
}

/// Appends one control message at `at`; returns the place of the next one.
fn append(control: &mut Control, at: usize, level: i32, kind: i32, data: &[u8]) -> usize {
    let len = HEADER + data.len();
    let place = &mut control.0[at..at + aligned(len)];
    place.fill(0);
    place[..8].copy_from_slice(&len.to_ne_bytes());
    place[8..12].copy_from_slice(&level.to_ne_bytes());
    place[12..16].copy_from_slice(&kind.to_ne_bytes());
    place[HEADER..len].copy_from_slice(data);
    at + aligned(len)
}

/// Writes source address and marking as control messages; returns their length.
pub(super) fn write_control(
    control: &mut Control,
    source: Option<IpAddr>,
    ipv4: bool,
    marking: Option<Marking>,
) -> usize {
    let mut at = 0;
    match source {
        Some(IpAddr::V4(v4)) => {
            // in_pktinfo: interface index, source address, (received only) destination.
            let mut info = [0; 12];
            info[4..8].copy_from_slice(&v4.octets());
            at = append(control, at, libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
        }
        Some(IpAddr::V6(v6)) => {
            // in6_pktinfo: address, interface index.
            let mut info = [0; 20];
            info[..16].copy_from_slice(&v6.octets());
            at = append(control, at, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
        }
        None => {}
    }
    let (level, kind, value) = match marking {
        Some(Marking::Tos(tos)) if ipv4 => (libc::IPPROTO_IP, libc::IP_TOS, tos),
        Some(Marking::Tos(tos)) => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, tos),
        Some(Marking::Priority(priority)) => (libc::SOL_SOCKET, libc::SO_PRIORITY, priority),
        None => return at,
    };
    append(control, at, level, kind, &i32::from(value).to_ne_bytes())
}

/// Appends the length of the datagrams that a message holds.
pub(super) fn append_segment(control: &mut Control, at: usize, segment: u16) -> usize {
    let (level, kind) = (libc::SOL_UDP, libc::UDP_SEGMENT);
    append(control, at, level, kind, &segment.to_ne_bytes())
}

/// What received control messages tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// The local address.
    pub(super) local: Option<IpAddr>,
    /// Length of the datagrams in this message, if it holds several.
    pub(super) segment: Option<NonZeroUsize>,
    /// TOS or traffic class.
    pub(super) tos: u8,
}

/// Reads received control messages. `None`: one is not as the kernel writes them.
pub(super) fn read_control(control: &[u8]) -> Option<Told> {
    let mut told = Told::default();
    let mut rest = control;
    while rest.len() >= HEADER {
        let len = usize::from_ne_bytes(rest[..8].try_into().ok()?);
        let level = i32::from_ne_bytes(rest[8..12].try_into().ok()?);
        let kind = i32::from_ne_bytes(rest[12..16].try_into().ok()?);
        let data = rest.get(HEADER..len)?;
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let octets: [u8; 4] = data.get(8..12)?.try_into().ok()?;
                told.local = Some(IpAddr::V4(Ipv4Addr::from(octets)));
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let octets: [u8; 16] = data.get(..16)?.try_into().ok()?;
                told.local = Some(canonical(Ipv6Addr::from(octets)));
            }
            (libc::IPPROTO_IP, libc::IP_TOS) | (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                told.tos = read_tos(data)?;
            }
            (libc::SOL_UDP, libc::UDP_GRO) => told.segment = Some(read_segment(data)?),
            _ => {}
        }
        // The last one may end without its padding.
        rest = rest.get(aligned(len)..).unwrap_or_default();
    }
    Some(told)
}

/// A byte of IPv4, an int of IPv6.
fn read_tos(data: &[u8]) -> Option<u8> {
    match *data {
        [tos] => Some(tos),
        [a, b, c, d] => u8::try_from(i32::from_ne_bytes([a, b, c, d])).ok(),
        _ => None,
    }
}

/// The kernel writes an int; udp(7) speaks of 16 bits.
fn read_segment(data: &[u8]) -> Option<NonZeroUsize> {
    let segment = match *data {
        [a, b] => u16::from_ne_bytes([a, b]).into(),
        [a, b, c, d] => usize::try_from(i32::from_ne_bytes([a, b, c, d])).ok()?,
        _ => return None,
    };
    NonZeroUsize::new(segment)
}

/// Room for a socket address of any family.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(super) struct Name(pub(super) [u8; size_of::<libc::sockaddr_storage>()]);

impl Name {
    pub(super) const EMPTY: Self = Self([0; size_of::<libc::sockaddr_storage>()]);
}

/// The sender in a received name. The scope of a link-local address is left out: sessions are not
/// named by it.
pub(super) fn read_name(name: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(name.get(..2)?.try_into().ok()?);
    let port = u16::from_be_bytes(name.get(2..4)?.try_into().ok()?);
    let ip = match i32::from(family) {
        libc::AF_INET => {
            let octets: [u8; 4] = name.get(4..8)?.try_into().ok()?;
            IpAddr::V4(Ipv4Addr::from(octets))
        }
        libc::AF_INET6 => {
            let octets: [u8; 16] = name.get(8..24)?.try_into().ok()?;
            canonical(Ipv6Addr::from(octets))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

pub(super) fn set_int_option(
    socket: BorrowedFd<'_>,
    level: i32,
    option: i32,
    value: i32,
) -> io::Result<()> {
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the value is an int that lives through the call, and `len` its size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            len,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_messages_lie_as_the_kernel_wants_them() {
        let mut control = Control::EMPTY;
        let source = "192.0.2.7".parse().unwrap();
        let len = write_control(&mut control, Some(source), true, Some(Marking::Tos(0xb8)));
        assert_eq!(len, 32 + 24);
        assert_eq!(control.0[..8], 28usize.to_ne_bytes());
        assert_eq!(control.0[20..24], [192, 0, 2, 7]);
        assert_eq!(control.0[32..40], 20usize.to_ne_bytes());
        assert_eq!(control.0[48..52], 0xb8i32.to_ne_bytes());
        let v6 = "2001:db8::7".parse().unwrap();
        assert_eq!(
            write_control(&mut control, Some(v6), false, Some(Marking::Priority(6))),
            40 + 24
        );
        assert_eq!(
            control.0[48..56],
            [libc::SOL_SOCKET, libc::SO_PRIORITY]
                .map(i32::to_ne_bytes)
                .concat()
        );
        assert_eq!(control.0[56..60], 6i32.to_ne_bytes());
        assert_eq!(write_control(&mut control, None, true, None), 0);
    }

    #[test]
    fn a_segment_size_lies_behind_the_other_messages_and_fits() {
        let mut control = Control::EMPTY;
        let v6 = "2001:db8::7".parse().unwrap();
        let at = write_control(&mut control, Some(v6), false, Some(Marking::Tos(1)));
        assert_eq!(append_segment(&mut control, at, 1400), 40 + 24 + 24);
        assert_eq!(control.0[64..72], 18usize.to_ne_bytes());
        assert_eq!(
            control.0[72..80],
            [libc::SOL_UDP, libc::UDP_SEGMENT]
                .map(i32::to_ne_bytes)
                .concat()
        );
        assert_eq!(control.0[80..82], 1400u16.to_ne_bytes());
    }

    /// A packet info for 192.0.2.7 and, before or behind it, the length of segments.
    fn received(segment: &[u8], behind: bool) -> Vec<u8> {
        let mut control = Control::EMPTY;
        let mut info = [0; 12];
        info[8..].copy_from_slice(&[192, 0, 2, 7]);
        let local = (libc::IPPROTO_IP, libc::IP_PKTINFO, info.as_slice());
        let segment = (libc::SOL_UDP, libc::UDP_GRO, segment);
        let mut messages = [segment, local];
        if behind {
            messages.reverse();
        }
        let end = messages.iter().fold(0, |at, (level, kind, data)| {
            append(&mut control, at, *level, *kind, data)
        });
        control.0[..end].to_vec()
    }

    #[test]
    fn address_and_segment_size_are_found_beside_each_other() {
        let told = Told {
            local: Some("192.0.2.7".parse().unwrap()),
            segment: NonZeroUsize::new(1400),
            tos: 0,
        };
        for behind in [false, true] {
            let as_int = received(&1400i32.to_ne_bytes(), behind);
            assert_eq!(read_control(&as_int), Some(told));
            let as_short = received(&1400u16.to_ne_bytes(), behind);
            assert_eq!(read_control(&as_short), Some(told));
        }
    }

    #[test]
    fn a_segment_size_that_is_none_spoils_the_message() {
        for segment in [&[0; 4][..], &[0xff; 4], &[0; 2], &[1; 3], &[]] {
            assert_eq!(read_control(&received(segment, true)), None);
        }
    }

    #[test]
    fn tos_and_traffic_class_are_found() {
        let read = |level, kind, data: &[u8]| {
            let mut control = Control::EMPTY;
            let len = append(&mut control, 0, level, kind, data);
            read_control(&control.0[..len]).map(|told| told.tos)
        };
        assert_eq!(read(libc::IPPROTO_IP, libc::IP_TOS, &[0xbb]), Some(0xbb));
        let class = 0xbb_i32.to_ne_bytes();
        assert_eq!(
            read(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &class),
            Some(0xbb)
        );
        for broken in [&[][..], &[1, 2], &[0xff; 4]] {
            assert_eq!(read(libc::IPPROTO_IP, libc::IP_TOS, broken), None);
        }
    }

    #[test]
    fn broken_control_messages_yield_nothing() {
        assert_eq!(read_control(&[]), Some(Told::default()));
        assert_eq!(read_control(&[0; 64]), None);
        assert_eq!(read_control(&[0xff; 64]), None);
        let mut control = Control::EMPTY;
        let len = write_control(&mut control, Some("192.0.2.7".parse().unwrap()), true, None);
        assert_eq!(read_control(&control.0[..len - 5]), None);
        assert_eq!(read_name(&[]), None);
        assert_eq!(read_name(&[0xff; 28]), None);
        assert_eq!(read_name(&[2, 0, 0, 80, 127, 0, 0]), None);
    }
}
