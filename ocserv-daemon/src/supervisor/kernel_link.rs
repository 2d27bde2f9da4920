//! The kernel path as part of the supervisor: when it is there, which devices and sessions it has.
//!
//! Whatever fails here costs speed only: the dataplane carries what the kernel does not.

use std::net::SocketAddr;

use ocserv_proto::config::{Config, XdpForward, XdpMode};
use ocserv_sys::shared_map::Backing;

use super::Supervisor;
use super::devices::{self, Device};
use super::shards::Shards;
use crate::costs::{Costs, RecordLimits};
use crate::ipc::ids::{ConnId, Slot};
use crate::kernel_path::{self, DeviceRole, KernelPath, Mode, NewChannel, Options};

/// Loads the kernel path if the configuration wants it, with what packets cost here if that is to
/// decide. Without one, the reason.
pub fn load(
    config: &Config,
    slots: u32,
    udp_port: u16,
    tun_ifindex: u32,
) -> Result<(KernelPath, Option<Costs>), String> {
    if config.xdp == XdpMode::Off {
        return Err("xdp = off".to_owned());
    }
    if udp_port == 0 {
        return Err("there is no UDP port".to_owned());
    }
    if config.listen_netns.is_some() {
        return Err("the sockets are in another network namespace (listen-netns)".to_owned());
    }
    let is_direct = config.xdp_forward == XdpForward::Direct;
    let (limits, costs, failure) = match config.xdp_max_record {
        // Whatever length, user space does it for less past the stack.
        _ if config.uses_sockets() => (RecordLimits::fixed(0), None, None),
        Some(longest) => (RecordLimits::fixed(longest), None, None),
        None => match kernel_path::costs() {
            Ok(costs) => {
                let costs = Costs { is_direct, ..costs };
                (costs.limits(), Some(costs), None)
            }
            Err(error) => (RecordLimits::UNMEASURED, None, Some(error)),
        },
    };
    let options = Options {
        slots,
        limits,
        direct: is_direct,
        sockets: config.uses_sockets(),
        tun_ifindex,
    };
    let kernel = KernelPath::load(options).map_err(|error| error.to_string())?;
    // Had the programs not loaded either, that would say it all.
    if let Some(error) = failure {
        tracing::warn!(
            "cannot measure what packets cost ({error:#}): the kernel path takes records of up to {} bytes",
            limits.rx.alone
        );
    }
    if let Some(costs) = &costs {
        tell(costs);
    }
    Ok((kernel, costs))
}

/// What was measured, and what follows from it.
fn tell(costs: &Costs) {
    let RecordLimits { rx, tx } = costs.limits();
    tracing::info!(
        "kernel path: records of up to {} bytes from clients and {} to them, {} and {} of those that come \
         in bursts; opening 64 and 1400 bytes costs {:.0} and {:.0} ns there, {:.0} and {:.0} ns in user \
         space, a datagram to this host {:.0} ns",
        rx.alone,
        tx.alone,
        rx.close,
        tx.close,
        costs.kernel.at(64.0),
        costs.kernel.at(1400.0),
        costs.user.at(64.0),
        costs.user.at(1400.0),
        costs.walk,
    );
}

/// What to try on a device, in order.
///
/// Where the driver has no XDP of its own, and on veth, which copies each packet for it, TC is cheaper.
/// Below VLAN devices a network card may take tags off, which XDP does not see and TC does. It knows no way
/// past the stack.
fn modes(config: &Config, devices: &[Device], device: &Device) -> &'static [Mode] {
    match config.xdp {
        XdpMode::Auto if config.xdp_forward == XdpForward::Direct => &[Mode::Native, Mode::Generic],
        XdpMode::Auto if device.is_veth || devices::has_vlans(devices, device.index) => &[Mode::Tc],
        XdpMode::Auto => &[Mode::Native, Mode::Tc],
        XdpMode::Native => &[Mode::Native],
        XdpMode::Generic => &[Mode::Generic],
        XdpMode::Tc => &[Mode::Tc],
        XdpMode::Off => &[],
    }
}

impl Supervisor {
    /// Attaches the programs and begins to watch devices.
    pub(super) async fn start_kernel_path(&mut self) {
        let Some(kernel) = &mut self.kernel else {
            tracing::info!(
                "no kernel path: {}; user space carries all packets",
                self.kernel_off
            );
            return;
        };
        let tun = (kernel.options().tun_ifindex, &*self.device);
        if let Err(error) = kernel.attach(tun, DeviceRole::Tun, &[]) {
            self.end_kernel_path(&format!("{error:#}"));
            return;
        }
        self.follow_devices().await;
        if let Err(error) = devices::watch(self.events.clone()) {
            tracing::warn!("{error:#}: the kernel path does not follow changes of devices");
        }
    }

    /// Whether programs open and seal records.
    pub(super) fn opens_in_kernel(&self) -> bool {
        let kernel = self.kernel.as_ref();
        kernel.is_some_and(|kernel| !kernel.options().sockets)
    }

    /// There is no kernel path, as it turned out before the first session.
    fn end_kernel_path(&mut self, reason: &str) {
        tracing::warn!("the kernel path is off: {reason}; user space carries all packets");
        self.kernel_off = reason.to_owned();
        self.kernel = None;
        self.costs = None;
        self.shared = Shards::new(self.shared.slots() as u32, Backing::Memfd);
    }

    /// The programs follow what outputs cost.
    pub(super) fn on_output_costs(&mut self, thread: u32, ns: [f64; 2]) {
        let (Some(kernel), Some(costs)) = (&mut self.kernel, &mut self.costs) else {
            return;
        };
        let Some(known) = self.thread_costs.get_mut(thread as usize) else {
            return;
        };
        *known = ns;
        costs.learn(&self.thread_costs);
        let limits = costs.limits();
        if let Some(resting) = &mut self.resting {
            *resting = limits;
            return;
        }
        if limits == kernel.options().limits {
            return;
        }
        tracing::debug!(
            "kernel path: outputs cost {:.0} ns from clients and {:.0} ns to them: records of up to {} \
             and {} bytes, in bursts {} and {}",
            costs.outputs[0],
            costs.outputs[1],
            limits.rx.alone,
            limits.tx.alone,
            limits.rx.close,
            limits.tx.close,
        );
        set_limits(kernel, limits);
    }

    /// The tun device is off: what the programs send there would be lost without a word, while user space
    /// counts it and says so. Direct forwarding goes on, since most of it needs no tun device.
    pub(super) fn rest_kernel_path(&mut self) {
        if let Some(kernel) = &mut self.kernel
            && !kernel.options().direct
            && self.resting.is_none()
        {
            self.resting = Some(kernel.options().limits);
            set_limits(kernel, RecordLimits::fixed(0));
        }
    }

    /// The tun device is on again.
    pub(super) fn wake_kernel_path(&mut self) {
        if let (Some(kernel), Some(limits)) = (&mut self.kernel, self.resting.take()) {
            set_limits(kernel, limits);
        }
    }

    /// Compares the devices with what has programs.
    pub(super) async fn follow_devices(&mut self) {
        if self.kernel.is_none() {
            return;
        }
        match devices::list(self.network.handle()).await {
            Ok(devices) => self.devices = devices,
            Err(error) => {
                tracing::warn!("{error:#}");
                return;
            }
        }
        let wanted: Vec<Wanted> = self
            .wanted_devices()
            .into_iter()
            .map(|(device, role)| Wanted {
                modes: modes(&self.config, &self.devices, &device),
                device,
                role,
            })
            .collect();
        self.report_absent();
        let Some(kernel) = &mut self.kernel else {
            return;
        };
        let without: Vec<_> = kernel
            .attached()
            .iter()
            .filter(|has| has.role != DeviceRole::Tun)
            .filter(|has| {
                !wanted.iter().any(|wanted| {
                    (wanted.device.index, wanted.role) == (has.ifindex, has.role)
                        && wanted.modes.contains(&has.mode)
                })
            })
            .map(|has| (has.ifindex, has.name.clone()))
            .collect();
        for (ifindex, name) in &without {
            tracing::info!("kernel path: device {name} has no programs any more");
            kernel.detach(*ifindex);
        }
        let devices = &self.devices;
        attach_all(kernel, devices, &wanted);
        kernel.refresh_devices(|ip| devices::index_of(devices, ip));
        kernel.forgive(|index| devices.iter().any(|d| d.index == index && d.is_usable));
        self.forget_gone_devices();
        for (ifindex, _) in without {
            self.close_sockets(ifindex);
            self.forget_lack(ifindex);
        }
        self.open_sockets();
    }

    /// Tells, once, of devices that the configuration names and that are not there.
    fn report_absent(&mut self) {
        let config = &self.config;
        let named = config.xdp_interfaces.iter();
        let absent: Vec<String> = named
            .chain(&config.xdp_lan_interfaces)
            .filter(|name| {
                let is_it = |device: &Device| device.is_usable && device.name == **name;
                !self.devices.iter().any(is_it)
            })
            .cloned()
            .collect();
        for name in &absent {
            if !self.absent_devices.contains(name) {
                tracing::warn!(
                    "kernel path: there is no Ethernet device {name} that is up; it gets programs when there is"
                );
            }
        }
        self.absent_devices = absent;
    }

    fn wanted_devices(&self) -> Vec<(Device, DeviceRole)> {
        let config = &self.config;
        let direct = config.xdp_forward == XdpForward::Direct;
        let named = |names: &[String], device: &Device| names.contains(&device.name);
        let is_lan = |device: &Device| direct && named(&config.xdp_lan_interfaces, device);
        let listening = self.udp_addresses();
        let wan: Vec<&Device> = if config.xdp_interfaces.is_empty() {
            devices::owners(&self.devices, &listening).collect()
        } else {
            let usable = self.devices.iter().filter(|device| device.is_usable);
            usable
                .filter(|device| named(&config.xdp_interfaces, device))
                .collect()
        };
        let wan = wan
            .into_iter()
            .filter(|device| !is_lan(device))
            .map(|device| (device.clone(), DeviceRole::Wan));
        let lan = self
            .devices
            .iter()
            .filter(|device| device.is_usable && is_lan(device))
            .map(|device| (device.clone(), DeviceRole::Lan));
        wan.chain(lan).collect()
    }

    fn udp_addresses(&self) -> Vec<SocketAddr> {
        let sockets = self.listeners.udp.first().into_iter().flatten();
        let address = |fd| socket2::SockRef::from(fd).local_addr().ok()?.as_socket();
        sockets.filter_map(address).collect()
    }

    /// Gives the kernel those keys of a session that it does not have.
    pub(super) fn install_in_kernel(&mut self, conn: ConnId) {
        let tunnel = self.connections.get(&conn).and_then(|c| c.tunnel.as_ref());
        let (Some(kernel), Some(tunnel)) = (&mut self.kernel, tunnel) else {
            return;
        };
        let slot = tunnel.slot;
        let mut channels: Vec<_> = tunnel
            .channels
            .iter()
            .enumerate()
            .filter_map(|(number, channel)| Some((number, channel.as_ref()?)))
            // The dataplane has begun the record of these keys.
            .filter(|(number, channel)| {
                self.shared[slot].channels[*number].generation() == channel.generation
            })
            .filter(|(number, channel)| !kernel.has(slot.0, *number, channel.generation))
            .collect();
        channels.sort_by_key(|(_, channel)| channel.generation);
        for (number, channel) in channels {
            if !kernel_path::fits(&tunnel.params, &channel.keys, kernel.options().sockets) {
                kernel.remove(slot.0);
                return;
            }
            let new = NewChannel {
                number: number as u8,
                keys: &channel.keys,
                generation: channel.generation,
                peer: channel.peer,
                local: channel.local,
                ifindex: devices::index_of(&self.devices, channel.local.ip()),
            };
            // What gate and client agree on may not be known yet.
            let mtu = if tunnel.mtu == 0 {
                tunnel.params.mtu
            } else {
                tunnel.mtu
            };
            let dont_fragment = self.config.try_mtu_discovery;
            if let Err(error) = kernel.install(&tunnel.params, mtu, dont_fragment, &new) {
                tracing::warn!(user = %tunnel.username, "not in the kernel: {error:#}");
                return;
            }
        }
    }

    /// A channel is at another address.
    pub(super) fn move_in_kernel(
        &mut self,
        slot: Slot,
        channel: usize,
        peer: SocketAddr,
        local: SocketAddr,
    ) {
        if let Some(kernel) = &mut self.kernel {
            let ifindex = devices::index_of(&self.devices, local.ip());
            kernel.move_channel(slot.0, channel, (peer, local), ifindex);
            // It may be reached by another device: the next record shows which.
            self.shared[slot].channels[channel & 1].live.ifindex.set(0);
        }
    }

    /// A session is open: packets to it are not another one's.
    pub(super) fn open_in_kernel(&mut self, conn: ConnId) {
        let tunnel = self.connections.get(&conn).and_then(|c| c.tunnel.as_ref());
        if let (Some(kernel), Some(tunnel)) = (&mut self.kernel, tunnel)
            && let Err(error) = kernel.open_session(&tunnel.params)
        {
            tracing::error!(user = %tunnel.username, "kernel path: {error:#}");
        }
    }

    /// Devices that went away are not those that clients come by any more.
    fn forget_gone_devices(&self) {
        for tunnel in self.connections.values().filter_map(|c| c.tunnel.as_ref()) {
            for channel in &self.shared[tunnel.slot].channels {
                let known = channel.live.ifindex.get();
                let is_there =
                    |device: &Device| device.is_usable && u64::from(device.index) == known;
                if known != 0 && !self.devices.iter().any(is_there) {
                    channel.live.ifindex.set(0);
                }
            }
        }
    }
}

/// A device that is to have programs.
struct Wanted {
    device: Device,
    role: DeviceRole,
    /// What to try, in order.
    modes: &'static [Mode],
}

fn attach_all(kernel: &mut KernelPath, devices: &[Device], all: &[Wanted]) {
    for wanted in all {
        let mode = attach(kernel, wanted, wanted.modes);
        if wanted.role == DeviceRole::Wan
            && mode.is_some_and(|mode| mode != Mode::Tc)
            && devices::has_vlans(devices, wanted.device.index)
        {
            warn_of_vlans(&wanted.device);
        }
    }
    for wanted in all {
        make_like_others(kernel, wanted);
    }
    for Wanted { device, role, .. } in all {
        // What goes to a LAN device without programs goes by the stack.
        if *role == DeviceRole::Lan
            && kernel.has_programs(device.index, *role)
            && let Err(error) = kernel.set_mac(device.index, device.mac)
        {
            tracing::warn!("kernel path: device {}: {error:#}", device.name);
        }
    }
}

/// The mode, if the device had no programs and has now.
fn attach(kernel: &mut KernelPath, wanted: &Wanted, modes: &[Mode]) -> Option<Mode> {
    let (device, role) = (&wanted.device, wanted.role);
    if kernel.has_programs(device.index, role) || kernel.was_refused(device.index) {
        return None;
    }
    match kernel.attach((device.index, &device.name), role, modes) {
        Ok(mode) => {
            tracing::info!(
                "kernel path: programs on device {} ({})",
                device.name,
                mode.word()
            );
            if mode == Mode::Tc && device.is_veth {
                merge(kernel, device);
            }
            Some(mode)
        }
        Err(error) => {
            // Once for each device: its events would repeat it.
            kernel.refuse(device.index);
            tracing::warn!(
                "kernel path: no programs on device {}: {error:#}; user space carries its packets",
                device.name
            );
            None
        }
    }
}

fn warn_of_vlans(device: &Device) {
    tracing::warn!(
        "kernel path: device {0} has VLAN devices on it: if it takes tags off in hardware, records to clients \
         behind those leave without a tag; switch that off ('ethtool -K {0} rxvlan off'), or use 'xdp = tc' \
         with 'xdp-forward = stack'",
        device.name
    );
}

/// Takes a device from native to generic mode if another one that may be in either has no native mode.
/// Native mode hands frames to a call of the other device's driver (`ndo_xdp_xmit`), which such a device
/// lacks; generic mode hands them to any. Sockets send without that call.
fn make_like_others(kernel: &mut KernelPath, wanted: &Wanted) {
    if kernel.options().sockets {
        return;
    }
    let device = &wanted.device;
    let attached = kernel.attached();
    let is_native = attached
        .iter()
        .any(|has| has.ifindex == device.index && has.mode == Mode::Native);
    let has_generic = attached.iter().any(|has| has.mode == Mode::Generic);
    if !is_native || !has_generic || !wanted.modes.contains(&Mode::Generic) {
        return;
    }
    tracing::info!(
        "kernel path: device {} gets generic mode, as another one has no native mode",
        device.name
    );
    kernel.detach(device.index);
    attach(kernel, wanted, &[Mode::Generic]);
}

/// Others merge from the start. With XDP the kernel has veth merge, too.
fn merge(kernel: &mut KernelPath, device: &Device) {
    if let Err(error) = kernel.merge(device.index) {
        tracing::warn!(
            "kernel path: device {} does not merge what it receives ({error}); bulk traffic costs more",
            device.name
        );
    }
}

fn set_limits(kernel: &mut KernelPath, limits: RecordLimits) {
    if let Err(error) = kernel.set_limits(limits) {
        tracing::warn!("cannot change what the kernel path takes: {error:#}");
    }
}

#[cfg(test)]
mod tests {
    use ocserv_proto::config::parse;

    use super::*;

    /// The least that starts.
    const BASE: &str = "auth = \"plain[passwd=/p]\"\ntcp-port = 443\nsocket-file = /s\nserver-cert = /c\n\
                        server-key = /k\ndevice = vpns\nipv4-network = 192.168.1.0/24\n";

    fn device(index: u32, vlan_of: u32) -> Device {
        Device {
            index,
            name: format!("eth{index}"),
            is_usable: true,
            is_veth: false,
            vlan_of,
            mac: [0; 6],
            mtu: 1500,
            addresses: Vec::new(),
        }
    }

    /// What is tried on a device below `other`.
    fn modes_below(other: Device, settings: &str) -> &'static [Mode] {
        let text = format!("{BASE}{settings}\n");
        let config = parse("test", text.as_bytes()).unwrap().config;
        let devices = [device(2, 0), other];
        modes(&config, &devices, &devices[0])
    }

    #[test]
    fn below_vlan_devices_programs_see_tags() {
        let mut off = device(3, 2);
        off.is_usable = false;
        for other in [device(3, 0), device(3, 1), off] {
            assert_eq!(modes_below(other, "xdp = auto"), [Mode::Native, Mode::Tc]);
        }
        let vlan = || device(3, 2);
        assert_eq!(modes_below(vlan(), "xdp = auto"), [Mode::Tc]);
        assert_eq!(modes_below(vlan(), "xdp = native"), [Mode::Native]);
        let direct = "xdp = auto\nxdp-forward = direct";
        assert_eq!(modes_below(vlan(), direct), [Mode::Native, Mode::Generic]);
    }
}
