//! AF_XDP sockets: packets of a device's queue, past the stack, in memory that process and kernel share.
//!
//! A privileged process makes the memory ([`FrameMemory`]) and opens sockets ([`open`]); another one, with
//! no rights, maps both ([`Frames`], [`Socket`]) and works with them.
//!
//! Memory is cut into frames of one size. A [`Frame`] is the right to use one: it is moved into a ring, which
//! gives it to the kernel, and comes back by another ring:
//!
//! ```text
//!           refill ──► fill ring ──► kernel ──► rx ring ──► receive
//!  Frames                                                      │ Frame
//!           reclaim ◄── completion ring ◄── kernel ◄── tx ring ◄── send
//! ```

mod memory;
mod open;
mod ring;
mod socket;
#[cfg(test)]
mod tests;

pub use self::memory::{Frame, Frames};
pub use self::open::{FrameMemory, open};
pub use self::socket::{Lost, Socket};

/// Entries of each ring.
pub const RING: u32 = 2048;
