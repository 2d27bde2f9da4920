//! What others do to the tun device while the server runs: a device that is switched off loses its
//! routes and IPv6 addresses, one that is deleted does not come back.

use anyhow::Context;
use futures_util::StreamExt;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkFlags;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use ocserv_proto::config::Route;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use tokio::sync::mpsc;

use super::{Event, Supervisor, opening};

/// Sends [`Event::TunIsDown`], [`Event::TunIsUp`] and [`Event::TunGone`] of the device with that number, which is up, until
/// nobody listens.
///
/// # Errors
/// When netlink is refused.
pub fn watch(index: u32, events: mpsc::Sender<Event>) -> anyhow::Result<()> {
    let (connection, _, mut messages) =
        rtnetlink::new_multicast_connection(&[MulticastGroup::Link])
            .context("cannot watch the tun device")?;
    tokio::spawn(connection);
    tokio::spawn(async move {
        let mut was_up = true;
        while let Some((message, _)) = messages.next().await {
            let event = match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link))
                    if link.header.index == index =>
                {
                    let is_up = link.header.flags.contains(LinkFlags::Up);
                    let has_changed = is_up != was_up;
                    was_up = is_up;
                    has_changed.then_some(if is_up {
                        Event::TunIsUp
                    } else {
                        Event::TunIsDown
                    })
                }
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => {
                    (link.header.index == index).then_some(Event::TunGone)
                }
                _ => None,
            };
            if let Some(event) = event
                && events.send(event).await.is_err()
            {
                return;
            }
        }
        tracing::warn!("the kernel tells no more of the tun device: it is not watched any longer");
    });
    Ok(())
}

/// Whether a device is switched on, as far as it can be told.
fn is_up(device: &str) -> bool {
    getifaddrs().is_ok_and(|mut all| {
        all.any(|one| one.interface_name == device && one.flags.contains(InterfaceFlags::IFF_UP))
    })
}

impl Supervisor {
    /// The device was off, and is on again: it gets back what it had.
    pub(super) async fn on_tun_is_up(&mut self) {
        self.wake_kernel_path();
        tracing::info!(
            "the tun device is switched on again: its addresses and routes are restored"
        );
        if let Err(error) = self.take_server_addresses().await {
            tracing::error!("{error:#}");
        }
        let mut iroutes = Vec::new();
        for tunnel in self.connections.values().filter_map(|c| c.tunnel.as_ref()) {
            for (address, prefix) in tunnel.host_routes() {
                if let Err(error) = self.network.add_route(address, prefix).await {
                    tracing::error!(user = %tunnel.username, "{error:#}");
                }
            }
            for route in &tunnel.settings.iroute {
                // Tunnels may share them.
                if !iroutes.contains(route) {
                    iroutes.push(*route);
                }
            }
        }
        self.add_iroutes_again(iroutes);
    }

    /// Netlink loses what comes too fast: the programs must not rest for good.
    pub(super) fn look_after_rest(&mut self) {
        if self.resting.is_some() && is_up(&self.device) {
            self.wake_kernel_path();
        }
    }

    /// In the background: a command may take its time.
    fn add_iroutes_again(&self, iroutes: Vec<Route>) {
        let (config, network) = (self.config.clone(), self.network.clone());
        let device = self.device.clone();
        tokio::spawn(async move {
            for route in &iroutes {
                let route = std::slice::from_ref(route);
                let added = opening::add_iroutes(&config, &network, &device, route).await;
                if let Err(error) = added {
                    tracing::error!("{error:#}");
                }
            }
        });
    }
}
