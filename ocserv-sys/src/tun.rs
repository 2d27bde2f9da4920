//! The tun device: one for all sessions, with a queue for each dataplane thread.
//!
//! The `tun` crate configures the device. It cannot make the queues: 0.7 refuses every number but
//! one (`Error::InvalidQueuesNumber`) and then leaves `IFF_MULTI_QUEUE` out, so TUNSETIFF is done
//! here, and the first queue is handed to the crate by its descriptor.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{read, write};
use tun::AbstractDevice;

/// Longest packet that a queue carries.
pub const MAX_PACKET: usize = 65535;

/// A new device. It is not persistent: it goes away with the last queue.
pub struct TunDevice {
    name: String,
    queues: Vec<OwnedFd>,
    device: tun::Device,
}

impl TunDevice {
    /// Makes the device `name` (at most 15 bytes; a `%d` in it becomes a number) with `queues`
    /// queues, all non-blocking and close-on-exec. It is down and has no address.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_ADMIN, `EBUSY` if such a device exists and is in use, `ENOENT`
    /// without the tun module.
    pub fn create(name: &str, queues: usize) -> io::Result<Self> {
        let first = open_clone_device()?;
        let name = attach_queue(&first, name)?;
        let mut fds = vec![first];
        for _ in 1..queues {
            let fd = open_clone_device()?;
            attach_queue(&fd, &name)?;
            fds.push(fd);
        }
        let mut configuration = tun::Configuration::default();
        configuration
            .raw_fd(fds[0].as_raw_fd())
            .close_fd_on_drop(false)
            .tun_name(&name);
        let device = tun::Device::new(&configuration).map_err(io::Error::other)?;
        Ok(Self {
            name,
            queues: fds,
            device,
        })
    }

    /// Its name as the kernel gave it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Interface index.
    ///
    /// # Errors
    /// When the device was deleted by somebody.
    pub fn index(&self) -> io::Result<u32> {
        let index = self.device.tun_index().map_err(io::Error::other)?;
        u32::try_from(index).map_err(io::Error::other)
    }

    /// Sets the MTU in bytes.
    ///
    /// # Errors
    /// `EINVAL` outside of 68..=65535.
    pub fn set_mtu(&mut self, mtu: u16) -> io::Result<()> {
        self.device.set_mtu(mtu).map_err(io::Error::other)
    }

    /// Sets it up.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn set_up(&mut self) -> io::Result<()> {
        self.device.enabled(true).map_err(io::Error::other)
    }

    /// The queues' descriptors, one for each thread.
    pub fn queues(&self) -> &[OwnedFd] {
        &self.queues
    }
}

fn open_clone_device() -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    Ok(open("/dev/net/tun", flags, Mode::empty())?)
}

fn attach_queue(fd: &OwnedFd, name: &str) -> io::Result<String> {
    // SAFETY: ifreq is plain data; zero is a value of each field.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() || name.contains(['\0', '/']) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE;
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

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Packets that the kernel took.
    pub sent: usize,
    /// Packets that it had no room for.
    pub full: usize,
    /// Packets that it refused: not IP, or the device is down.
    pub refused: usize,
}

/// One queue of the device.
pub struct TunQueue {
    fd: OwnedFd,
}

impl TunQueue {
    /// Takes a queue from its descriptor, which must be non-blocking.
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Reads waiting packets, at most as many as `batch` holds; 0 when none wait.
    ///
    /// # Errors
    /// `read(2)`, except for "nothing there"; `EIO` while the device is down is "nothing" too.
    pub fn recv_batch(&self, batch: &mut PacketBatch) -> io::Result<usize> {
        batch.clear();
        while let Some(buffer) = batch.free() {
            match read(&self.fd, buffer) {
                Ok(0) | Err(Errno::EAGAIN | Errno::EIO) => break,
                Ok(len) => batch.push(len),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(batch.len())
    }

    /// Writes packets; what the kernel does not take is counted and lost, as on any wire.
    pub fn send_batch<'a>(&self, packets: impl IntoIterator<Item = &'a [u8]>) -> Sent {
        let mut counts = Sent::default();
        for packet in packets {
            match write(&self.fd, packet) {
                Ok(_) => counts.sent += 1,
                Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM) => counts.full += 1,
                Err(_) => counts.refused += 1,
            }
        }
        counts
    }
}

impl AsFd for TunQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Fixed buffers for packets.
pub struct PacketBatch {
    storage: Vec<u8>,
    lens: Vec<usize>,
    buffer_len: usize,
    capacity: usize,
}

impl PacketBatch {
    /// Room for `capacity` packets of at most `buffer_len` bytes.
    pub fn new(capacity: usize, buffer_len: usize) -> Self {
        Self {
            storage: vec![0; capacity * buffer_len],
            lens: Vec::with_capacity(capacity),
            buffer_len,
            capacity,
        }
    }

    /// Number of packets in it.
    pub fn len(&self) -> usize {
        self.lens.len()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.lens.is_empty()
    }

    /// Forgets the packets.
    pub fn clear(&mut self) {
        self.lens.clear();
    }

    /// Packet number `index`.
    ///
    /// # Panics
    /// If there are not that many.
    pub fn packet(&self, index: usize) -> &[u8] {
        let start = index * self.buffer_len;
        &self.storage[start..start + self.lens[index]]
    }

    fn free(&mut self) -> Option<&mut [u8]> {
        let index = self.lens.len();
        if index == self.capacity {
            return None;
        }
        let start = index * self.buffer_len;
        Some(&mut self.storage[start..start + self.buffer_len])
    }

    fn push(&mut self, len: usize) {
        self.lens.push(len);
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::process::Command;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    /// Runs `test` in a thread with a network of its own, which ends with it.
    fn in_own_network(test: impl FnOnce() + Send + 'static) {
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
            test();
        });
        thread.join().unwrap();
    }

    fn ip(arguments: &str) {
        let status = Command::new("ip")
            .args(arguments.split(' '))
            .status()
            .unwrap();
        assert!(status.success(), "ip {arguments}");
    }

    /// A UDP packet from 10.9.0.2 to 10.9.0.1 port `port` that says "in"; no UDP checksum.
    fn packet(port: u16) -> Vec<u8> {
        let mut packet = vec![
            0x45, 0, 0, 30, 0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 0, 2, 10, 9, 0, 1,
        ];
        let sum: u32 = packet
            .as_chunks::<2>()
            .0
            .iter()
            .map(|w| u32::from(u16::from_be_bytes(*w)))
            .sum();
        let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend([0x10, 0]);
        packet.extend(port.to_be_bytes());
        packet.extend([0, 10, 0, 0, b'i', b'n']);
        packet
    }

    #[test]
    fn packets_pass_the_queues_both_ways() {
        in_own_network(|| {
            let mut device = TunDevice::create("vpnt%d", 2).unwrap();
            assert_eq!((device.name(), device.queues().len()), ("vpnt0", 2));
            assert!(device.index().unwrap() > 0);
            device.set_mtu(1400).unwrap();
            device.set_up().unwrap();
            ip("addr add 10.9.0.1/24 dev vpnt0");
            let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
            let port = socket.local_addr().unwrap().port();
            let queues: Vec<TunQueue> = device
                .queues()
                .iter()
                .map(|fd| TunQueue::new(fd.try_clone().unwrap()))
                .collect();

            let (good, bad) = (packet(port), [0xff; 30]);
            let sent = queues[1].send_batch([&good[..], &bad[..]]);
            assert_eq!(
                sent,
                Sent {
                    sent: 1,
                    full: 0,
                    refused: 1
                }
            );
            let mut buffer = [0; 10];
            let (len, from) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!(
                (&buffer[..len], from.to_string().as_str()),
                (&b"in"[..], "10.9.0.2:4096")
            );

            socket.send_to(b"outward", "10.9.0.2:7").unwrap();
            assert!(finds(&queues, b"outward"));
        });
    }

    /// Waits for an IPv4 packet that ends with `text` on any of the queues.
    fn finds(queues: &[TunQueue], text: &[u8]) -> bool {
        let mut batch = PacketBatch::new(8, 2048);
        loop {
            let mut fds: Vec<_> = queues
                .iter()
                .map(|q| PollFd::new(q.as_fd(), PollFlags::POLLIN))
                .collect();
            if poll(&mut fds, PollTimeout::from(5000u16)).unwrap() == 0 {
                return false;
            }
            for queue in queues {
                for index in 0..queue.recv_batch(&mut batch).unwrap() {
                    // The kernel's own IPv6 housekeeping comes along.
                    if batch.packet(index)[0] == 0x45 {
                        return batch.packet(index).ends_with(text);
                    }
                }
            }
        }
    }

    #[test]
    fn impossible_names_are_refused() {
        in_own_network(|| {
            assert!(TunDevice::create("a-name-of-16-byt", 1).is_err());
            assert!(TunDevice::create("a/b", 1).is_err());
        });
    }
}
