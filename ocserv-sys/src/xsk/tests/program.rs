//! The smallest program that hands a device's packets to a socket.

use std::mem::size_of_val;
use std::os::fd::{FromRawFd, OwnedFd};

const MAP_CREATE: i32 = 0;
const MAP_UPDATE: i32 = 2;
const PROG_LOAD: i32 = 5;
const LINK_CREATE: i32 = 28;
const XSKMAP: u32 = 17;
const PROG_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
const DRIVER_MODE: u32 = 4;

fn bpf<const N: usize>(command: i32, attributes: [u64; N]) -> i64 {
    let pointer = attributes.as_ptr();
    // SAFETY: the attributes of each command below, whose pointers lead to values of its callers.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, pointer, size_of_val(&attributes)) };
    assert!(
        result >= 0,
        "command {command}: {}",
        std::io::Error::last_os_error()
    );
    result
}

fn two(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

fn descriptor(number: i64) -> OwnedFd {
    // SAFETY: the kernel has just made it for us.
    unsafe { OwnedFd::from_raw_fd(number as i32) }
}

/// Attaches it; detached when what it returns is dropped.
pub fn hand_over_all(device: u32, socket: i32) -> [OwnedFd; 3] {
    let map = bpf(MAP_CREATE, [two(XSKMAP, 4), two(4, 1), 0]);
    let (key, value) = (0u32, socket);
    let pointers = [&raw const key as u64, &raw const value as u64];
    bpf(MAP_UPDATE, [map as u64, pointers[0], pointers[1], 0]);
    // r2 = 0; r1 = map; r3 = XDP_PASS; r0 = bpf_redirect_map(r1, r2, r3); exit
    let code: [u64; 6] = [
        0x0000_0000_0000_02b7,
        0x0000_0000_0000_1118 | (map as u64) << 32,
        0,
        0x0000_0002_0000_03b7,
        0x0000_0033_0000_0085,
        0x0000_0000_0000_0095,
    ];
    let license = c"GPL";
    let program = bpf(
        PROG_LOAD,
        [
            two(PROG_XDP, 6),
            code.as_ptr() as u64,
            license.as_ptr() as u64,
            0,
            0,
            0,
        ],
    );
    let link = bpf(
        LINK_CREATE,
        [two(program as u32, device), two(ATTACH_XDP, DRIVER_MODE)],
    );
    [link, program, map].map(descriptor)
}
