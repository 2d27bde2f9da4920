//! The supervisor: the one process with rights over the network, and the only one that knows all
//! the others. It parses nothing that a client sent.

mod accept;
mod answers;
pub mod bans;
mod check;
mod closing;
pub mod control;
mod core;
mod datapath_info;
mod dataplane_link;
mod devices;
pub mod events;
mod gates;
mod hooks;
mod kernel_link;
pub mod lease;
mod lease_range;
mod listen;
mod network;
mod opening;
mod peers;
mod ping;
mod reload;
pub mod route_command;
pub mod script_env;
pub mod scripts;
mod secmod_link;
mod setup;
mod shards;
mod socket_link;
mod start;
mod state;
pub mod stats;
mod tun_watch;
mod tunnels;

pub use core::{Event, Supervisor};
pub use start::run;
