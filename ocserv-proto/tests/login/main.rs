//! The login dialogue from request bytes to answer bytes.

mod dialogue;
mod reference;
mod support;
