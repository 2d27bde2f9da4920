//! A DTLS channel of a session: keys, and where they are used.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use ocserv_proto::dtls::control::DtlsSettings;
use ocserv_proto::dtls::{DtlsChannel, DtlsControl};
use ocserv_proto::mtu::outer_headers;

/// The two ends of a UDP flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Client.
    pub peer: SocketAddr,
    /// Server.
    pub local: SocketAddr,
}

/// One DTLS channel.
#[derive(Debug)]
pub struct Channel {
    /// Which of the session's two records in shared memory holds its counter and window.
    pub index: usize,
    /// The keys' number: that record must stand for them.
    pub generation: u64,
    /// Keys.
    pub crypto: DtlsChannel,
    /// Timers; what they go by is in that record too ([`Session::live`]).
    pub control: DtlsControl,
    flow: ArcSwap<Flow>,
    /// It moved, and the supervisor has not been told.
    untold: AtomicBool,
}

impl Channel {
    /// A channel whose record was started.
    pub fn new(
        index: usize,
        generation: u64,
        crypto: DtlsChannel,
        flow: Flow,
        settings: DtlsSettings,
    ) -> Self {
        Self {
            index,
            generation,
            crypto,
            control: DtlsControl::new(settings),
            flow: ArcSwap::from_pointee(flow),
            untold: AtomicBool::new(false),
        }
    }

    /// Where the client is.
    pub fn flow(&self) -> Flow {
        **self.flow.load()
    }

    /// The client is somewhere else now.
    pub fn move_to(&self, flow: Flow) {
        self.flow.store(Arc::new(flow));
        self.untold.store(true, Ordering::Release);
    }

    /// Calls `tell` if the channel moved; where that fails it is to be told again.
    pub fn tell_move(&self, tell: impl FnOnce(Flow) -> bool) {
        if self.untold.swap(false, Ordering::AcqRel) && !tell(self.flow()) {
            self.untold.store(true, Ordering::Release);
        }
    }

    /// Bytes that an outer packet is larger than the inner one.
    pub fn overhead(&self) -> u16 {
        // 66 or so; outer headers and the record's.
        self.crypto.overhead() as u16 + outer_headers(self.flow().peer.is_ipv6())
    }
}
