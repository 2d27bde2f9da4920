//! The whole role over socket pairs.
