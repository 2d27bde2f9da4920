//! Memory files: configuration handed to another process as one sealed, read-only whole.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{Whence, lseek};

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

/// Puts `content` in a memory file that nobody can change any more.
///
/// # Errors
/// `memfd_create(2)`, `write(2)`.
pub fn sealed(name: &CStr, content: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(create(name)?);
    file.write_all(content)?;
    add_seals(
        &file,
        SealFlag::F_SEAL_WRITE
            | SealFlag::F_SEAL_GROW
            | SealFlag::F_SEAL_SHRINK
            | SealFlag::F_SEAL_SEAL,
    )?;
    Ok(file.into())
}

/// Reads a file made by [`sealed`] from its beginning. Works inside the sandbox of a gate.
///
/// # Errors
/// `InvalidData` if it is not sealed or longer than `max` bytes.
pub fn read_sealed(fd: OwnedFd, max: usize) -> io::Result<Vec<u8>> {
    check_seals(&fd, SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK)?;
    let len = usize::try_from(lseek(&fd, 0, Whence::SeekEnd)?).unwrap_or(usize::MAX);
    if len > max {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "memory file is too long",
        ));
    }
    let mut content = vec![0; len];
    File::from(fd).read_exact_at(&mut content, 0)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_survives_and_cannot_be_changed() {
        let fd = sealed(c"test", b"content").unwrap();
        let mut other = File::from(fd.try_clone().unwrap());
        assert!(other.write_all(b"x").is_err());
        assert!(other.set_len(3).is_err());
        assert_eq!(read_sealed(fd, 7).unwrap(), b"content");
    }

    #[test]
    fn unsealed_and_long_files_are_refused() {
        let mut file = File::from(create(c"test").unwrap());
        file.write_all(b"content").unwrap();
        assert!(read_sealed(file.into(), 100).is_err());
        assert!(read_sealed(sealed(c"test", b"content").unwrap(), 6).is_err());
    }
}
