//! Which packets may pass as one.
//!
//! A group is packets of one flow that the kernel's segmentation would make of one super-packet.
//! Groups come in the order of their first packets, and a packet that cannot join its flow's group
//! ends it, so no packet overtakes another of its flow. Flows may overtake each other.

use super::flow::{Look, Part, addresses, checksums_hold, look, same_flow, same_headers};
use super::{MAX_SEGMENTS, MAX_SUPER_PACKET};

/// Packets that are looked at together at most.
pub const MAX_PLANNED: usize = 256;
/// Flows that are collected at once; a further one takes the place of another.
const FLOWS: usize = 64;
/// Places that a flow's hash may stand for.
const PROBES: usize = 4;

/// What a group passes as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// One packet, as it is.
    #[default]
    Single,
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP over either.
    Udp,
}

/// The kinds of super-packets that the device takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offers {
    /// [`Kind::TcpV4`].
    pub tcp_v4: bool,
    /// [`Kind::TcpV6`].
    pub tcp_v6: bool,
    /// [`Kind::Udp`].
    pub udp: bool,
}

impl Offers {
    /// All of them.
    pub const ALL: Self = Self {
        tcp_v4: true,
        tcp_v6: true,
        udp: true,
    };

    /// Whether `kind` is taken.
    pub fn has(&self, kind: Kind) -> bool {
        match kind {
            Kind::Single => true,
            Kind::TcpV4 => self.tcp_v4,
            Kind::TcpV6 => self.tcp_v6,
            Kind::Udp => self.udp,
        }
    }

    /// Takes `kind` out.
    pub fn give_up(&mut self, kind: Kind) {
        match kind {
            Kind::Single => {}
            Kind::TcpV4 => self.tcp_v4 = false,
            Kind::TcpV6 => self.tcp_v6 = false,
            Kind::Udp => self.udp = false,
        }
    }
}

/// Packets that pass as one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Group {
    pub(super) kind: Kind,
    pub(super) first: u16,
    last: u16,
    pub(super) count: u16,
    /// Bytes of a packet's headers.
    pub(super) headers: u16,
    /// Payload of each packet but the last.
    pub(super) size: u16,
    /// Bytes of the whole.
    pub(super) total: u16,
    next_sequence: u32,
    verified: bool,
    /// PSH of the last packet.
    pub(super) push: bool,
}

impl Group {
    /// What it passes as.
    pub fn kind(&self) -> Kind {
        if self.count > 1 {
            self.kind
        } else {
            Kind::Single
        }
    }

    /// Its number of packets, at least one.
    pub fn len(&self) -> usize {
        self.count.into()
    }

    /// Number of its first packet.
    pub fn first(&self) -> u32 {
        self.first.into()
    }

    /// It never is.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes at the beginning of each packet that [`Self::write_headers`] stands for; the rest follows.
    pub fn headers_len(&self) -> usize {
        match self.kind() {
            Kind::Single => 0,
            _ => self.headers.into(),
        }
    }

    fn single(index: u16) -> Self {
        Self {
            first: index,
            last: index,
            count: 1,
            ..Self::default()
        }
    }

    fn of(index: u16, part: &Part) -> Self {
        Self {
            kind: part.kind,
            headers: part.headers as u16,
            size: part.payload as u16,
            total: (part.headers + part.payload) as u16,
            next_sequence: part.sequence.wrapping_add(part.payload as u32),
            push: part.push,
            ..Self::single(index)
        }
    }

    /// Whether its form lets another packet follow.
    fn takes(&self, part: &Part) -> bool {
        let sequence = matches!(self.kind, Kind::Udp) || part.sequence == self.next_sequence;
        sequence
            && self.kind == part.kind
            && usize::from(self.headers) == part.headers
            && part.payload <= usize::from(self.size)
            && usize::from(self.count) < MAX_SEGMENTS
            && usize::from(self.total) + part.payload <= MAX_SUPER_PACKET
    }

    fn append(&mut self, index: u16, part: &Part) {
        self.last = index;
        self.count += 1;
        self.total += part.payload as u16;
        self.next_sequence = self.next_sequence.wrapping_add(part.payload as u32);
        self.push = part.push;
    }

    /// Nothing may follow a shorter packet, or one that is to be delivered at once.
    fn is_complete(&self, last: &Part) -> bool {
        self.push || last.payload < usize::from(self.size)
    }
}

/// Finds the groups of a batch; made once, for many.
pub struct Coalescer {
    groups: [Group; MAX_PLANNED],
    count: usize,
    /// The packet that follows each in its group.
    next: [u16; MAX_PLANNED],
    /// Groups that may grow, by their flows' hashes; number and hash.
    flows: [Option<(u16, u32)>; FLOWS],
}

impl Default for Coalescer {
    fn default() -> Self {
        Self {
            groups: [Group::default(); MAX_PLANNED],
            count: 0,
            next: [0; MAX_PLANNED],
            flows: [None; FLOWS],
        }
    }
}

impl Coalescer {
    /// Finds the groups among the first [`MAX_PLANNED`] of `packets`, in place of the last ones.
    pub fn plan(&mut self, packets: &[&[u8]], offers: Offers) {
        self.count = 0;
        self.flows = [None; FLOWS];
        for (index, packet) in packets.iter().take(MAX_PLANNED).enumerate() {
            let number = index as u16;
            match look(packet) {
                Look::Part(part) if offers.has(part.kind) => self.add(number, &part, packets),
                Look::Part(Part { hash, .. }) | Look::Alone(hash) => {
                    if let Some(place) = self.find(hash, packet, packets) {
                        self.end(place);
                    }
                    self.open(Group::single(number));
                }
                Look::AnyFlow => {
                    self.end_between(packet, packets);
                    self.open(Group::single(number));
                }
                Look::Foreign => {
                    self.open(Group::single(number));
                }
            }
        }
    }

    /// The groups, in the order in which they are to pass.
    pub fn groups(&self) -> &[Group] {
        self.groups.get(..self.count).unwrap_or(&[])
    }

    /// Numbers of a group's packets, in order.
    pub fn members(&self, group: &Group) -> impl Iterator<Item = usize> + '_ {
        let mut left = group.count;
        let mut at = group.first;
        core::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let index = usize::from(at);
            at = self.next.get(index).copied().unwrap_or_default();
            Some(index)
        })
    }

    fn add(&mut self, index: u16, part: &Part, packets: &[&[u8]]) {
        let packet = packet(packets, index);
        let place = self.find(part.hash, packet, packets);
        if let Some(place) = place
            && self.join(place, index, part, packets)
        {
            return;
        }
        let group = Group::of(index, part);
        let complete = group.is_complete(part);
        let number = self.open(group);
        match place {
            Some(place) if complete => self.end(place),
            Some(place) => self.set(place, (number, part.hash)),
            None if complete => {}
            None => self.set(self.free(part.hash), (number, part.hash)),
        }
    }

    /// Puts a packet behind those of the group at `place`, if it fits.
    fn join(&mut self, place: usize, index: u16, part: &Part, packets: &[&[u8]]) -> bool {
        let Some(Some((number, _))) = self.flows.get(place).copied() else {
            return false;
        };
        let Some(group) = self.groups.get_mut(usize::from(number)) else {
            return false;
        };
        let first = packet(packets, group.first);
        let next = packet(packets, index);
        if !group.takes(part) || !same_headers(first, next, group.len()) {
            return false;
        }
        // A packet that stays alone needs no look at its checksum.
        group.verified = group.verified || checksums_hold(first);
        if !group.verified || !checksums_hold(next) {
            return false;
        }
        if let Some(link) = self.next.get_mut(usize::from(group.last)) {
            *link = index;
        }
        group.append(index, part);
        if group.is_complete(part) {
            self.end(place);
        }
        true
    }

    fn open(&mut self, group: Group) -> u16 {
        let number = self.count;
        if let Some(place) = self.groups.get_mut(number) {
            *place = group;
            self.count += 1;
        }
        number as u16
    }

    /// Where the flow of `packet` is collected.
    fn find(&self, hash: u32, wanted: &[u8], packets: &[&[u8]]) -> Option<usize> {
        places(hash).find(|place| match self.flows.get(*place) {
            Some(Some((number, other))) if *other == hash => self
                .groups
                .get(usize::from(*number))
                .is_some_and(|group| same_flow(packet(packets, group.first), wanted)),
            _ => false,
        })
    }

    /// A place for a flow, if need be that of another, whose group is then complete.
    fn free(&self, hash: u32) -> usize {
        places(hash)
            .find(|place| matches!(self.flows.get(*place), Some(None)))
            .unwrap_or(hash as usize % FLOWS)
    }

    fn set(&mut self, place: usize, flow: (u16, u32)) {
        if let Some(entry) = self.flows.get_mut(place) {
            *entry = Some(flow);
        }
    }

    fn end(&mut self, place: usize) {
        if let Some(entry) = self.flows.get_mut(place) {
            *entry = None;
        }
    }

    /// Ends every group between the addresses of `wanted`.
    fn end_between(&mut self, wanted: &[u8], packets: &[&[u8]]) {
        for entry in &mut self.flows {
            let Some((number, _)) = *entry else { continue };
            let group = self.groups.get(usize::from(number));
            let first = group.map_or(&[][..], |group| packet(packets, group.first));
            if addresses(first) == addresses(wanted) {
                *entry = None;
            }
        }
    }
}

fn places(hash: u32) -> impl Iterator<Item = usize> {
    (0..PROBES).map(move |probe| (hash as usize + probe) % FLOWS)
}

fn packet<'a>(packets: &[&'a [u8]], index: u16) -> &'a [u8] {
    packets.get(usize::from(index)).copied().unwrap_or(&[])
}
