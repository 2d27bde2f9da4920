//! To a client: find its session, take a number, seal, send.
//!
//! Until a number is taken the packet is as it came, and may be left to user space.

use ocserv_common::datagram::{ETHERNET, RECORD_HEADER};
use ocserv_common::encapsulation::{
    self, Outgoing, additional_data, checksum_cover, front_len, is_ipv4,
};
use ocserv_common::inner::{Checksum, Inner};
use ocserv_common::kernel::{
    Counted, KernelChannel, MAX_INNER, MAX_SOCKET_FRAME, RECORD_OVERHEAD, SessionKeys, Settings,
};
use ocserv_common::session::{ChannelState, SessionShared};

use crate::cipher;
use crate::cpu::Cpu;
use crate::maps::{self, read};
use crate::packet::{Frame, Skb, TAG, now_ns, sum};
use crate::route::{self, OUTPUT};
use crate::verdict::{Step, Verdict};

/// An odd number whose multiples differ in all bits (2³² by the golden ratio).
const SPREAD: u32 = 0x9e37_79b1;

const UNKNOWN: Verdict = Verdict::Left(Counted::UpSession);

/// Where a packet goes.
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

/// A sealed record with its headers.
pub struct Sealed {
    /// Device to send by.
    pub ifindex: u32,
    /// Bytes of all headers before the ciphertext.
    pub front: usize,
    /// Bytes of the frame.
    pub len: usize,
}

/// Takes a packet that the host sends by the tun device.
#[inline(always)]
pub fn send_packet(skb: &Skb) -> Step<u32> {
    let cpu = maps::tx_cpu().ok_or(Verdict::Pass)?;
    let settings = maps::settings().ok_or(Verdict::Pass)?;
    if settings.sockets != 0 {
        // User space has those before it.
        return Err(Verdict::Pass);
    }
    let len = skb.len();
    if !skb.load_inner_head(cpu.inner(), len) {
        return Err(Verdict::Pass);
    }
    let inner = Inner::parse(cpu.inner(), len).ok_or(Verdict::Left(Counted::UpForm))?;
    let context = find(cpu, &inner)?;
    check_length(&context, &inner, settings, skb.segment() != 0)?;
    match inner.checksum(cpu.inner(), skb.is_local()) {
        Checksum::Complete => {}
        Checksum::LooksOpen => {
            context.shared.tx_pace.leave(context.now_ms);
            return Err(Verdict::Left(Counted::UpForm));
        }
        Checksum::Unknown => return Err(Verdict::Left(Counted::UpForm)),
    }
    ask_route(cpu, &context, &inner);
    if !skb.fib_lookup(&mut cpu.fib, OUTPUT) {
        // Too long for the way, or nobody knows the neighbour yet: that may be over for the next one.
        context.shared.tx_pace.leave(context.now_ms);
        return Err(Verdict::Left(Counted::UpRoute));
    }
    prepare(cpu, &inner);
    if !skb.load_text(0, cpu.inner_ptr(), inner.total_len) {
        return Err(Verdict::Left(Counted::UpForm));
    }
    let sealed = seal(cpu, &context, &inner)?;
    // One queue for all packets to a client keeps their order.
    skb.set_hash(context.slot.wrapping_mul(SPREAD));
    if !skb.set_len(sealed.len - sealed.front) {
        return Err(Verdict::Left(Counted::UpRoute));
    }
    let grown = skb.grow(sealed.front, is_ipv4(&cpu.flow))
        && skb.store(cpu.front_ptr(sealed.front), sealed.len);
    if !grown {
        return Err(Verdict::Drop(Counted::DropFrame));
    }
    count(&context, &inner);
    Ok(sealed.ifindex)
}

/// Takes a frame that a LAN device received (`xdp-forward = direct`).
#[inline(always)]
pub fn send_frame(frame: &Frame) -> Step<u32> {
    let cpu = maps::tx_cpu().ok_or(Verdict::Pass)?;
    let settings = maps::settings().ok_or(Verdict::Pass)?;
    let len = frame.len();
    if settings.direct == 0 || len <= ETHERNET || !frame.load_head(&mut cpu.head, len) {
        return Err(Verdict::Pass);
    }
    let is_ours = maps::mac(frame.ingress()).is_some_and(|mac| cpu.head[..6] == mac);
    let is_ip = matches!(cpu.head[12..14], [0x08, 0x00] | [0x86, 0xdd]);
    if !is_ours || !is_ip {
        return Err(Verdict::Pass);
    }
    let start = *cpu.head[ETHERNET..].first_chunk().ok_or(Verdict::Pass)?;
    *cpu.inner() = start;
    let inner = Inner::parse(cpu.inner(), len - ETHERNET).ok_or(Verdict::Pass)?;
    let context = find(cpu, &inner).map_err(|_| Verdict::Pass)?;
    let to_socket = settings.sockets != 0;
    if !to_socket {
        check_length_early(&context, &inner, settings)?;
    }
    let checksum = inner.checksum(cpu.inner(), false);
    if to_socket {
        return Err(steer(frame, cpu, &context, &inner, checksum, settings));
    }
    if checksum == Checksum::LooksOpen {
        context.shared.tx_pace.leave(context.now_ms);
    }
    if inner.has_options() || checksum != Checksum::Complete {
        return Err(Verdict::Left(Counted::UpForm));
    }
    ask_route(cpu, &context, &inner);
    if !frame.fib_lookup(&mut cpu.fib, OUTPUT) || !maps::is_direct(cpu.fib.ifindex) {
        return Err(Verdict::Left(Counted::UpRoute));
    }
    prepare(cpu, &inner);
    if !frame.load_text(ETHERNET, cpu.inner_ptr(), inner.total_len)
        || !inner.decrement_ttl(cpu.inner())
    {
        return Err(Verdict::Left(Counted::UpForm));
    }
    // The room first: what a driver does not give is known before a number is taken.
    let growth = growth(cpu, &inner, len);
    if !frame.adjust_head(-growth) {
        return Err(Verdict::Left(Counted::UpRoute));
    }
    let sealed = match seal(cpu, &context, &inner) {
        Ok(sealed) => sealed,
        Err(_) => {
            return Err(match frame.adjust_head(growth) {
                true => Verdict::Left(Counted::UpRoute),
                false => Verdict::Drop(Counted::DropFrame),
            });
        }
    };
    if !frame.store(cpu.front_ptr(sealed.front), sealed.len) {
        return Err(Verdict::Drop(Counted::DropFrame));
    }
    context.shared.tx_pace.taken(context.now_ns, &settings.tx);
    count(&context, &inner);
    maps::count(Counted::TxDirect);
    Ok(sealed.ifindex)
}

/// How many bytes a frame of `len` bytes grows by, to hold the record. All of it at its head: there is
/// always room, while a driver may have none at the tail.
#[inline(always)]
fn growth(cpu: &Cpu, inner: &Inner, len: usize) -> i32 {
    let sealed = front_len(is_ipv4(&cpu.flow)) + 1 + inner.total_len + TAG;
    sealed as i32 - len as i32
}

/// The session of the destination, and the channel to send by.
#[inline(always)]
fn find(cpu: &mut Cpu, inner: &Inner) -> Step<Context> {
    cpu.address = inner.destination(cpu.inner());
    let slot = match maps::lease(&cpu.address) {
        Some(slot) => slot,
        None => maps::network(&cpu.address).ok_or(UNKNOWN)?,
    };
    let keys = maps::keys(slot).ok_or(UNKNOWN)?;
    let shared = maps::shared(slot).ok_or(UNKNOWN)?;
    let now_ns = now_ns();
    let now_ms = now_ns / 1_000_000;
    let silence_ms = u64::from(read!(keys, silence_ms));
    let newest = u32::from(read!(keys, newest));
    for number in [newest, newest ^ 1] {
        let channel = maps::channel(keys, number);
        let state = if number & 1 == 0 {
            &shared.channels[0]
        } else {
            &shared.channels[1]
        };
        let generation = read!(channel, generation);
        let is_usable = generation != 0
            && state.generation() == generation
            && state.live.usable(now_ms, silence_ms);
        if is_usable {
            return Ok(Context {
                slot,
                keys,
                channel,
                generation,
                shared,
                state,
                now_ns,
                now_ms,
            });
        }
    }
    Err(UNKNOWN)
}

/// What is cheaper in user space, and what must not overtake it (`ocserv_common::pace`).
#[inline(always)]
fn check_length(
    context: &Context,
    inner: &Inner,
    settings: &Settings,
    is_super_packet: bool,
) -> Step<()> {
    let len = inner.total_len as u32;
    let pace = &context.shared.tx_pace;
    if is_super_packet || is_too_long(context, len) {
        pace.leave(context.now_ms);
        return Err(Verdict::Left(Counted::UpBulk));
    }
    if !pace.takes(context.now_ns, len + RECORD_OVERHEAD, &settings.tx) {
        return Err(Verdict::Left(Counted::UpBulk));
    }
    pace.taken(context.now_ns, &settings.tx);
    Ok(())
}

/// The same before the stack: what is left meets [`send_packet`], which counts it.
#[inline(always)]
fn check_length_early(context: &Context, inner: &Inner, settings: &Settings) -> Step<()> {
    let len = inner.total_len as u32;
    let pace = &context.shared.tx_pace;
    if is_too_long(context, len)
        || !pace.takes_early(context.now_ns, len + RECORD_OVERHEAD, &settings.tx)
    {
        return Err(Verdict::Left(Counted::UpBulk));
    }
    Ok(())
}

/// Leaves a packet to user space as it is, by a socket if it may go by one.
#[inline(always)]
fn steer(
    frame: &Frame,
    cpu: &mut Cpu,
    context: &Context,
    inner: &Inner,
    checksum: Checksum,
    settings: &Settings,
) -> Verdict {
    let pace = &context.shared.tx_pace;
    if frame.len() > MAX_SOCKET_FRAME as usize || is_too_long(context, inner.total_len as u32) {
        pace.leave(context.now_ms);
        return left(Counted::UpBulk);
    }
    // The flow's next packets may be others.
    let is_odd = inner.has_options() || inner.is_fragment(cpu.inner());
    if is_odd || checksum == Checksum::LooksOpen {
        pace.leave(context.now_ms);
        return left(Counted::UpForm);
    }
    // All of the flow are like this one; or the client does not get it.
    if checksum == Checksum::Unknown || !inner.has_hops(cpu.inner()) {
        return left(Counted::UpForm);
    }
    if pace.holds(context.now_ns, &settings.tx) {
        return left(Counted::UpBulk);
    }
    match frame.socket() {
        Some(socket) => Verdict::Socket(socket, Counted::TxSocket),
        None => left(Counted::UpRoute),
    }
}

/// Left, and counted here: behind the stack no program does.
#[inline(always)]
fn left(counted: Counted) -> Verdict {
    maps::count(counted);
    Verdict::Pass
}

#[inline(always)]
fn is_too_long(context: &Context, len: u32) -> bool {
    len > MAX_INNER || len > read!(context.keys, mtu)
}

#[inline(always)]
fn ask_route(cpu: &mut Cpu, context: &Context, inner: &Inner) {
    maps::copy_flow(context.channel, &mut cpu.flow);
    let ip_len = front_len(is_ipv4(&cpu.flow)) - ETHERNET + 1 + inner.total_len + TAG;
    let tos = read!(context.keys, tos);
    let ifindex = match context.state.live.ifindex.get() {
        0 => read!(context.channel, ifindex),
        known => known as u32,
    };
    route::ask_outer(cpu, ip_len, tos, ifindex);
}

/// Makes the sheet ready for the packet.
#[inline(always)]
fn prepare(cpu: &mut Cpu, inner: &Inner) {
    let sheet = &mut cpu.sheet;
    sheet.len = inner.total_len as u32 + 1;
    sheet.aad_len = RECORD_HEADER as u32;
    sheet.clear_end();
    // The type byte: data.
    sheet.body[2] = 0;
}

/// Seals what is on the sheet and writes the headers before it.
#[inline(always)]
fn seal(cpu: &mut Cpu, context: &Context, inner: &Inner) -> Step<Sealed> {
    let channel = context.channel;
    maps::copy_server_key(channel, &mut cpu.sheet.key);
    let iv = read!(channel, server_iv);
    let epoch = read!(channel, epoch);
    let Some(sequence) = context.state.take_tx_seq(1) else {
        cpu.sheet.forget_keys();
        return Err(UNKNOWN);
    };
    let is_current = read!(channel, generation) == context.generation
        && context.state.generation() == context.generation;
    if !is_current {
        // Keys or number belong to another generation; taking the number has ordered the reads.
        cpu.sheet.forget_keys();
        return Err(UNKNOWN);
    }
    let text_len = inner.total_len + 1;
    let sheet = &mut cpu.sheet;
    sheet.nonce = encapsulation::nonce(&iv, epoch, sequence);
    let [first, second] = additional_data(epoch, sequence, text_len);
    sheet.body[0] = first;
    sheet.body[1] = second;
    if !cipher::seal(&mut cpu.sheet) {
        return Err(UNKNOWN);
    }
    cpu.put_tag(text_len);
    let length = text_len + TAG;
    let is_ipv4 = is_ipv4(&cpu.flow);
    let macs = route::macs(&cpu.fib);
    let (front, flow) = cpu.front_and_flow();
    let out = Outgoing {
        flow,
        macs: &macs,
        epoch,
        sequence,
        length,
        tos: read!(context.keys, tos),
        dont_fragment: read!(context.keys, dont_fragment) != 0,
    };
    encapsulation::write(front, &out);
    finish_checksum(cpu, is_ipv4, length).ok_or(UNKNOWN)?;
    let front = front_len(is_ipv4);
    Ok(Sealed {
        ifindex: cpu.fib.ifindex,
        front,
        len: front + length,
    })
}

#[inline(always)]
fn finish_checksum(cpu: &mut Cpu, is_ipv4: bool, length: usize) -> Option<()> {
    let before = checksum_cover(is_ipv4);
    let covered = before + length;
    cpu.clear_behind(length);
    let sum = sum(cpu.front_ptr(before), covered.next_multiple_of(4))?;
    let udp_len = 8 + RECORD_HEADER + length;
    let checksum = encapsulation::udp_checksum(sum, udp_len);
    encapsulation::set_udp_checksum(cpu.front(), checksum);
    Some(())
}

#[inline(always)]
fn count(context: &Context, inner: &Inner) {
    let shared = context.shared;
    if inner.is_activity {
        shared.last_data_secs.set(context.now_ms / 1000);
    }
    shared.tx_packets.add(1);
    shared.tx_bytes.add(inner.total_len as u64);
    maps::count(Counted::TxPackets);
    maps::add(Counted::TxBytes, inner.total_len as u64);
}
