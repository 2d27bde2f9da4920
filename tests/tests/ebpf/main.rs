//! The kernel programs, run by the kernel's own test harness on packets made here.

mod bed;
mod open;
mod packets;
