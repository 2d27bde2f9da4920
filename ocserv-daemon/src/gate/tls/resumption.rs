//! TLS sessions kept by the security module, so that every gate can resume them.

use std::net::IpAddr;
use std::sync::Arc;

use ocserv_proto::secret::Secret;
use rustls::server::StoresServerSessions;

use super::signing::SignPool;
use crate::ipc::secmod::{SignReply, SignRequest};

/// Largest session that is kept (protocol.md 1.6).
const MAX_SESSION: usize = 4096;
/// Longest identity that is looked up; ours have 32 bytes.
const MAX_ID: usize = 64;

/// The store as one connection sees it: bound to vhost and client address (protocol.md 1.6).
#[derive(Debug)]
pub struct RemoteSessions {
    /// The way to secmod.
    pub pool: Arc<SignPool>,
    /// Vhost index.
    pub vhost: u32,
    /// The client's address.
    pub remote: IpAddr,
}

impl RemoteSessions {
    fn load(&self, id: &[u8], take: bool) -> Option<Vec<u8>> {
        if id.is_empty() || id.len() > MAX_ID {
            return None;
        }
        let request = SignRequest::LoadTls {
            vhost: self.vhost,
            remote: self.remote,
            id: id.to_vec(),
            take,
        };
        match self.pool.call(&request) {
            Ok(SignReply::Tls(Some(value))) => Some(value.expose().to_vec()),
            _ => None,
        }
    }
}

impl StoresServerSessions for RemoteSessions {
    fn put(&self, id: Vec<u8>, value: Vec<u8>) -> bool {
        let value = Secret::new(value);
        if value.len() > MAX_SESSION {
            return false;
        }
        let request = SignRequest::StoreTls {
            vhost: self.vhost,
            remote: self.remote,
            id,
            value,
        };
        self.pool.tell(&request).is_ok()
    }

    fn get(&self, id: &[u8]) -> Option<Vec<u8>> {
        self.load(id, false)
    }

    fn take(&self, id: &[u8]) -> Option<Vec<u8>> {
        self.load(id, true)
    }

    fn can_cache(&self) -> bool {
        true
    }
}
