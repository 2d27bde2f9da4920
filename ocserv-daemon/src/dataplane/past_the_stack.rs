//! The work of a thread with its sockets past the stack.

use ocserv_common::datagram::{ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, RECORD_HEADER};
use ocserv_common::encapsulation::{self, FRONT, Outgoing, checksum_cover, front_len, is_ipv4};
use ocserv_common::inner::{self, INNER_HEAD, Inner, is_congested};
use ocserv_common::kernel::{FlowKey, address, ip};
use ocserv_common::offload::checksum;
use ocserv_common::session::DropReason;
use ocserv_proto::Now;
use ocserv_proto::config::NetPriority;
use ocserv_proto::cstp::PacketType;
use ocserv_sys::poller::Poller;
use ocserv_sys::xsk::Frame;

use super::channel::Channel;
use super::clock;
use super::from_client::Origin;
use super::mailbox::AddedSocket;
use super::output::{NotSealed, Tag};
use super::session::Session;
use super::sockets::{NotSent, Sockets, read_headers};
use super::ways::Question;
use super::worker::{Source, Worker};

/// Where a record begins in the frame it is sealed into: behind the longest headers.
const RECORD_AT: usize = 128;
const _: () = assert!(FRONT - RECORD_HEADER <= RECORD_AT);
const UDP: u8 = 17;
/// What UDP's header has before its checksum, and all of it.
const UDP_HEADER: usize = 8;

/// What became of a packet from a client.
enum Forwarded {
    Sent,
    /// It has no way past the stack.
    Left(Frame),
    Lost,
}

impl Worker {
    /// Takes a socket, and watches it.
    pub(super) fn add_socket(&mut self, added: AddedSocket, poller: &Poller) {
        let Some(sockets) = &mut self.sockets else {
            return;
        };
        let index = sockets.add(added);
        if let Some(socket) = sockets.socket(index)
            && let Err(error) = poller.add(socket, Source::Socket(index).token())
        {
            tracing::warn!(
                thread = self.id,
                "a socket past the stack cannot be watched: {error}"
            );
        }
    }

    /// Ends the sockets of a device.
    pub(super) fn forget_sockets(&mut self, ifindex: u32, poller: &Poller) {
        if let Some(sockets) = &mut self.sockets {
            sockets.forget(ifindex, |socket| {
                // It ends with its descriptor anyway.
                let _ = poller.remove(socket);
            });
        }
    }

    /// Takes one batch from a socket.
    pub(super) fn read_socket(&mut self, index: usize) {
        let Some(mut sockets) = self.sockets.take() else {
            return;
        };
        let now = clock();
        match sockets.receive(index) {
            Some((true, _)) => self.seal_frames(now, &mut sockets),
            Some((false, ifindex)) => self.open_frames(now, &mut sockets, ifindex),
            None => {}
        }
        sockets.flush();
        sockets.refill(index);
        self.sockets = Some(sockets);
        self.flush_control(now);
    }

    /// Whether a socket did not take all the last time.
    pub(super) fn has_rest(&self) -> bool {
        self.sockets
            .as_ref()
            .is_some_and(|sockets| sockets.has_unsent())
    }

    /// Sends what a socket did not take the last time.
    pub(super) fn send_rest(&mut self) {
        if let Some(sockets) = &mut self.sockets
            && sockets.has_unsent()
        {
            sockets.flush();
        }
    }

    fn open_frames(&mut self, now: Now, sockets: &mut Sockets, ifindex: u32) {
        self.deliver.clear();
        for (index, frame) in sockets.batch.iter().enumerate() {
            let place = (frame.start(), frame.packet_len());
            let whole = sockets.frames.whole(frame);
            let base = whole.as_ptr() as usize;
            let received = read_headers(whole, place, ifindex);
            let bytes = received
                .as_ref()
                .and_then(|received| whole.get_mut(received.record.clone()));
            let (Some(received), Some(bytes)) = (&received, bytes) else {
                self.strays.malformed += 1;
                continue;
            };
            let origin = Origin {
                now,
                flow: received.flow,
                datagram: index,
                base,
                is_congested: is_congested(received.tos),
                device: if received.is_untagged { ifindex } else { 0 },
            };
            self.open_datagram(origin, bytes);
        }
        let mut deliveries = self.deliver.iter().peekable();
        let mut batch = std::mem::take(&mut sockets.batch);
        for (index, mut frame) in batch.drain(..).enumerate() {
            let Some(delivery) = deliveries.next_if(|delivery| delivery.index == index) else {
                sockets.frames.give_back(frame);
                continue;
            };
            frame.set_packet(delivery.range.start, delivery.range.len());
            match forward(now, sockets, frame) {
                Forwarded::Sent => {}
                Forwarded::Left(frame) => sockets.by_tun.push(frame),
                Forwarded::Lost => {
                    if let Some(session) = self.table.by_slot(delivery.slot) {
                        session.shared().count_drop(DropReason::QueueFull);
                    }
                }
            }
        }
        sockets.batch = batch;
        if !sockets.by_tun.is_empty() {
            let Sockets { frames, by_tun, .. } = sockets;
            let packets = by_tun.iter().map(|frame| frames.bytes(frame));
            self.strays.tun += self.out.deliver(packets) as u64;
            for frame in by_tun.drain(..) {
                frames.give_back(frame);
            }
        }
    }

    fn seal_frames(&mut self, now: Now, sockets: &mut Sockets) {
        let mut batch = std::mem::take(&mut sockets.batch);
        for frame in batch.drain(..) {
            self.seal_frame(now, sockets, &frame);
            sockets.frames.give_back(frame);
        }
        sockets.batch = batch;
    }

    /// A packet from the LAN, in an Ethernet frame.
    fn seal_frame(&mut self, now: Now, sockets: &mut Sockets, frame: &Frame) {
        let start = frame.start() + ETHERNET;
        let whole = sockets.frames.whole(frame);
        let head = inner::head_at(whole, start);
        let parsed = head.and_then(|mut head| {
            let inner = Inner::parse(&head, frame.packet_len().checked_sub(ETHERNET)?)?;
            let destination = ip(inner.destination(&head));
            let goes_on = inner.decrement_ttl(&mut head);
            whole
                .get_mut(start..start + INNER_HEAD)?
                .copy_from_slice(&head);
            goes_on.then_some((inner, destination))
        });
        let Some((inner, destination)) = parsed else {
            self.strays.malformed += 1;
            return;
        };
        let Some(session) = self.table.by_address(destination) else {
            self.strays.no_session += 1;
            return;
        };
        let shared = session.shared();
        if !session.tx_limit.allows(now, inner.total_len) {
            shared.count_drop(DropReason::RateLimit);
            return;
        }
        if inner.total_len > usize::from(session.mtu.get()) {
            // The program asks before, so this is one of a moment of change.
            shared.count_drop(DropReason::TooBig);
            return;
        }
        let out = &mut self.out;
        let sealed = session.with_sending(now, |channel| {
            let packet = (frame, inner.total_len);
            match seal(now, sockets, session, channel, packet) {
                Sealed::Sent => Ok(()),
                Sealed::Failed(reason) => Err(reason),
                Sealed::NoWay => {
                    let packet = sockets.frames.bytes(frame);
                    let packet = packet
                        .get(ETHERNET..ETHERNET + inner.total_len)
                        .unwrap_or(&[]);
                    out.seal(session, channel, PacketType::Data, packet, Tag::Lost)
                }
            }
        });
        if sealed != Some(Ok(())) {
            shared.count_drop(DropReason::QueueFull);
            return;
        }
        shared.tx_packets.add(1);
        shared.tx_bytes.add(inner.total_len as u64);
        if inner.is_activity {
            shared.last_data_secs.set(now.as_secs());
        }
    }
}

/// Sends an inner packet by the LAN device that it is for.
fn forward(now: Now, sockets: &mut Sockets, mut frame: Frame) -> Forwarded {
    let (start, len) = (frame.start(), frame.packet_len());
    let whole = sockets.frames.whole(&frame);
    let parsed = inner::head_at(whole, start)
        .and_then(|head| Some((head, Inner::parse(&head, len)?)))
        .filter(|(_, inner)| !inner.has_options() && start >= ETHERNET);
    let Some((mut head, inner)) = parsed else {
        return Forwarded::Left(frame);
    };
    let question = Question {
        source: inner.source(&head),
        destination: inner.destination(&head),
        protocol: inner.protocol,
        ports: [[0; 2]; 2],
        tos: 0,
        ifindex: sockets.tun_ifindex,
        is_output: false,
    };
    let Some(way) = sockets.way(now, &question, inner.total_len) else {
        return Forwarded::Left(frame);
    };
    if !sockets.has_port(way.egress, true) || !inner.decrement_ttl(&mut head) {
        return Forwarded::Left(frame);
    }
    let ethertype = if inner.is_ipv4 {
        ETHERTYPE_IPV4
    } else {
        ETHERTYPE_IPV6
    };
    let whole = sockets.frames.whole(&frame);
    if let Some(place) = whole.get_mut(start - ETHERNET..start + INNER_HEAD) {
        let (link, packet) = place.split_at_mut(ETHERNET);
        link[..12].copy_from_slice(&way.macs);
        link[12..].copy_from_slice(&ethertype.to_be_bytes());
        packet.copy_from_slice(&head);
    }
    frame.set_packet(start - ETHERNET, ETHERNET + inner.total_len);
    match sockets.send(way.egress, true, frame) {
        Ok(()) => Forwarded::Sent,
        Err(NotSent::NoPort(frame)) => {
            sockets.frames.give_back(frame);
            Forwarded::Lost
        }
        Err(NotSent::Full) => Forwarded::Lost,
    }
}

enum Sealed {
    Sent,
    /// Nobody knows the next hop, or it is not by a device of this thread's sockets.
    NoWay,
    Failed(NotSealed),
}

/// Seals the packet behind the Ethernet header of `from` into a frame of its own, and sends that.
fn seal(
    now: Now,
    sockets: &mut Sockets,
    session: &Session,
    channel: &Channel,
    (from, packet_len): (&Frame, usize),
) -> Sealed {
    let flow = channel.flow();
    let key = FlowKey::new(flow.peer, flow.local);
    let tos = match session.params.net_priority {
        Some(NetPriority::Tos(tos)) => tos,
        _ => 0,
    };
    let outer = front_len(is_ipv4(&key)) - RECORD_HEADER;
    let question = Question {
        source: address(flow.local.ip()),
        destination: address(flow.peer.ip()),
        protocol: UDP,
        ports: [key.local_port, key.peer_port],
        tos,
        ifindex: session.live(channel).ifindex.get() as u32,
        is_output: true,
    };
    let len = outer - ETHERNET + channel.crypto.overhead() + packet_len;
    let Some(way) = sockets.way(now, &question, len) else {
        return Sealed::NoWay;
    };
    if !sockets.has_port(way.egress, false) {
        return Sealed::NoWay;
    }
    let Some(mut frame) = sockets.take_frame() else {
        return Sealed::Failed(NotSealed::Full);
    };
    let dont_fragment = sockets.dont_fragment;
    let (packet, whole) = sockets.frames.packet_and_whole(from, &frame);
    let written = packet
        .get(ETHERNET..ETHERNET + packet_len)
        .and_then(|packet| {
            let sequence = session.take_sequence(channel)?;
            let room = whole.get_mut(RECORD_AT..)?;
            let len = channel
                .crypto
                .seal(sequence, PacketType::Data.to_byte(), packet, room)
                .ok()?;
            let out = Outgoing {
                flow: &key,
                macs: &way.macs,
                epoch: channel.crypto.epoch(),
                sequence,
                length: len - RECORD_HEADER,
                tos,
                dont_fragment,
            };
            write_headers(whole, &out).then_some(len)
        });
    let Some(len) = written else {
        sockets.frames.give_back(frame);
        return Sealed::Failed(NotSealed::Channel);
    };
    frame.set_packet(RECORD_AT - outer, outer + len);
    match sockets.send(way.egress, false, frame) {
        Ok(()) => Sealed::Sent,
        Err(NotSent::NoPort(frame)) => {
            sockets.frames.give_back(frame);
            Sealed::Failed(NotSealed::Full)
        }
        Err(NotSent::Full) => Sealed::Failed(NotSealed::Full),
    }
}

/// Writes the headers of the record at [`RECORD_AT`] before it. `false`: there is no such record.
fn write_headers(whole: &mut [u8], out: &Outgoing<'_>) -> bool {
    let mut front = [0; FRONT];
    encapsulation::write(&mut front, out);
    let is_ipv4 = is_ipv4(out.flow);
    let outer = front_len(is_ipv4) - RECORD_HEADER;
    let written = FRONT - RECORD_HEADER;
    let end = RECORD_AT + RECORD_HEADER + out.length;
    let covered = RECORD_AT + RECORD_HEADER - checksum_cover(is_ipv4);
    let Some(place) = whole.get_mut(RECORD_AT - outer..RECORD_AT) else {
        return false;
    };
    place.copy_from_slice(&front[written - outer..written]);
    let Some(bytes) = whole.get(covered..end) else {
        return false;
    };
    // As the words lie in memory.
    let sum = (checksum::sum(bytes) as u16).to_be();
    let udp_len = UDP_HEADER + RECORD_HEADER + out.length;
    let checksum = encapsulation::udp_checksum(sum.into(), udp_len);
    if let Some(place) = whole.get_mut(RECORD_AT - 2..RECORD_AT) {
        place.copy_from_slice(&checksum);
    }
    true
}
