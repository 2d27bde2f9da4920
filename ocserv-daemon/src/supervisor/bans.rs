//! Points and bans by client address (behaviour.md §10).
//!
//! The clock is an argument. Logic runs on the monotonic one, so that a jump of the wall clock
//! neither lifts nor prolongs a ban.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ocserv_proto::control::BanInfo;

/// Addresses that are remembered at most; under pressure those that matter least go first.
pub const CAPACITY: usize = 65_536;

/// Keys of the configuration that rule bans.
#[derive(Clone, Debug, Default)]
pub struct BanSettings {
    /// `max-ban-score`; 0 turns bans off.
    pub max_score: u32,
    /// `ban-time`: length of a ban.
    pub ban_time: Duration,
    /// `ban-reset-time`: age at which points are forgotten.
    pub reset_time: Duration,
    /// Networks that are never banned: the server's own local subnets.
    pub exempt: Vec<(IpAddr, u8)>,
}

/// What points did to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// Bans are off, the address is exempt or banned already, or there was nothing to add.
    Nothing,
    /// Below the limit.
    Scored {
        /// Points of the address now.
        total: u32,
    },
    /// This crossed the limit.
    Banned {
        /// Points of the address now.
        score: u32,
        /// The ban ends after this time.
        lasts: Duration,
    },
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    score: u32,
    /// When the score last was 0.
    since: Instant,
    banned_until: Option<Instant>,
}

impl Entry {
    fn is_banned(&self, now: Instant) -> bool {
        self.banned_until.is_some_and(|until| now < until)
    }

    /// The score counts no more: the ban ended, or without one the points are old.
    fn is_over(&self, now: Instant, reset_time: Duration) -> bool {
        match self.banned_until {
            Some(until) => now >= until,
            None => now.saturating_duration_since(self.since) >= reset_time,
        }
    }
}

/// The table of addresses.
#[derive(Debug)]
pub struct BanList {
    settings: BanSettings,
    entries: HashMap<IpAddr, Entry>,
    capacity: usize,
}

impl BanList {
    /// An empty table for at most `capacity` addresses ([`CAPACITY`] outside of tests).
    pub fn new(settings: BanSettings, capacity: usize) -> Self {
        Self {
            settings,
            entries: HashMap::new(),
            capacity: capacity.max(1),
        }
    }

    /// After a reload. Bans that are on stay as they are, unless bans are turned off.
    pub fn configure(&mut self, settings: BanSettings) {
        if settings.max_score == 0 {
            self.entries.clear();
        }
        self.settings = settings;
    }

    /// Whether connections from `ip` are to be closed.
    pub fn is_banned(&self, ip: IpAddr, now: Instant) -> bool {
        self.settings.max_score != 0
            && self
                .entries
                .get(&counted(ip))
                .is_some_and(|entry| entry.is_banned(now))
    }

    /// Gives `ip` points. While it is banned nothing changes: attempts do not extend a ban.
    pub fn add(&mut self, ip: IpAddr, points: u32, now: Instant) -> Added {
        let ip = counted(ip);
        if self.settings.max_score == 0 || points == 0 || self.is_exempt(ip) {
            return Added::Nothing;
        }
        if !self.entries.contains_key(&ip) && self.entries.len() >= self.capacity {
            self.make_room(now);
        }
        let fresh = Entry {
            score: 0,
            since: now,
            banned_until: None,
        };
        let entry = self.entries.entry(ip).or_insert(fresh);
        if entry.is_over(now, self.settings.reset_time) {
            *entry = fresh;
        }
        if entry.is_banned(now) {
            return Added::Nothing;
        }
        entry.score = entry.score.saturating_add(points);
        if entry.score < self.settings.max_score {
            return Added::Scored { total: entry.score };
        }
        entry.banned_until = Some(now + self.settings.ban_time);
        Added::Banned {
            score: entry.score,
            lasts: self.settings.ban_time,
        }
    }

    /// Forgets the points and the ban of `ip`. False: there were none.
    pub fn unban(&mut self, ip: IpAddr, now: Instant) -> bool {
        let entry = self.entries.remove(&counted(ip));
        entry.is_some_and(|entry| !entry.is_over(now, self.settings.reset_time))
    }

    /// Drops entries that count no more. Called by the maintenance timer.
    pub fn expire(&mut self, now: Instant) {
        let reset_time = self.settings.reset_time;
        self.entries
            .retain(|_, entry| !entry.is_over(now, reset_time));
    }

    /// Number of addresses that are banned now.
    pub fn banned_count(&self, now: Instant) -> u64 {
        self.entries
            .values()
            .filter(|entry| entry.is_banned(now))
            .count() as u64
    }

    /// Addresses with points (`only_banned`: those that are banned), in order of address. `wall` is
    /// the wall clock at `now`.
    pub fn list(&self, only_banned: bool, now: Instant, wall: SystemTime) -> Vec<BanInfo> {
        let reset_time = self.settings.reset_time;
        let mut list: Vec<BanInfo> = self
            .entries
            .iter()
            .filter(|(_, entry)| !entry.is_over(now, reset_time))
            .filter(|(_, entry)| !only_banned || entry.is_banned(now))
            .map(|(ip, entry)| BanInfo {
                ip: *ip,
                score: entry.score,
                expires: entry.banned_until.map(|until| unix_time(until, now, wall)),
            })
            .collect();
        list.sort_by_key(|info| info.ip);
        list
    }

    fn is_exempt(&self, ip: IpAddr) -> bool {
        self.settings
            .exempt
            .iter()
            .any(|(network, prefix)| covers(*network, *prefix, ip))
    }

    /// Drops what counts no more, or else an eighth of the table: first addresses without a ban,
    /// of these the ones with few and old points. Doing many at once keeps a flood of addresses
    /// from costing a scan each.
    fn make_room(&mut self, now: Instant) {
        self.expire(now);
        if self.entries.len() < self.capacity {
            return;
        }
        let mut ranked: Vec<_> = self
            .entries
            .iter()
            .map(|(ip, entry)| ((entry.is_banned(now), entry.score, entry.since), *ip))
            .collect();
        ranked.sort_unstable_by_key(|(rank, _)| *rank);
        for (_, ip) in ranked.iter().take((self.capacity / 8).max(1)) {
            self.entries.remove(ip);
        }
    }
}

/// The address under which `ip` is counted: IPv6 by /64, mapped IPv4 as IPv4.
fn counted(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(
            v6.to_bits() & (u128::from(u64::MAX) << 64),
        )),
    }
}

fn covers(network: IpAddr, prefix: u8, ip: IpAddr) -> bool {
    match (network, ip) {
        (IpAddr::V4(network), IpAddr::V4(ip)) => {
            let shift = 32_u32.saturating_sub(u32::from(prefix));
            let mask = u32::MAX.checked_shl(shift).unwrap_or(0);
            network.to_bits() & mask == ip.to_bits() & mask
        }
        (IpAddr::V6(network), IpAddr::V6(ip)) => {
            // Scores are kept by /64: a longer prefix is met by any address of its /64.
            let shift = 128_u32.saturating_sub(u32::from(prefix.min(64)));
            let mask = u128::MAX.checked_shl(shift).unwrap_or(0);
            network.to_bits() & mask == ip.to_bits() & mask
        }
        _ => false,
    }
}

fn unix_time(then: Instant, now: Instant, wall: SystemTime) -> u64 {
    let ahead = then.saturating_duration_since(now);
    let behind = now.saturating_duration_since(then);
    let wall = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
    (wall + ahead).saturating_sub(behind).as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRONG: u32 = 10;

    fn settings() -> BanSettings {
        BanSettings {
            max_score: 30,
            ban_time: Duration::from_secs(300),
            reset_time: Duration::from_secs(1200),
            exempt: vec![
                ("192.0.2.0".parse().unwrap(), 24),
                ("2001:db8:5::1".parse().unwrap(), 128),
            ],
        }
    }

    fn list() -> (BanList, Instant) {
        (BanList::new(settings(), 64), Instant::now())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn the_limit_bans_and_the_ban_ends() {
        let (mut bans, t) = list();
        let a = ip("198.51.100.1");
        assert_eq!(bans.add(a, WRONG, t), Added::Scored { total: 10 });
        assert_eq!(bans.add(a, WRONG, t), Added::Scored { total: 20 });
        assert!(!bans.is_banned(a, t));
        assert_eq!(
            bans.add(a, WRONG, t),
            Added::Banned {
                score: 30,
                lasts: secs(300)
            }
        );
        assert!(bans.is_banned(a, t + secs(299)));
        assert!(!bans.is_banned(a, t + secs(300)));
        assert!(!bans.is_banned(ip("198.51.100.2"), t));
        let again = bans.add(a, WRONG, t + secs(300));
        assert_eq!(
            again,
            Added::Scored { total: 10 },
            "the score went with the ban"
        );
    }

    #[test]
    fn attempts_while_banned_do_not_extend_it() {
        let (mut bans, t) = list();
        let a = ip("198.51.100.1");
        bans.add(a, 30, t);
        assert_eq!(bans.add(a, WRONG, t + secs(200)), Added::Nothing);
        assert!(!bans.is_banned(a, t + secs(300)));
    }

    #[test]
    fn points_are_forgotten_after_the_reset_time() {
        let (mut bans, t) = list();
        let a = ip("198.51.100.1");
        bans.add(a, 20, t);
        assert_eq!(bans.add(a, 1, t + secs(1199)), Added::Scored { total: 21 });
        assert_eq!(bans.add(a, 20, t + secs(1200)), Added::Scored { total: 20 });
        bans.expire(t + secs(2400));
        assert!(bans.list(false, t, UNIX_EPOCH).is_empty());
    }

    #[test]
    fn a_ban_longer_than_the_reset_time_stays() {
        let long = BanSettings {
            ban_time: secs(5000),
            ..settings()
        };
        let (mut bans, t) = (BanList::new(long, 64), Instant::now());
        bans.add(ip("198.51.100.1"), 30, t);
        bans.expire(t + secs(4999));
        assert!(bans.is_banned(ip("198.51.100.1"), t + secs(4999)));
    }

    #[test]
    fn ipv6_counts_by_64_and_mapped_as_ipv4() {
        let (mut bans, t) = list();
        bans.add(ip("2001:db8::1"), 20, t);
        bans.add(ip("2001:db8::ffff:2"), 20, t);
        assert!(bans.is_banned(ip("2001:db8:0:0:7::"), t));
        assert!(!bans.is_banned(ip("2001:db8:0:1::1"), t));
        bans.add(ip("::ffff:198.51.100.9"), 30, t);
        assert!(bans.is_banned(ip("198.51.100.9"), t));
    }

    #[test]
    fn own_networks_are_exempt_and_zero_turns_bans_off() {
        let (mut bans, t) = list();
        assert_eq!(bans.add(ip("192.0.2.77"), 1000, t), Added::Nothing);
        assert_eq!(bans.add(ip("2001:db8:5::1"), 1000, t), Added::Nothing);
        bans.add(ip("198.51.100.1"), 1000, t);
        bans.configure(BanSettings {
            max_score: 0,
            ..settings()
        });
        assert!(!bans.is_banned(ip("198.51.100.1"), t));
        assert_eq!(bans.add(ip("198.51.100.1"), 1000, t), Added::Nothing);
    }

    #[test]
    fn unban_forgets_points_and_ban() {
        let (mut bans, t) = list();
        let a = ip("198.51.100.1");
        bans.add(a, 30, t);
        assert!(bans.unban(a, t));
        assert!(!bans.is_banned(a, t));
        assert!(!bans.unban(a, t));
        assert!(!bans.unban(ip("203.0.113.1"), t));
    }

    #[test]
    fn lists_show_points_and_bans_with_their_end() {
        let (mut bans, t) = list();
        bans.add(ip("198.51.100.2"), 10, t);
        bans.add(ip("198.51.100.1"), 40, t);
        let wall = UNIX_EPOCH + secs(1_000_100);
        let banned = BanInfo {
            ip: ip("198.51.100.1"),
            score: 40,
            expires: Some(1_000_300),
        };
        let scored = BanInfo {
            ip: ip("198.51.100.2"),
            score: 10,
            expires: None,
        };
        let later = t + secs(100);
        assert_eq!(bans.list(true, later, wall), std::slice::from_ref(&banned));
        assert_eq!(bans.list(false, later, wall), [banned, scored]);
        assert_eq!(bans.banned_count(later), 1);
        assert_eq!(bans.banned_count(t + secs(301)), 0);
    }

    #[test]
    fn a_flood_of_addresses_neither_grows_the_table_nor_lifts_bans() {
        let (mut bans, t) = list();
        let banned = ip("203.0.113.1");
        bans.add(banned, 30, t);
        for n in 0..10_000_u32 {
            bans.add(
                IpAddr::V4((0x0a00_0000 + n).into()),
                1,
                t + Duration::from_millis(n.into()),
            );
            assert!(bans.entries.len() <= 64);
        }
        assert!(bans.is_banned(banned, t + secs(20)));
    }
}
