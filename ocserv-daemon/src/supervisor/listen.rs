//! Listening sockets: bound here with privileges, read elsewhere without.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::Context;
use nix::sched::{CloneFlags, setns};
use ocserv_proto::config::Config;
use ocserv_sys::seqpacket::MAX_FDS;
use ocserv_sys::udp;
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that wait for accept(2).
const BACKLOG: i32 = 1024;

/// The sockets of the server.
#[derive(Debug)]
pub struct Listeners {
    /// TCP, one per address.
    pub tcp: Vec<std::net::TcpListener>,
    /// UDP, per thread one for each address; empty without DTLS.
    pub udp: Vec<Vec<OwnedFd>>,
    /// Packet threads to start.
    pub threads: usize,
}

/// Binds everything that the configuration names, in `listen-netns` if that is set.
///
/// # Errors
/// Names the address and key of what cannot be bound.
pub fn bind(config: &Config, threads: usize) -> anyhow::Result<Listeners> {
    let Some(netns) = config.listen_netns.clone() else {
        return bind_here(config, threads);
    };
    let config = config.clone();
    // A thread of its own: the namespace of this one must stay.
    let bound = std::thread::spawn(move || {
        let path = format!("/var/run/netns/{netns}");
        let file = std::fs::File::open(&path)
            .with_context(|| format!("listen-netns: cannot open network namespace '{path}'"))?;
        setns(file.as_fd(), CloneFlags::CLONE_NEWNET).context("listen-netns: cannot enter")?;
        bind_here(&config, threads)
    });
    bound
        .join()
        .map_err(|_| anyhow::anyhow!("binding the sockets failed"))?
}

fn bind_here(config: &Config, mut threads: usize) -> anyhow::Result<Listeners> {
    if let Some(activated) = from_systemd()? {
        return Ok(activated.with_threads(threads, config.uses_sockets()));
    }
    let host = config.listen_host.as_deref();
    let mut tcp = Vec::new();
    for address in addresses(host, config.tcp_port)? {
        tcp.push(bind_tcp(address).with_context(|| {
            format!("cannot listen on TCP {address} (keys listen-host, tcp-port)")
        })?);
    }
    let mut udp: Vec<Vec<OwnedFd>> = Vec::new();
    if config.udp_port != 0 {
        let host = config.udp_listen_host.as_deref().or(host);
        let addresses = addresses(host, config.udp_port)?;
        threads = fitting(threads, addresses.len(), config.uses_sockets());
        for _ in 0..threads {
            let mut sockets = Vec::new();
            for address in &addresses {
                let socket = udp::bind(*address, true).with_context(|| {
                    format!("cannot listen on UDP {address} (keys udp-listen-host, udp-port)")
                })?;
                sockets.push(socket);
            }
            udp.push(sockets);
        }
    }
    threads = fitting(threads, 0, config.uses_sockets());
    Ok(Listeners { tcp, udp, threads })
}

/// As many threads as the dataplane's first message has room for: for each a tun queue and its UDP
/// sockets, with `xdp-sockets` its frames too, and one program for all.
fn fitting(threads: usize, udp_sockets: usize, past_stack: bool) -> usize {
    let (own, common) = if past_stack { (2, 1) } else { (1, 0) };
    threads.min((MAX_FDS - common) / (own + udp_sockets)).max(1)
}

/// Addresses of `listen-host`; all of IPv4 and IPv6 without it.
fn addresses(host: Option<&str>, port: u16) -> anyhow::Result<Vec<SocketAddr>> {
    let Some(host) = host else {
        let mut all = vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)];
        if std::path::Path::new("/proc/net/if_inet6").exists() {
            all.push(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port));
        }
        return Ok(all);
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let mut found: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .with_context(|| format!("listen-host '{host}' does not resolve"))?
        .collect();
    found.sort();
    found.dedup();
    anyhow::ensure!(!found.is_empty(), "listen-host '{host}' has no address");
    Ok(found)
}

fn bind_tcp(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Sockets that systemd hands over (behaviour.md 13.1).
struct Activated {
    tcp: Vec<std::net::TcpListener>,
    udp: Vec<OwnedFd>,
}

impl Activated {
    /// One descriptor of each handed-over UDP socket per thread. The first thread reads it.
    fn with_threads(self, threads: usize, past_stack: bool) -> Listeners {
        let threads = fitting(threads, self.udp.len(), past_stack);
        let udp = (0..threads)
            .map(|_| {
                self.udp
                    .iter()
                    .filter_map(|fd| fd.try_clone().ok())
                    .collect()
            })
            .collect();
        let udp = if self.udp.is_empty() { Vec::new() } else { udp };
        Listeners {
            tcp: self.tcp,
            udp,
            threads,
        }
    }
}

fn from_systemd() -> anyhow::Result<Option<Activated>> {
    let mut activated = Activated {
        tcp: Vec::new(),
        udp: Vec::new(),
    };
    for fd in ocserv_sys::activation::take_sockets() {
        let socket = Socket::from(fd);
        match socket.r#type()? {
            Type::STREAM => {
                socket.set_nonblocking(true)?;
                activated.tcp.push(socket.into());
            }
            Type::DGRAM => {
                let fd = OwnedFd::from(socket);
                activated.udp.push(fd);
            }
            other => anyhow::bail!("the service manager handed over a socket of type {other:?}"),
        }
    }
    Ok((!activated.tcp.is_empty()).then_some(activated))
}

#[cfg(test)]
mod tests {
    use super::fitting;

    #[test]
    fn the_dataplanes_sockets_fit_one_message() {
        assert_eq!(fitting(2, 2, false), 2);
        assert_eq!(fitting(500, 2, false), 84);
        assert_eq!(fitting(500, 0, false), 253);
        assert_eq!(fitting(8, 1000, false), 1);
        assert_eq!(fitting(500, 2, true), 63);
        assert_eq!(fitting(500, 0, true), 126);
    }
}
