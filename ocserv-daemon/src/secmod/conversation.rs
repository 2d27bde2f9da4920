//! Logins that are under way: bounded in number, one step of each at a time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::time::SystemTime;

use super::method::Dialogue;
use super::sessions::CookieHash;
use crate::ipc::ids::ConnId;

/// Unfinished logins in all.
const MAX_TOTAL: usize = 4096;
/// Unfinished logins of one address (an IPv6 /64 counts as one): an office behind NAT fits.
const MAX_PER_ADDRESS: usize = 64;

/// One login.
pub struct Conversation {
    /// The connection that asked last.
    pub conn: ConnId,
    /// The address that began it.
    pub remote: IpAddr,
    /// Index of the vhost.
    pub vhost: u32,
    /// As typed.
    pub username: String,
    /// Wanted group.
    pub group: Option<String>,
    /// When it began.
    pub started: SystemTime,
    /// The method's side; away while a step runs.
    pub dialogue: Option<Box<dyn Dialogue>>,
}

/// Why no step can be made.
#[derive(Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// No such login.
    Unknown,
    /// A step of it runs already.
    Busy,
}

struct Entry {
    serial: u64,
    conversation: Conversation,
}

/// All unfinished logins.
#[derive(Default)]
pub struct Conversations {
    entries: HashMap<CookieHash, Entry>,
    by_age: BTreeMap<u64, CookieHash>,
    by_address: HashMap<IpAddr, BTreeSet<u64>>,
    by_conn: HashMap<ConnId, CookieHash>,
    next_serial: u64,
}

impl Conversations {
    /// Enters a login. Gives back those that had to make room: an earlier one of the same
    /// connection, the oldest of the address, the oldest of all.
    pub fn insert(&mut self, hash: CookieHash, conversation: Conversation) -> Vec<CookieHash> {
        let address = subject(conversation.remote);
        let mut evicted: Vec<CookieHash> = self
            .by_conn
            .get(&conversation.conn)
            .copied()
            .into_iter()
            .collect();
        let of_address = self.by_address.get(&address);
        if of_address.is_some_and(|serials| serials.len() >= MAX_PER_ADDRESS) {
            let oldest = of_address.and_then(BTreeSet::first);
            evicted.extend(oldest.and_then(|serial| self.by_age.get(serial)));
        }
        if self.entries.len() >= MAX_TOTAL {
            evicted.extend(self.by_age.values().next());
        }
        evicted.retain(|hash| self.remove(hash).is_some());

        let serial = self.next_serial;
        self.next_serial += 1;
        self.by_age.insert(serial, hash);
        self.by_address.entry(address).or_default().insert(serial);
        self.by_conn.insert(conversation.conn, hash);
        self.entries.insert(
            hash,
            Entry {
                serial,
                conversation,
            },
        );
        evicted
    }

    /// A login.
    pub fn get(&self, hash: &CookieHash) -> Option<&Conversation> {
        self.entries.get(hash).map(|entry| &entry.conversation)
    }

    /// The method's side, for one step asked by `conn`; give it back with [`Self::put_back`].
    pub fn take_dialogue(
        &mut self,
        hash: &CookieHash,
        conn: ConnId,
    ) -> Result<Box<dyn Dialogue>, Unavailable> {
        let entry = self.entries.get_mut(hash).ok_or(Unavailable::Unknown)?;
        let dialogue = entry
            .conversation
            .dialogue
            .take()
            .ok_or(Unavailable::Busy)?;
        if entry.conversation.conn != conn {
            self.by_conn.remove(&entry.conversation.conn);
            self.by_conn.insert(conn, *hash);
            entry.conversation.conn = conn;
        }
        Ok(dialogue)
    }

    /// The step is over, the login is not. False if the login is gone.
    pub fn put_back(&mut self, hash: &CookieHash, dialogue: Box<dyn Dialogue>) -> bool {
        let Some(entry) = self.entries.get_mut(hash) else {
            return false;
        };
        entry.conversation.dialogue = Some(dialogue);
        true
    }

    /// Ends all logins.
    pub fn clear(&mut self) -> Vec<CookieHash> {
        let all: Vec<CookieHash> = self.entries.keys().copied().collect();
        *self = Self {
            next_serial: self.next_serial,
            ..Self::default()
        };
        all
    }

    /// Ends a login.
    pub fn remove(&mut self, hash: &CookieHash) -> Option<Conversation> {
        let Entry {
            serial,
            conversation,
        } = self.entries.remove(hash)?;
        self.by_age.remove(&serial);
        let address = subject(conversation.remote);
        if let Some(serials) = self.by_address.get_mut(&address) {
            serials.remove(&serial);
            if serials.is_empty() {
                self.by_address.remove(&address);
            }
        }
        if self.by_conn.get(&conversation.conn) == Some(hash) {
            self.by_conn.remove(&conversation.conn);
        }
        Some(conversation)
    }
}

/// What the limit counts.
fn subject(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(
            v6.to_bits() & (u128::from(u64::MAX) << 64),
        )),
    }
}

#[cfg(test)]
mod tests {
    use ocserv_proto::secret::Secret;

    use super::super::method::{Prompt, Verdict};
    use super::*;

    struct Mute;

    impl Dialogue for Mute {
        fn first(&mut self) -> Prompt {
            Prompt {
                message: String::new(),
                counter: 0,
            }
        }

        fn answer(&mut self, _: &Secret) -> Verdict {
            Verdict::Failed
        }
    }

    fn login(conn: u32, remote: &str) -> Conversation {
        Conversation {
            conn: ConnId(conn),
            remote: remote.parse().unwrap(),
            vhost: 0,
            username: "ann".to_owned(),
            group: None,
            started: SystemTime::UNIX_EPOCH,
            dialogue: Some(Box::new(Mute)),
        }
    }

    fn hash(number: u32) -> CookieHash {
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&number.to_be_bytes());
        hash
    }

    #[test]
    fn the_oldest_login_of_an_address_makes_room() {
        let mut logins = Conversations::default();
        logins.insert(hash(1000), login(1000, "198.51.100.1"));
        for number in 0..64 {
            // One /64, many addresses.
            let address = format!("2001:db8::{number:x}");
            assert!(
                logins
                    .insert(hash(number), login(number, &address))
                    .is_empty()
            );
        }
        assert_eq!(
            logins.insert(hash(64), login(64, "2001:db8::ffff")),
            [hash(0)]
        );
        assert!(logins.take_dialogue(&hash(1000), ConnId(1000)).is_ok());
    }

    #[test]
    fn the_total_is_bounded() {
        let mut logins = Conversations::default();
        for number in 0..5000_u32 {
            let [_, _, a, b] = number.to_be_bytes();
            logins.insert(hash(number), login(number, &format!("10.0.{a}.{b}")));
        }
        assert_eq!(logins.entries.len(), MAX_TOTAL);
        assert_eq!(logins.by_address.len(), MAX_TOTAL);
        assert_eq!(logins.by_conn.len(), MAX_TOTAL);
        assert!(!logins.entries.contains_key(&hash(0)));
        assert!(logins.entries.contains_key(&hash(4999)));
    }

    #[test]
    fn a_connection_has_one_login() {
        let mut logins = Conversations::default();
        logins.insert(hash(1), login(7, "192.0.2.1"));
        assert_eq!(logins.insert(hash(2), login(7, "192.0.2.1")), [hash(1)]);
    }

    #[test]
    fn one_step_at_a_time() {
        let mut logins = Conversations::default();
        logins.insert(hash(1), login(7, "192.0.2.1"));
        let dialogue = logins.take_dialogue(&hash(1), ConnId(8)).ok().unwrap();
        assert_eq!(
            logins.take_dialogue(&hash(1), ConnId(7)).err(),
            Some(Unavailable::Busy)
        );
        assert_eq!(
            logins.take_dialogue(&hash(2), ConnId(7)).err(),
            Some(Unavailable::Unknown)
        );
        assert!(logins.put_back(&hash(1), dialogue));
        assert_eq!(logins.remove(&hash(1)).unwrap().conn, ConnId(8));
        assert!(!logins.put_back(&hash(1), Box::new(Mute)));
        assert!(logins.by_age.is_empty() && logins.by_address.is_empty());
        assert!(logins.by_conn.is_empty());
    }
}
