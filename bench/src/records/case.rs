//! The rows of the table: which way, how many sessions, what packets.

use std::str::FromStr;

use anyhow::{Result, bail, ensure};
use clap::Args;
use serde::Serialize;

use crate::Scale;

/// Inner flows of the cases with many.
const MANY_FLOWS: usize = 64;
/// Sessions of the case with mixed sizes.
const IMIX_SESSIONS: usize = 64;
/// Shortest and longest inner packet, bytes.
const SHORTEST: usize = 64;
const LONGEST: usize = 1400;
/// Sizes and numbers of sessions of a full run.
const SIZES: [usize; 5] = [64, 256, 512, 1024, 1400];
const SESSIONS: [usize; 3] = [1, 64, 256];
/// Those of a quick one: few, that it stays short.
const QUICK_SIZES: [usize; 2] = [64, 1400];
const QUICK_SIZES_OF_CROWDS: [usize; 1] = [512];
const QUICK_SESSIONS: [usize; 2] = [1, 64];
/// Sizes with client programs.
const SIZES_OF_PEERS: [usize; 2] = [64, 1400];
/// The simple IMIX: of twelve packets seven are small, four middle, one is large.
const IMIX: [usize; 12] = [64, 576, 64, 64, 576, 64, 1400, 64, 576, 64, 576, 64];

/// Which cases are wanted.
#[derive(Debug, Args)]
#[group(skip)]
pub struct Choice {
    /// Inner packets of the figure `records`: sizes in bytes, `imix`, `tcp`.
    #[arg(long, value_delimiter = ',')]
    sizes: Vec<Traffic>,
    /// Numbers of sessions of the figure `records`.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=4000))]
    sessions: Vec<u16>,
}

/// From where to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From clients to the lan.
    Up,
    /// From the lan to clients.
    Down,
}

impl Direction {
    /// Both, in the order of the table.
    pub const ALL: [Self; 2] = [Self::Up, Self::Down];

    /// As it stands in tables.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// Inner packets. Sizes have the headers in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub enum Traffic {
    /// UDP of one size, bytes.
    Udp(usize),
    /// UDP of mixed sizes, the simple IMIX.
    Imix,
    /// TCP data of a transfer, in order: segments of 1400 bytes.
    Tcp,
}

impl Traffic {
    /// Bytes of the packet with this number in its session.
    pub fn size(self, number: usize) -> usize {
        match self {
            Self::Udp(size) => size,
            Self::Imix => IMIX[number % IMIX.len()],
            Self::Tcp => LONGEST,
        }
    }

    /// As it stands below an axis of bytes.
    pub fn label(self) -> String {
        match self {
            Self::Udp(size) => size.to_string(),
            Self::Imix => self.into(),
            Self::Tcp => "TCP".to_owned(),
        }
    }

    /// All sizes that there are.
    pub fn sizes(self) -> Vec<usize> {
        match self {
            Self::Udp(size) => vec![size],
            Self::Imix => {
                let mut sizes = IMIX.to_vec();
                sizes.sort_unstable();
                sizes.dedup();
                sizes
            }
            Self::Tcp => vec![LONGEST],
        }
    }
}

impl From<Traffic> for String {
    fn from(traffic: Traffic) -> Self {
        match traffic {
            Traffic::Udp(size) => format!("{size} B"),
            Traffic::Imix => "IMIX".to_owned(),
            Traffic::Tcp => format!("TCP, {LONGEST} B"),
        }
    }
}

impl FromStr for Traffic {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> Result<Self> {
        if word.eq_ignore_ascii_case("imix") {
            return Ok(Self::Imix);
        }
        if word.eq_ignore_ascii_case("tcp") {
            return Ok(Self::Tcp);
        }
        let Ok(size) = word.parse() else {
            bail!("neither a number of bytes nor `imix` or `tcp`");
        };
        ensure!(
            (SHORTEST..=LONGEST).contains(&size),
            "not between {SHORTEST} and {LONGEST}"
        );
        Ok(Self::Udp(size))
    }
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Case {
    /// Which way.
    pub direction: Direction,
    /// Sessions that take turns, packet by packet.
    pub sessions: usize,
    /// Inner flows of each session.
    pub flows: usize,
    /// Inner packets.
    pub traffic: Traffic,
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let way = self.direction.text();
        write!(f, "{way}, {}, {}", self.crowd(), String::from(self.traffic))
    }
}

impl Case {
    /// Sessions and flows, in words.
    pub fn crowd(&self) -> String {
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        let (sessions, flows) = (self.sessions, self.flows);
        let mut text = format!("{sessions} session{}", plural(sessions));
        if sessions == 1 {
            text += &format!(", {flows} flow{}", plural(flows));
        }
        text
    }
}

impl Choice {
    /// Numbers of sessions, ascending: sessions are added to those that are open.
    pub fn crowds(&self, scale: Scale) -> Vec<usize> {
        if self.sessions.is_empty() {
            let all: &[usize] = if scale.is_quick {
                &QUICK_SESSIONS
            } else {
                &SESSIONS
            };
            return all.to_vec();
        }
        let mut crowds: Vec<_> = self.sessions.iter().copied().map(usize::from).collect();
        crowds.sort_unstable();
        crowds
    }

    /// The rows for so many sessions. Only a single session is measured with many flows as well: the
    /// sessions of a crowd are flows already.
    pub fn cases(&self, sessions: usize, scale: Scale) -> Vec<Case> {
        let mut cases = Vec::new();
        for direction in Direction::ALL {
            let mut add = |flows, traffic| {
                cases.push(Case {
                    direction,
                    sessions,
                    flows,
                    traffic,
                });
            };
            let traffic = self.traffic(direction, sessions, scale);
            traffic.iter().for_each(|traffic| add(1, *traffic));
            if sessions == 1 && !scale.is_quick {
                let plain = traffic.iter();
                let plain = plain.filter(|traffic| matches!(traffic, Traffic::Udp(_)));
                plain.for_each(|traffic| add(MANY_FLOWS, *traffic));
            }
        }
        cases
    }

    /// The rows of client programs: one session, one flow, little and large packets. None if other
    /// cases were asked for.
    pub fn cases_of_peers(&self) -> Vec<Case> {
        let is_single = self.sessions.is_empty() || self.sessions.contains(&1);
        let traffic = SIZES_OF_PEERS.map(Traffic::Udp).into_iter();
        let traffic = traffic.filter(|one| self.sizes.is_empty() || self.sizes.contains(one));
        let traffic: Vec<_> = traffic.filter(|_| is_single).collect();
        let case = |direction, traffic| Case {
            direction,
            sessions: 1,
            flows: 1,
            traffic,
        };
        let ways = Direction::ALL.into_iter();
        ways.flat_map(|way| traffic.iter().map(move |one| case(way, *one)))
            .collect()
    }

    fn traffic(&self, direction: Direction, sessions: usize, scale: Scale) -> Vec<Traffic> {
        if !self.sizes.is_empty() {
            return self.sizes.clone();
        }
        let sizes: &[usize] = match (scale.is_quick, sessions) {
            (false, _) => &SIZES,
            (true, 1) => &QUICK_SIZES,
            (true, _) => &QUICK_SIZES_OF_CROWDS,
        };
        let mut traffic: Vec<_> = sizes.iter().copied().map(Traffic::Udp).collect();
        let is_wanted = !scale.is_quick || direction == Direction::Up;
        if sessions == IMIX_SESSIONS && is_wanted {
            traffic.push(Traffic::Imix);
        }
        if sessions == 1 {
            traffic.push(Traffic::Tcp);
        }
        traffic
    }
}

#[cfg(test)]
mod tests {
    use super::{Case, Choice, Direction, IMIX, Traffic};
    use crate::Scale;

    const ALL: Choice = Choice {
        sizes: Vec::new(),
        sessions: Vec::new(),
    };

    #[test]
    fn the_simple_imix_is_seven_to_four_to_one() {
        let count = |size| IMIX.iter().filter(|one| **one == size).count();
        assert_eq!([count(64), count(576), count(1400)], [7, 4, 1]);
        assert_eq!(Traffic::Imix.sizes(), [64, 576, 1400]);
        let sum: usize = (0..24).map(|number| Traffic::Imix.size(number)).sum();
        assert_eq!(sum, 2 * (7 * 64 + 4 * 576 + 1400));
    }

    #[test]
    fn a_full_run_has_both_ways_of_everything() {
        for crowd in ALL.crowds(Scale::FULL) {
            let cases = ALL.cases(crowd, Scale::FULL);
            let of = |way| cases.iter().filter(|case| case.direction == way).count();
            assert_eq!(of(Direction::Up), of(Direction::Down));
            let mixed = |case: &&Case| case.traffic == Traffic::Imix;
            assert_eq!(
                cases.iter().filter(mixed).count(),
                if crowd == 64 { 2 } else { 0 }
            );
        }
    }

    #[test]
    fn a_quick_run_has_few_cases_and_one_of_mixed_sizes() {
        let crowds = ALL.crowds(Scale::QUICK).into_iter();
        let cases: Vec<_> = crowds
            .flat_map(|crowd| ALL.cases(crowd, Scale::QUICK))
            .collect();
        assert!(cases.len() <= 10, "{cases:?}");
        let mixed = |case: &&Case| case.traffic == Traffic::Imix;
        assert_eq!(cases.iter().filter(mixed).count(), 1);
    }

    #[test]
    fn client_programs_have_few_cases_and_none_that_were_not_asked_for() {
        assert_eq!(ALL.cases_of_peers().len(), 4);
        let large = Choice {
            sizes: vec![Traffic::Udp(512), Traffic::Udp(1400)],
            sessions: vec![1, 64],
        };
        assert_eq!(large.cases_of_peers().len(), 2);
        let crowd = Choice {
            sizes: Vec::new(),
            sessions: vec![64],
        };
        assert_eq!(crowd.cases_of_peers(), []);
    }

    #[test]
    fn words_of_the_command_line() {
        let read = |word: &str| word.parse::<Traffic>().ok();
        assert_eq!(read("512"), Some(Traffic::Udp(512)));
        assert_eq!(read("imix"), Some(Traffic::Imix));
        assert_eq!(read("TCP"), Some(Traffic::Tcp));
        assert_eq!([read("63"), read("1401"), read("x"), read("-1")], [None; 4]);
    }
}
