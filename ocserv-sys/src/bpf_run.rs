//! Runs an eBPF program on bytes (`BPF_PROG_TEST_RUN`), for answers that only programs get.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// The command, for the sandbox.
pub const COMMAND: i32 = 10;

/// The part of `union bpf_attr` that the command reads.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    program: u32,
    result: u32,
    data_len: u32,
    out_len: u32,
    data: u64,
    out: u64,
    repeat: u32,
    duration: u32,
    context_len: u32,
    context_out_len: u32,
    context: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch_len: u32,
    padding: u32,
}

/// Runs an XDP program once on a frame, which it may change in place. What it returned.
///
/// # Errors
/// As the kernel answers; `EINVAL` for a frame shorter than an Ethernet header.
pub fn run(program: impl AsFd, frame: &mut [u8]) -> io::Result<u32> {
    let len = u32::try_from(frame.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let address = frame.as_mut_ptr() as u64;
    let mut attributes = Attributes {
        program: program.as_fd().as_raw_fd() as u32,
        data_len: len,
        out_len: len,
        data: address,
        out: address,
        ..Attributes::default()
    };
    let pointer = &raw mut attributes;
    // SAFETY: the kernel copies `data_len` bytes in before it copies at most `out_len` out, both within
    // `frame`, and writes to no more of the attributes than there are.
    let result = unsafe { libc::syscall(libc::SYS_bpf, COMMAND, pointer, size_of::<Attributes>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(attributes.result)
}
