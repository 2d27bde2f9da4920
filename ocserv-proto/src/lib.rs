//! Sans-IO protocol code of the gateway.
//!
//! Nothing here opens a socket, reads a clock or draws a random byte: time and randomness are
//! arguments, input is a slice, output is a value. Every parser of foreign bytes lives here.
#![forbid(unsafe_code)]

pub mod config;
pub mod dtls;
pub mod http;
pub mod login;
pub mod secret;
