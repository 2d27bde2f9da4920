//! All user-space unsafe code of the gateway, fenced behind safe interfaces.
//!
//! One operation a block, each with its reason. Nothing here knows the protocol.

pub mod activation;
pub mod bpf_run;
pub mod crypt;
pub mod gro;
pub mod key_map;
pub mod local_time;
mod login_record;
mod memfd;
pub mod memory;
pub mod message_batch;
pub mod poller;
pub mod process;
pub mod sandbox;
pub mod seqpacket;
pub mod shared_map;
pub mod tun;
pub mod udp;
pub mod xsk;
