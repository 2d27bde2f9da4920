//! The tun device: one for all sessions, with a queue for each dataplane thread.
//!
//! The `tun` crate configures the device. It cannot make the queues: 0.7 refuses every number but
//! one (`Error::InvalidQueuesNumber`) and then leaves `IFF_MULTI_QUEUE` out, so TUNSETIFF is done
//! here, and the first queue is handed to the crate by its descriptor.
//!
//! Where the kernel can, its queues carry super-packets: many packets of a flow in one read or write,
//! which the host's stack handles as one. Those who use a queue see single packets only.

mod batch;
mod queue;
mod request;
mod sender;
#[cfg(test)]
pub(crate) mod tests;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use tun::AbstractDevice;

pub use self::batch::PacketBatch;
pub use self::queue::{Sent, TunQueue};

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
        Self::create_with(name, queues, true)
    }

    /// As [`Self::create`], without super-packets unless they are wanted.
    fn create_with(name: &str, queues: usize, super_packets: bool) -> io::Result<Self> {
        let first = open_clone_device()?;
        let vnet_header = super_packets && request::knows_vnet_header(&first);
        let name = request::attach_queue(&first, name, vnet_header)?;
        if vnet_header {
            request::offer_offloads(&first);
        }
        let mut fds = vec![first];
        for _ in 1..queues {
            let fd = open_clone_device()?;
            request::attach_queue(&fd, &name, vnet_header)?;
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
