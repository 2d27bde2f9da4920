//! The tun device's addresses, MTU and routes, by netlink. All of it vanishes with the device.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Context;
use netlink_packet_route::route::RouteMessage;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};

/// The kernel drops IPv6 from a device whose MTU is below this (RFC 8200 §5).
const MIN_DEVICE_MTU: u16 = 1280;
/// MTU of the device while no session asks for another.
pub const DEFAULT_MTU: u16 = 1500;

/// One tun device.
#[derive(Debug, Clone)]
pub struct Network {
    handle: Handle,
    index: u32,
    mtu: u16,
}

impl Network {
    /// Opens netlink for the device of that name.
    ///
    /// # Errors
    /// When the device does not exist or netlink is refused.
    pub fn open(device: &str) -> anyhow::Result<Self> {
        let (connection, handle, _) =
            rtnetlink::new_connection().context("cannot open a netlink socket")?;
        tokio::spawn(connection);
        let index = nix::net::if_::if_nametoindex(device)
            .with_context(|| format!("device '{device}' is missing"))?;
        Ok(Self {
            handle,
            index,
            mtu: DEFAULT_MTU,
        })
    }

    /// The netlink connection.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Number of the device.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Gives the device an address and, by its prefix, the route to the pool.
    ///
    /// # Errors
    /// As netlink answers; an address that is there already is none.
    pub async fn add_address(&self, address: IpAddr, prefix: u8) -> anyhow::Result<()> {
        self.handle
            .address()
            .add(self.index, address, prefix)
            .replace()
            .execute()
            .await
            .with_context(|| format!("cannot give the tun device the address {address}/{prefix}"))
    }

    /// Switches the device on.
    ///
    /// # Errors
    /// As netlink answers.
    pub async fn up(&self) -> anyhow::Result<()> {
        let message = LinkUnspec::new_with_index(self.index).up().build();
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .context("cannot switch the tun device on")
    }

    /// Sets the device's MTU to what the widest session needs, so that the host itself answers
    /// packets that are too large for all of them.
    pub async fn set_mtu(&mut self, mtu: u16) {
        let mtu = mtu.max(MIN_DEVICE_MTU);
        if mtu == self.mtu {
            return;
        }
        let message = LinkUnspec::new_with_index(self.index)
            .mtu(u32::from(mtu))
            .build();
        match self.handle.link().set(message).execute().await {
            Ok(()) => self.mtu = mtu,
            Err(error) => tracing::warn!("cannot set the MTU of the tun device to {mtu}: {error}"),
        }
    }

    /// Routes a network into the device.
    ///
    /// # Errors
    /// As netlink answers; a route that is there already is replaced.
    pub async fn add_route(&self, network: IpAddr, prefix: u8) -> anyhow::Result<()> {
        self.handle
            .route()
            .add(self.route(network, prefix))
            .replace()
            .execute()
            .await
            .with_context(|| format!("cannot add the route to {network}/{prefix}"))
    }

    /// Takes the route of [`Network::add_route`] away; one that is gone is no error.
    pub async fn remove_route(&self, network: IpAddr, prefix: u8) {
        let request = self.handle.route().del(self.route(network, prefix));
        if let Err(error) = request.execute().await {
            tracing::debug!("cannot remove the route to {network}/{prefix}: {error}");
        }
    }

    fn route(&self, network: IpAddr, prefix: u8) -> RouteMessage {
        match network {
            IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(v4, prefix)
                .output_interface(self.index)
                .build(),
            IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(v6, prefix)
                .output_interface(self.index)
                .build(),
        }
    }
}
