//! The host's network devices: what they are, and when they change.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use futures_util::{StreamExt, TryStreamExt};
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::mpsc;

use super::Event;

/// Changes come in crowds: they are looked at together.
const SETTLE: Duration = Duration::from_millis(200);

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Switched on, an Ethernet device, and not the loopback.
    pub is_usable: bool,
    /// One end of a pair of virtual devices.
    pub is_veth: bool,
    /// Number of the device that this one is a VLAN of; 0: it is none.
    pub vlan_of: u32,
    /// Ethernet address.
    pub mac: [u8; 6],
    /// Largest IP packet, bytes.
    pub mtu: u32,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// Asks for all devices with their addresses.
///
/// # Errors
/// As netlink answers.
pub async fn list(handle: &Handle) -> anyhow::Result<Vec<Device>> {
    let mut devices = Vec::new();
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await.context("cannot list devices")? {
        devices.push(device(&link));
    }
    let mut addresses = handle.address().get().execute();
    let reading = "cannot list addresses";
    while let Some(message) = addresses.try_next().await.context(reading)? {
        let owner = devices
            .iter_mut()
            .find(|device| device.index == message.header.index);
        let Some(owner) = owner else { continue };
        // IPv4 has the device's own as `Local`, IPv6 as `Address`.
        let local = message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Local(ip) => Some(*ip),
                _ => None,
            });
        let any = message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Address(ip) => Some(*ip),
                _ => None,
            });
        owner.addresses.extend(local.or(any));
    }
    Ok(devices)
}

fn device(link: &LinkMessage) -> Device {
    let mut device = Device {
        index: link.header.index,
        name: String::new(),
        is_usable: link.header.link_layer_type == LinkLayerType::Ether
            && link.header.flags.contains(LinkFlags::Up)
            && !link.header.flags.contains(LinkFlags::Loopback),
        is_veth: false,
        vlan_of: 0,
        mac: [0; 6],
        mtu: 0,
        addresses: Vec::new(),
    };
    let (mut below, mut is_vlan, mut is_elsewhere) = (0, false, false);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => device.name.clone_from(name),
            LinkAttribute::Address(bytes) => {
                if let Ok(mac) = bytes[..].try_into() {
                    device.mac = mac;
                }
            }
            LinkAttribute::Mtu(mtu) => device.mtu = *mtu,
            LinkAttribute::LinkInfo(infos) => {
                device.is_veth = infos.contains(&LinkInfo::Kind(InfoKind::Veth));
                is_vlan = infos.contains(&LinkInfo::Kind(InfoKind::Vlan));
            }
            LinkAttribute::Link(index) => below = *index,
            // That number is one of another network namespace.
            LinkAttribute::LinkNetNsId(_) => is_elsewhere = true,
            _ => {}
        }
    }
    if is_vlan && !is_elsewhere {
        device.vlan_of = below;
    }
    device
}

/// Sends [`Event::DevicesChanged`] after each change, until nobody listens.
///
/// # Errors
/// When netlink is refused.
pub fn watch(events: mpsc::Sender<Event>) -> anyhow::Result<()> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
    ];
    let (connection, _, mut messages) =
        rtnetlink::new_multicast_connection(&groups).context("cannot watch devices")?;
    tokio::spawn(connection);
    tokio::spawn(async move {
        while messages.next().await.is_some() {
            tokio::time::sleep(SETTLE).await;
            while messages.try_recv().is_ok() {}
            if events.send(Event::DevicesChanged).await.is_err() {
                return;
            }
        }
        tracing::warn!("netlink has ended: the kernel path does not follow changes of devices");
    });
    Ok(())
}

/// The usable devices that own the listening addresses; `0.0.0.0` and `::` are owned by all.
pub fn owners<'a>(
    devices: &'a [Device],
    listening: &'a [SocketAddr],
) -> impl Iterator<Item = &'a Device> {
    let listens = |ip: &IpAddr| {
        listening.iter().any(|address| {
            address.ip() == *ip
                || (address.ip().is_unspecified() && address.is_ipv4() == ip.is_ipv4())
        })
    };
    devices
        .iter()
        .filter(move |device| device.is_usable && device.addresses.iter().any(listens))
}

/// Whether usable VLAN devices are on a device.
pub fn has_vlans(devices: &[Device], index: u32) -> bool {
    let mut usable = devices.iter().filter(|device| device.is_usable);
    usable.any(|device| device.vlan_of == index)
}

/// Number of the usable device that has an address; 0: none.
pub fn index_of(devices: &[Device], ip: IpAddr) -> u32 {
    let mut usable = devices.iter().filter(|device| device.is_usable);
    usable
        .find(|device| device.addresses.contains(&ip))
        .map_or(0, |device| device.index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index: u32, is_usable: bool, addresses: &[&str]) -> Device {
        Device {
            index,
            name: format!("eth{index}"),
            is_usable,
            is_veth: false,
            vlan_of: 0,
            mac: [0; 6],
            mtu: 1500,
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
        }
    }

    fn owners_of(listening: &[&str]) -> Vec<u32> {
        let devices = [
            device(1, false, &["127.0.0.1", "::1"]),
            device(2, true, &["192.0.2.1", "2001:db8::1"]),
            device(3, true, &["10.0.0.1"]),
            device(4, true, &[]),
        ];
        let listening: Vec<_> = listening.iter().map(|text| text.parse().unwrap()).collect();
        owners(&devices, &listening)
            .map(|device| device.index)
            .collect()
    }

    #[test]
    fn devices_own_listening_addresses() {
        assert_eq!(owners_of(&["192.0.2.1:443"]), [2]);
        assert_eq!(owners_of(&["[2001:db8::1]:443"]), [2]);
        assert_eq!(owners_of(&["0.0.0.0:443"]), [2, 3]);
        assert_eq!(owners_of(&["[::]:443"]), [2]);
        assert_eq!(owners_of(&["127.0.0.1:443"]), [0u32; 0]);
        assert_eq!(owners_of(&["198.51.100.1:443"]), [0u32; 0]);
    }

    #[test]
    fn vlan_devices_name_the_device_below() {
        let found = |attributes: &[LinkAttribute]| {
            let mut link = LinkMessage::default();
            link.attributes = attributes.to_vec();
            super::device(&link).vlan_of
        };
        let kind = |kind| LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]);
        let below = LinkAttribute::Link(7);
        assert_eq!(found(&[below.clone(), kind(InfoKind::Vlan)]), 7);
        assert_eq!(found(&[below.clone(), kind(InfoKind::Veth)]), 0);
        assert_eq!(found(std::slice::from_ref(&below)), 0);
        let elsewhere = LinkAttribute::LinkNetNsId(3);
        assert_eq!(found(&[below, elsewhere, kind(InfoKind::Vlan)]), 0);
    }

    #[test]
    fn an_address_has_one_device() {
        let devices = [
            device(1, false, &["10.0.0.1"]),
            device(2, true, &["10.0.0.1"]),
        ];
        assert_eq!(index_of(&devices, "10.0.0.1".parse().unwrap()), 2);
        assert_eq!(index_of(&devices, "10.0.0.2".parse().unwrap()), 0);
    }
}
