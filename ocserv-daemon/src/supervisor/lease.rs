//! Addresses of clients (behaviour.md §6).
//!
//! A [`LeasePool`] knows which addresses are out, for every pool of the configuration: pools of
//! vhosts and users may overlap, an address is never given twice. A lease belongs to a session
//! name. It is proposed (and reserved from then on), maybe checked by a ping, then kept or
//! rejected; a closed session's lease is held as long as its cookie may come back for it.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::SystemTime;

use ring::digest;
use thiserror::Error;

use crate::ipc::ids::SessionName;

use super::lease_range::{Block, Range};
pub use super::lease_range::{Ipv4Pool, Ipv6Pool};

/// Candidates drawn by hash before the pool is searched in order, and addresses that may fail the
/// ping in one search (behaviour.md 6.2).
const TRIES: u32 = 16;
/// Candidates that depend on the user name only, with `predictable-ips`.
const PREDICTABLE_TRIES: u32 = 6;

/// Why an explicit address is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ExplicitRefused {
    /// It is outside of the pool, or the network, broadcast or server's address.
    #[error("the explicit address is not a client address of the pool")]
    NotInPool,
    /// Another open session has it.
    #[error("the explicit address is in use")]
    InUse,
}

/// Addresses of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// IPv6 address, and the prefix length of the subnet that belongs to the client.
    pub ipv6: Option<(Ipv6Addr, u8)>,
}

/// A search for a free address in one pool; [`LeasePool::propose_ipv4`] and
/// [`LeasePool::propose_ipv6`] take it from candidate to candidate.
#[derive(Debug)]
pub struct Search {
    username: Option<String>,
    random: [u8; 16],
    attempt: u32,
    rejected: Vec<u128>,
}

impl Search {
    /// Begins a search. `predictable_for` is the user name with `predictable-ips`; `random` must be
    /// fresh.
    pub fn new(predictable_for: Option<&str>, random: [u8; 16]) -> Self {
        let username = predictable_for.map(str::to_owned);
        Self {
            username,
            random,
            attempt: 0,
            rejected: Vec::new(),
        }
    }

    /// The next candidate's number in a range, until the tries are used up.
    fn next_index(&mut self) -> Option<u128> {
        let attempt = self.attempt;
        if attempt >= TRIES {
            return None;
        }
        self.attempt += 1;
        let mut hash = digest::Context::new(&digest::SHA256);
        match &self.username {
            Some(name) if attempt < PREDICTABLE_TRIES => hash.update(name.as_bytes()),
            _ => hash.update(&self.random),
        }
        // A name may contain any byte: the separator keeps its end apart from the number.
        hash.update(&[0]);
        hash.update(&attempt.to_be_bytes());
        let hash = hash.finish();
        hash.as_ref()
            .first_chunk::<16>()
            .map(|bytes| u128::from_be_bytes(*bytes))
    }
}

/// Who has the addresses of one family.
#[derive(Debug, Default)]
struct Table {
    /// Disjoint blocks by first address.
    taken: BTreeMap<u128, (u128, SessionName)>,
    /// Server's own addresses in all pools.
    reserved: Vec<u128>,
}

impl Table {
    fn overlapping(&self, block: Block) -> Option<(u128, &SessionName)> {
        let (first, (last, name)) = self.taken.range(..=block.last).next_back()?;
        (*last >= block.first).then_some((*first, name))
    }

    fn is_free(&self, block: Block) -> bool {
        !self.reserved.iter().any(|address| block.contains(*address))
            && self.overlapping(block).is_none()
    }

    /// The candidates of `search`, then a walk through the range from a random place. The walk ends:
    /// among one more unit than can be occupied, one is free or the range is full.
    fn find(&self, range: &Range, search: &mut Search) -> Option<Block> {
        while let Some(index) = search.next_index() {
            let block = range.block(index % range.units);
            if self.is_candidate(range, block, search) {
                return Some(block);
            }
        }
        let start = u128::from_be_bytes(search.random) % range.units;
        let occupied = self.taken.range(range.first()..=range.last()).count() + 1;
        let bound = (occupied + self.reserved.len() + search.rejected.len() + 4) as u128;
        (0..bound.min(range.units))
            .map(|step| range.block(wrapping_index(start, step, range.units)))
            .find(|block| self.is_candidate(range, *block, search))
    }

    fn is_candidate(&self, range: &Range, block: Block, search: &Search) -> bool {
        range.is_usable(block) && !search.rejected.contains(&block.first) && self.is_free(block)
    }
}

fn wrapping_index(start: u128, step: u128, units: u128) -> u128 {
    let left = units - start;
    if step < left {
        start + step
    } else {
        step - left
    }
}

#[derive(Debug, Default)]
struct Record {
    ipv4: Option<Block>,
    ipv6: Option<(Block, Ipv6Addr, u8)>,
    held_until: Option<SystemTime>,
}

/// All leases of the server.
#[derive(Debug, Default)]
pub struct LeasePool {
    ipv4: Table,
    ipv6: Table,
    records: HashMap<SessionName, Record>,
}

impl LeasePool {
    /// No lease, no pool.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps the server's own addresses of all configured pools out of every pool. Called at start
    /// and at reload.
    pub fn reserve_servers(&mut self, ipv4: &[Ipv4Pool], ipv6: &[Ipv6Pool]) {
        self.ipv4.reserved = ipv4
            .iter()
            .map(|pool| pool.server().to_bits().into())
            .collect();
        self.ipv6.reserved = ipv6.iter().map(|pool| pool.server().to_bits()).collect();
    }

    /// A free address of `pool`, reserved for the session; its own, if it has one there already.
    /// With `ping-leases` the caller pings it, and calls [`LeasePool::reject_ipv4`] and this again
    /// if someone answers. `None`: the pool is full, or too many addresses answered.
    pub fn propose_ipv4(
        &mut self,
        name: &SessionName,
        pool: &Ipv4Pool,
        search: &mut Search,
    ) -> Option<Ipv4Addr> {
        let range = pool.range();
        if let Some(own) = self.records.get(name).and_then(|record| record.ipv4) {
            if range.is_usable(own) {
                self.reopen(name);
                return Some(ipv4_of(own));
            }
            self.release_ipv4(name);
        }
        if search.rejected.len() >= TRIES as usize {
            return None;
        }
        let block = match self.ipv4.find(&range, search) {
            Some(block) => block,
            None => {
                self.give_up_held(|record| record.ipv4.is_some_and(|own| range.is_usable(own)))?;
                self.ipv4.find(&range, search)?
            }
        };
        self.take_ipv4(name, block);
        Some(ipv4_of(block))
    }

    /// A free IPv6 subnet of `pool` and the client's address in it, like
    /// [`LeasePool::propose_ipv4`].
    pub fn propose_ipv6(
        &mut self,
        name: &SessionName,
        pool: &Ipv6Pool,
        search: &mut Search,
    ) -> Option<(Ipv6Addr, u8)> {
        let range = pool.range()?;
        if let Some((own, address, prefix)) = self.records.get(name).and_then(|r| r.ipv6) {
            if range.is_usable(own) && prefix == pool.subnet_prefix() {
                self.reopen(name);
                return Some((address, prefix));
            }
            self.release_ipv6(name);
        }
        if search.rejected.len() >= TRIES as usize {
            return None;
        }
        let block = match self.ipv6.find(&range, search) {
            Some(block) => block,
            None => {
                let in_range = |own: &Record| own.ipv6.is_some_and(|o| range.is_usable(o.0));
                self.give_up_held(in_range)?;
                self.ipv6.find(&range, search)?
            }
        };
        let address = pool.client_address(block);
        self.take_ipv6(name, block, address, pool.subnet_prefix());
        Some((address, pool.subnet_prefix()))
    }

    /// Someone else answered at the proposed address: it is not proposed again in this search.
    pub fn reject_ipv4(&mut self, name: &SessionName, search: &mut Search) {
        if let Some(block) = self.release_ipv4(name) {
            search.rejected.push(block.first);
        }
    }

    /// Like [`LeasePool::reject_ipv4`].
    pub fn reject_ipv6(&mut self, name: &SessionName, search: &mut Search) {
        if let Some(block) = self.release_ipv6(name) {
            search.rejected.push(block.first);
        }
    }

    /// `explicit-ipv4`: this very address. A lease that is only held gives way.
    pub fn take_explicit_ipv4(
        &mut self,
        name: &SessionName,
        pool: &Ipv4Pool,
        address: Ipv4Addr,
    ) -> Result<Ipv4Addr, ExplicitRefused> {
        let block = Block::single(address.to_bits().into());
        if !pool.range().is_usable(block) || self.ipv4.reserved.contains(&block.first) {
            return Err(ExplicitRefused::NotInPool);
        }
        if let Some((_, owner)) = self.ipv4.overlapping(block) {
            let owner = owner.clone();
            self.make_way(name, &owner)?;
        }
        self.release_ipv4(name);
        self.take_ipv4(name, block);
        Ok(address)
    }

    /// `explicit-ipv6`: this very address, with the subnet of the pool's size around it.
    pub fn take_explicit_ipv6(
        &mut self,
        name: &SessionName,
        pool: &Ipv6Pool,
        address: Ipv6Addr,
    ) -> Result<(Ipv6Addr, u8), ExplicitRefused> {
        let range = pool.range().ok_or(ExplicitRefused::NotInPool)?;
        let block = range
            .block_around(address.to_bits())
            .ok_or(ExplicitRefused::NotInPool)?;
        let reserved = self
            .ipv6
            .reserved
            .iter()
            .any(|server| block.contains(*server));
        if !range.is_usable(block) || reserved {
            return Err(ExplicitRefused::NotInPool);
        }
        while let Some((_, owner)) = self.ipv6.overlapping(block) {
            let owner = owner.clone();
            self.make_way(name, &owner)?;
            self.release_ipv6(&owner);
        }
        self.release_ipv6(name);
        self.take_ipv6(name, block, address, pool.subnet_prefix());
        Ok((address, pool.subnet_prefix()))
    }

    /// What the session has.
    pub fn lease(&self, name: &SessionName) -> Option<Lease> {
        self.records.get(name).map(|record| Lease {
            ipv4: record.ipv4.map(ipv4_of),
            ipv6: record.ipv6.map(|(_, address, prefix)| (address, prefix)),
        })
    }

    /// The session's tunnel closed and its cookie stays good until `until`: the addresses wait.
    pub fn hold(&mut self, name: &SessionName, until: SystemTime) {
        if let Some(record) = self.records.get_mut(name) {
            record.held_until = Some(until);
        }
    }

    /// The session is gone: its addresses are free.
    pub fn release(&mut self, name: &SessionName) {
        self.release_ipv4(name);
        self.release_ipv6(name);
        self.records.remove(name);
    }

    /// Frees what was held until `now`.
    pub fn expire(&mut self, now: SystemTime) {
        let over = |record: &Record| record.held_until.is_some_and(|until| until <= now);
        let names: Vec<SessionName> = self
            .records
            .iter()
            .filter(|(_, r)| over(r))
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            self.release(&name);
        }
    }

    /// Frees the held lease that would end first among those that `fits` accepts, for a client that
    /// is here now.
    fn give_up_held(&mut self, fits: impl Fn(&Record) -> bool) -> Option<()> {
        let held = self.records.iter().filter(|(_, record)| fits(record));
        let (_, name) = held
            .filter_map(|(name, record)| Some((record.held_until?, name)))
            .min()?;
        let name = name.clone();
        self.release(&name);
        Some(())
    }

    /// Frees the lease of `owner` if it is only held.
    fn make_way(&mut self, name: &SessionName, owner: &SessionName) -> Result<(), ExplicitRefused> {
        if owner == name {
            return Ok(());
        }
        if self
            .records
            .get(owner)
            .is_none_or(|record| record.held_until.is_none())
        {
            return Err(ExplicitRefused::InUse);
        }
        self.release(owner);
        Ok(())
    }

    fn reopen(&mut self, name: &SessionName) -> &mut Record {
        let record = self.records.entry(name.clone()).or_default();
        record.held_until = None;
        record
    }

    fn take_ipv4(&mut self, name: &SessionName, block: Block) {
        self.ipv4
            .taken
            .insert(block.first, (block.last, name.clone()));
        self.reopen(name).ipv4 = Some(block);
    }

    fn take_ipv6(&mut self, name: &SessionName, block: Block, address: Ipv6Addr, prefix: u8) {
        self.ipv6
            .taken
            .insert(block.first, (block.last, name.clone()));
        self.reopen(name).ipv6 = Some((block, address, prefix));
    }

    fn release_ipv4(&mut self, name: &SessionName) -> Option<Block> {
        let block = self.records.get_mut(name)?.ipv4.take()?;
        self.ipv4.taken.remove(&block.first);
        Some(block)
    }

    fn release_ipv6(&mut self, name: &SessionName) -> Option<Block> {
        let (block, _, _) = self.records.get_mut(name)?.ipv6.take()?;
        self.ipv6.taken.remove(&block.first);
        Some(block)
    }
}

/// The address of a block of an IPv4 range, whose blocks are single addresses below 2^32.
fn ipv4_of(block: Block) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::try_from(block.first).unwrap_or(u32::MAX))
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
