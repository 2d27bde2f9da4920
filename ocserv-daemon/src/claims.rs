//! Who has what several sessions claim: two devices of one user have the same networks behind them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;

/// Keys with the slots of the sessions that claim them. The newest claim is in force.
#[derive(Debug)]
pub struct Claims<K> {
    claims: HashMap<K, Claim>,
}

#[derive(Debug)]
struct Claim {
    owner: u32,
    /// Oldest first. Seldom any, and then it has no memory.
    older: Vec<u32>,
}

/// What the end of a claim changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    /// Nothing: it was not in force.
    Nothing,
    /// The next newest, of this slot, is in force.
    To(u32),
    /// There is no other.
    ToNobody,
}

impl<K> Default for Claims<K> {
    fn default() -> Self {
        Self {
            claims: HashMap::new(),
        }
    }
}

impl<K: Eq + Hash> Claims<K> {
    /// The session of `slot` has `key` from now on, whoever had it before.
    pub fn claim(&mut self, key: K, slot: u32) {
        match self.claims.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(Claim {
                    owner: slot,
                    older: Vec::new(),
                });
            }
            Entry::Occupied(mut entry) => {
                let claim = entry.get_mut();
                if claim.owner != slot {
                    claim.older.retain(|older| *older != slot);
                    claim.older.push(claim.owner);
                    claim.owner = slot;
                }
            }
        }
    }

    /// The session of `slot` does not claim `key` any more.
    pub fn release(&mut self, key: &K, slot: u32) -> Released {
        let Some(claim) = self.claims.get_mut(key) else {
            return Released::Nothing;
        };
        if claim.owner != slot {
            claim.older.retain(|older| *older != slot);
            return Released::Nothing;
        }
        match claim.older.pop() {
            Some(next) => {
                claim.owner = next;
                Released::To(next)
            }
            None => {
                self.claims.remove(key);
                Released::ToNobody
            }
        }
    }

    /// The slot whose claim is in force.
    pub fn owner(&self, key: &K) -> Option<u32> {
        self.claims.get(key).map(|claim| claim.owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_claim_is_in_force_and_behind_it_the_next_newest() {
        let mut claims = Claims::default();
        for slot in [3, 1, 2] {
            claims.claim("net", slot);
            assert_eq!(claims.owner(&"net"), Some(slot));
        }
        assert_eq!(claims.release(&"net", 2), Released::To(1));
        assert_eq!(claims.owner(&"net"), Some(1));
        assert_eq!(claims.release(&"net", 3), Released::Nothing);
        assert_eq!(claims.owner(&"net"), Some(1));
        assert_eq!(claims.release(&"net", 1), Released::ToNobody);
        assert_eq!(claims.owner(&"net"), None);
        assert!(claims.claims.is_empty());
    }

    #[test]
    fn a_session_claims_once() {
        let mut claims = Claims::default();
        for slot in [1, 1, 2, 1] {
            claims.claim("net", slot);
        }
        assert_eq!(claims.release(&"net", 1), Released::To(2));
        assert_eq!(claims.release(&"net", 1), Released::Nothing);
        assert_eq!(claims.release(&"net", 2), Released::ToNobody);
        assert_eq!(claims.release(&"net", 2), Released::Nothing);
    }
}
