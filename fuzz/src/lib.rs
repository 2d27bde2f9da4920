//! One function for each parser of foreign bytes. A function takes any bytes, as a fuzzer or a
//! file of its corpus gives them, and panics where the parser breaks a promise.
//!
//! `cargo fuzz` calls them from `fuzz_targets/`; `tests/replay.rs` feeds the corpora with a stable
//! compiler and without libFuzzer.
#![forbid(unsafe_code)]

mod config;
mod connect;
mod control;
mod cstp;
mod dtls;
mod http;
mod input;
mod ip;
#[cfg(feature = "daemon")]
mod ipc;
mod login;
mod offload;
mod passwd;
mod replay;
mod xml;

pub use config::{config, priorities, supplemental};
pub use connect::connect;
pub use control::control;
pub use cstp::cstp;
pub use dtls::{dtls_hello, dtls_record};
pub use http::http;
pub use ip::ip;
#[cfg(feature = "daemon")]
pub use ipc::{ipc, packet_link};
pub use login::login;
pub use offload::offload;
pub use passwd::passwd;
pub use replay::replay;
pub use xml::xml;

/// A target: the name of its corpus and of its binary, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("config", config),
    ("connect", connect),
    ("control", control),
    ("cstp", cstp),
    ("dtls_hello", dtls_hello),
    ("dtls_record", dtls_record),
    ("http", http),
    ("ip", ip),
    #[cfg(feature = "daemon")]
    ("ipc", ipc),
    ("login", login),
    ("offload", offload),
    #[cfg(feature = "daemon")]
    ("packet_link", packet_link),
    ("passwd", passwd),
    ("priorities", priorities),
    ("replay", replay),
    ("supplemental", supplemental),
    ("xml", xml),
];
