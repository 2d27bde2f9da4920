use std::collections::HashSet;
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::*;

fn name(n: usize) -> SessionName {
    SessionName(format!("session-{n}"))
}

fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn random(n: u8) -> Search {
    Search::new(None, [n; 16])
}

fn all_ipv4(pool: &Ipv4Pool) -> Vec<Ipv4Addr> {
    let mut leases = LeasePool::new();
    let mut given = Vec::new();
    for n in 0..1000 {
        match leases.propose_ipv4(&name(n), pool, &mut random(n as u8)) {
            Some(address) => given.push(address),
            None => break,
        }
    }
    given.sort();
    given
}

#[test]
fn a_pool_gives_all_but_network_broadcast_and_server() {
    let given = all_ipv4(&Ipv4Pool::new(v4("192.168.77.0"), 29));
    let expected: Vec<_> = (2..7).map(|n| Ipv4Addr::new(192, 168, 77, n)).collect();
    assert_eq!(given, expected);
    assert_eq!(
        all_ipv4(&Ipv4Pool::new(v4("192.168.77.9"), 30)),
        [v4("192.168.77.10")]
    );
    assert_eq!(
        all_ipv4(&Ipv4Pool::new(v4("192.168.77.0"), 31)),
        [v4("192.168.77.0")]
    );
    assert!(all_ipv4(&Ipv4Pool::new(v4("192.168.77.8"), 32)).is_empty());
    assert_eq!(
        Ipv4Pool::new(v4("192.168.77.9"), 24).server(),
        v4("192.168.77.1")
    );
    assert_eq!(Ipv4Pool::new(v4("0.0.0.0"), 0).netmask(), v4("0.0.0.0"));
}

#[test]
fn ipv6_pools_give_addresses_or_subnets() {
    let all = |pool: Ipv6Pool| {
        let mut leases = LeasePool::new();
        let mut given: Vec<_> = (0..20)
            .map_while(|n| leases.propose_ipv6(&name(n), &pool, &mut random(n as u8)))
            .collect();
        given.sort();
        given
    };
    let pair = all(Ipv6Pool::new(v6("fd00::"), 127, 128));
    assert_eq!(pair, [(v6("fd00::"), 128)]);
    let four = all(Ipv6Pool::new(v6("fd00::"), 126, 128));
    assert_eq!(four, [(v6("fd00::2"), 128), (v6("fd00::3"), 128)]);
    let subnets = all(Ipv6Pool::new(v6("fd00::"), 62, 64));
    let expected = [
        (v6("fd00:0:0:1::1"), 64),
        (v6("fd00:0:0:2::1"), 64),
        (v6("fd00:0:0:3::1"), 64),
    ];
    assert_eq!(subnets, expected);
    assert_eq!(all(Ipv6Pool::new(v6("fd00::7"), 128, 128)), []);
    assert_eq!(
        all(Ipv6Pool::new(v6("fd00::"), 64, 64)),
        [],
        "the only subnet is the server's"
    );
    assert_eq!(all(Ipv6Pool::new(v6("fd00::"), 64, 48)), []);
}

#[test]
fn predictable_addresses_depend_on_the_name_only() {
    let pool = Ipv4Pool::new(v4("10.0.0.0"), 8);
    let first = |user: &str, seed: u8| {
        let mut leases = LeasePool::new();
        leases.propose_ipv4(&name(0), &pool, &mut Search::new(Some(user), [seed; 16]))
    };
    assert_eq!(first("test", 1), first("test", 2));
    assert_ne!(first("test", 1), first("tost", 1));
    assert_eq!(
        first("test", 1),
        Some(v4("10.27.184.142")),
        "never changes between releases"
    );

    let mut leases = LeasePool::new();
    let a = leases.propose_ipv4(&name(1), &pool, &mut Search::new(Some("test"), [1; 16]));
    let b = leases.propose_ipv4(&name(2), &pool, &mut Search::new(Some("test"), [1; 16]));
    assert_ne!(a, b, "two sessions of a user");
}

#[test]
fn an_address_that_answers_the_ping_is_not_proposed_again() {
    let pool = Ipv4Pool::new(v4("10.0.0.0"), 29);
    let mut leases = LeasePool::new();
    let mut search = random(3);
    let mut seen = HashSet::new();
    while let Some(address) = leases.propose_ipv4(&name(1), &pool, &mut search) {
        assert!(seen.insert(address));
        leases.reject_ipv4(&name(1), &mut search);
    }
    assert_eq!(seen.len(), 5);
    assert!(
        leases
            .propose_ipv4(&name(2), &pool, &mut random(3))
            .is_some(),
        "free for others"
    );

    let wide = Ipv4Pool::new(v4("10.0.0.0"), 8);
    let mut search = random(3);
    let mut pings = 0;
    while leases.propose_ipv4(&name(3), &wide, &mut search).is_some() {
        leases.reject_ipv4(&name(3), &mut search);
        pings += 1;
    }
    assert_eq!(pings, TRIES);
}

#[test]
fn a_closed_session_gets_its_addresses_back() {
    let pool = Ipv4Pool::new(v4("10.0.0.0"), 8);
    let pool6 = Ipv6Pool::new(v6("fd00::"), 64, 128);
    let mut leases = LeasePool::new();
    let a = leases
        .propose_ipv4(&name(1), &pool, &mut random(1))
        .unwrap();
    let b = leases
        .propose_ipv6(&name(1), &pool6, &mut random(1))
        .unwrap();
    let until = UNIX_EPOCH + Duration::from_secs(100);
    leases.hold(&name(1), until);
    leases.expire(until - Duration::from_secs(1));
    assert_eq!(
        leases.lease(&name(1)),
        Some(Lease {
            ipv4: Some(a),
            ipv6: Some(b)
        })
    );
    assert_eq!(
        leases.propose_ipv4(&name(1), &pool, &mut random(2)),
        Some(a)
    );
    assert_eq!(
        leases.propose_ipv6(&name(1), &pool6, &mut random(2)),
        Some(b)
    );
    leases.expire(until + Duration::from_secs(1));
    assert!(leases.lease(&name(1)).is_some(), "it is open again");
    leases.hold(&name(1), until);
    leases.expire(until);
    assert_eq!(leases.lease(&name(1)), None);
}

#[test]
fn a_full_pool_gives_up_the_held_lease_that_ends_first() {
    let pool = Ipv4Pool::new(v4("10.0.0.0"), 29);
    let mut leases = LeasePool::new();
    let given: Vec<_> = (0..5)
        .map(|n| {
            leases
                .propose_ipv4(&name(n), &pool, &mut random(n as u8))
                .unwrap()
        })
        .collect();
    assert_eq!(leases.propose_ipv4(&name(9), &pool, &mut random(9)), None);
    leases.hold(&name(2), UNIX_EPOCH + Duration::from_secs(20));
    leases.hold(&name(3), UNIX_EPOCH + Duration::from_secs(10));
    assert_eq!(
        leases.propose_ipv4(&name(9), &pool, &mut random(9)),
        Some(given[3])
    );
    assert_eq!(leases.lease(&name(3)), None);
}

#[test]
fn explicit_addresses_are_registered_and_checked() {
    let pool = Ipv4Pool::new(v4("10.0.0.0"), 29);
    let mut leases = LeasePool::new();
    for address in ["10.0.0.0", "10.0.0.1", "10.0.0.7", "10.0.0.8", "192.0.2.1"] {
        let refused = leases.take_explicit_ipv4(&name(1), &pool, v4(address));
        assert_eq!(refused, Err(ExplicitRefused::NotInPool), "{address}");
    }
    let five = v4("10.0.0.5");
    assert_eq!(leases.take_explicit_ipv4(&name(1), &pool, five), Ok(five));
    assert_eq!(
        leases.take_explicit_ipv4(&name(1), &pool, five),
        Ok(five),
        "same session"
    );
    let other = leases.take_explicit_ipv4(&name(2), &pool, five);
    assert_eq!(other, Err(ExplicitRefused::InUse));
    for n in 10..14 {
        assert_ne!(
            leases.propose_ipv4(&name(n), &pool, &mut random(n as u8)),
            Some(five)
        );
    }
    leases.hold(&name(1), UNIX_EPOCH);
    assert_eq!(
        leases.take_explicit_ipv4(&name(2), &pool, five),
        Ok(five),
        "held only"
    );
}

#[test]
fn explicit_ipv6_takes_the_subnet_around_it() {
    let pool = Ipv6Pool::new(v6("fd00::"), 48, 64);
    let mut leases = LeasePool::new();
    let address = v6("fd00:0:0:5::77");
    assert_eq!(
        leases.take_explicit_ipv6(&name(1), &pool, address),
        Ok((address, 64))
    );
    let same_subnet = leases.take_explicit_ipv6(&name(2), &pool, v6("fd00:0:0:5::78"));
    assert_eq!(same_subnet, Err(ExplicitRefused::InUse));
    let servers = leases.take_explicit_ipv6(&name(2), &pool, v6("fd00::78"));
    assert_eq!(servers, Err(ExplicitRefused::NotInPool));
}

#[test]
fn overlapping_pools_share_nothing() {
    let wide = Ipv4Pool::new(v4("10.0.0.0"), 28);
    let users = Ipv4Pool::new(v4("10.0.0.8"), 29);
    let mut leases = LeasePool::new();
    leases.reserve_servers(&[wide, users], &[]);
    let given: Vec<_> = (0..20)
        .filter_map(|n| {
            let pool = if n % 2 == 0 { &users } else { &wide };
            leases.propose_ipv4(&name(n), pool, &mut random(n as u8))
        })
        .collect();
    let distinct: HashSet<_> = given.iter().collect();
    assert_eq!(distinct.len(), given.len());
    assert!(!given.contains(&v4("10.0.0.1")) && !given.contains(&v4("10.0.0.9")));
}

#[test]
fn a_session_moves_when_its_pool_does() {
    let old = Ipv4Pool::new(v4("10.0.0.0"), 24);
    let new = Ipv4Pool::new(v4("10.1.0.0"), 24);
    let mut leases = LeasePool::new();
    let before = leases.propose_ipv4(&name(1), &old, &mut random(1)).unwrap();
    let after = leases.propose_ipv4(&name(1), &new, &mut random(1)).unwrap();
    assert_eq!(after.octets()[..3], [10, 1, 0]);
    assert_eq!(
        leases.take_explicit_ipv4(&name(2), &old, before),
        Ok(before),
        "free again"
    );
}

proptest! {
    #[test]
    fn leases_are_valid_and_distinct(
        network: u32,
        prefix in 20_u8..=32,
        steps in proptest::collection::vec((0_usize..12, 0_u8..4, any::<[u8; 16]>()), 0..200),
    ) {
        let pool = Ipv4Pool::new(Ipv4Addr::from_bits(network), prefix);
        let (first, last) = (pool.range().first() as u32, pool.range().last() as u32);
        let mut leases = LeasePool::new();
        for (n, action, seed) in steps {
            match action {
                0 => leases.release(&name(n)),
                1 => leases.hold(&name(n), UNIX_EPOCH + Duration::from_secs(n as u64)),
                2 => {
                    let wanted = Ipv4Addr::from_bits(first.wrapping_add(u32::from(seed[0] % 8)));
                    let _ = leases.take_explicit_ipv4(&name(n), &pool, wanted);
                }
                _ => {
                    let user = seed[0].is_multiple_of(2).then_some("test");
                    leases.propose_ipv4(&name(n), &pool, &mut Search::new(user, seed));
                }
            }
            let out: Vec<_> = (0..12).filter_map(|n| leases.lease(&name(n))?.ipv4).collect();
            let distinct: HashSet<_> = out.iter().collect();
            prop_assert_eq!(distinct.len(), out.len());
            prop_assert_eq!(leases.ipv4.taken.len(), out.len());
            for address in out {
                prop_assert_ne!(address, pool.server());
                prop_assert!((first..=last).contains(&address.to_bits()));
                prop_assert!(prefix >= 31 || ![first, last].contains(&address.to_bits()));
            }
        }
    }

    #[test]
    fn ipv6_subnets_never_overlap(
        network: u128,
        prefix in 1_u8..=128,
        more in 0_u8..=64,
        seeds in proptest::collection::vec(any::<[u8; 16]>(), 0..40),
    ) {
        let pool = Ipv6Pool::new(Ipv6Addr::from_bits(network), prefix, prefix.saturating_add(more));
        let mut leases = LeasePool::new();
        for (n, seed) in seeds.into_iter().enumerate() {
            leases.propose_ipv6(&name(n), &pool, &mut Search::new(None, seed));
        }
        let mut end = None;
        for (first, (last, _)) in &leases.ipv6.taken {
            prop_assert!(end.is_none_or(|end| end < *first));
            prop_assert!(!(*first..=*last).contains(&pool.server().to_bits()));
            end = Some(*last);
        }
    }
}
