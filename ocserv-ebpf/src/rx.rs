//! From a client: check, authenticate, commit, deliver.
//!
//! Until the number is committed the frame is as it came, and may be left to user space, which does the
//! same work. After it, whatever fails drops the packet: user space would take it for a replay.

use ocserv_common::datagram::{
    self, ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, RECORD_HEADER, Record,
};
use ocserv_common::inner::{self, Inner};
use ocserv_common::kernel::{
    Counted, RX_FORMER_KEYS, RX_HAS_IPV4, RX_HAS_IPV6, RX_HAS_NETWORKS, RxChannel, Settings,
};
use ocserv_common::encapsulation;
use ocserv_common::session::{ChannelState, DropReason, SessionShared};

use crate::cipher;
use crate::cpu::Cpu;
use crate::maps;
use crate::packet::{Frame, TAG, now_ms};
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
    channel: &'static RxChannel,
    shared: &'static SessionShared,
    state: &'static ChannelState,
    now_ms: u64,
}

/// Takes a frame from a client.
#[inline(always)]
pub fn receive(frame: &Frame) -> Step<Way> {
    let cpu = maps::rx_cpu().ok_or(Verdict::Pass)?;
    let settings = maps::settings().ok_or(Verdict::Pass)?;
    let len = frame.len();
    if !frame.load_head(&mut cpu.head, len) {
        return Err(Verdict::Pass);
    }
    let record = datagram::parse(&cpu.head, len, &mut cpu.flow)?;
    let context = find(cpu, &record)?;
    check_length(&context, &record, settings)?;
    open(frame, cpu, &context, &record)?;
    let inner = check_inner(cpu, &context, &record)?;
    let way = way(frame, cpu, &inner, settings);
    commit(frame, &context, &record)?;
    if inner::is_congested(record.tos) && !inner.mark_congestion(cpu.inner()) {
        return Err(dropped(&context, DropReason::Malformed, Counted::DropMalformed));
    }
    count(&context, &inner, &way);
    strip(frame, cpu, &record, &inner, &way)?;
    Ok(way)
}

#[inline(always)]
fn find(cpu: &Cpu, record: &Record) -> Step<Context> {
    const UNKNOWN: Verdict = Verdict::Left(Counted::UpSession);
    let channel = maps::flow(&cpu.flow).ok_or(UNKNOWN)?;
    if record.epoch != channel.epoch {
        return Err(Verdict::Left(Counted::UpControl));
    }
    let shared = maps::shared(channel.slot).ok_or(UNKNOWN)?;
    let state = if channel.channel == 0 {
        &shared.channels[0]
    } else {
        &shared.channels[1]
    };
    if state.generation() != channel.generation {
        return Err(UNKNOWN);
    }
    Ok(Context {
        channel,
        shared,
        state,
        now_ms: now_ms(),
    })
}

/// Long records are cheaper in user space, and what follows them soon must not overtake them.
#[inline(always)]
fn check_length(context: &Context, record: &Record, settings: &Settings) -> Step<()> {
    if record.length <= TAG {
        return Err(Verdict::Left(Counted::UpForm));
    }
    if RECORD_HEADER + record.length > settings.max_record as usize {
        context.shared.rx_bulk_ms.set(context.now_ms);
        return Err(Verdict::Left(Counted::UpBulk));
    }
    let since = context.now_ms.wrapping_sub(context.shared.rx_bulk_ms.get());
    if since < u64::from(settings.bulk_hold_ms) {
        return Err(Verdict::Left(Counted::UpBulk));
    }
    Ok(())
}

/// Decrypts a copy of the record and checks its tag.
#[inline(always)]
fn open(frame: &Frame, cpu: &mut Cpu, context: &Context, record: &Record) -> Step<()> {
    if !context.state.window().would_accept(record.sequence) {
        return Err(refused(context, DropReason::Replay, Counted::DropReplay));
    }
    let text_len = record.length - TAG;
    let text = record.offset + RECORD_HEADER;
    let sheet = &mut cpu.sheet;
    sheet.key = context.channel.key;
    sheet.nonce = encapsulation::nonce(&context.channel.iv, record.epoch, record.sequence);
    sheet.len = text_len as u32;
    sheet.aad_len = RECORD_HEADER as u32;
    let [first, second] = encapsulation::additional_data(record.epoch, record.sequence, text_len);
    sheet.body[0] = first;
    sheet.body[1] = second;
    sheet.clear_end();
    let form = Verdict::Left(Counted::UpForm);
    let tag = frame.load_tag(text + text_len).ok_or(form)?;
    if !frame.load_text(text, cpu.text_ptr(), text_len) {
        return Err(form);
    }
    if !cipher::open(&mut cpu.sheet, &tag) {
        return Err(refused(context, DropReason::Auth, Counted::DropAuth));
    }
    Ok(())
}

/// A record that does not open. It may be one of the keys that the flow had before: user space knows.
#[inline(always)]
fn refused(context: &Context, reason: DropReason, counted: Counted) -> Verdict {
    if context.channel.flags & RX_FORMER_KEYS != 0 {
        return Verdict::Left(Counted::UpSession);
    }
    dropped(context, reason, counted)
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
    let channel = context.channel;
    let is_own = if inner.is_ipv4 {
        channel.flags & RX_HAS_IPV4 != 0 && address[12..] == channel.ipv4
    } else {
        channel.flags & RX_HAS_IPV6 != 0 && is_within(&address, channel)
    };
    if is_own {
        return Ok(inner);
    }
    if channel.flags & RX_HAS_NETWORKS == 0 {
        return match context.state.window().commit(record.sequence) {
            true => Err(dropped(context, DropReason::Source, Counted::DropSource)),
            false => Err(dropped(context, DropReason::Replay, Counted::DropReplay)),
        };
    }
    if maps::network(&cpu.address) == Some(channel.slot) {
        return Ok(inner);
    }
    // Networks of two sessions may overlap: user space knows all of them.
    Err(Verdict::Left(Counted::UpSession))
}

#[inline(always)]
fn is_within(address: &[u8; 16], channel: &RxChannel) -> bool {
    let half = |bytes: &[u8; 16], n: usize| {
        let n = 8 * n;
        u64::from_ne_bytes([
            bytes[n],
            bytes[n + 1],
            bytes[n + 2],
            bytes[n + 3],
            bytes[n + 4],
            bytes[n + 5],
            bytes[n + 6],
            bytes[n + 7],
        ])
    };
    let differs = |n: usize| {
        (half(address, n) ^ half(&channel.ipv6, n)) & half(&channel.ipv6_mask, n)
    };
    differs(0) | differs(1) == 0
}

/// Decides before anything is committed; the inner header changes on the sheet only.
#[inline(always)]
fn way(frame: &Frame, cpu: &mut Cpu, inner: &Inner, settings: &Settings) -> Way {
    if settings.direct == 0 {
        return Way::Stack;
    }
    route::ask_inner(cpu, inner, settings.tun_ifindex);
    if !frame.fib_lookup(cpu, 0) || !maps::is_direct(cpu.fib.ifindex) {
        return Way::Stack;
    }
    if !inner.decrement_ttl(cpu.inner()) {
        return Way::Stack;
    }
    Way::Device(cpu.fib.ifindex)
}

#[inline(always)]
fn commit(frame: &Frame, context: &Context, record: &Record) -> Step<()> {
    if !frame.reserve_mark() {
        return Err(Verdict::Left(Counted::UpRoute));
    }
    if !context.state.window().commit(record.sequence) {
        return Err(dropped(context, DropReason::Replay, Counted::DropReplay));
    }
    if context.state.generation() != context.channel.generation {
        // The window was given to other keys meanwhile, so its word says nothing of this record.
        return Err(dropped(context, DropReason::Replay, Counted::DropReplay));
    }
    Ok(())
}

#[inline(always)]
fn count(context: &Context, inner: &Inner, way: &Way) {
    let seconds = context.now_ms / 1000;
    let shared = context.shared;
    context.state.live.heard(context.now_ms);
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

/// Makes the frame an Ethernet frame with the inner packet.
#[inline(always)]
fn strip(frame: &Frame, cpu: &mut Cpu, record: &Record, inner: &Inner, way: &Way) -> Step<()> {
    let macs: [u8; 12] = match way {
        Way::Stack => *cpu.head.first_chunk().ok_or(Verdict::Pass)?,
        Way::Device(_) => route::macs(&cpu.fib),
    };
    let ethertype = if inner.is_ipv4 {
        ETHERTYPE_IPV4
    } else {
        ETHERTYPE_IPV6
    };
    let header = cpu.ethernet();
    header[..12].copy_from_slice(&macs);
    header[12..].copy_from_slice(&ethertype.to_be_bytes());
    let new_len = ETHERNET + inner.total_len;
    let removed = record.offset + RECORD_HEADER + 1 - ETHERNET;
    let behind = frame.len() as i32 - removed as i32 - new_len as i32;
    let done = frame.adjust_head(removed as i32)
        && frame.adjust_tail(-behind)
        && frame.store(cpu.ethernet_ptr(), new_len)
        && frame.mark();
    if !done {
        return Err(Verdict::Drop(Counted::DropFrame));
    }
    Ok(())
}
