//! The gate: whatever parses much that comes from outside.

pub mod dtls;
pub mod tls;
