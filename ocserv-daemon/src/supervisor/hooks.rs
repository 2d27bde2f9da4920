//! What scripts are told of a tunnel (behaviour.md §7).

use std::time::Duration;

use ocserv_proto::config::{PortProtocol, PortRule, PortRules, Route};

use super::Supervisor;
use super::script_env::ScriptContext;
use super::state::Tunnel;
use crate::ipc::ids::ConnTicket;

/// `tcp(443)` and the like, for occtl.
pub fn port_list(rules: &PortRules) -> Vec<String> {
    let sign = if rules.deny { "!" } else { "" };
    let text = |rule: &PortRule| {
        let name = match rule.protocol {
            PortProtocol::Tcp => "tcp",
            PortProtocol::Udp => "udp",
            PortProtocol::Sctp => "sctp",
            PortProtocol::Esp => "esp",
            PortProtocol::Icmp => "icmp",
            PortProtocol::Icmpv6 => "icmpv6",
        };
        let port = rule.port.map_or_else(String::new, |port| port.to_string());
        format!("{sign}{name}({port})")
    };
    rules.rules.iter().map(text).collect()
}

impl Supervisor {
    /// Name of a vhost as logs, scripts and occtl show it.
    pub(super) fn vhost_name(&self, index: u32) -> String {
        let vhost = self.config.vhosts.get(index as usize);
        vhost.map_or_else(|| "default".to_owned(), |vhost| vhost.name.clone())
    }

    /// A tunnel as scripts see it; `totals` are bytes from and to the client and its time.
    pub(super) fn script_context(
        &self,
        tunnel: &Tunnel,
        ticket: &ConnTicket,
        totals: Option<(u64, u64, Duration)>,
    ) -> ScriptContext {
        let settings = &tunnel.settings;
        let ipv4 = tunnel.ipv4_pool.map(|(local, _)| local).zip(tunnel.ipv4);
        let ipv6 = tunnel.ipv6_local.zip(tunnel.ipv6);
        let texts = |routes: &[Route]| routes.iter().map(ToString::to_string).collect();
        ScriptContext {
            id: ticket.conn.0,
            remote: ticket.remote.ip(),
            local: ticket.local.ip(),
            ipv4,
            ipv6: ipv6.map(|(local, (address, prefix))| (local, address, prefix)),
            vhost: self.vhost_name(tunnel.vhost),
            username: tunnel.username.clone(),
            groupname: tunnel.groupname.clone(),
            hostname: tunnel.hostname.clone(),
            device: self.device.clone(),
            user_agent: tunnel.user_agent.clone(),
            device_type: tunnel.device_type.clone(),
            device_platform: tunnel.device_platform.clone(),
            routes: texts(&settings.route),
            no_routes: texts(&settings.no_route),
            dns: settings.dns.clone(),
            restrict_to_routes: settings.restrict_user_to_routes,
            ports: settings.restrict_user_to_ports.clone(),
            totals,
        }
    }
}
