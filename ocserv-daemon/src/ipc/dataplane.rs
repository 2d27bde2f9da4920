//! Messages between the supervisor and the dataplane.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ocserv_proto::config::NetPriority;
use ocserv_proto::dtls::ChannelKeys;
use ocserv_proto::dtls::control::DtlsSettings;
use serde::{Deserialize, Serialize};

use super::ids::{GateId, Slot};
use crate::costs::Costs;

/// Bytes of a frame of the sockets past the host's stack: a packet of at most 1500, with what the kernel
/// keeps before it.
pub const FRAME_SIZE: u32 = 2048;

/// Supervisor → dataplane.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToDataplane {
    /// First message. Descriptors, per thread: its tun queue, then its UDP sockets, then with `sockets` the
    /// memory of its frames; with `sockets`, behind all of them, the program that knows routes.
    Setup {
        /// Number of threads.
        threads: u32,
        /// UDP sockets per thread (one per listening address).
        udp_per_thread: u32,
        /// Number of session records.
        slots: u32,
        /// Their shards are arrays of the kernel, not memory files.
        kernel_maps: bool,
        /// `try-mtu-discovery`.
        try_mtu_discovery: bool,
        /// What packets cost, where that decides about their paths.
        costs: Option<Costs>,
        /// `xdp-sockets`: sockets past the host's stack may come.
        sockets: bool,
        /// The tun device.
        tun_ifindex: u32,
        /// Largest `-d`/`log-level` wanted.
        log_level: u8,
    },
    /// Memory for some more session records, before the first session that has one of them; sent
    /// again for all after a restart of the dataplane. One descriptor.
    ShardAdded {
        /// Which shard of `ocserv_common::kernel::SLOTS_PER_SHARD` records.
        index: u32,
    },
    /// A gate was started. One descriptor: its packet link.
    GateAdded {
        /// Which one.
        gate: GateId,
    },
    /// A gate is gone.
    GateRemoved {
        /// Which one.
        gate: GateId,
    },
    /// A session is open. Sent before the gate hears of it; sent again for every session after a
    /// restart of the dataplane.
    SessionAdded(Box<SessionParams>),
    /// Use these keys. Answered by [`FromDataplane::KeysInstalled`].
    KeysAdded {
        /// The session.
        slot: Slot,
        /// Which of the session's two channel records holds sequence counter and replay window.
        /// Alternates, so that the old channel works until the new one is used.
        channel: u8,
        /// Key block.
        keys: Box<ChannelKeys>,
        /// Client's UDP address.
        peer: SocketAddr,
        /// Local UDP address.
        local: SocketAddr,
        /// Number of these keys, never used for others. A channel record that stands for other keys
        /// begins anew; one that stands for these (after a restart of the dataplane) goes on.
        generation: u64,
    },
    /// The gate and the client agreed on this inner MTU.
    MtuChanged {
        /// The session.
        slot: Slot,
        /// Bytes of the largest inner packet.
        mtu: u16,
    },
    /// A session is closed: forget it.
    SessionRemoved {
        /// Which one.
        slot: Slot,
    },
    /// A socket past the host's stack. One descriptor. Answered by [`FromDataplane::SocketReady`], and no
    /// packet comes by it before, or by [`FromDataplane::SocketRefused`].
    SocketAdded {
        /// The thread whose memory it has.
        thread: u32,
        /// Its device.
        ifindex: u32,
        /// The device's queue.
        queue: u32,
        /// The device is towards the networks behind the gateway, not towards clients.
        is_lan: bool,
    },
    /// A device has no sockets any more: close them.
    SocketsGone {
        /// Which one.
        ifindex: u32,
    },
    /// Exit.
    Stop,
}

/// Dataplane → supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromDataplane {
    /// Sandboxed and running.
    Ready,
    /// Answer to [`ToDataplane::KeysAdded`].
    KeysInstalled {
        /// The session.
        slot: Slot,
    },
    /// A DTLS channel of a session moved to another client address (NAT, roaming).
    PeerMoved {
        /// The session.
        slot: Slot,
        /// Which of its channel records.
        channel: u8,
        /// Number of the record's keys.
        generation: u64,
        /// Its new address.
        peer: SocketAddr,
        /// Local address that the client now sends to.
        local: SocketAddr,
    },
    /// `try-mtu-discovery`: the path of a session takes other sizes than before.
    MtuChanged {
        /// The session.
        slot: Slot,
        /// Bytes of the largest inner packet that goes in a record; at most what gate and client
        /// agreed on.
        mtu: u16,
    },
    /// A DTLS channel is over: the client closed it, or uses a newer one. Its keys are not needed any
    /// more.
    ChannelEnded {
        /// The session.
        slot: Slot,
        /// Which of its channel records.
        channel: u8,
        /// Number of the keys.
        generation: u64,
    },
    /// Answer to [`ToDataplane::SocketAdded`]: its thread serves the socket.
    SocketReady {
        /// Its device.
        ifindex: u32,
        /// The device's queue.
        queue: u32,
    },
    /// Answer to [`ToDataplane::SocketAdded`]: it is closed again.
    SocketRefused {
        /// Its device.
        ifindex: u32,
        /// The device's queue.
        queue: u32,
        /// Why, for the log.
        error: String,
    },
    /// What outputs of a thread cost by now.
    OutputCosts {
        /// Which thread.
        thread: u32,
        /// Nanoseconds, by `Direction`; NaN: not known.
        ns: [f64; 2],
    },
}

/// A session as the dataplane sees it. Times are whole seconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SessionParams {
    /// Number of its session record.
    pub slot: Slot,
    /// The gate that holds its TLS connection.
    pub gate: GateId,
    /// IPv4 lease.
    pub ipv4: Option<Ipv4Addr>,
    /// IPv6 lease and the prefix that belongs to the client.
    pub ipv6: Option<(Ipv6Addr, u8)>,
    /// Networks behind the client: valid inner sources, and routed to it.
    pub iroutes: Vec<(std::net::IpAddr, u8)>,
    /// `X-DTLS-App-ID`; a ClientHello that carries it belongs to this session. `None`: no DTLS.
    pub app_id: Option<[u8; 32]>,
    /// Inner MTU.
    pub mtu: u16,
    /// DPD interval, 0 = off.
    pub dpd: u32,
    /// `switch-to-tcp-timeout`, 0 = off.
    pub switch_to_tcp: u32,
    /// Client → server limit, bytes per second; 0 = none.
    pub rx_limit: u64,
    /// Server → client limit, bytes per second; 0 = none.
    pub tx_limit: u64,
    /// `net-priority`.
    pub net_priority: Option<NetPriority>,
}

impl SessionParams {
    /// Timers of its DTLS channels.
    pub fn dtls_settings(&self) -> DtlsSettings {
        DtlsSettings {
            dpd: Duration::from_secs(self.dpd.into()),
            switch_to_tcp: Duration::from_secs(self.switch_to_tcp.into()),
        }
    }
}
