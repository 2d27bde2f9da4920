//! Writing to a queue whose packets have a header: those of a flow go as one.

use std::io::IoSlice;

use nix::errno::Errno;
use ocserv_common::offload::MAX_SEGMENTS;
use ocserv_common::offload::coalesce::{Coalescer, Group, MAX_PLANNED, Offers};
use ocserv_common::offload::super_packet::MAX_HEADERS;
use ocserv_common::offload::vnet::{VNET_HEADER, VnetHeader};

use super::Sent;

/// One write, from several parts.
pub type Write<'a> = dyn FnMut(&[IoSlice<'_>]) -> Result<(), Errno> + 'a;

/// What is kept from one batch to the next.
pub struct Sender {
    coalescer: Box<Coalescer>,
    offers: Offers,
}

impl Sender {
    pub fn new() -> Self {
        Self {
            coalescer: Box::default(),
            // What a kernel does not know, it refuses at the first try.
            offers: Offers::ALL,
        }
    }

    /// Writes packets, in the order that each flow has them. `write` takes the parts of one write.
    /// Numbers of packets that begin a group are added to `leaders`.
    pub fn send<'a>(
        &mut self,
        write: &mut Write<'_>,
        packets: impl IntoIterator<Item = &'a [u8]>,
        leaders: &mut Vec<u32>,
    ) -> Sent {
        let mut counts = Sent::default();
        let mut packets = packets.into_iter().fuse();
        let mut base = 0;
        loop {
            let mut chunk: [&[u8]; MAX_PLANNED] = [&[]; MAX_PLANNED];
            let mut len = 0;
            for (place, packet) in chunk.iter_mut().zip(&mut packets) {
                *place = packet;
                len += 1;
            }
            let chunk = &chunk[..len];
            match chunk {
                [] => return counts,
                [packet] => {
                    leaders.push(base);
                    count(&mut counts, write_one(write, packet), 1);
                }
                _ => {
                    self.send_chunk(write, chunk, &mut counts);
                    let groups = self.coalescer.groups().iter();
                    leaders.extend(groups.map(|group| base + group.first()));
                }
            }
            base += len as u32;
        }
    }

    fn send_chunk(&mut self, write: &mut Write<'_>, packets: &[&[u8]], counts: &mut Sent) {
        let Self { coalescer, offers } = self;
        coalescer.plan(packets, *offers);
        for group in coalescer.groups() {
            let mut members = coalescer.members(group).filter_map(|at| packets.get(at));
            if group.len() == 1 {
                members.for_each(|packet| count(counts, write_one(write, packet), 1));
                continue;
            }
            let result = write_group(write, group, &mut members);
            if result != Err(Errno::EINVAL) {
                count(counts, result, group.len());
                continue;
            }
            let before = counts.sent;
            for packet in coalescer.members(group).filter_map(|at| packets.get(at)) {
                count(counts, write_one(write, packet), 1);
            }
            // It was the form that the kernel did not like.
            if counts.sent > before {
                offers.give_up(group.kind());
            }
        }
    }
}

fn write_group<'a>(
    write: &mut Write<'_>,
    group: &Group,
    members: &mut dyn Iterator<Item = &'a &'a [u8]>,
) -> Result<(), Errno> {
    let mut headers = [0; MAX_HEADERS];
    let mut parts = [IoSlice::new(&[]); 1 + MAX_SEGMENTS];
    let mut first = None;
    let mut len = 1;
    for (part, packet) in parts[1..].iter_mut().zip(members) {
        first.get_or_insert(packet);
        *part = IoSlice::new(packet.get(group.headers_len()..).unwrap_or(&[]));
        len += 1;
    }
    let headers_len = group.write_headers(first.ok_or(Errno::EINVAL)?, &mut headers);
    parts[0] = IoSlice::new(&headers[..headers_len]);
    write(&parts[..len])
}

fn write_one(write: &mut Write<'_>, packet: &[u8]) -> Result<(), Errno> {
    const PLAIN: [u8; VNET_HEADER] = [0; VNET_HEADER];
    debug_assert_eq!(VnetHeader::default().to_bytes(), PLAIN);
    write(&[IoSlice::new(&PLAIN), IoSlice::new(packet)])
}

/// Counts what became of `packets` packets.
pub fn count(counts: &mut Sent, result: Result<(), Errno>, packets: usize) {
    match result {
        Ok(()) => counts.sent += packets,
        Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM) => counts.full += packets,
        Err(_) => counts.refused += packets,
    }
    if let Err(error) = result {
        counts.error = Some(error as i32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two UDP datagrams of 4 bytes over IPv6, with right checksums.
    fn datagrams() -> [Vec<u8>; 2] {
        [*b"left", *b"over"].map(|payload| {
            let mut packet = vec![0x60, 0, 0, 0, 0, 12, 17, 64];
            packet.extend([0; 32]);
            packet.extend([0, 1, 0, 2, 0, 12, 0, 0]);
            packet.extend(payload);
            let sum = ocserv_common::offload::checksum::sum(&packet[40..]) + 17 + 12;
            let checksum = !ocserv_common::offload::checksum::fold(sum);
            packet[46..48].copy_from_slice(&checksum.to_be_bytes());
            packet
        })
    }

    #[test]
    fn a_kind_that_the_kernel_refuses_is_tried_once() {
        let packets = datagrams();
        let packets = || packets.iter().map(Vec::as_slice);
        let mut sender = Sender::new();
        let mut writes = Vec::new();
        let mut write = |parts: &[IoSlice<'_>]| {
            writes.push(parts.len() - 1 + parts[0].len());
            if parts[0].len() > VNET_HEADER {
                return Err(Errno::EINVAL);
            }
            Ok(())
        };
        for _ in 0..2 {
            let sent = sender.send(&mut write, packets(), &mut Vec::new());
            assert_eq!((sent.sent, sent.full, sent.refused), (2, 0, 0));
        }
        // Headers and two payloads; then always one header and one packet.
        assert_eq!(writes, [VNET_HEADER + 48 + 2, 11, 11, 11, 11]);
    }

    #[test]
    fn packets_that_are_refused_one_by_one_too_say_nothing_about_their_form() {
        let packets = datagrams();
        let packets = || packets.iter().map(Vec::as_slice);
        let mut sender = Sender::new();
        let sent = sender.send(&mut |_| Err(Errno::EINVAL), packets(), &mut Vec::new());
        assert_eq!((sent.sent, sent.full, sent.refused), (0, 0, 2));
        let mut writes = 0;
        let mut write = |_: &[IoSlice<'_>]| {
            writes += 1;
            Ok(())
        };
        assert_eq!(sender.send(&mut write, packets(), &mut Vec::new()).sent, 2);
        assert_eq!(writes, 1);
    }

    #[test]
    fn a_super_packet_without_room_is_all_its_packets_lost() {
        let packets = datagrams();
        let packets = packets.iter().map(Vec::as_slice);
        let sent = Sender::new().send(&mut |_| Err(Errno::EAGAIN), packets, &mut Vec::new());
        assert_eq!((sent.sent, sent.full, sent.refused), (0, 2, 0));
    }
}
