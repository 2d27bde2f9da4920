//! From a client: check, authenticate, commit, deliver.
//!
//! Until the number is committed the frame is as it came, and may be left to user space, which does the
//! same work. After it, whatever fails drops the packet: user space would take it for a replay.

use ocserv_common::datagram::{self, ETHERNET, NotOurs, RECORD_HEADER, Record};
use ocserv_common::encapsulation;
use ocserv_common::inner::{self, Inner};
use ocserv_common::kernel::{
    Address, Counted, HAS_IPV4, HAS_IPV6, HAS_NETWORKS, KernelChannel, MAX_SOCKET_FRAME,
    SessionKeys, Settings,
};
use ocserv_common::session::{ChannelState, DropReason, SessionShared};

use crate::carrier::Carrier;
use crate::cipher;
use crate::cpu::Cpu;
use crate::maps::{self, read};
use crate::packet::{TAG, now_ns};
use crate::route;
use crate::verdict::{Step, Verdict};

/// How a packet goes on.
pub enum Way {
    /// To the stack, as received by the tun device.
    Stack,
    /// Out by this device.
    Device(u32),
}

/// What a record belongs to.
struct Context {
    slot: u32,
    keys: *const SessionKeys,
    channel: *const KernelChannel,
    generation: u64,
    shared: &'static SessionShared,
    state: &'static ChannelState,
    now_ns: u64,
    now_ms: u64,
}

/// Takes a frame from a client.
#[inline(always)]
pub fn receive<C: Carrier>(frame: &C) -> Step<Way> {
    let cpu = maps::rx_cpu().ok_or(Verdict::Pass)?;
    let settings = maps::settings().ok_or(Verdict::Pass)?;
    let len = frame.len();
    if !frame.load_plain_head(&mut cpu.head, len) {
        return Err(Verdict::Pass);
    }
    let segment = frame.segment();
    match parse_head(cpu, len as u32, segment) {
        PARSED => {}
        CONTROL => return Err(NotOurs::Control.into()),
        FORM => return Err(NotOurs::Form.into()),
        _ => return Err(Verdict::Pass),
    }
    let record = cpu.record;
    let context = find(cpu, &record)?;
    // A frame with other headers would not be completed as it should. A finished checksum looks so too once
    // in 65,536 times. Those behind it must not overtake it, nor what the stack makes of fragments.
    let to_socket = settings.sockets != 0;
    let keeps_headers = !C::ACCOUNTS_FOR_CHECKSUMS && !to_socket;
    if record.is_fragment || record.has_open_checksum && keeps_headers {
        context.shared.rx_pace.leave(context.now_ms);
        return Err(NotOurs::Form.into());
    }
    if segment != 0 {
        // Nobody has these cheaper than user space, and none must overtake them.
        context.shared.rx_pace.leave(context.now_ms);
        return Err(Verdict::Left(Counted::UpBulk));
    }
    if to_socket {
        return Err(steer(frame, &context, settings));
    }
    check_length(&context, &record, settings)?;
    open(frame, cpu, &context, &record)?;
    let inner = check_inner(cpu, &context, &record)?;
    let way = way(frame, cpu, &inner, settings);
    if !frame.prepare(&cpu.head, ETHERNET + inner.total_len) {
        context.shared.rx_pace.leave(context.now_ms);
        return Err(Verdict::Left(Counted::UpRoute));
    }
    commit(&context, &record)?;
    if inner::is_congested(record.tos) && !inner.mark_congestion(cpu.inner()) {
        return Err(dropped(
            &context,
            DropReason::Malformed,
            Counted::DropMalformed,
        ));
    }
    context.shared.rx_pace.taken(context.now_ns, &settings.rx);
    let device = frame.untagged_ingress(&cpu.head);
    if !frame.strip(cpu, &inner, &way) {
        return Err(Verdict::Drop(Counted::DropFrame));
    }
    count(&context, &inner, &way, device);
    Ok(way)
}

/// What [`parse_head`] says.
const PARSED: u32 = 1;
const CONTROL: u32 = 2;
const FORM: u32 = 3;

/// A global function, so that the verifier walks it once and its stack is given back.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn parse_head(cpu: *mut Cpu, len: u32, segment: u32) -> u32 {
    let Some(cpu) = Cpu::from_argument(cpu) else {
        return 0;
    };
    match datagram::parse(&cpu.head, len as usize, segment as usize, &mut cpu.flow) {
        Ok(record) => {
            cpu.record = record;
            PARSED
        }
        Err(NotOurs::Control) => CONTROL,
        Err(NotOurs::Form) => FORM,
        Err(NotOurs::Other) => 0,
    }
}

#[inline(always)]
fn find(cpu: &Cpu, record: &Record) -> Step<Context> {
    const UNKNOWN: Verdict = Verdict::Left(Counted::UpSession);
    let target = maps::flow(&cpu.flow).ok_or(UNKNOWN)?;
    let slot = target >> 1;
    let keys = maps::keys(slot).ok_or(UNKNOWN)?;
    let channel = maps::channel(keys, target);
    let shared = maps::shared(slot).ok_or(UNKNOWN)?;
    let state = if target & 1 == 0 {
        &shared.channels[0]
    } else {
        &shared.channels[1]
    };
    let generation = read!(channel, generation);
    if generation == 0 || state.generation() != generation {
        return Err(UNKNOWN);
    }
    if record.epoch != read!(channel, epoch) {
        return Err(Verdict::Left(Counted::UpControl));
    }
    let now_ns = now_ns();
    Ok(Context {
        slot,
        keys,
        channel,
        generation,
        shared,
        state,
        now_ns,
        now_ms: now_ns / 1_000_000,
    })
}

/// Leaves a record to user space as it is, by a socket if it may go by one.
#[inline(always)]
fn steer<C: Carrier>(frame: &C, context: &Context, settings: &Settings) -> Verdict {
    let pace = &context.shared.rx_pace;
    if frame.len() > MAX_SOCKET_FRAME as usize {
        pace.leave(context.now_ms);
        return Verdict::Left(Counted::UpBulk);
    }
    if pace.holds(context.now_ns, &settings.rx) {
        return Verdict::Left(Counted::UpBulk);
    }
    // The keys are not in the kernel then, so nobody opens it here.
    let Some(socket) = frame.socket() else {
        return Verdict::Left(Counted::UpRoute);
    };
    Verdict::Socket(socket, Counted::RxSocket)
}

/// What is cheaper in user space, and what must not overtake it (`ocserv_common::pace`).
#[inline(always)]
fn check_length(context: &Context, record: &Record, settings: &Settings) -> Step<()> {
    if record.length <= TAG {
        return Err(Verdict::Left(Counted::UpForm));
    }
    let len = (RECORD_HEADER + record.length) as u32;
    if !context
        .shared
        .rx_pace
        .takes(context.now_ns, len, &settings.rx)
    {
        return Err(Verdict::Left(Counted::UpBulk));
    }
    Ok(())
}

/// Decrypts a copy of the record and checks its tag.
#[inline(always)]
fn open<C: Carrier>(frame: &C, cpu: &mut Cpu, context: &Context, record: &Record) -> Step<()> {
    if !context.state.window().would_accept(record.sequence) {
        return Err(refused(context, DropReason::Replay, Counted::DropReplay));
    }
    let text_len = record.length - TAG;
    let text = record.offset + RECORD_HEADER;
    let sheet = &mut cpu.sheet;
    let iv = read!(context.channel, client_iv);
    sheet.nonce = encapsulation::nonce(&iv, record.epoch, record.sequence);
    sheet.len = text_len as u32;
    sheet.aad_len = RECORD_HEADER as u32;
    let [first, second] = encapsulation::additional_data(record.epoch, record.sequence, text_len);
    sheet.body[0] = first;
    sheet.body[1] = second;
    if !frame.load_text(text, cpu.text_ptr(), record.length) {
        return Err(Verdict::Left(Counted::UpForm));
    }
    let tag = cpu.tag_behind(text_len);
    cpu.sheet.clear_behind();
    maps::copy_client_key(context.channel, &mut cpu.sheet.key);
    if !cipher::open(&mut cpu.sheet, &tag) {
        return Err(refused(context, DropReason::Auth, Counted::DropAuth));
    }
    Ok(())
}

/// A record that does not open. It may be one of the keys that the flow had before, or the keys may
/// have changed meanwhile: user space knows.
#[inline(always)]
fn refused(context: &Context, reason: DropReason, counted: Counted) -> Verdict {
    if read!(context.channel, former) != 0 || !is_current(context) {
        return Verdict::Left(Counted::UpSession);
    }
    dropped(context, reason, counted)
}

/// Whether the keys are still the channel's, and its shared record theirs.
#[inline(always)]
fn is_current(context: &Context) -> bool {
    read!(context.channel, generation) == context.generation
        && context.state.generation() == context.generation
}

#[inline(always)]
fn dropped(context: &Context, reason: DropReason, counted: Counted) -> Verdict {
    context.shared.count_drop(reason);
    Verdict::Drop(counted)
}

/// The type byte, the header, the source. What is no data packet is left to user space.
#[inline(always)]
fn check_inner(cpu: &mut Cpu, context: &Context, record: &Record) -> Step<Inner> {
    let kind = cpu.sheet.body[2] as u8;
    let len = record.length - TAG - 1;
    if kind != 0 || len == 0 {
        return Err(Verdict::Left(Counted::UpControl));
    }
    let inner = Inner::parse(cpu.inner(), len).ok_or(Verdict::Left(Counted::UpForm))?;
    let address = inner.source(cpu.inner());
    cpu.address = address;
    let flags = read!(context.keys, flags);
    let is_own = if inner.is_ipv4 {
        flags & HAS_IPV4 != 0 && address[12..] == read!(context.keys, ipv4)
    } else {
        flags & HAS_IPV6 != 0 && is_within(&address, context.keys)
    };
    if is_own {
        return Ok(inner);
    }
    if flags & HAS_NETWORKS == 0 {
        commit(context, record)?;
        return Err(dropped(context, DropReason::Source, Counted::DropSource));
    }
    if maps::network(&cpu.address) == Some(context.slot) {
        return Ok(inner);
    }
    // Networks of two sessions may overlap: user space knows all of them.
    Err(Verdict::Left(Counted::UpSession))
}

#[inline(always)]
fn is_within(address: &Address, keys: *const SessionKeys) -> bool {
    let (network, mask) = (read!(keys, ipv6), read!(keys, ipv6_mask));
    let halves = |bytes: Address| {
        let bits = u128::from_ne_bytes(bytes);
        [bits as u64, (bits >> 64) as u64]
    };
    let (address, network, mask) = (halves(*address), halves(network), halves(mask));
    ((address[0] ^ network[0]) & mask[0]) | ((address[1] ^ network[1]) & mask[1]) == 0
}

/// Decides before anything is committed; the inner header changes on the sheet only.
#[inline(always)]
fn way<C: Carrier>(frame: &C, cpu: &mut Cpu, inner: &Inner, settings: &Settings) -> Way {
    if !C::MAY_GO_DIRECT || settings.direct == 0 || inner.has_options() {
        return Way::Stack;
    }
    route::ask_inner(cpu, inner, settings.tun_ifindex);
    // Only devices towards the LAN: what leaves towards the Internet meets the host's rules.
    if !frame.fib_lookup(&mut cpu.fib, 0)
        || maps::mac(cpu.fib.ifindex).is_none()
        || !maps::is_direct(cpu.fib.ifindex)
    {
        return Way::Stack;
    }
    if !inner.decrement_ttl(cpu.inner()) {
        return Way::Stack;
    }
    Way::Device(cpu.fib.ifindex)
}

#[inline(always)]
fn commit(context: &Context, record: &Record) -> Step<()> {
    // A number of former keys must not be committed to the window of others.
    if !is_current(context) {
        return Err(Verdict::Drop(Counted::DropReplay));
    }
    if !context.state.window().commit(record.sequence) {
        return Err(dropped(context, DropReason::Replay, Counted::DropReplay));
    }
    if !is_current(context) {
        // The window was given to other keys meanwhile, so what it says is not of this record.
        return Err(dropped(context, DropReason::Replay, Counted::DropReplay));
    }
    Ok(())
}

#[inline(always)]
fn count(context: &Context, inner: &Inner, way: &Way, device: Option<u32>) {
    let seconds = context.now_ms / 1000;
    let shared = context.shared;
    let live = &context.state.live;
    live.heard(context.now_ms);
    if let Some(device) = device
        && live.ifindex.get() != u64::from(device)
    {
        live.ifindex.set(device.into());
    }
    shared.last_udp_rx_secs.set(seconds);
    if inner.is_activity {
        shared.last_data_secs.set(seconds);
    }
    shared.rx_packets.add(1);
    shared.rx_bytes.add(inner.total_len as u64);
    maps::count(Counted::RxPackets);
    maps::add(Counted::RxBytes, inner.total_len as u64);
    if matches!(way, Way::Device(_)) {
        maps::count(Counted::RxDirect);
    }
}
