//! Keys and values of the kernel path's maps, and its limits.
//!
//! | Map | Key | Value | Written by |
//! |---|---|---|---|
//! | `SHARED` | slot / [`SLOTS_PER_SHARD`], slot % it | `session::SessionShared` | all |
//! | `KEYS` | likewise | [`SessionKeys`] | supervisor |
//! | `FLOWS` | [`FlowKey`] | [`flow_target`] | supervisor |
//! | `LEASES` | [`Address`] | slot | supervisor |
//! | `NETWORKS` | prefix length, [`Address`] | slot | supervisor |
//! | `SETTINGS` | 0 | [`Settings`] | supervisor |
//! | `COUNTS` | 0 | [`Counts`] of each CPU | programs |
//! | `QUEUES` | device | index of its first queue in `SOCKETS` | supervisor |
//! | `SOCKETS` | that index + queue | AF_XDP socket | supervisor |
//!
//! A channel stands for one generation of keys; a program uses it only while the session's shared record
//! stands for the same (`ChannelState::generation`).

use core::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::pace::Limits;

/// Sessions of one array of shared records. Arrays are made as slots come into use.
pub const SLOTS_PER_SHARD: u32 = 256;
/// Arrays at most: 65,536 sessions.
pub const MAX_SHARDS: u32 = 256;
/// Most sessions that can be open at once.
pub const MAX_SLOTS: u32 = SLOTS_PER_SHARD * MAX_SHARDS;

/// Largest inner packet that a program can take, bytes.
pub const MAX_INNER: u32 = 1500;
/// What a record is longer than its inner packet: header, type byte, tag.
pub const RECORD_OVERHEAD: u32 = 13 + 1 + 16;
/// Largest record that a program can take, header included, bytes.
pub const MAX_RECORD: u32 = MAX_INNER + RECORD_OVERHEAD;
/// Queues of a device that can have sockets.
pub const SOCKET_QUEUES: u32 = 64;
/// Devices that can have sockets.
pub const SOCKET_DEVICES: u32 = 16;
/// Longest frame that is handed to a socket, bytes: the kernel drops one that does not fit into a frame of
/// its memory. Of such a frame it keeps 256 bytes for itself.
pub const MAX_SOCKET_FRAME: u32 = 2048 - 256;
/// How long small packets follow large ones to user space, ms.
pub const BULK_HOLD_MS: u32 = 50;

/// An IPv6 address, or an IPv4 one mapped into it, in network order.
pub type Address = [u8; 16];

/// Both families in one form.
pub fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The opposite of [`address`].
pub fn ip(address: Address) -> IpAddr {
    Ipv6Addr::from(address).to_canonical()
}

/// Length of a prefix in that form.
pub fn prefix_len(ip: IpAddr, len: u8) -> u32 {
    match ip {
        IpAddr::V4(_) => 96 + u32::from(len),
        IpAddr::V6(_) => u32::from(len),
    }
}

/// A UDP flow as a packet from the client shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey {
    /// Client.
    pub peer: Address,
    /// Server.
    pub local: Address,
    /// Client's port in network order.
    pub peer_port: [u8; 2],
    /// Server's port in network order.
    pub local_port: [u8; 2],
}

impl FlowKey {
    /// The key of a flow.
    pub fn new(peer: SocketAddr, local: SocketAddr) -> Self {
        Self {
            peer: address(peer.ip()),
            local: address(local.ip()),
            peer_port: peer.port().to_be_bytes(),
            local_port: local.port().to_be_bytes(),
        }
    }
}

/// Value of `FLOWS`: a session and one of its two channel records.
pub fn flow_target(slot: u32, channel: u8) -> u32 {
    slot << 1 | u32::from(channel & 1)
}

/// [`SessionKeys::flags`]: the client has networks (`NETWORKS`) beside its leases.
pub const HAS_NETWORKS: u8 = 1;
/// [`SessionKeys::flags`]: it has an IPv4 lease.
pub const HAS_IPV4: u8 = 2;
/// [`SessionKeys::flags`]: it has an IPv6 lease.
pub const HAS_IPV6: u8 = 4;

/// What programs know of a session: CHACHA20-POLY1305, DTLS 1.2. All-zero: nothing.
///
/// The supervisor writes it in place, and zeroes over it, while programs read. A channel whose content
/// changes has the generation 0 meanwhile; programs look at the generation before they read and again
/// before what they made of it has an effect.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct SessionKeys {
    /// By the number of the channel record.
    pub channels: [KernelChannel; 2],
    /// IPv6 lease and the bits of it that its subnet has (all for one address), network order.
    pub ipv6: Address,
    /// See [`Self::ipv6`].
    pub ipv6_mask: Address,
    /// IPv4 lease, network order.
    pub ipv4: [u8; 4],
    /// A channel that was silent for longer is not used, ms; 0: no limit.
    pub silence_ms: u32,
    /// Largest inner packet to the client, bytes.
    pub mtu: u32,
    /// Index of the newest channel.
    pub newest: u8,
    /// TOS byte of outer packets.
    pub tos: u8,
    /// 1: outer IPv4 packets carry DF.
    pub dont_fragment: u8,
    /// `HAS_*`.
    pub flags: u8,
}

/// One channel of a session.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct KernelChannel {
    /// Number of the keys; 0: there are none.
    pub generation: u64,
    /// Client's key, as little-endian words.
    pub client_key: [u32; 8],
    /// Server's key, likewise.
    pub server_key: [u32; 8],
    /// Client's IV, likewise.
    pub client_iv: [u32; 3],
    /// Server's IV, likewise.
    pub server_iv: [u32; 3],
    /// Where the client is.
    pub flow: FlowKey,
    /// Device to send by, until a record shows by which the client comes (`Liveness::ifindex`).
    pub ifindex: u32,
    /// Epoch of the records.
    pub epoch: u16,
    /// 1: the flow had other keys before, whose records may still come. What does not open goes to user
    /// space instead of being dropped.
    pub former: u8,
    /// Zero.
    pub padding: [u8; 5],
}

impl SessionKeys {
    /// Words of a record.
    pub const WORDS: usize = size_of::<Self>() / 8;
    /// Nothing.
    pub const EMPTY: Self = Self {
        channels: [KernelChannel::EMPTY; 2],
        ipv6: [0; 16],
        ipv6_mask: [0; 16],
        ipv4: [0; 4],
        silence_ms: 0,
        mtu: 0,
        newest: 0,
        tos: 0,
        dont_fragment: 0,
        flags: 0,
    };
}

impl KernelChannel {
    /// Nothing.
    pub const EMPTY: Self = Self {
        generation: 0,
        client_key: [0; 8],
        server_key: [0; 8],
        client_iv: [0; 3],
        server_iv: [0; 3],
        flow: FlowKey {
            peer: [0; 16],
            local: [0; 16],
            peer_port: [0; 2],
            local_port: [0; 2],
        },
        ifindex: 0,
        epoch: 0,
        former: 0,
        padding: [0; 5],
    };
}

/// What holds for all packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Settings {
    /// Lengths of records from clients.
    pub rx: Limits,
    /// Lengths of records to clients.
    pub tx: Limits,
    /// The tun device.
    pub tun_ifindex: u32,
    /// 1: `xdp-forward = direct`.
    pub direct: u32,
    /// 1: XDP programs hand the packets of sessions to sockets, and do no cryptography.
    pub sockets: u32,
}

/// What programs count, by CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Counts {
    /// By [`Counted`].
    pub values: [u64; Counted::COUNT],
}

/// What a value of [`Counts`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Counted {
    /// Inner packets from clients that were delivered to the host.
    RxPackets = 0,
    /// Their bytes.
    RxBytes,
    /// Those of them that were forwarded past the host's stack.
    RxDirect,
    /// Inner packets to clients that were sealed and sent.
    TxPackets,
    /// Their bytes.
    TxBytes,
    /// Those of them that came past the host's stack.
    TxDirect,
    /// Left to user space: not application data of the live epoch, or a control packet.
    UpControl,
    /// Left to user space: too long, a super-packet, or behind such ones (`pace`).
    UpBulk,
    /// Left to user space: the packet's form (fragment, options, several records, checksum to come).
    UpForm,
    /// Left to user space: the session is not in the kernel, or not by this flow or channel.
    UpSession,
    /// Left to user space: no way to the client, into the stack or to a socket, no room in the frame.
    UpRoute,
    /// Dropped: the authentication tag does not fit.
    DropAuth,
    /// Dropped: sequence number seen before, or too old.
    DropReplay,
    /// Dropped: the inner source address is not the session's.
    DropSource,
    /// Dropped: not an IP packet within an authentic record.
    DropMalformed,
    /// Dropped: the frame could not be changed after its record was taken.
    DropFrame,
    /// Packets from clients that were handed to a socket, as they came.
    RxSocket,
    /// Packets to clients that were.
    TxSocket,
}

impl Counted {
    /// Number of counters.
    pub const COUNT: usize = 18;
    /// All of them, in order.
    pub const ALL: [Self; Self::COUNT] = [
        Self::RxPackets,
        Self::RxBytes,
        Self::RxDirect,
        Self::TxPackets,
        Self::TxBytes,
        Self::TxDirect,
        Self::UpControl,
        Self::UpBulk,
        Self::UpForm,
        Self::UpSession,
        Self::UpRoute,
        Self::DropAuth,
        Self::DropReplay,
        Self::DropSource,
        Self::DropMalformed,
        Self::DropFrame,
        Self::RxSocket,
        Self::TxSocket,
    ];
}

/// A question to the program `xdp_route` and its answer, as bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RouteFrame {
    /// Stands for an Ethernet header; anything.
    pub ethernet: [u8; 16],
    /// Where the packet comes from.
    pub source: Address,
    /// Where it goes. Of the same family.
    pub destination: Address,
    /// Device: the one that the packet came in by, or the one to leave by with `is_output`.
    pub ifindex: u32,
    /// 1: how this host sends by that device (`BPF_FIB_LOOKUP_OUTPUT`).
    pub is_output: u32,
    /// Bytes of the packet, from its IP header.
    pub len: u16,
    /// Protocol after the IP header.
    pub protocol: u8,
    /// TOS byte, used for IPv4.
    pub tos: u8,
    /// Port in network order, or 0.
    pub source_port: [u8; 2],
    /// Likewise.
    pub destination_port: [u8; 2],
    /// Answer, 1: there is a way, and `egress` may be used for direct forwarding. Else the rest of the answer is 0.
    pub found: u32,
    /// Answer: device to send by.
    pub egress: u32,
    /// Answer: destination and source of the Ethernet header.
    pub macs: [u8; 12],
}

impl RouteFrame {
    /// No question.
    pub const EMPTY: Self = Self {
        ethernet: [0; 16],
        source: [0; 16],
        destination: [0; 16],
        ifindex: 0,
        is_output: 0,
        len: 0,
        protocol: 0,
        tos: 0,
        source_port: [0; 2],
        destination_port: [0; 2],
        found: 0,
        egress: 0,
        macs: [0; 12],
    };
    /// Bytes of the frame.
    pub const LEN: usize = size_of::<Self>();

    /// The frame.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let fields: [&[u8]; 13] = [
            &self.ethernet,
            &self.source,
            &self.destination,
            &self.ifindex.to_ne_bytes(),
            &self.is_output.to_ne_bytes(),
            &self.len.to_ne_bytes(),
            &[self.protocol],
            &[self.tos],
            &self.source_port,
            &self.destination_port,
            &self.found.to_ne_bytes(),
            &self.egress.to_ne_bytes(),
            &self.macs,
        ];
        let mut bytes = [0; Self::LEN];
        let fields = fields.into_iter().flatten();
        for (to, from) in bytes.iter_mut().zip(fields) {
            *to = *from;
        }
        bytes
    }

    /// What a frame holds.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let mut bytes = bytes.iter().copied();
        Self {
            ethernet: field(&mut bytes),
            source: field(&mut bytes),
            destination: field(&mut bytes),
            ifindex: u32::from_ne_bytes(field(&mut bytes)),
            is_output: u32::from_ne_bytes(field(&mut bytes)),
            len: u16::from_ne_bytes(field(&mut bytes)),
            protocol: u8::from_ne_bytes(field(&mut bytes)),
            tos: u8::from_ne_bytes(field(&mut bytes)),
            source_port: field(&mut bytes),
            destination_port: field(&mut bytes),
            found: u32::from_ne_bytes(field(&mut bytes)),
            egress: u32::from_ne_bytes(field(&mut bytes)),
            macs: field(&mut bytes),
        }
    }
}

/// The next bytes of a frame.
fn field<const N: usize>(bytes: &mut impl Iterator<Item = u8>) -> [u8; N] {
    core::array::from_fn(|_| bytes.next().unwrap_or(0))
}

const _: () = {
    assert!(size_of::<FlowKey>() == 36);
    assert!(size_of::<KernelChannel>() == 144);
    assert!(size_of::<SessionKeys>() == 336);
    assert!(core::mem::offset_of!(KernelChannel, padding) == 139);
    assert!(core::mem::offset_of!(SessionKeys, flags) == 335);
    assert!(size_of::<Settings>() == 44);
    assert!(size_of::<Counts>() == 144);
    assert!(RouteFrame::LEN == 84 && align_of::<RouteFrame>() == 4);
    assert!(core::mem::offset_of!(RouteFrame, source_port) == 60);
    assert!(core::mem::offset_of!(RouteFrame, macs) == 72);
};

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn both_families_have_one_form() {
        let v4: IpAddr = "192.0.2.7".parse().unwrap();
        let v6: IpAddr = "2001:db8::7".parse().unwrap();
        assert_eq!(address(v4)[10..], [255, 255, 192, 0, 2, 7]);
        assert_eq!((ip(address(v4)), ip(address(v6))), (v4, v6));
        assert_eq!((prefix_len(v4, 24), prefix_len(v6, 64)), (120, 64));
    }

    #[test]
    fn a_route_frame_is_its_bytes() {
        use core::mem::offset_of;
        let bytes: [u8; RouteFrame::LEN] = core::array::from_fn(|n| n as u8);
        let frame = RouteFrame::from_bytes(&bytes);
        assert_eq!(frame.to_bytes(), bytes);
        let first = [
            (offset_of!(RouteFrame, source), frame.source[0]),
            (offset_of!(RouteFrame, destination), frame.destination[0]),
            (
                offset_of!(RouteFrame, ifindex),
                frame.ifindex.to_ne_bytes()[0],
            ),
            (
                offset_of!(RouteFrame, is_output),
                frame.is_output.to_ne_bytes()[0],
            ),
            (offset_of!(RouteFrame, len), frame.len.to_ne_bytes()[0]),
            (offset_of!(RouteFrame, protocol), frame.protocol),
            (offset_of!(RouteFrame, tos), frame.tos),
            (offset_of!(RouteFrame, source_port), frame.source_port[0]),
            (
                offset_of!(RouteFrame, destination_port),
                frame.destination_port[0],
            ),
            (offset_of!(RouteFrame, found), frame.found.to_ne_bytes()[0]),
            (
                offset_of!(RouteFrame, egress),
                frame.egress.to_ne_bytes()[0],
            ),
            (offset_of!(RouteFrame, macs), frame.macs[0]),
        ];
        for (offset, byte) in first {
            assert_eq!(offset, usize::from(byte));
        }
    }

    #[test]
    fn counters_are_numbered_in_order() {
        for (index, counted) in Counted::ALL.into_iter().enumerate() {
            assert_eq!(counted as usize, index);
        }
    }
}
