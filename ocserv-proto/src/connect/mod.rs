//! CONNECT: from the client's headers to the server's answer (protocol.md 5.1-5.3).

mod agent;
mod answer;
mod refusal;
mod request;

pub use agent::ClientClass;
pub use answer::{ConnectAnswer, DtlsAnswer, Rekey};
pub use refusal::Refusal;
pub use request::{ConnectRequest, is_mobile_platform, is_tunnel_target};
