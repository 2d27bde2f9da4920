//! Sans-IO protocol code of the gateway.
//!
//! Nothing here opens a socket, reads a clock or draws a random byte: time and randomness are
//! arguments, input is a slice, output is a value. Every parser of foreign bytes lives here.
#![forbid(unsafe_code)]

pub mod config;
pub mod connect;
pub mod control;
pub mod cookies;
pub mod cstp;
pub mod dtls;
pub mod http;
pub mod login;
pub mod mtu;
pub mod passwd;
pub mod secret;
pub mod urls;
pub mod xml;

/// Monotonic time since an arbitrary start, the same one in all calls.
pub type Now = std::time::Duration;
