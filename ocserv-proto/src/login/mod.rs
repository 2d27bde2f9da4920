//! The dialogue from the first request to CONNECT (protocol.md 3, 4): passwords only.
//!
//! One [`Login`] lives as long as its TLS connection. [`Login::handle`] takes each request,
//! [`Login::outcome`] the answer to each [`Question`]; both say what to do next.

mod types;

pub use types::{Action, Group, LoginSettings, Outcome, Profile, Question};

use std::sync::Arc;

use crate::http::Request;

/// State of one connection's dialogue.
pub struct Login {
    settings: Arc<LoginSettings>,
}

impl Login {
    /// A new connection to a vhost with these settings.
    pub fn new(settings: Arc<LoginSettings>) -> Self {
        Self { settings }
    }

    /// Decides about a request. While a question is open no further request may come; one that
    /// does closes the connection.
    pub fn handle(&mut self, _request: &Request) -> Action {
        let _ = &self.settings;
        Action::Close
    }

    /// Takes the answer to the question that [`Self::handle`] asked.
    pub fn outcome(&mut self, _outcome: Outcome) -> Action {
        Action::Close
    }
}
