//! The test bed: the server, stock `openconnect` and a lan host in network namespaces of their own.
//!
//! A [`Bed`] is a network with certificates and users, a [`Server`] a running gateway in it, a
//! [`Client`] a running `openconnect`. Everything has a deadline, nothing outlives its owner: a
//! guard process removes the bed even when the test process is killed.
//!
//! `OCSERV_TESTS_PROGRAM=reference` runs the same tests against Debian's ocserv.

pub mod bed;
pub mod client;
pub mod config;
pub mod datagrams;
pub mod datapath;
pub mod guard;
pub mod injection;
pub mod lossy;
pub mod namespace;
pub mod pki;
pub mod process;
pub mod program;
pub mod server;
pub mod tls;
pub mod traffic;
pub mod wait;

pub use bed::{Bed, scenario, scenario_with_clients};
pub use client::{Client, Login};
pub use config::Config;
pub use lossy::{Faults, LossyLink};
pub use namespace::Namespace;
pub use program::Program;
pub use server::{Role, Server};
