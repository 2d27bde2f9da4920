//! Shared by kernel and user space: pure functions and plain types, no allocation, no std.
#![cfg_attr(not(any(test, loom)), no_std)]

mod atomic;
pub mod ip;
pub mod replay;
pub mod session;
