//! What `occtl show datapath` is told.

use ocserv_common::kernel::Counted;
use ocserv_common::session::{DropReason, SessionShared};
use ocserv_proto::config::XdpForward;
use ocserv_proto::control::{
    DatapathDevice, DatapathInfo, PathTraffic, ProgramInfo, SocketTraffic,
};

use super::Supervisor;
use crate::costs::{Costs, RecordLimits};
use crate::kernel_path::{Attached, KernelPath};

impl Supervisor {
    /// The paths of packets as they are now.
    pub(super) fn datapath_info(&self) -> DatapathInfo {
        let with_dtls = self
            .open_tunnels()
            .filter(|tunnel| tunnel.channels.iter().any(Option::is_some));
        let forward = match self.config.xdp_forward {
            XdpForward::Stack => "stack",
            XdpForward::Direct => "direct",
        };
        let mut info = DatapathInfo {
            state: "off".to_owned(),
            reason: self.kernel_off.clone(),
            forward: forward.to_owned(),
            limit: "none".to_owned(),
            sessions: with_dtls.count() as u64,
            user: self.all_traffic(),
            user_drops: drops(self.stats.ended_drops(), self.open_records()),
            ..DatapathInfo::default()
        };
        if let Some(kernel) = &self.kernel {
            add_kernel(&mut info, kernel, self.sockets.count());
            add_limits(&mut info, &kernel.options().limits, self.costs.as_ref());
            if kernel.options().sockets {
                "sockets".clone_into(&mut info.limit);
            } else if self.config.xdp_max_record.is_none() && self.costs.is_none() {
                "not measured".clone_into(&mut info.limit);
            }
        }
        info
    }

    /// Packets of all sessions since the start, whichever path they took.
    fn all_traffic(&self) -> PathTraffic {
        let mut sum = self.stats.ended_traffic();
        for shared in self.open_records() {
            sum += traffic(shared);
        }
        sum
    }

    fn open_records(&self) -> impl Iterator<Item = &SessionShared> {
        self.open_tunnels().map(|tunnel| &self.shared[tunnel.slot])
    }
}

/// The kernel's part. A session's record counts both paths.
fn add_kernel(info: &mut DatapathInfo, kernel: &KernelPath, sockets: u64) {
    "on".clone_into(&mut info.state);
    info.reason.clear();
    let program = |(name, id)| ProgramInfo { name, id };
    info.programs = kernel.programs().into_iter().map(program).collect();
    info.programs.sort_by(|a, b| a.name.cmp(&b.name));
    let device = |has: &Attached| DatapathDevice {
        name: has.name.clone(),
        role: has.role.word().to_owned(),
        mode: has.mode.word().to_owned(),
    };
    info.devices = kernel.attached().iter().map(device).collect();
    info.kernel_sessions = kernel.session_count() as u64;
    let counts = match kernel.counts() {
        Ok(counts) => counts,
        Err(error) => {
            tracing::warn!("cannot read the kernel path's counters: {error:#}");
            return;
        }
    };
    let of = |what: Counted| counts.values[what as usize];
    info.kernel = PathTraffic {
        rx_packets: of(Counted::RxPackets),
        rx_bytes: of(Counted::RxBytes),
        tx_packets: of(Counted::TxPackets),
        tx_bytes: of(Counted::TxBytes),
    };
    info.direct_rx_packets = of(Counted::RxDirect);
    info.direct_tx_packets = of(Counted::TxDirect);
    if kernel.options().sockets {
        info.sockets = Some(SocketTraffic {
            count: sockets,
            rx_packets: of(Counted::RxSocket),
            tx_packets: of(Counted::TxSocket),
        });
    }
    let user = &mut info.user;
    user.rx_packets = user.rx_packets.saturating_sub(info.kernel.rx_packets);
    user.rx_bytes = user.rx_bytes.saturating_sub(info.kernel.rx_bytes);
    user.tx_packets = user.tx_packets.saturating_sub(info.kernel.tx_packets);
    user.tx_bytes = user.tx_bytes.saturating_sub(info.kernel.tx_bytes);
    let named = |(what, name): &(Counted, &str)| ((*name).to_owned(), of(*what));
    info.left = LEFT.iter().map(named).collect();
    info.kernel_drops = DROPPED.iter().map(named).collect();
    for (reason, user) in &mut info.user_drops {
        let kernel = info.kernel_drops.iter().find(|(name, _)| name == reason);
        *user = user.saturating_sub(kernel.map_or(0, |(_, count)| *count));
    }
}

/// Which lengths the programs take, and why.
fn add_limits(info: &mut DatapathInfo, limits: &RecordLimits, costs: Option<&Costs>) {
    let named = |list: &[(&str, f64)]| {
        let one = |(name, value): &(&str, f64)| ((*name).to_owned(), value.round() as u64);
        list.iter().map(one).collect()
    };
    info.max_record = limits.rx.alone;
    info.limits = named(&[
        ("From clients", limits.rx.alone.into()),
        ("From clients in bursts", limits.rx.close.into()),
        ("To clients", limits.tx.alone.into()),
        ("To clients in bursts", limits.tx.close.into()),
    ]);
    let Some(costs) = costs else {
        "fixed".clone_into(&mut info.limit);
        return;
    };
    "auto".clone_into(&mut info.limit);
    let [rx, tx] = costs.outputs;
    info.costs = named(&[
        ("Kernel, 64 bytes", costs.kernel.at(64.0)),
        ("Kernel, 1400 bytes", costs.kernel.at(1400.0)),
        ("User space, 64 bytes", costs.user.at(64.0)),
        ("User space, 1400 bytes", costs.user.at(1400.0)),
        ("Datagram to this host", costs.walk),
        ("Write to the tun device", rx),
        ("Message to a client", tx),
    ]);
}

/// Why programs leave packets to user space.
const LEFT: [(Counted, &str); 5] = [
    (Counted::UpControl, "control"),
    (Counted::UpBulk, "bulk"),
    (Counted::UpForm, "form"),
    (Counted::UpSession, "session"),
    (Counted::UpRoute, "route"),
];
/// Why they drop some.
const DROPPED: [(Counted, &str); 5] = [
    (Counted::DropSource, "source"),
    (Counted::DropReplay, "replay"),
    (Counted::DropAuth, "authentication"),
    (Counted::DropMalformed, "malformed"),
    (Counted::DropFrame, "frame"),
];

/// The traffic counters of a session.
pub fn traffic(shared: &SessionShared) -> PathTraffic {
    PathTraffic {
        rx_packets: shared.rx_packets.get(),
        rx_bytes: shared.rx_bytes.get(),
        tx_packets: shared.tx_packets.get(),
        tx_bytes: shared.tx_bytes.get(),
    }
}

/// Sums of the sessions' drops since the start, every reason once.
fn drops<'a>(
    ended: [u64; DropReason::COUNT],
    records: impl Iterator<Item = &'a SessionShared>,
) -> Vec<(String, u64)> {
    let mut sums = DropReason::ALL.map(|reason| (words(reason).to_owned(), ended[reason as usize]));
    for shared in records {
        for ((_, sum), reason) in sums.iter_mut().zip(DropReason::ALL) {
            *sum = sum.saturating_add(shared.drops(reason));
        }
    }
    sums.into()
}

fn words(reason: DropReason) -> &'static str {
    match reason {
        DropReason::Source => "source",
        DropReason::Replay => "replay",
        DropReason::Auth => "authentication",
        DropReason::Malformed => "malformed",
        DropReason::TooBig => "too big",
        DropReason::RateLimit => "rate limit",
        DropReason::QueueFull => "queue full",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_is_that_of_the_record() {
        let shared = SessionShared::default();
        shared.rx_packets.set(1);
        shared.rx_bytes.set(2);
        shared.tx_packets.set(3);
        shared.tx_bytes.set(4);
        let expected = PathTraffic {
            rx_packets: 1,
            rx_bytes: 2,
            tx_packets: 3,
            tx_bytes: 4,
        };
        assert_eq!(traffic(&shared), expected);
    }

    #[test]
    fn drops_add_up_by_reason() {
        let (first, second) = (SessionShared::default(), SessionShared::default());
        first.count_drop(DropReason::Source);
        first.count_drop(DropReason::QueueFull);
        second.count_drop(DropReason::QueueFull);
        let mut ended = [0; DropReason::COUNT];
        ended[DropReason::QueueFull as usize] = 5;
        let sums = drops(ended, [&first, &second].into_iter());
        let expected = [
            ("source", 1),
            ("replay", 0),
            ("authentication", 0),
            ("malformed", 0),
            ("too big", 0),
            ("rate limit", 0),
            ("queue full", 7),
        ];
        let expected = expected.map(|(reason, count)| (reason.to_owned(), count));
        assert_eq!(sums, expected);
    }
}
