//! The gateway: one binary that executes itself by role (supervisor, secmod, gate, dataplane).

pub mod ipc;
