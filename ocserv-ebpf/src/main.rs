//! The kernel path. Entry points, and the one place where outcomes become verdicts.
//!
//! - `xdp_rx` on devices towards clients opens records and makes inner packets of their frames;
//! - `tc_deliver` on the same devices hands these to the stack as received by the tun device;
//! - `tc_rx` does the work of both, where XDP costs more than it saves;
//! - `tc_tx` on the tun device seals packets to clients and sends them by the device towards them;
//! - `xdp_tx` on LAN devices does so before the stack (`xdp-forward = direct`);
//! - `xdp_route` is on no device: it tells what the routing table says.
//!
//! With `xdp-sockets` the programs of XDP hand packets of sessions over to sockets of the dataplane, and `tc_tx` has
//! nothing to do.
//!
//! What they do not know, and what user space does better, they pass on untouched.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod carrier;
mod cipher;
mod cpu;
mod maps;
mod packet;
mod report;
mod route;
mod rx;
mod tx;
mod verdict;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

use self::packet::{Frame, Skb};
use self::rx::Way;
use self::verdict::Verdict;

/// The next program, or the stack, decides.
const TC_NEXT: i32 = -1;
const TC_DROP: i32 = 2;

/// Opens records from clients.
#[xdp]
pub fn xdp_rx(context: XdpContext) -> u32 {
    match rx::receive(&Frame(context.ctx)) {
        Ok(Way::Stack) => XDP_PASS,
        Ok(Way::Device(ifindex)) => maps::redirect(ifindex),
        Err(verdict) => xdp_action(&context, verdict),
    }
}

/// Seals packets from a LAN device.
#[xdp]
pub fn xdp_tx(context: XdpContext) -> u32 {
    match tx::send_frame(&Frame(context.ctx)) {
        Ok(ifindex) => maps::redirect(ifindex),
        // `tc_tx` meets it behind the stack, and counts it if it leaves it too.
        Err(Verdict::Left(_)) => XDP_PASS,
        Err(verdict) => xdp_action(&context, verdict),
    }
}

/// Answers a question to the routing table, in a test run. Who may start those can have frames treated as
/// received ("live"): these go nowhere.
#[xdp]
pub fn xdp_route(context: XdpContext) -> u32 {
    route::answer(&Frame(context.ctx));
    XDP_DROP
}

/// Hands inner packets to the tun device.
#[classifier]
pub fn tc_deliver(context: TcContext) -> i32 {
    let skb = Skb(context.skb.skb);
    if !skb.is_marked() {
        return TC_NEXT;
    }
    let Some(settings) = maps::settings() else {
        return TC_NEXT;
    };
    skb.distrust_checksum();
    if !skb.drop_vlan() {
        return TC_DROP;
    }
    skb.redirect(settings.tun_ifindex, true)
}

/// Opens records from clients and hands inner packets to the tun device.
#[classifier]
pub fn tc_rx(context: TcContext) -> i32 {
    let skb = Skb(context.skb.skb);
    match (rx::receive(&skb), maps::settings()) {
        (Ok(_), Some(settings)) => skb.redirect(settings.tun_ifindex, true),
        (Ok(_), None) => TC_DROP,
        (Err(verdict), _) => tc_action(&context, verdict),
    }
}

/// Seals packets from the tun device.
#[classifier]
pub fn tc_tx(context: TcContext) -> i32 {
    let skb = Skb(context.skb.skb);
    match tx::send_packet(&skb) {
        Ok(ifindex) => skb.redirect(ifindex, false),
        Err(verdict) => tc_action(&context, verdict),
    }
}

#[inline(always)]
fn xdp_action(context: &XdpContext, verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Pass => XDP_PASS,
        Verdict::Left(counted) => {
            maps::count(counted);
            XDP_PASS
        }
        Verdict::Socket(socket, counted) => {
            let action = maps::hand_over(socket);
            if action == XDP_REDIRECT {
                maps::count(counted);
            }
            action
        }
        Verdict::Drop(counted) => {
            maps::count(counted);
            report::dropped(context, counted);
            XDP_DROP
        }
    }
}

#[inline(always)]
fn tc_action(context: &TcContext, verdict: Verdict) -> i32 {
    match verdict {
        // Sockets are for frames.
        Verdict::Pass | Verdict::Socket(..) => TC_NEXT,
        Verdict::Left(counted) => {
            maps::count(counted);
            TC_NEXT
        }
        Verdict::Drop(counted) => {
            maps::count(counted);
            report::dropped(context, counted);
            TC_DROP
        }
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// Helpers of the kernel are for GPL programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
