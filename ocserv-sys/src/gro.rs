//! Whether the kernel merges the packets of a flow that a device receives (generic receive offload;
//! `linux/ethtool.h`).

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GGRO: u32 = 0x2b;
const ETHTOOL_SGRO: u32 = 0x2c;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// A device that merges because it was told to. It ceases to when this is dropped.
#[derive(Debug)]
pub struct Merging(String);

impl Merging {
    /// Has a device of the caller's network namespace merge. `None`: it does already.
    ///
    /// # Errors
    /// When there is no such device, it cannot, or without `CAP_NET_ADMIN`.
    pub fn start(device: &str) -> io::Result<Option<Self>> {
        if ask(device, ETHTOOL_GGRO, 0)? != 0 {
            return Ok(None);
        }
        ask(device, ETHTOOL_SGRO, 1)?;
        Ok(Some(Self(device.to_owned())))
    }
}

impl Drop for Merging {
    fn drop(&mut self) {
        // The device may be gone.
        let _ = ask(&self.0, ETHTOOL_SGRO, 0);
    }
}

/// Gives the device's driver a command, and its answer.
fn ask(device: &str, command: u32, data: u32) -> io::Result<u32> {
    // SAFETY: ifreq is plain data; zero is a value of each field.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if device.len() >= request.ifr_name.len() || device.contains('\0') {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from as libc::c_char;
    }
    let mut value = Value { command, data };
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let fd = socket.as_raw_fd();
    // SAFETY: SIOCETHTOOL reads an ifreq, and of these commands reads or writes the value that it points
    // to; both live through the call.
    let result = unsafe { libc::ioctl(fd, SIOCETHTOOL as _, &raw mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(value.data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_device_is_told() {
        for name in ["", "no-such-device0", "a name that no device has", "a\0b"] {
            assert!(Merging::start(name).is_err(), "{name}");
        }
    }
}
