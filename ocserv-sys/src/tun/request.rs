//! Requests to the device driver (`Documentation/networking/tuntap.rst`, `linux/if_tun.h`).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// `TUN_F_*` that old headers lack: 6.2 and later.
const TUN_F_USO4: libc::c_ulong = 0x20;
const TUN_F_USO6: libc::c_ulong = 0x40;

const CHECKSUM: libc::c_ulong = libc::TUN_F_CSUM as libc::c_ulong;
const TCP: libc::c_ulong =
    (libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN) as libc::c_ulong;

/// Makes the descriptor a queue of the device `name`, which comes to be if there is none; its name.
pub fn attach_queue(fd: &OwnedFd, name: &str, vnet_header: bool) -> io::Result<String> {
    let mut request = empty_request();
    if name.len() >= request.ifr_name.len() || name.contains(['\0', '/']) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let mut flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE;
    if vnet_header {
        flags |= libc::IFF_VNET_HDR;
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads an ifreq and writes the name back into it; it lives through the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let name = request
        .ifr_name
        .iter()
        .take_while(|c| **c != 0)
        .map(|c| *c as u8)
        .collect();
    String::from_utf8(name).map_err(io::Error::other)
}

/// Whether the driver can put a header before each packet.
pub fn knows_vnet_header(fd: &OwnedFd) -> bool {
    let mut features: libc::c_uint = 0;
    // SAFETY: TUNGETFEATURES writes an unsigned int; it lives through the call.
    let result =
        unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETFEATURES as _, &raw mut features) };
    result == 0 && features & libc::IFF_VNET_HDR as libc::c_uint != 0
}

/// Whether the queue's packets have a header before them.
pub fn has_vnet_header(fd: &OwnedFd) -> bool {
    let mut request = empty_request();
    // SAFETY: TUNGETIFF writes an ifreq; it lives through the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF as _, &raw mut request) };
    if result < 0 {
        return false;
    }
    // SAFETY: TUNGETIFF filled this member of the union in, and any bits are a short.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    libc::c_int::from(flags) & libc::IFF_VNET_HDR != 0
}

/// Tells the kernel what it may leave to us: as much of it as it knows.
pub fn offer_offloads(fd: &OwnedFd) {
    let tries = [CHECKSUM | TCP | TUN_F_USO4 | TUN_F_USO6, CHECKSUM | TCP];
    let _ = tries.into_iter().any(|offloads| {
        // SAFETY: TUNSETOFFLOAD takes a number, no pointer.
        let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD as _, offloads) };
        result == 0
    });
}

fn empty_request() -> libc::ifreq {
    // SAFETY: ifreq is plain data; zero is a value of each field.
    unsafe { std::mem::zeroed() }
}
