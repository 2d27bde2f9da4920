//! What `xdp-forward = direct` needs to know of devices.

use anyhow::Context;
use aya::maps::HashMap;
use aya::maps::xdp::DevMapHash;

use super::{KernelPath, missing};

/// Bytes of an Ethernet address in the map, padded.
type PaddedMac = [u8; 8];

impl KernelPath {
    /// Lets the programs send by a device past the host's stack.
    ///
    /// # Errors
    /// When the map is full, or there is no such device.
    pub fn allow_direct(&mut self, ifindex: u32) -> anyhow::Result<()> {
        let map = self.ebpf.map_mut("DEVICES");
        let mut map = DevMapHash::try_from(map.ok_or_else(|| missing("DEVICES"))?)?;
        map.insert(ifindex, ifindex, None, 0)
            .with_context(|| format!("device {ifindex}"))
    }

    /// Tells the Ethernet address of a LAN device: frames for others are left alone.
    ///
    /// # Errors
    /// When the map is full.
    pub fn set_mac(&mut self, ifindex: u32, mac: [u8; 6]) -> anyhow::Result<()> {
        let map = self.ebpf.map_mut("MACS");
        let mut map = HashMap::<_, u32, PaddedMac>::try_from(map.ok_or_else(|| missing("MACS"))?)?;
        let [a, b, c, d, e, f] = mac;
        map.insert(ifindex, [a, b, c, d, e, f, 0, 0], 0)
            .with_context(|| format!("device {ifindex}"))
    }
}
