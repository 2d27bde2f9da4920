//! Which devices `xdp-forward = direct` may send by, and which frames of LAN devices are the host's.

use aya::Ebpf;
use aya::maps::xdp::DevMapHash;
use aya::maps::{HashMap, MapData};

use super::{KernelPath, missing};

/// The maps.
pub(super) struct DirectMaps {
    devices: DevMapHash<MapData>,
    macs: HashMap<MapData, u32, [u8; 8]>,
}

impl DirectMaps {
    pub(super) fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let mut map = |name: &str| ebpf.take_map(name).ok_or_else(|| missing(name));
        Ok(Self {
            devices: map("DEVICES")?.try_into()?,
            macs: map("MACS")?.try_into()?,
        })
    }

    /// Forgets a device.
    pub(super) fn forget(&mut self, ifindex: u32) {
        // It may not be there, or the kernel may have removed it with the device.
        let _ = self.devices.remove(ifindex);
        let _ = self.macs.remove(&ifindex);
    }
}

impl KernelPath {
    /// Programs may send by this device without asking the stack.
    ///
    /// # Errors
    /// When the map is full, or there is no such device.
    pub fn allow_direct(&mut self, ifindex: u32) -> anyhow::Result<()> {
        Ok(self.direct.devices.insert(ifindex, ifindex, None, 0)?)
    }

    /// The Ethernet address of a LAN device: frames to others are left to the stack.
    ///
    /// # Errors
    /// When the map is full.
    pub fn set_mac(&mut self, ifindex: u32, mac: [u8; 6]) -> anyhow::Result<()> {
        let [a, b, c, d, e, f] = mac;
        Ok(self
            .direct
            .macs
            .insert(ifindex, [a, b, c, d, e, f, 0, 0], 0)?)
    }
}
