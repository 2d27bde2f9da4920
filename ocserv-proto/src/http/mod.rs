//! HTTP/1.x as far as VPN clients speak it before the tunnel (protocol.md 2).
//!
//! [`RequestParser`] takes bytes as they come from TLS and gives whole requests; [`Answer`] builds
//! the bytes of an answer. Each [`HttpError`] means: close the connection without an answer.

mod answer;
mod parser;
mod request;

pub use answer::Answer;
pub use parser::{HttpError, Limits, RequestParser};
pub use request::{Method, Request};
