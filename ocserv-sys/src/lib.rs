//! All user-space unsafe code of the gateway, fenced behind safe interfaces.
//!
//! One operation a block, each with its reason. Nothing here knows the protocol.

pub mod seqpacket;
