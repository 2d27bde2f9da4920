//! The whole role over socket pairs: the tests play supervisor, secmod, dataplane and client.

mod bed;
mod client;
mod dtls;
mod handshakes;
mod secmod_death;
mod sessions;
