//! Names by which the processes speak of connections, sessions and gates.

use std::net::SocketAddr;
use std::time::SystemTime;

use ocserv_proto::secret::Secret;
use serde::{Deserialize, Serialize};

/// One accepted TCP connection, unique while the server runs. Shown as `ID` by occtl
/// (the reference shows a worker's PID there).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConnId(pub u32);

/// A gate process; never used again after its death.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GateId(pub u32);

/// Number of an open session's record in shared memory (`ocserv_common::session`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Slot(pub u32);

/// A session's public name: base64 of the SHA-1 of its cookie, 28 characters (cli.md §4.4).
/// Its first six characters are what logs show.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionName(pub String);

impl SessionName {
    /// The six characters that logs and tables show.
    pub fn short(&self) -> &str {
        self.0.get(..6).unwrap_or(&self.0)
    }
}

/// What the supervisor vouches for about a connection. A gate passes it on to secmod, which checks
/// the HMAC, so that a gate that was taken over cannot speak for another address
/// (behaviour.md §1.2).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConnTicket {
    /// The connection.
    pub conn: ConnId,
    /// The gate that it was given to.
    pub gate: GateId,
    /// The client's address (after a PROXY header, when that comes).
    pub remote: SocketAddr,
    /// The server address that it connected to.
    pub local: SocketAddr,
    /// When it was accepted.
    pub accepted_at: SystemTime,
    /// HMAC-SHA-256 over all of the above, under a key that supervisor and secmod share.
    pub mac: Secret,
}
