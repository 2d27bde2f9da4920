//! What needs rights: memory for the kernel to write to, and sockets on queues.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::fcntl::SealFlag;
use nix::unistd::ftruncate;

use super::RING;
use super::memory::{Mapping, SEALS};
use crate::memfd;

/// Bytes that may wait to be sent, in packets of the kernel.
const SEND_BUFFER: i32 = 8 << 20;
/// Packets that one call may send: the kernel's most (`XDP_MAX_TX_SKB_BUDGET`, since Linux 6.18).
const BUDGET_OPTION: i32 = 9;
const BUDGET: i32 = RING as i32;

/// Memory of the frames of one thread, and the first socket that has it.
#[derive(Debug)]
pub struct FrameMemory {
    file: OwnedFd,
    frame_size: u32,
    len: usize,
    first: Option<OwnedFd>,
}

impl FrameMemory {
    /// Memory for `frames` frames of `frame_size` bytes, a power of two from 2048 to the page size.
    ///
    /// # Errors
    /// `InvalidInput`; `memfd_create(2)`.
    pub fn create(frames: u32, frame_size: u32) -> io::Result<Self> {
        let is_sound = frame_size.is_power_of_two() && (2048..=4096).contains(&frame_size);
        if !is_sound || frames == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let len = frames as usize * frame_size as usize;
        let file = memfd::create(c"ocserv-frames")?;
        let bytes = i64::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        ftruncate(&file, bytes)?;
        memfd::add_seals(&file, SEALS | SealFlag::F_SEAL_SEAL)?;
        Ok(Self {
            file,
            frame_size,
            len,
            first: None,
        })
    }

    /// Forgets the first socket: its end is up to those that have it.
    pub fn release(&mut self) {
        self.first = None;
    }
}

impl AsFd for FrameMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Opens a socket on a device's queue. The first one of a memory has the kernel pin it.
///
/// # Errors
/// `EINVAL`: there is no such queue; `EBUSY`: another socket has it, or had it until a moment ago; `EPERM`;
/// `ENOBUFS`: the limit of locked memory.
pub fn open(memory: &mut FrameMemory, device: u32, queue: u32) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::socket(libc::AF_XDP, flags, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    if memory.first.is_none() {
        register(&socket, memory)?;
    }
    for ring in [
        libc::XDP_UMEM_FILL_RING,
        libc::XDP_UMEM_COMPLETION_RING,
        libc::XDP_RX_RING,
        libc::XDP_TX_RING,
    ] {
        set(&socket, libc::SOL_XDP, ring, &RING)?;
    }
    // Better with, but it works without.
    let _ = set(&socket, libc::SOL_XDP, BUDGET_OPTION, &BUDGET);
    let _ = set(
        &socket,
        libc::SOL_SOCKET,
        libc::SO_SNDBUFFORCE,
        &SEND_BUFFER,
    );
    bind(&socket, memory, device, queue)?;
    if memory.first.is_none() {
        memory.first = Some(socket.try_clone()?);
    }
    Ok(socket)
}

/// The kernel pins the pages, so the mapping may go afterwards.
fn register(socket: &OwnedFd, memory: &FrameMemory) -> io::Result<()> {
    let mapping = Mapping::new(memory.file.as_fd(), memory.len, 0)?;
    let region = libc::xdp_umem_reg {
        addr: mapping.address() as u64,
        len: memory.len as u64,
        chunk_size: memory.frame_size,
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    set(socket, libc::SOL_XDP, libc::XDP_UMEM_REG, &region)
}

fn bind(socket: &OwnedFd, memory: &FrameMemory, device: u32, queue: u32) -> io::Result<()> {
    // The first socket's flags hold for all of a memory.
    let (flags, shared) = match &memory.first {
        None => (libc::XDP_USE_NEED_WAKEUP, 0),
        Some(first) => (libc::XDP_SHARED_UMEM, first.as_raw_fd() as u32),
    };
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: device,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: shared,
    };
    let len = size_of::<libc::sockaddr_xdp>() as u32;
    let pointer = (&raw const address).cast();
    // SAFETY: an address of this length that lives through the call.
    let result = unsafe { libc::bind(socket.as_raw_fd(), pointer, len) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn set<T>(socket: &OwnedFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    let pointer = (&raw const *value).cast();
    let len = size_of::<T>() as u32;
    // SAFETY: a value of this length that lives through the call.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, pointer, len) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
