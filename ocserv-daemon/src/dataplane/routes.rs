//! Which session a destination belongs to: longest prefix first.

use std::net::IpAddr;

use crate::claims::Claims;

/// A network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    ipv4: bool,
    /// Host bits are zero; IPv4 in the lower 32 bits.
    network: u128,
    len: u8,
}

impl Prefix {
    /// The network of `address`; host bits are cleared. `None`: longer than the address.
    pub fn new(address: IpAddr, len: u8) -> Option<Self> {
        let (ipv4, bits) = split(address);
        (len <= width(ipv4)).then(|| Self {
            ipv4,
            network: bits & mask(ipv4, len),
            len,
        })
    }

    /// One address alone.
    pub fn host(address: IpAddr) -> Self {
        let (ipv4, network) = split(address);
        Self {
            ipv4,
            network,
            len: width(ipv4),
        }
    }

    /// Whether `address` lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (ipv4, bits) = split(address);
        ipv4 == self.ipv4 && bits & mask(ipv4, self.len) == self.network
    }
}

fn split(address: IpAddr) -> (bool, u128) {
    match address {
        IpAddr::V4(v4) => (true, u128::from(v4.to_bits())),
        IpAddr::V6(v6) => (false, v6.to_bits()),
    }
}

fn width(ipv4: bool) -> u8 {
    if ipv4 { 32 } else { 128 }
}

fn mask(ipv4: bool, len: u8) -> u128 {
    let host_bits = u32::from(width(ipv4).saturating_sub(len));
    u128::MAX.checked_shl(host_bits).unwrap_or(0)
}

/// Prefixes with the slot of their session.
#[derive(Debug, Default)]
pub struct Routes {
    /// Lengths in use, longest first, of IPv4 and IPv6.
    lens: [Vec<u8>; 2],
    claims: Claims<Prefix>,
}

impl Routes {
    /// Routes `prefix` to `slot`, whoever has it: a session that comes back takes over the addresses
    /// of its predecessor (protocol.md 11).
    pub fn add(&mut self, prefix: Prefix, slot: u32) {
        self.claims.claim(prefix, slot);
        let lens = &mut self.lens[usize::from(!prefix.ipv4)];
        if !lens.contains(&prefix.len) {
            lens.push(prefix.len);
            lens.sort_unstable_by(|a, b| b.cmp(a));
        }
    }

    /// Ends the route of `prefix` to `slot`. Who had it before and still is there has it again.
    pub fn remove(&mut self, prefix: Prefix, slot: u32) {
        self.claims.release(&prefix, slot);
    }

    /// The slot of the longest prefix that `address` lies in.
    pub fn find(&self, address: IpAddr) -> Option<u32> {
        let (ipv4, bits) = split(address);
        let lens = &self.lens[usize::from(!ipv4)];
        lens.iter().find_map(|&len| {
            let prefix = Prefix {
                ipv4,
                network: bits & mask(ipv4, len),
                len,
            };
            self.claims.owner(&prefix)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn prefix(text: &str, len: u8) -> Prefix {
        Prefix::new(ip(text), len).unwrap()
    }

    #[test]
    fn the_longest_prefix_wins() {
        let mut routes = Routes::default();
        routes.add(prefix("10.0.0.0", 8), 1);
        routes.add(prefix("10.1.0.0", 16), 2);
        routes.add(Prefix::host(ip("10.1.2.3")), 3);
        routes.add(prefix("2001:db8::", 32), 4);
        routes.add(prefix("::", 0), 5);
        assert_eq!(routes.find(ip("10.9.9.9")), Some(1));
        assert_eq!(routes.find(ip("10.1.9.9")), Some(2));
        assert_eq!(routes.find(ip("10.1.2.3")), Some(3));
        assert_eq!(routes.find(ip("192.0.2.1")), None);
        assert_eq!(routes.find(ip("2001:db8:1::1")), Some(4));
        assert_eq!(routes.find(ip("fe80::1")), Some(5));
    }

    #[test]
    fn a_route_that_was_taken_over_stays() {
        let mut routes = Routes::default();
        routes.add(Prefix::host(ip("10.0.0.1")), 1);
        routes.add(Prefix::host(ip("10.0.0.1")), 2);
        routes.remove(Prefix::host(ip("10.0.0.1")), 1);
        assert_eq!(routes.find(ip("10.0.0.1")), Some(2));
        routes.remove(Prefix::host(ip("10.0.0.1")), 2);
        assert_eq!(routes.find(ip("10.0.0.1")), None);
    }

    #[test]
    fn a_network_of_two_devices_goes_back_to_the_older_one() {
        let mut routes = Routes::default();
        let network = prefix("192.168.7.0", 24);
        routes.add(prefix("192.168.0.0", 16), 9);
        routes.add(network, 1);
        routes.add(network, 2);
        assert_eq!(routes.find(ip("192.168.7.1")), Some(2));
        routes.remove(network, 2);
        assert_eq!(routes.find(ip("192.168.7.1")), Some(1));
        routes.remove(network, 1);
        assert_eq!(routes.find(ip("192.168.7.1")), Some(9));
    }

    #[test]
    fn a_prefix_knows_its_own_family_and_length() {
        assert!(Prefix::new(ip("10.0.0.0"), 33).is_none());
        assert!(Prefix::new(ip("::"), 129).is_none());
        assert!(prefix("10.1.2.3", 16).contains(ip("10.1.255.255")));
        assert!(!prefix("10.1.2.3", 16).contains(ip("10.2.0.0")));
        assert!(prefix("0.0.0.0", 0).contains(ip("255.0.0.1")));
        assert!(!prefix("0.0.0.0", 0).contains(ip("::1")));
        assert!(!Prefix::host(ip("::a00:1")).contains(ip("10.0.0.1")));
    }
}
