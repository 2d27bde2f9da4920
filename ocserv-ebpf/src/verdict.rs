//! Why a program is done with a packet before its work is.

use ocserv_common::datagram::NotOurs;
use ocserv_common::kernel::Counted;

/// What becomes of a packet that a program does not carry.
#[derive(Clone, Copy)]
pub enum Verdict {
    /// Not VPN traffic: the stack has it, and nobody counts it.
    Pass,
    /// The stack has it, unchanged, for user space.
    Left(Counted),
    /// The socket of this index has it, unchanged, and that is counted; where there is none, the stack.
    Socket(u32, Counted),
    /// Nobody has it.
    Drop(Counted),
}

/// What a step of a program's work comes to.
pub type Step<T> = Result<T, Verdict>;

impl From<NotOurs> for Verdict {
    fn from(reason: NotOurs) -> Self {
        match reason {
            NotOurs::Other => Self::Pass,
            NotOurs::Form => Self::Left(Counted::UpForm),
            NotOurs::Control => Self::Left(Counted::UpControl),
        }
    }
}
