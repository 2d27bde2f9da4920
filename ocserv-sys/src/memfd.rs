//! Memory files and their seals.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// Since Linux 6.3: the file can never be executed.
const NOEXEC_SEAL: MFdFlags = MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);

/// An empty memory file that can be sealed.
pub(crate) fn create(name: &CStr) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    match memfd_create(name, flags | NOEXEC_SEAL) {
        Err(Errno::EINVAL) => Ok(memfd_create(name, flags)?),
        other => Ok(other?),
    }
}

pub(crate) fn add_seals(fd: impl AsFd, seals: SealFlag) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(())
}

/// Fails unless all of `wanted` are set.
pub(crate) fn check_seals(fd: impl AsFd, wanted: SealFlag) -> io::Result<()> {
    let seals = SealFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GET_SEALS)?);
    if seals.contains(wanted) {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "memory file is not sealed",
        ))
    }
}
