//! Questions to the host's routing table.

use aya_ebpf::bindings::{
    bpf_fib_lookup, bpf_fib_lookup__bindgen_ty_1, bpf_fib_lookup__bindgen_ty_2,
    bpf_fib_lookup__bindgen_ty_3, bpf_fib_lookup__bindgen_ty_4, bpf_fib_lookup__bindgen_ty_5,
};
use ocserv_common::encapsulation::{is_ipv4, is_mapped};
use ocserv_common::inner::Inner;
use ocserv_common::kernel::RouteFrame;

use crate::cpu::Cpu;
use crate::maps;
use crate::packet::Frame;

/// The question is how this host sends, by the device that it names.
pub const OUTPUT: u32 = 2;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const UDP: u8 = 17;
/// No question yet.
const BLANK: bpf_fib_lookup = bpf_fib_lookup {
    family: 0,
    l4_protocol: 0,
    sport: 0,
    dport: 0,
    __bindgen_anon_1: bpf_fib_lookup__bindgen_ty_1 { tot_len: 0 },
    ifindex: 0,
    __bindgen_anon_2: bpf_fib_lookup__bindgen_ty_2 { flowinfo: 0 },
    __bindgen_anon_3: bpf_fib_lookup__bindgen_ty_3 { ipv6_src: [0; 4] },
    __bindgen_anon_4: bpf_fib_lookup__bindgen_ty_4 { ipv6_dst: [0; 4] },
    __bindgen_anon_5: bpf_fib_lookup__bindgen_ty_5 { tbid: 0 },
    smac: [0; 6],
    dmac: [0; 6],
};

/// How an inner packet goes on that came in by `ifindex`.
#[inline(always)]
pub fn ask_inner(cpu: &mut Cpu, inner: &Inner, ifindex: u32) {
    let source = inner.source(cpu.inner());
    let destination = inner.destination(cpu.inner());
    let fib = &mut cpu.fib;
    reset(fib, inner.is_ipv4, inner.protocol, inner.total_len, ifindex);
    set_addresses(fib, inner.is_ipv4, &source, &destination);
}

/// How a record of `ip_len` bytes with its IP header goes to the client of `cpu.flow` by `ifindex`.
#[inline(always)]
pub fn ask_outer(cpu: &mut Cpu, ip_len: usize, tos: u8, ifindex: u32) {
    let Cpu { flow, fib, .. } = cpu;
    let is_ipv4 = is_ipv4(flow);
    reset(fib, is_ipv4, UDP, ip_len, ifindex);
    if is_ipv4 {
        fib.__bindgen_anon_2.tos = tos;
    }
    fib.sport = u16::from_ne_bytes(flow.local_port);
    fib.dport = u16::from_ne_bytes(flow.peer_port);
    set_addresses(fib, is_ipv4, &flow.local, &flow.peer);
}

/// Answers the question in a frame: which way goes on past the stack.
#[inline(always)]
pub fn answer(frame: &Frame) {
    let mut question = RouteFrame::EMPTY;
    if !frame.load_question(&mut question) {
        return;
    }
    let mut fib = BLANK;
    ask(&mut fib, &question);
    let is_output = question.is_output != 0;
    let is_known = frame.fib_lookup(&mut fib, if is_output { OUTPUT } else { 0 });
    let may_send = || {
        if is_output {
            maps::is_direct(fib.ifindex)
        } else {
            maps::mac(fib.ifindex).is_some()
        }
    };
    let found = is_known && may_send();
    question.found = found.into();
    question.egress = if found { fib.ifindex } else { 0 };
    question.macs = if found { macs(&fib) } else { [0; 12] };
    frame.store_answer(&mut question);
}

#[inline(always)]
fn ask(fib: &mut bpf_fib_lookup, question: &RouteFrame) {
    let is_ipv4 = is_mapped(&question.destination);
    let len = usize::from(question.len);
    reset(fib, is_ipv4, question.protocol, len, question.ifindex);
    if is_ipv4 {
        fib.__bindgen_anon_2.tos = question.tos;
    }
    fib.sport = u16::from_ne_bytes(question.source_port);
    fib.dport = u16::from_ne_bytes(question.destination_port);
    set_addresses(fib, is_ipv4, &question.source, &question.destination);
}

/// Destination and source of the Ethernet header, from the answer.
#[inline(always)]
pub fn macs(fib: &bpf_fib_lookup) -> [u8; 12] {
    let [a, b, c, d, e, f] = fib.dmac;
    let [g, h, i, j, k, l] = fib.smac;
    [a, b, c, d, e, f, g, h, i, j, k, l]
}

#[inline(always)]
fn reset(fib: &mut bpf_fib_lookup, is_ipv4: bool, protocol: u8, len: usize, ifindex: u32) {
    fib.family = if is_ipv4 { AF_INET } else { AF_INET6 };
    fib.l4_protocol = protocol;
    fib.sport = 0;
    fib.dport = 0;
    fib.__bindgen_anon_1.tot_len = len as u16;
    fib.ifindex = ifindex;
    fib.__bindgen_anon_2.flowinfo = 0;
}

#[inline(always)]
fn set_addresses(fib: &mut bpf_fib_lookup, is_ipv4: bool, from: &[u8; 16], to: &[u8; 16]) {
    if is_ipv4 {
        fib.__bindgen_anon_3.ipv4_src = word(from, 3);
        fib.__bindgen_anon_4.ipv4_dst = word(to, 3);
    } else {
        fib.__bindgen_anon_3.ipv6_src =
            [word(from, 0), word(from, 1), word(from, 2), word(from, 3)];
        fib.__bindgen_anon_4.ipv6_dst = [word(to, 0), word(to, 1), word(to, 2), word(to, 3)];
    }
}

#[inline(always)]
fn word(address: &[u8; 16], n: usize) -> u32 {
    let n = 4 * n;
    u32::from_ne_bytes([address[n], address[n + 1], address[n + 2], address[n + 3]])
}
