//! What `occtl show datapath` is told.

use ocserv_common::session::{DropReason, SessionShared};
use ocserv_proto::config::XdpForward;
use ocserv_proto::control::{DatapathInfo, PathTraffic};

use super::Supervisor;

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
        DatapathInfo {
            state: "off".to_owned(),
            reason: "no kernel path".to_owned(),
            forward: forward.to_owned(),
            max_record: self.config.xdp_max_record,
            sessions: with_dtls.count() as u64,
            user: self.all_traffic(),
            user_drops: drops(self.open_records()),
            ..DatapathInfo::default()
        }
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

/// The traffic counters of a session.
pub fn traffic(shared: &SessionShared) -> PathTraffic {
    PathTraffic {
        rx_packets: shared.rx_packets.get(),
        rx_bytes: shared.rx_bytes.get(),
        tx_packets: shared.tx_packets.get(),
        tx_bytes: shared.tx_bytes.get(),
    }
}

/// Sums of the sessions' drops, every reason once.
fn drops<'a>(records: impl Iterator<Item = &'a SessionShared>) -> Vec<(String, u64)> {
    let mut sums = DropReason::ALL.map(|reason| (words(reason).to_owned(), 0u64));
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
        let sums = drops([&first, &second].into_iter());
        let expected = [
            ("source", 1),
            ("replay", 0),
            ("authentication", 0),
            ("malformed", 0),
            ("too big", 0),
            ("rate limit", 0),
            ("queue full", 2),
        ];
        let expected = expected.map(|(reason, count)| (reason.to_owned(), count));
        assert_eq!(sums, expected);
    }
}
