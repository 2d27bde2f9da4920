//! Shared by kernel and user space: pure functions and plain types, no allocation, no std.
#![cfg_attr(not(any(test, loom)), no_std)]
#![cfg_attr(
    target_arch = "bpf",
    expect(
        internal_features,
        reason = "core has no atomic read-modify-write for BPF"
    ),
    feature(asm_experimental_arch, core_intrinsics, adt_const_params)
)]

pub mod aead;
mod atomic;
pub mod datagram;
pub mod encapsulation;
pub mod inner;
pub mod ip;
pub mod kernel;
#[cfg(not(target_arch = "bpf"))]
pub mod offload;
pub mod pace;
pub mod replay;
pub mod session;
