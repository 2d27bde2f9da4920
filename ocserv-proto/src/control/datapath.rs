//! Values of `show datapath`: which path packets take, and how many.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// The paths of packets. "rx" is client to server; bytes are those of inner packets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatapathInfo {
    /// Whether packets may pass inside the kernel: `on` or `off`.
    pub state: String,
    /// Why it is off; empty when it is on.
    pub reason: String,
    /// `xdp-forward`: `stack` or `direct`.
    pub forward: String,
    /// Largest record from clients that the kernel path takes, header included, bytes; 0 where it is off.
    pub max_record: u32,
    /// Loaded programs.
    pub programs: Vec<ProgramInfo>,
    /// Devices with a program.
    pub devices: Vec<DatapathDevice>,
    /// Open sessions with a DTLS channel.
    pub sessions: u64,
    /// Those of them that the kernel path serves.
    pub kernel_sessions: u64,
    /// Packets that passed inside the kernel since the start.
    pub kernel: PathTraffic,
    /// Packets that passed through user space since the start.
    pub user: PathTraffic,
    /// Packets of `kernel` from clients that went to a device past the host's stack.
    pub direct_rx_packets: u64,
    /// Packets of `kernel` to clients that came from a device past the host's stack.
    pub direct_tx_packets: u64,
    /// Packets that the kernel path left to user space, by reason.
    pub left: Vec<(String, u64)>,
    /// Packets that it dropped, by reason.
    pub kernel_drops: Vec<(String, u64)>,
    /// Packets of the open sessions that user space dropped, by reason.
    pub user_drops: Vec<(String, u64)>,
    /// Where `max_record` comes from: `fixed` by the configuration, or `auto`, or `not measured` where that
    /// failed; `sockets` where those take them instead; `none` where it is off.
    pub limit: String,
    /// Largest records by direction and by how close they follow each other, bytes.
    pub limits: Vec<(String, u64)>,
    /// What packets cost, ns, where that decides about the limits.
    pub costs: Vec<(String, u64)>,
    /// Sockets past the host's stack; `None` where `xdp-sockets` is off.
    pub sockets: Option<SocketTraffic>,
}

/// A program inside the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramInfo {
    /// Its name.
    pub name: String,
    /// Its number, as `bpftool` shows it.
    pub id: u32,
}

/// A device with a program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatapathDevice {
    /// Its name.
    pub name: String,
    /// What is behind it: `wan`, `lan` or `tun`.
    pub role: String,
    /// How the program is attached: `native`, `generic` or `tc`.
    pub mode: String,
}

/// What passes by sockets past the host's stack. The packets are those of the user path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketTraffic {
    /// Sockets that packets come by.
    pub count: u64,
    /// Packets from clients that the kernel path handed to them, authentic or not.
    pub rx_packets: u64,
    /// Packets to clients that it handed to them.
    pub tx_packets: u64,
}

/// Inner packets of one path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathTraffic {
    /// Packets from clients.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Packets to clients.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
}

impl AddAssign for PathTraffic {
    fn add_assign(&mut self, other: Self) {
        for (sum, more) in [
            (&mut self.rx_packets, other.rx_packets),
            (&mut self.rx_bytes, other.rx_bytes),
            (&mut self.tx_packets, other.tx_packets),
            (&mut self.tx_bytes, other.tx_bytes),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}
