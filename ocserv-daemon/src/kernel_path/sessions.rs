//! Sessions in the kernel: keys, flows and addresses.

use std::collections::HashMap as StdMap;
use std::net::{IpAddr, SocketAddr};

use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, LpmTrie, MapData, MapError};
use ocserv_common::kernel::{
    Address, FlowKey, HAS_IPV4, HAS_IPV6, HAS_NETWORKS, KernelChannel, SessionKeys, address,
    flow_target, prefix_len,
};
use ocserv_proto::config::NetPriority;
use ocserv_proto::dtls::{ChannelKeys, Cipher};
use zeroize::Zeroize;

use super::{KernelPath, missing};
use crate::claims::{Claims, Released};
use crate::ipc::dataplane::SessionParams;

type FlowBytes = [u8; size_of::<FlowKey>()];

/// Keys for a channel record of a session.
#[derive(Debug)]
pub struct NewChannel<'a> {
    /// Which record, 0 or 1.
    pub number: u8,
    /// Key block.
    pub keys: &'a ChannelKeys,
    /// Number of the keys.
    pub generation: u64,
    /// Client's UDP address.
    pub peer: SocketAddr,
    /// Local UDP address.
    pub local: SocketAddr,
    /// Device that owns the local address, 0: unknown. Used until a record shows by which the client
    /// comes.
    pub ifindex: u32,
}

/// Whether the programs can honour all settings of a session. With sockets it is user space that opens
/// and seals, and limits rates.
pub fn fits(params: &SessionParams, keys: &ChannelKeys, sockets: bool) -> bool {
    let opens = keys.cipher == Cipher::ChaCha20Poly1305;
    let is_unlimited = params.rx_limit == 0 && params.tx_limit == 0;
    !matches!(params.net_priority, Some(NetPriority::Priority(_)))
        && (sockets || opens && is_unlimited)
}

/// What leads to a session.
struct Addresses {
    leases: Vec<Address>,
    networks: Vec<Network>,
}

/// Whether an IPv6 prefix has addresses in common with `::ffff:0:0/96`, where the maps have IPv4.
fn meets_mapped((ip, len): &(IpAddr, u8)) -> bool {
    const MAPPED: u128 = 0xffff << u32::BITS;
    const MAPPED_LEN: u32 = 96;
    let IpAddr::V6(v6) = ip else { return false };
    let common = u128::from_be_bytes(v6.octets()) ^ MAPPED;
    let rest = u128::BITS - u32::from(*len).min(MAPPED_LEN);
    common.checked_shr(rest).unwrap_or(0) == 0
}

/// A prefix in the form of the programs; host bits are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Network {
    len: u32,
    address: Address,
}

impl Network {
    fn new(ip: IpAddr, len: u8) -> Self {
        let len = prefix_len(ip, len).min(u128::BITS);
        let mask = u128::MAX.checked_shl(u128::BITS - len).unwrap_or(0);
        let bits = u128::from_be_bytes(address(ip)) & mask;
        Self {
            len,
            address: bits.to_be_bytes(),
        }
    }

    fn key(&self) -> Key<Address> {
        Key::new(self.len, self.address)
    }
}

/// What is in the maps of one session that has keys there. In a box, so that they are wiped where they
/// were.
struct Installed {
    keys: SessionKeys,
}

impl Drop for Installed {
    fn drop(&mut self) {
        for channel in &mut self.keys.channels {
            wipe(channel);
        }
    }
}

fn wipe(channel: &mut KernelChannel) {
    channel.client_key.zeroize();
    channel.server_key.zeroize();
    channel.client_iv.zeroize();
    channel.server_iv.zeroize();
    *channel = KernelChannel::EMPTY;
}

/// The maps that programs look sessions up in.
pub(super) struct SessionMaps {
    flows: HashMap<MapData, FlowBytes, u32>,
    leases: HashMap<MapData, Address, u32>,
    networks: LpmTrie<MapData, Address, u32>,
    installed: StdMap<u32, Box<Installed>>,
    addresses: StdMap<u32, Addresses>,
    /// Whose `leases` and `networks` are: there is room for one owner in the maps.
    lease_claims: Claims<Address>,
    network_claims: Claims<Network>,
}

impl SessionMaps {
    pub(super) fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let mut map = |name: &str| ebpf.take_map(name).ok_or_else(|| missing(name));
        Ok(Self {
            flows: map("FLOWS")?.try_into()?,
            leases: map("LEASES")?.try_into()?,
            networks: map("NETWORKS")?.try_into()?,
            installed: StdMap::new(),
            addresses: StdMap::new(),
            lease_claims: Claims::default(),
            network_claims: Claims::default(),
        })
    }

    pub(super) fn count(&self) -> usize {
        self.installed.len()
    }

    pub(super) fn flow_count(&self) -> usize {
        self.flows.keys().filter(Result::is_ok).count()
    }

    /// Points a flow to a channel.
    fn add_flow(&mut self, flow: &FlowKey, slot: u32, number: u8) -> Result<(), MapError> {
        let target = flow_target(slot, number);
        self.flows.insert(flow_bytes(flow), target, 0)
    }

    /// Removes a flow, unless it points to another session by now.
    fn remove_flow(&mut self, flow: &FlowKey, slot: u32) {
        let bytes = flow_bytes(flow);
        let own = [0, 1].map(|number| flow_target(slot, number));
        if self
            .flows
            .get(&bytes, 0)
            .is_ok_and(|target| own.contains(&target))
        {
            // It may only be gone already.
            let _ = self.flows.remove(&bytes);
        }
    }

    /// Makes the client's addresses lead to its session, whoever has them.
    fn add_addresses(&mut self, slot: u32, addresses: &Addresses) -> Result<(), MapError> {
        for lease in &addresses.leases {
            self.lease_claims.claim(*lease, slot);
            self.leases.insert(lease, slot, 0)?;
        }
        for network in &addresses.networks {
            self.network_claims.claim(*network, slot);
            self.networks.insert(&network.key(), slot, 0)?;
        }
        Ok(())
    }

    /// Makes them lead to who had them before and still is there, or to nobody. What the maps had no
    /// room for is not there to remove.
    fn remove_addresses(&mut self, slot: u32, addresses: &Addresses) {
        for lease in &addresses.leases {
            let _ = match self.lease_claims.release(lease, slot) {
                Released::Nothing => Ok(()),
                Released::To(next) => self.leases.insert(lease, next, 0),
                Released::ToNobody => self.leases.remove(lease),
            };
        }
        for network in &addresses.networks {
            let key = network.key();
            let _ = match self.network_claims.release(network, slot) {
                Released::Nothing => Ok(()),
                Released::To(next) => self.networks.insert(&key, next, 0),
                Released::ToNobody => self.networks.remove(&key),
            };
        }
    }
}

impl KernelPath {
    /// A session is open: its addresses lead to it, whether it has keys in the kernel or not. Without
    /// that, packets to one that has none would go to another session whose networks contain it.
    ///
    /// # Errors
    /// When a map is full.
    pub fn open_session(&mut self, params: &SessionParams) -> anyhow::Result<()> {
        let slot = params.slot.0;
        if self.sessions.addresses.contains_key(&slot) {
            return Ok(());
        }
        let addresses = addresses(params);
        let added = self.sessions.add_addresses(slot, &addresses);
        self.sessions.addresses.insert(slot, addresses);
        Ok(added?)
    }

    /// A session is over: neither keys nor addresses of it stay.
    pub fn close_session(&mut self, slot: u32) {
        self.remove(slot);
        if let Some(addresses) = self.sessions.addresses.remove(&slot) {
            self.sessions.remove_addresses(slot, &addresses);
        }
    }

    /// Puts keys into the kernel. From then on its programs carry the session's packets. `mtu`: its
    /// largest inner packet.
    ///
    /// # Errors
    /// When a map is full; nothing of the session is in the kernel then.
    pub fn install(
        &mut self,
        params: &SessionParams,
        mtu: u16,
        dont_fragment: bool,
        new: &NewChannel<'_>,
    ) -> anyhow::Result<()> {
        let slot = params.slot.0;
        let flow = FlowKey::new(new.peer, new.local);
        self.open_session(params)?;
        let mut empty = installed(params, dont_fragment);
        empty.keys.mtu = mtu.into();
        let entry = self.sessions.installed.entry(slot);
        let installed = entry.or_insert_with(|| Box::new(empty));
        let number = new.number & 1;
        let other = &installed.keys.channels[usize::from(1 - number)];
        let former = other.generation != 0 && other.flow == flow;
        let replaced = &installed.keys.channels[usize::from(number)];
        let left = (replaced.generation != 0 && replaced.flow != flow).then_some(replaced.flow);
        let place = &mut installed.keys.channels[usize::from(number)];
        *place = channel(new, flow, former);
        if !self.options.sockets {
            copy_keys(place, new.keys);
        }
        installed.keys.newest = number;
        self.shards.store_session(slot, &installed.keys);
        let channel = &installed.keys.channels[usize::from(number)];
        self.shards.store_channel(slot, number.into(), channel);
        if let Err(error) = self.sessions.add_flow(&flow, slot, number) {
            self.remove(slot);
            anyhow::bail!("{error}");
        }
        if let Some(left) = left {
            self.leave_flow(slot, &left, usize::from(1 - number));
        }
        Ok(())
    }

    /// Whether a channel record's keys of that number are in the kernel.
    pub fn has(&self, slot: u32, number: usize, generation: u64) -> bool {
        let installed = self.sessions.installed.get(&slot);
        installed.is_some_and(|i| i.keys.channels[number & 1].generation == generation)
    }

    /// One channel is not at this flow any more. The other one of the session may be.
    fn leave_flow(&mut self, slot: u32, flow: &FlowKey, other: usize) {
        let Some(installed) = self.sessions.installed.get_mut(&slot) else {
            return;
        };
        let rest = &mut installed.keys.channels[other];
        if rest.generation == 0 || rest.flow != *flow {
            self.sessions.remove_flow(flow, slot);
            return;
        }
        rest.former = 0;
        self.shards.store_channel(slot, other, &*rest);
        if self.sessions.add_flow(flow, slot, other as u8).is_err() {
            self.remove(slot);
        }
    }

    /// Takes the keys of one channel out. Another one of the session goes on.
    pub fn end_channel(&mut self, slot: u32, number: usize) {
        let Some(installed) = self.sessions.installed.get_mut(&slot) else {
            return;
        };
        let (number, other) = (number & 1, 1 - (number & 1));
        let ended = &mut installed.keys.channels[number];
        let flow = ended.flow;
        let was_used = ended.generation != 0;
        wipe(ended);
        self.shards
            .store_channel(slot, number, &KernelChannel::EMPTY);
        if installed.keys.channels[other].generation == 0 {
            if was_used {
                self.sessions.remove_flow(&flow, slot);
            }
            self.remove(slot);
        } else if was_used {
            installed.keys.newest = other as u8;
            self.shards.store_session(slot, &installed.keys);
            self.leave_flow(slot, &flow, other);
        }
    }

    /// One of the client's channels is at another address now.
    pub fn move_channel(
        &mut self,
        slot: u32,
        number: usize,
        (peer, local): (SocketAddr, SocketAddr),
        ifindex: u32,
    ) {
        let Some(installed) = self.sessions.installed.get_mut(&slot) else {
            return;
        };
        let (number, other) = (number & 1, 1 - (number & 1));
        let flow = FlowKey::new(peer, local);
        let channels = &mut installed.keys.channels;
        let former_flow = channels[number].flow;
        if channels[number].generation == 0 || former_flow == flow {
            return;
        }
        channels[number].flow = flow;
        channels[number].ifindex = ifindex;
        // Records of both may come by one flow from now on: the newest keys are tried first.
        let is_shared = channels[other].generation != 0 && channels[other].flow == flow;
        let first = match is_shared {
            true => usize::from(installed.keys.newest & 1),
            false => number,
        };
        let channels = &mut installed.keys.channels;
        for n in [number, other] {
            if n == number || is_shared {
                channels[n].former = (is_shared && n == first).into();
                self.shards.store_channel(slot, n, &channels[n]);
            }
        }
        if self.sessions.add_flow(&flow, slot, first as u8).is_err() {
            self.remove(slot);
            return;
        }
        self.leave_flow(slot, &former_flow, other);
    }

    /// The session's largest inner packet has changed.
    pub fn set_mtu(&mut self, slot: u32, mtu: u16) {
        if let Some(installed) = self.sessions.installed.get_mut(&slot) {
            installed.keys.mtu = mtu.into();
            self.shards.store_session(slot, &installed.keys);
        }
    }

    /// Takes a session out of the kernel and overwrites its keys.
    pub fn remove(&mut self, slot: u32) {
        let Some(installed) = self.sessions.installed.remove(&slot) else {
            return;
        };
        self.shards.clear(slot);
        for channel in &installed.keys.channels {
            if channel.generation != 0 {
                self.sessions.remove_flow(&channel.flow, slot);
            }
        }
    }

    /// Devices have changed: each channel is sent by the one that owns its local address.
    pub fn refresh_devices(&mut self, ifindex_of: impl Fn(IpAddr) -> u32) {
        for (slot, installed) in &mut self.sessions.installed {
            for (number, channel) in installed.keys.channels.iter_mut().enumerate() {
                let ifindex = ifindex_of(ocserv_common::kernel::ip(channel.flow.local));
                if channel.generation != 0 && channel.ifindex != ifindex {
                    channel.ifindex = ifindex;
                    self.shards.store_channel(*slot, number, channel);
                }
            }
        }
    }
}

fn flow_bytes(flow: &FlowKey) -> FlowBytes {
    let mut bytes = [0; size_of::<FlowKey>()];
    let parts = [
        &flow.peer[..],
        &flow.local,
        &flow.peer_port,
        &flow.local_port,
    ];
    for (to, from) in bytes.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    bytes
}

/// A session without channels.
fn installed(params: &SessionParams, dont_fragment: bool) -> Installed {
    let mut keys = SessionKeys::EMPTY;
    keys.silence_ms = params.dtls_settings().silence_ms();
    keys.dont_fragment = dont_fragment.into();
    if let Some(NetPriority::Tos(tos)) = params.net_priority {
        keys.tos = tos;
    }
    if let Some(ipv4) = params.ipv4 {
        keys.ipv4 = ipv4.octets();
        keys.flags |= HAS_IPV4;
    }
    if let Some((ipv6, len)) = params.ipv6 {
        keys.ipv6 = ipv6.octets();
        let mask = u128::MAX.checked_shl(128 - u32::from(len.min(128)));
        keys.ipv6_mask = mask.unwrap_or(0).to_be_bytes();
        keys.flags |= HAS_IPV6;
    }
    if !params.iroutes.is_empty() {
        keys.flags |= HAS_NETWORKS;
    }
    Installed { keys }
}

fn addresses(params: &SessionParams) -> Addresses {
    let ipv4 = params.ipv4.map(IpAddr::V4);
    let ipv6 = params.ipv6.map(|(ipv6, _)| IpAddr::V6(ipv6));
    let subnet = params.ipv6.filter(|(_, len)| *len < 128);
    let subnet = subnet.map(|(ipv6, len)| (IpAddr::V6(ipv6), len));
    // Packets of what is left out are user space's, which tells the families apart.
    let networks = subnet.iter().chain(&params.iroutes);
    let networks = networks.filter(|network| !meets_mapped(network));
    Addresses {
        leases: ipv4.into_iter().chain(ipv6).map(address).collect(),
        networks: networks.map(|(ip, len)| Network::new(*ip, *len)).collect(),
    }
}

/// A channel without its keys.
fn channel(new: &NewChannel<'_>, flow: FlowKey, former: bool) -> KernelChannel {
    KernelChannel {
        generation: new.generation,
        flow,
        ifindex: new.ifindex,
        epoch: new.keys.epoch,
        former: former.into(),
        ..KernelChannel::EMPTY
    }
}

fn copy_keys(channel: &mut KernelChannel, keys: &ChannelKeys) {
    copy_words(&mut channel.client_key, keys.client_key.expose());
    copy_words(&mut channel.server_key, keys.server_key.expose());
    copy_words(&mut channel.client_iv, keys.client_iv.expose());
    copy_words(&mut channel.server_iv, keys.server_iv.expose());
}

fn copy_words(to: &mut [u32], from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from.chunks_exact(4)) {
        *to = u32::from_le_bytes([from[0], from[1], from[2], from[3]]);
    }
}

#[cfg(test)]
mod tests {
    use aya::EbpfLoader;

    use super::super::loading::OBJECT;
    use super::*;
    use crate::ipc::ids::{GateId, Slot};

    fn params(slot: u32, ipv6: &str, iroutes: &[(&str, u8)]) -> SessionParams {
        let iroutes = iroutes.iter();
        SessionParams {
            slot: Slot(slot),
            gate: GateId(1),
            ipv4: Some([10, 9, 0, slot as u8].into()),
            ipv6: Some((ipv6.parse().unwrap(), 112)),
            iroutes: iroutes
                .map(|(ip, len)| (ip.parse().unwrap(), *len))
                .collect(),
            app_id: None,
            mtu: 1400,
            dpd: 90,
            switch_to_tcp: 0,
            rx_limit: 0,
            tx_limit: 0,
            net_priority: None,
        }
    }

    /// Whom a program would find behind an address. Needs root.
    fn behind(maps: &SessionMaps, ip: &str) -> Option<u32> {
        let ip = address(ip.parse().unwrap());
        let lease = maps.leases.get(&ip, 0);
        lease
            .or_else(|_| maps.networks.get(&Key::new(128, ip), 0))
            .ok()
    }

    #[test]
    fn what_two_devices_claim_goes_back_to_the_older_one() {
        let maps = EbpfLoader::new().btf(None).load(OBJECT);
        let mut ebpf = maps.expect("needs root");
        let mut maps = SessionMaps::take(&mut ebpf).unwrap();
        let wide = addresses(&params(9, "fd00::9:1", &[("192.168.0.0", 16)]));
        let old = addresses(&params(1, "fd00::1:1", &[("192.168.7.0", 24)]));
        // The same network by another of its addresses, and the lease of its predecessor.
        let mut new = addresses(&params(2, "fd00::1:2", &[("192.168.7.1", 24)]));
        new.leases.extend(&old.leases);
        for (slot, addresses) in [(9, &wide), (1, &old), (2, &new)] {
            maps.add_addresses(slot, addresses).unwrap();
        }
        let claimed = ["192.168.7.9", "fd00::1:9", "10.9.0.1"];
        let owners = |maps: &SessionMaps| claimed.map(|ip| behind(maps, ip));
        assert_eq!(owners(&maps), [Some(2); 3]);
        maps.remove_addresses(2, &new);
        assert_eq!(owners(&maps), [Some(1); 3]);
        assert_eq!(behind(&maps, "10.9.0.2"), None);
        maps.remove_addresses(1, &old);
        assert_eq!(owners(&maps), [Some(9), None, None]);
    }
}
