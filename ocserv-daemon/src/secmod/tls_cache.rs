//! TLS sessions for resumption, shared by all gates.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ocserv_proto::secret::Secret;

/// Longest encoded TLS session, bytes.
pub const MAX_VALUE_LEN: usize = 4096;
/// Longest session id or ticket name, bytes.
const MAX_ID_LEN: usize = 256;
/// Smallest size of the cache, entries.
const MIN_ENTRIES: usize = 64;
/// Size of the cache where `max-clients` sets no limit, entries.
const ENTRIES_WITHOUT_LIMIT: usize = 16 * 1024;

/// A session resumes only at the same vhost and from the same address (protocol.md 1.6).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsSessionKey {
    /// Index of the vhost.
    pub vhost: u32,
    /// The client's address.
    pub remote: IpAddr,
    /// Session id or ticket.
    pub id: Vec<u8>,
}

#[derive(Debug)]
struct Stored {
    value: Secret,
    expires: Instant,
    /// Tells this value from an earlier one under the same key.
    serial: u64,
}

/// The cache; the oldest entry makes room for a new one.
#[derive(Debug)]
pub struct TlsCache {
    entries: HashMap<TlsSessionKey, Stored>,
    by_age: VecDeque<(TlsSessionKey, u64)>,
    capacity: usize,
    serial: u64,
}

impl TlsCache {
    /// A cache for a server with `max_clients` (0: no limit is set).
    pub fn new(max_clients: u32) -> Self {
        let mut cache = Self {
            entries: HashMap::new(),
            by_age: VecDeque::new(),
            capacity: 0,
            serial: 0,
        };
        cache.resize(max_clients);
        cache
    }

    /// Changes the size to that for `max_clients`.
    pub fn resize(&mut self, max_clients: u32) {
        self.capacity = match max_clients {
            0 => ENTRIES_WITHOUT_LIMIT,
            clients => (clients as usize).saturating_mul(2).max(MIN_ENTRIES),
        };
        while self.by_age.len() > self.capacity {
            self.drop_oldest();
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.by_age.clear();
    }

    /// Keeps a session for `lifetime`. Values and ids that are too long are dropped.
    pub fn store(&mut self, key: TlsSessionKey, value: Secret, now: Instant, lifetime: Duration) {
        if value.len() > MAX_VALUE_LEN || key.id.len() > MAX_ID_LEN {
            return;
        }
        self.serial += 1;
        let stored = Stored {
            value,
            expires: now + lifetime,
            serial: self.serial,
        };
        self.by_age.push_back((key.clone(), self.serial));
        self.entries.insert(key, stored);
        while self.by_age.len() > self.capacity {
            self.drop_oldest();
        }
    }

    /// A session that has not expired; with `take` it is forgotten.
    pub fn load(&mut self, key: &TlsSessionKey, now: Instant, take: bool) -> Option<Secret> {
        let stored = self.entries.get(key)?;
        if stored.expires <= now {
            self.entries.remove(key);
            return None;
        }
        if take {
            return self.entries.remove(key).map(|stored| stored.value);
        }
        Some(stored.value.clone())
    }

    /// Forgets what has expired.
    pub fn expire(&mut self, now: Instant) {
        self.entries.retain(|_, stored| stored.expires > now);
        self.by_age.retain(|(key, serial)| {
            self.entries
                .get(key)
                .is_some_and(|stored| stored.serial == *serial)
        });
    }

    fn drop_oldest(&mut self) {
        let Some((key, serial)) = self.by_age.pop_front() else {
            return;
        };
        if self
            .entries
            .get(&key)
            .is_some_and(|stored| stored.serial == serial)
        {
            self.entries.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: u32) -> TlsSessionKey {
        TlsSessionKey {
            vhost: 0,
            remote: "192.0.2.1".parse().unwrap(),
            id: id.to_be_bytes().to_vec(),
        }
    }

    fn value(text: &str) -> Secret {
        Secret::from(text.to_owned())
    }

    const LIFETIME: Duration = Duration::from_secs(300);

    #[test]
    fn a_session_belongs_to_vhost_and_address() {
        let (mut cache, now) = (TlsCache::new(1), Instant::now());
        cache.store(key(1), value("a"), now, LIFETIME);
        assert_eq!(
            cache.load(&TlsSessionKey { vhost: 1, ..key(1) }, now, false),
            None
        );
        let elsewhere = TlsSessionKey {
            remote: "192.0.2.2".parse().unwrap(),
            ..key(1)
        };
        assert_eq!(cache.load(&elsewhere, now, false), None);
        assert_eq!(cache.load(&key(1), now, false), Some(value("a")));
    }

    #[test]
    fn a_taken_session_is_gone() {
        let (mut cache, now) = (TlsCache::new(1), Instant::now());
        cache.store(key(1), value("a"), now, LIFETIME);
        assert_eq!(cache.load(&key(1), now, true), Some(value("a")));
        assert_eq!(cache.load(&key(1), now, true), None);
    }

    #[test]
    fn an_old_session_is_gone() {
        let (mut cache, now) = (TlsCache::new(1), Instant::now());
        cache.store(key(1), value("a"), now, LIFETIME);
        cache.store(key(2), value("b"), now, LIFETIME);
        assert_eq!(cache.load(&key(1), now + LIFETIME, false), None);
        cache.expire(now + LIFETIME);
        assert!(cache.entries.is_empty() && cache.by_age.is_empty());
    }

    #[test]
    fn the_oldest_makes_room() {
        let (mut cache, now) = (TlsCache::new(40), Instant::now());
        for id in 0..81 {
            cache.store(key(id), value("x"), now, LIFETIME);
        }
        assert_eq!(cache.load(&key(0), now, false), None);
        assert!(cache.load(&key(1), now, false).is_some());
        assert_eq!(cache.entries.len(), 80);
    }

    #[test]
    fn storing_one_key_again_and_again_stays_bounded() {
        let (mut cache, now) = (TlsCache::new(1), Instant::now());
        for _ in 0..1000 {
            cache.store(key(1), value("x"), now, LIFETIME);
        }
        assert!(cache.by_age.len() <= MIN_ENTRIES);
        assert!(cache.load(&key(1), now, false).is_some());
    }

    #[test]
    fn what_is_too_long_is_not_kept() {
        let (mut cache, now) = (TlsCache::new(1), Instant::now());
        cache.store(
            key(1),
            Secret::new(vec![0; MAX_VALUE_LEN + 1]),
            now,
            LIFETIME,
        );
        assert_eq!(cache.load(&key(1), now, false), None);
    }
}
