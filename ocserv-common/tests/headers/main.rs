//! Headers as kernel programs read and write them, against frames that are made byte by byte.

mod datagram;
mod encapsulation;
mod inner;
mod packets;
