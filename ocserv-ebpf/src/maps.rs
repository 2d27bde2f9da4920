//! The maps, and the only access to them. Layouts: `ocserv_common::kernel`.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, ArrayOfMaps, DevMapHash, HashMap, LpmTrie, PerCpuArray, XskMap};
use aya_ebpf::macros::btf_map;
use ocserv_common::kernel::{
    Address, Counted, Counts, FlowKey, KernelChannel, MAX_SHARDS, MAX_SLOTS, SLOTS_PER_SHARD,
    SOCKET_DEVICES, SOCKET_QUEUES, SessionKeys, Settings,
};
use ocserv_common::session::SessionShared;

use crate::cpu::Cpu;

const NO_PREALLOC: usize = 1;
const MMAPABLE: usize = 1 << 10;
/// Two channels and a former address of each session.
const MAX_FLOWS: usize = MAX_SLOTS as usize * 2;
/// Both families.
const MAX_LEASES: usize = MAX_SLOTS as usize * 2;
const MAX_NETWORKS: usize = MAX_SLOTS as usize * 2;
const MAX_DEVICES: u32 = 256;
const MAX_SOCKETS: usize = (SOCKET_DEVICES * SOCKET_QUEUES) as usize;

type Shard = Array<SessionShared, { SLOTS_PER_SHARD as usize }, MMAPABLE>;
type KeyShard = Array<SessionKeys, { SLOTS_PER_SHARD as usize }, MMAPABLE>;

#[btf_map]
static SHARED: ArrayOfMaps<Shard, { MAX_SHARDS as usize }> = ArrayOfMaps::new();
#[btf_map]
static KEYS: ArrayOfMaps<KeyShard, { MAX_SHARDS as usize }> = ArrayOfMaps::new();
#[btf_map]
static FLOWS: HashMap<FlowKey, u32, MAX_FLOWS, NO_PREALLOC> = HashMap::new();
#[btf_map]
static LEASES: HashMap<Address, u32, MAX_LEASES, NO_PREALLOC> = HashMap::new();
#[btf_map]
static NETWORKS: LpmTrie<Address, u32, MAX_NETWORKS, NO_PREALLOC> = LpmTrie::new();
#[btf_map]
static SETTINGS: Array<Settings, 1> = Array::new();
#[btf_map]
static COUNTS: PerCpuArray<Counts, 1> = PerCpuArray::new();
/// When each CPU last reported something, ms.
#[btf_map]
static REPORTED: PerCpuArray<u64, 1> = PerCpuArray::new();
#[btf_map]
static RX_CPU: PerCpuArray<Cpu, 1> = PerCpuArray::new();
#[btf_map]
static TX_CPU: PerCpuArray<Cpu, 1> = PerCpuArray::new();
/// Devices that `direct` forwarding may send by.
#[btf_map]
static DEVICES: DevMapHash<{ MAX_DEVICES as usize }> = DevMapHash::new();
/// Addresses of the LAN devices: frames for others are not ours.
#[btf_map]
static MACS: HashMap<u32, [u8; 8], { MAX_DEVICES as usize }, NO_PREALLOC> = HashMap::new();
/// Sockets of the dataplane, by device and queue.
#[btf_map]
static SOCKETS: XskMap<MAX_SOCKETS> = XskMap::new();
/// Where a device's sockets begin.
#[btf_map]
static QUEUES: HashMap<u32, u32, { SOCKET_DEVICES as usize }, NO_PREALLOC> = HashMap::new();

/// What a packet from a client is worked on with. There is one for each CPU and direction: programs of
/// one direction do not interrupt each other.
pub fn rx_cpu() -> Option<&'static mut Cpu> {
    let cpu = RX_CPU.get_ptr_mut(0)?;
    // SAFETY: the map holds the value as long as the program is loaded, and nobody else uses it while
    // this CPU runs the program.
    Some(unsafe { &mut *cpu })
}

/// The same for packets to clients.
pub fn tx_cpu() -> Option<&'static mut Cpu> {
    let cpu = TX_CPU.get_ptr_mut(0)?;
    // SAFETY: as above.
    Some(unsafe { &mut *cpu })
}

/// Slot and channel of a flow, see `flow_target`.
pub fn flow(key: &FlowKey) -> Option<u32> {
    let target = FLOWS.get_ptr(key)?;
    // SAFETY: values are replaced, never changed, and freed only after the programs that may see them.
    Some(unsafe { *target })
}

/// What is known of a session. The supervisor may change it at any time.
pub fn keys(slot: u32) -> Option<*const SessionKeys> {
    let shard = slot / SLOTS_PER_SHARD;
    let keys = KEYS.get_value_ptr_mut(shard, &(slot % SLOTS_PER_SHARD))?;
    Some(keys.cast_const())
}

/// Reads a field that the supervisor may be writing.
macro_rules! read {
    ($record:expr, $($field:tt)+) => {{
        let record = $record;
        // SAFETY: the map's memory is there as long as the program; any bytes are a value.
        unsafe { (&raw const (*record).$($field)+).read_volatile() }
    }};
}
pub(crate) use read;

/// Copies words that the supervisor may be writing, one by one: a copy by way of the stack has no room.
pub fn copy_words<const N: usize>(from: *const [u32; N], to: &mut [u32; N]) {
    let from = from.cast::<u32>();
    for (n, word) in to.iter_mut().enumerate() {
        // SAFETY: within the array.
        let from = unsafe { from.add(n) };
        // SAFETY: the map's memory is there as long as the program; any bytes are a value.
        *word = unsafe { from.read_volatile() };
    }
}

/// The key that opens a channel's records.
pub fn copy_client_key(channel: *const KernelChannel, to: &mut [u32; 8]) {
    // SAFETY: a place within the record; nothing is read.
    copy_words(unsafe { &raw const (*channel).client_key }, to);
}

/// The key that seals them.
pub fn copy_server_key(channel: *const KernelChannel, to: &mut [u32; 8]) {
    // SAFETY: as above.
    copy_words(unsafe { &raw const (*channel).server_key }, to);
}

/// Where the client is.
pub fn copy_flow(channel: *const KernelChannel, to: &mut FlowKey) {
    const WORDS: usize = size_of::<FlowKey>() / 4;
    // SAFETY: as above.
    let from = unsafe { &raw const (*channel).flow }.cast::<[u32; WORDS]>();
    let to = (&raw mut *to).cast::<[u32; WORDS]>();
    // SAFETY: of the same size, and in working memory aligned for words.
    copy_words(from, unsafe { &mut *to });
}

/// One of a session's channels.
pub fn channel(keys: *const SessionKeys, number: u32) -> *const KernelChannel {
    if number & 1 == 0 {
        // SAFETY: a place within the record; nothing is read.
        unsafe { &raw const (*keys).channels[0] }
    } else {
        // SAFETY: as above.
        unsafe { &raw const (*keys).channels[1] }
    }
}

/// The session that an address is leased to.
pub fn lease(address: &Address) -> Option<u32> {
    let slot = LEASES.get_ptr(address)?;
    // SAFETY: as for flows.
    Some(unsafe { *slot })
}

/// The session behind which an address lies.
pub fn network(address: &Address) -> Option<u32> {
    /// Bits of an address.
    const WHOLE: u32 = 128;
    NETWORKS.get(&Key::new(WHOLE, *address)).copied()
}

/// A session's shared record.
pub fn shared(slot: u32) -> Option<&'static SessionShared> {
    let shard = slot / SLOTS_PER_SHARD;
    SHARED.get_value(shard, &(slot % SLOTS_PER_SHARD))
}

/// What holds for all packets.
pub fn settings() -> Option<&'static Settings> {
    SETTINGS.get(0)
}

/// Counts one.
pub fn count(what: Counted) {
    add(what, 1);
}

/// Counts `n`.
pub fn add(what: Counted, n: u64) {
    if let Some(counts) = COUNTS.get_ptr_mut(0) {
        // SAFETY: this CPU's own value.
        let counts = unsafe { &mut *counts };
        counts.values[what as usize] += n;
    }
}

/// Whether this CPU has been silent for so long that it may report something; it counts as reported.
pub fn may_report(now_ms: u64, interval_ms: u64) -> bool {
    let Some(last) = REPORTED.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: this CPU's own value.
    let last = unsafe { &mut *last };
    if *last != 0 && now_ms.wrapping_sub(*last) < interval_ms {
        return false;
    }
    *last = now_ms;
    true
}

/// Whether `direct` forwarding may send by a device.
pub fn is_direct(ifindex: u32) -> bool {
    DEVICES.get_ifindex(ifindex).is_some()
}

/// Sends the frame by a device of that kind.
pub fn redirect(ifindex: u32) -> u32 {
    match DEVICES.redirect(ifindex, u64::from(XDP_DROP)) {
        Ok(action) | Err(action) => action,
    }
}

/// The place of the socket for what a device's queue receives.
pub fn socket(ifindex: u32, queue: u32) -> Option<u32> {
    let first = QUEUES.get_ptr(ifindex)?;
    // SAFETY: as for flows.
    let first = unsafe { *first };
    (queue < SOCKET_QUEUES).then_some(first + queue)
}

/// Hands the frame to a socket, or to the stack if there is none.
pub fn hand_over(socket: u32) -> u32 {
    match SOCKETS.redirect(socket, u64::from(XDP_PASS)) {
        Ok(action) | Err(action) => action,
    }
}

/// The Ethernet address of a LAN device.
pub fn mac(ifindex: u32) -> Option<[u8; 6]> {
    let mac = MACS.get_ptr(ifindex)?;
    // SAFETY: as for flows.
    let [a, b, c, d, e, f, ..] = unsafe { *mac };
    Some([a, b, c, d, e, f])
}
