//! Words for the administrator, seldom: packets are counted, and the first of a crowd is told of.

use aya_ebpf::EbpfContext;
use aya_log_ebpf::{debug, info, warn};
use ocserv_common::kernel::Counted;

use crate::maps;
use crate::packet::now_ms;

/// A CPU says something at most this often.
const INTERVAL_MS: u64 = 10_000;

/// A packet was dropped.
#[inline(always)]
pub fn dropped(context: &impl EbpfContext, counted: Counted) {
    if !maps::may_report(now_ms(), INTERVAL_MS) {
        return;
    }
    match counted {
        Counted::DropAuth => info!(context, "records that do not authenticate are dropped"),
        Counted::DropReplay => debug!(context, "records that came before are dropped"),
        Counted::DropSource => debug!(context, "packets with a foreign source are dropped"),
        Counted::DropFrame => warn!(context, "a driver does not let frames be changed"),
        _ => {}
    }
}
