//! How the processes talk: SEQPACKET sockets, postcard-encoded enums, descriptors beside them.

pub mod channel;
pub mod dataplane;
pub mod gate;
pub mod ids;
pub mod packet;
pub mod secmod;
pub mod ticket;
