//! The gateway: one binary that executes itself by role (supervisor, secmod, gate, dataplane).

mod claims;
pub mod cli;
pub mod confine;
pub mod costs;
pub mod dataplane;
pub mod gate;
pub mod ipc;
pub mod kernel_path;
pub mod logging;
pub mod role;
pub mod secmod;
pub mod supervisor;
