//! The role over its channels.
