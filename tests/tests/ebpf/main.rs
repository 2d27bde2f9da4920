//! The kernel programs, run by the kernel's own test harness on packets made here.

mod attached;
mod bed;
mod bulk;
mod direct;
mod form;
mod fuzz;
mod liveness;
mod net;
mod open;
mod packets;
mod race;
mod rekey;
mod replay;
mod seal;
mod sockets;
mod source;
mod tc;
