//! Counters of `show status` (behaviour.md 5.10): since the start, and of the current period, which
//! `server-stats-reset-time` ends.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ocserv_common::session::{DropReason, SessionShared};
use ocserv_proto::control::{PathTraffic, PeriodInfo};

use crate::ipc::gate::EndReason;

/// Sums of the current period.
#[derive(Clone, Copy, Debug, Default)]
struct Period {
    sessions: u64,
    timed_out: u64,
    idle_timed_out: u64,
    errors: u64,
    auth_failures: u64,
    auths: u64,
    auth_time: Duration,
    max_auth_time: Duration,
    session_time: Duration,
    max_session_time: Duration,
    rx_bytes: u64,
    tx_bytes: u64,
}

/// The counters.
#[derive(Clone, Debug)]
pub struct Stats {
    reset_every: Duration,
    since: SystemTime,
    period: Period,
    total_sessions: u64,
    total_auth_failures: u64,
    ended_traffic: PathTraffic,
    /// By reason.
    ended_drops: [u64; DropReason::COUNT],
    mtu: Option<(u16, u16)>,
}

impl Stats {
    /// Starts to count at `now`; a `reset_every` of zero keeps one period for ever.
    pub fn new(reset_every: Duration, now: SystemTime) -> Self {
        Self {
            reset_every,
            since: now,
            period: Period::default(),
            total_sessions: 0,
            total_auth_failures: 0,
            ended_traffic: PathTraffic::default(),
            ended_drops: [0; DropReason::COUNT],
            mtu: None,
        }
    }

    /// A login failed.
    pub fn auth_failed(&mut self) {
        self.period.auth_failures += 1;
        self.total_auth_failures += 1;
    }

    /// A login succeeded after `took`.
    pub fn auth_succeeded(&mut self, took: Duration) {
        self.period.auths += 1;
        self.period.auth_time = self.period.auth_time.saturating_add(took);
        self.period.max_auth_time = self.period.max_auth_time.max(took);
    }

    /// A tunnel has this inner MTU.
    pub fn mtu_negotiated(&mut self, mtu: u16) {
        let (min, max) = self.mtu.unwrap_or((mtu, mtu));
        self.mtu = Some((min.min(mtu), max.max(mtu)));
    }

    /// A tunnel ended whose packets were dropped so.
    pub fn drops_ended(&mut self, shared: &SessionShared) {
        for (sum, reason) in self.ended_drops.iter_mut().zip(DropReason::ALL) {
            *sum = sum.saturating_add(shared.drops(reason));
        }
    }

    /// Packets dropped in tunnels that ended since the start, by reason.
    pub fn ended_drops(&self) -> [u64; DropReason::COUNT] {
        self.ended_drops
    }

    /// A tunnel ended after `lasted`; the traffic is that of this connection.
    pub fn session_ended(&mut self, reason: EndReason, lasted: Duration, traffic: PathTraffic) {
        let period = &mut self.period;
        self.total_sessions += 1;
        period.sessions += 1;
        match reason {
            EndReason::SessionTimeout => period.timed_out += 1,
            EndReason::IdleTimeout => period.idle_timed_out += 1,
            EndReason::Error => period.errors += 1,
            _ => {}
        }
        period.session_time = period.session_time.saturating_add(lasted);
        period.max_session_time = period.max_session_time.max(lasted);
        period.rx_bytes = period.rx_bytes.saturating_add(traffic.rx_bytes);
        period.tx_bytes = period.tx_bytes.saturating_add(traffic.tx_bytes);
        self.ended_traffic += traffic;
    }

    /// Begins a new period when the old one is over; returns the old one then, for the log.
    pub fn reset_if_due(&mut self, now: SystemTime) -> Option<PeriodInfo> {
        let age = now.duration_since(self.since).unwrap_or_default();
        if self.reset_every.is_zero() || age < self.reset_every {
            return None;
        }
        let ended = self.period();
        self.period = Period::default();
        self.mtu = None;
        self.since = now;
        Some(ended)
    }

    /// The current period.
    pub fn period(&self) -> PeriodInfo {
        let period = &self.period;
        PeriodInfo {
            since: self
                .since
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs(),
            sessions_handled: period.sessions,
            timed_out: period.timed_out,
            idle_timed_out: period.idle_timed_out,
            errors: period.errors,
            auth_failures: period.auth_failures,
            avg_auth_secs: average_secs(period.auth_time, period.auths),
            max_auth_secs: period.max_auth_time.as_secs(),
            avg_session_secs: average_secs(period.session_time, period.sessions),
            max_session_secs: period.max_session_time.as_secs(),
            rx_bytes: period.rx_bytes,
            tx_bytes: period.tx_bytes,
        }
    }

    /// Sessions that ended since the start.
    pub fn total_sessions(&self) -> u64 {
        self.total_sessions
    }

    /// Logins that failed since the start.
    pub fn total_auth_failures(&self) -> u64 {
        self.total_auth_failures
    }

    /// Traffic of the sessions that ended since the start.
    pub fn ended_traffic(&self) -> PathTraffic {
        self.ended_traffic
    }

    /// Smallest and largest MTU of the period; `(0, 0)` without a tunnel.
    pub fn mtu_range(&self) -> (u16, u16) {
        self.mtu.unwrap_or_default()
    }
}

fn average_secs(sum: Duration, count: u64) -> u64 {
    sum.as_secs().checked_div(count).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// One packet of so many bytes each way.
    fn traffic(rx_bytes: u64, tx_bytes: u64) -> PathTraffic {
        PathTraffic {
            rx_packets: 1,
            rx_bytes,
            tx_packets: 1,
            tx_bytes,
        }
    }

    #[test]
    fn sessions_and_logins_add_up() {
        let start = UNIX_EPOCH + secs(1000);
        let mut stats = Stats::new(secs(0), start);
        stats.auth_failed();
        stats.auth_succeeded(secs(3));
        stats.auth_succeeded(secs(6));
        stats.mtu_negotiated(1400);
        stats.mtu_negotiated(1300);
        stats.session_ended(EndReason::UserDisconnect, secs(10), traffic(100, 200));
        stats.session_ended(EndReason::IdleTimeout, secs(21), traffic(1, 2));
        stats.session_ended(EndReason::SessionTimeout, secs(1), traffic(0, 0));
        stats.session_ended(EndReason::Error, secs(0), traffic(0, 0));
        let expected = PeriodInfo {
            since: 1000,
            sessions_handled: 4,
            timed_out: 1,
            idle_timed_out: 1,
            errors: 1,
            auth_failures: 1,
            avg_auth_secs: 4,
            max_auth_secs: 6,
            avg_session_secs: 8,
            max_session_secs: 21,
            rx_bytes: 101,
            tx_bytes: 202,
        };
        assert_eq!(stats.period(), expected);
        assert_eq!(stats.mtu_range(), (1300, 1400));
        assert_eq!(
            stats.reset_if_due(start + secs(1_000_000)),
            None,
            "0 = never"
        );
    }

    #[test]
    fn a_period_ends_and_totals_stay() {
        let start = UNIX_EPOCH + secs(1000);
        let mut stats = Stats::new(secs(60), start);
        stats.auth_failed();
        stats.session_ended(EndReason::UserDisconnect, secs(10), traffic(100, 200));
        assert_eq!(stats.reset_if_due(start + secs(59)), None);
        let ended = stats.reset_if_due(start + secs(60)).unwrap();
        assert_eq!((ended.sessions_handled, ended.auth_failures), (1, 1));
        assert_eq!(
            stats.period(),
            PeriodInfo {
                since: 1060,
                ..PeriodInfo::default()
            }
        );
        assert_eq!(
            (stats.total_sessions(), stats.total_auth_failures()),
            (1, 1)
        );
        stats.session_ended(EndReason::UserDisconnect, secs(10), traffic(1, 2));
        let ended = PathTraffic {
            rx_packets: 2,
            rx_bytes: 101,
            tx_packets: 2,
            tx_bytes: 202,
        };
        assert_eq!(stats.ended_traffic(), ended);
    }
}
