//! The addresses of a pool as numbers: a range of equal blocks, one for each client.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Addresses from `first` to `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Lowest address.
    pub first: u128,
    /// Highest address.
    pub last: u128,
}

impl Block {
    /// One address.
    pub fn single(address: u128) -> Self {
        Self {
            first: address,
            last: address,
        }
    }

    /// Whether `address` is one of them.
    pub fn contains(&self, address: u128) -> bool {
        (self.first..=self.last).contains(&address)
    }
}

/// A pool's blocks, numbered from 0.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    network: Block,
    /// log2 of the addresses in a block.
    block_bits: u32,
    /// Number of blocks, at least 1.
    pub units: u128,
    /// Addresses that no client gets: network, broadcast and the server's own.
    excluded: [Option<u128>; 3],
}

impl Range {
    /// Lowest address.
    pub fn first(&self) -> u128 {
        self.network.first
    }

    /// Highest address.
    pub fn last(&self) -> u128 {
        self.network.last
    }

    /// The block of this number, which is below [`Range::units`].
    pub fn block(&self, index: u128) -> Block {
        let first = self.network.first | index << self.block_bits;
        Block {
            first,
            last: first | ((1 << self.block_bits) - 1),
        }
    }

    /// The block that holds `address`.
    pub fn block_around(&self, address: u128) -> Option<Block> {
        self.network
            .contains(address)
            .then(|| self.block((address - self.network.first) >> self.block_bits))
    }

    /// Whether a client may get this block: it is one of the range, and holds no excluded address.
    pub fn is_usable(&self, block: Block) -> bool {
        self.block_around(block.first) == Some(block)
            && !self
                .excluded
                .iter()
                .flatten()
                .any(|address| block.contains(*address))
    }
}

/// `ipv4-network` with its mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Pool {
    network: u32,
    prefix: u8,
}

impl Ipv4Pool {
    /// The pool of this network; bits beyond the prefix are dropped, a prefix above 32 means 32.
    pub fn new(network: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        Self {
            network: network.to_bits() & mask,
            prefix,
        }
    }

    /// The server's own address: network | 1 (behaviour.md 6.1).
    pub fn server(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network | 1)
    }

    /// Length of the network prefix.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Network mask to announce.
    pub fn netmask(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(
            u32::MAX
                .checked_shl(32 - u32::from(self.prefix))
                .unwrap_or(0),
        )
    }

    pub(super) fn range(&self) -> Range {
        let first = u128::from(self.network);
        let units = 1_u128 << (32 - u32::from(self.prefix));
        let last = first + units - 1;
        // RFC 3021: a /31 has neither network nor broadcast address.
        let ends = self.prefix < 31;
        Range {
            network: Block { first, last },
            block_bits: 0,
            units,
            excluded: [ends.then_some(first), ends.then_some(last), Some(first | 1)],
        }
        .without_lone_address(self.prefix == 32)
    }
}

impl Range {
    /// The single address of a /32 or /128 is the server's: it leaves no client address.
    fn without_lone_address(mut self, lone: bool) -> Self {
        if lone {
            self.excluded[0] = Some(self.network.first);
        }
        self
    }
}

/// `ipv6-network`, and `ipv6-subnet-prefix` of which each client gets one subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Pool {
    network: u128,
    prefix: u8,
    subnet_prefix: u8,
}

impl Ipv6Pool {
    /// The pool of this network; bits beyond the prefix are dropped.
    pub fn new(network: Ipv6Addr, prefix: u8, subnet_prefix: u8) -> Self {
        let prefix = prefix.min(128);
        let subnet_prefix = subnet_prefix.min(128);
        let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
        Self {
            network: network.to_bits() & mask,
            prefix,
            subnet_prefix,
        }
    }

    /// The server's own address: network | 1 (behaviour.md 6.5).
    pub fn server(&self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.network | 1)
    }

    /// Length of the network prefix.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Length of a client's prefix.
    pub fn subnet_prefix(&self) -> u8 {
        self.subnet_prefix
    }

    /// A client's own address in its subnet: the subnet's first host address.
    pub(super) fn client_address(&self, block: Block) -> Ipv6Addr {
        let host = u128::from(block.first != block.last && self.subnet_prefix < 127);
        Ipv6Addr::from_bits(block.first | host)
    }

    /// `None` if no subnet fits (the configuration refuses that, except for a /128 of itself).
    pub(super) fn range(&self) -> Option<Range> {
        let bits = u32::from(self.subnet_prefix.checked_sub(self.prefix)?);
        let size_bits = 128 - u32::from(self.prefix);
        let rest = 1_u128
            .checked_shl(size_bits)
            .map_or(u128::MAX, |size| size - 1);
        let units = 1_u128.checked_shl(bits).unwrap_or(u128::MAX);
        // The first address of a network is its routers' anycast address (RFC 4291 §2.6.1); a /127
        // has none (RFC 6164).
        let anycast = self.subnet_prefix == 128 && self.prefix < 127;
        let range = Range {
            network: Block {
                first: self.network,
                last: self.network | rest,
            },
            block_bits: 128 - u32::from(self.subnet_prefix),
            units,
            excluded: [
                anycast.then_some(self.network),
                None,
                Some(self.network | 1),
            ],
        };
        (range.block_bits < 128).then(|| range.without_lone_address(self.prefix == 128))
    }
}
