//! TLS by rustls, signing and session store in the security module (protocol.md 1).

mod accept;
mod certificate;
mod describe;
mod policy;
mod resumption;
mod signing;
mod stream;
mod suites;

pub use accept::{AcceptError, AcceptedTls, VhostTls, accept};
pub use certificate::Certificates;
pub use describe::cipher_name;
pub use policy::server_config;
pub use signing::SignPool;
pub use stream::{Incoming, TlsSession, read_some};
