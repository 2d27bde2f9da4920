//! CONNECT: the supervisor's grant and the answer to the client (protocol.md 5).

use std::io;
use std::time::{Duration, SystemTime};

use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use ocserv_proto::config::{Cipher, NetPriority, RekeyMethod, UserConfig};
use ocserv_proto::connect::{ConnectAnswer, ConnectRequest, DtlsAnswer, Refusal, Rekey};
use ocserv_proto::cstp::CstpSettings;
use ocserv_proto::mtu::{self, Mtu, MtuInput, Protection};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Gate;
use super::connection::{Event, is_outer_ipv6};
use super::dtls;
use super::settings::{Settings, Vhost};
use super::tls::{AcceptedTls, Incoming, TlsSession, read_some};
use super::tunnel::{DtlsStart, TunnelStart};
use crate::ipc::gate::{EndReason, FromGate, TunnelGrant, TunnelRefused, TunnelRequest};
use crate::ipc::ids::{ConnId, ConnTicket, Slot};

/// Longest wait for the supervisor, whose connect script may take its time.
const GRANT_TIMEOUT: Duration = Duration::from_secs(90);
/// Longest wait for the client to take the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Announced where the server renews all keys itself (protocol.md 10).
const SERVER_REKEYS: Duration = Duration::from_secs(31_536_000);
/// Clients that came together shall not rekey together (protocol.md 10).
const REKEY_JITTER_SECS: u64 = 29;
const SERVER_NAME: &str = concat!("ocserv ", env!("CARGO_PKG_VERSION"));

/// A tunnel whose CONNECT was answered.
pub struct Opened {
    /// The connection.
    pub conn: ConnId,
    /// The session.
    pub slot: Slot,
    /// Inner MTU.
    pub mtu: u16,
    /// What the tunnel needs.
    pub start: TunnelStart,
}

/// No tunnel.
pub struct NotOpened {
    /// To be told to the client.
    pub refusal: Option<Refusal>,
    /// To be told to the supervisor.
    pub reason: EndReason,
}

/// Asks the supervisor; the client has to wait in silence.
///
/// # Errors
/// [`NotOpened`].
pub async fn open(
    gate: &Gate,
    ticket: &ConnTicket,
    client: &ConnectRequest,
    tls: &mut AcceptedTls,
    events: &mut mpsc::Receiver<Event>,
) -> Result<Box<TunnelGrant>, NotOpened> {
    let refused = |refusal| NotOpened {
        refusal: Some(refusal),
        reason: EndReason::Unspecified,
    };
    let Some(cookie) = client.cookie.clone() else {
        return Err(refused(Refusal::NoCookie));
    };
    let request = Box::new(TunnelRequest {
        cookie,
        hostname: client.hostname.clone(),
        user_agent: client.user_agent.clone(),
        device_type: client.device_type.clone(),
        device_platform: client.device_platform.clone(),
        wants_ipv4: client.wants_ipv4,
        wants_ipv6: client.wants_ipv6,
        vhost: tls.vhost,
    });
    gate.outbox.push(FromGate::OpenTunnel {
        conn: ticket.conn,
        request,
    });
    let granted = async {
        tokio::select! {
            granted = granted(events) => granted,
            reason = hung_up(ticket, tls) => Err(reason),
        }
    };
    match timeout(GRANT_TIMEOUT, granted).await {
        Ok(Ok(Ok(grant))) => Ok(grant),
        Ok(Ok(Err(TunnelRefused::Cookie))) => Err(refused(Refusal::Cookie)),
        Ok(Ok(Err(TunnelRefused::NoAddress))) => Err(refused(Refusal::NoAddress)),
        Ok(Ok(Err(TunnelRefused::Internal))) | Err(_) => Err(refused(Refusal::Internal)),
        Ok(Err(reason)) => Err(NotOpened {
            refusal: None,
            reason,
        }),
    }
}

async fn granted(
    events: &mut mpsc::Receiver<Event>,
) -> Result<Result<Box<TunnelGrant>, TunnelRefused>, EndReason> {
    loop {
        match events.recv().await {
            Some(Event::Tunnel(result)) => return Ok(result),
            Some(Event::Disconnect(reason)) => return Err(reason),
            Some(Event::KeysInstalled) => {}
            None => return Err(EndReason::ServerDisconnect),
        }
    }
}

/// Waits for the end of the client's patience. It has nothing to say before it has the answer.
async fn hung_up(ticket: &ConnTicket, tls: &mut AcceptedTls) -> EndReason {
    let mut bytes = [0; 2048];
    loop {
        let count = match read_some(&tls.tcp, &mut bytes).await {
            Ok(0) | Err(_) => return EndReason::Unspecified,
            Ok(count) => count,
        };
        let input = bytes.get(..count).unwrap_or_default();
        let content = |_: &[u8]| Err(io::ErrorKind::InvalidData.into());
        // A KeyUpdate is no content.
        match tls.session.receive::<io::Error>(input, content) {
            Ok(Incoming::Open) => {}
            Ok(Incoming::Closed) => return EndReason::Unspecified,
            Err(error) => {
                tracing::info!(conn = ticket.conn.0, %error, "bytes before the answer to CONNECT");
                return EndReason::Error;
            }
        }
    }
}

/// Sends the 200 answer; CSTP begins behind it.
///
/// # Errors
/// When the client is gone.
pub async fn answer(
    settings: &Settings,
    vhost: &Vhost,
    ticket: &ConnTicket,
    mut tls: AcceptedTls,
    client: &ConnectRequest,
    grant: TunnelGrant,
) -> Result<Opened, EndReason> {
    if let Some(priority) = grant.settings.net_priority {
        prioritize(&tls.tcp, ticket, priority);
    }
    let dtls_ciphers = dtls_ciphers(settings, vhost, &tls.session, client, &grant.settings);
    let dtls = !dtls_ciphers.is_empty();
    let mtu = negotiate(ticket, &tls, client, &grant, dtls);
    let rekey = rekey(vhost, &tls.session, dtls);
    let dpd = if client.is_mobile() {
        grant.settings.mobile_dpd
    } else {
        grant.settings.dpd
    };
    let answer = ConnectAnswer {
        dpd,
        mtu,
        rekey: rekey.announced,
        dtls: dtls.then_some(DtlsAnswer {
            port: settings.udp_port,
            app_id: grant.app_id,
            // OpenSSL's part in the channel is over after the handshake.
            rekey_in_place: false,
        }),
        ..whole_answer(vhost, client, &grant, mtu)
    };
    let psk = tls.session.dtls_psk().map_err(|error| {
        tracing::error!(%error, "TLS exporter");
        EndReason::Error
    })?;
    let sent = match tls.session.queue(&answer.write(client)) {
        Ok(()) => timeout(ANSWER_TIMEOUT, tls.session.flush(&tls.tcp)).await,
        Err(error) => Ok(Err(error)),
    };
    if !matches!(sent, Ok(Ok(()))) {
        return Err(EndReason::Unspecified);
    }
    let cstp = CstpSettings {
        dpd: dpd.unwrap_or_default(),
        rekey: rekey.own,
    };
    let dtls = dtls.then_some(DtlsStart {
        psk,
        app_id: grant.app_id,
        ciphers: dtls_ciphers,
    });
    let start = TunnelStart {
        tcp: tls.tcp,
        session: tls.session,
        cstp,
        dtls,
    };
    Ok(Opened {
        conn: ticket.conn,
        slot: grant.slot,
        mtu: mtu.tunnel,
        start,
    })
}

/// `net-priority` of the tunnel's TCP connection; the dataplane sees to the datagrams.
fn prioritize(tcp: &TcpStream, ticket: &ConnTicket, priority: NetPriority) {
    let set = match priority {
        NetPriority::Priority(level) => setsockopt(tcp, sockopt::Priority, &i32::from(level)),
        NetPriority::Tos(tos) if is_outer_ipv6(ticket) => {
            setsockopt(tcp, sockopt::Ipv6TClass, &i32::from(tos))
        }
        NetPriority::Tos(tos) => setsockopt(tcp, sockopt::Ipv4Tos, &i32::from(tos)),
    };
    if let Err(error) = set {
        tracing::warn!(conn = ticket.conn.0, %error, "net-priority");
    }
}

/// Empty: no DTLS (protocol.md 8.1).
fn dtls_ciphers(
    settings: &Settings,
    vhost: &Vhost,
    session: &TlsSession,
    client: &ConnectRequest,
    user: &UserConfig,
) -> Vec<Cipher> {
    if settings.udp_port == 0 || !settings.dtls_psk || user.no_udp || !client.dtls_psk {
        return Vec::new();
    }
    let config = &vhost.config;
    if config.match_tls_dtls_ciphers {
        dtls::matching(&config.tls_policy, session.cipher())
    } else {
        dtls::preferred(&config.tls_policy, settings.kernel_path)
    }
}

fn negotiate(
    ticket: &ConnTicket,
    tls: &AcceptedTls,
    client: &ConnectRequest,
    grant: &TunnelGrant,
    dtls: bool,
) -> Mtu {
    let configured = grant.settings.mtu;
    let start = if configured == 0 {
        grant.tun_mtu
    } else {
        configured.min(grant.tun_mtu)
    };
    let protection = match tls.session.cipher().filter(|_| dtls) {
        None => Protection::None,
        Some(Cipher::Chacha20Poly1305) => Protection::ChaCha20Poly1305,
        Some(Cipher::Aes128Gcm | Cipher::Aes256Gcm) => Protection::Gcm,
    };
    let path = getsockopt(&tls.tcp, sockopt::IpMtu).ok();
    mtu::negotiate(&MtuInput {
        start,
        client_base: client.base_mtu,
        client_tunnel: client.tunnel_mtu,
        path: path.map(|mtu| u16::try_from(mtu).unwrap_or(u16::MAX)),
        ipv6_lease: grant.ipv6.is_some(),
        outer_ipv6: is_outer_ipv6(ticket),
        protection,
    })
}

struct Rekeying {
    announced: Option<Rekey>,
    /// Interval of the server's own KeyUpdate.
    own: Option<Duration>,
}

/// In TLS 1.3 keys are renewed in place; in TLS 1.2 rustls cannot, so the client comes again
/// (protocol.md 10). Only a client can renew the DTLS channel: stock openconnect makes a new one after
/// a rekey that it began itself, in TLS 1.3 a KeyUpdate. Then the server sends none of its own: GnuTLS
/// ends a session in which two of them cross.
fn rekey(vhost: &Vhost, session: &TlsSession, dtls: bool) -> Rekeying {
    let Some(interval) = vhost.config.rekey_time else {
        return Rekeying {
            announced: None,
            own: None,
        };
    };
    let by_client = |method| Rekeying {
        announced: Some(Rekey {
            time: Duration::from_secs(jittered(interval.as_secs(), random_byte())),
            method,
        }),
        own: None,
    };
    match vhost.config.rekey_method {
        RekeyMethod::Ssl if session.is_tls13() && !dtls => Rekeying {
            announced: Some(Rekey {
                time: SERVER_REKEYS,
                method: RekeyMethod::Ssl,
            }),
            own: Some(interval),
        },
        RekeyMethod::Ssl if session.is_tls13() => by_client(RekeyMethod::Ssl),
        RekeyMethod::Ssl | RekeyMethod::NewTunnel => by_client(RekeyMethod::NewTunnel),
    }
}

fn random_byte() -> u8 {
    let mut byte = [0];
    // Without randomness the clients come together: no more than inconvenient.
    let _ = SystemRandom::new().fill(&mut byte);
    byte[0]
}

/// `seconds` changed by up to 29 either way, but by no more than a quarter of it.
fn jittered(seconds: u64, random: u8) -> u64 {
    let reach = REKEY_JITTER_SECS.min(seconds / 4);
    let offset = u64::from(random) % (2 * reach + 1);
    (seconds - reach + offset).max(1)
}

fn whole_answer(
    vhost: &Vhost,
    client: &ConnectRequest,
    grant: &TunnelGrant,
    mtu: Mtu,
) -> ConnectAnswer {
    let (config, user) = (&vhost.config, &grant.settings);
    let idle = if client.is_mobile() {
        user.mobile_idle_timeout
    } else {
        user.idle_timeout
    };
    let mut routes = user.route.clone();
    if !routes.is_empty() {
        routes.extend_from_slice(&grant.extra_routes);
    }
    ConnectAnswer {
        included_headers: config.included_http_headers.clone(),
        server_name: SERVER_NAME.to_owned(),
        hostname: grant.hostname.clone(),
        dpd: None,
        default_domain: config.default_domain.clone(),
        ipv4: grant.ipv4,
        ipv6: grant.ipv6,
        dns: user.dns.clone(),
        nbns: user.nbns.clone(),
        split_dns: user.split_dns.clone(),
        routes,
        no_routes: user.no_route.clone(),
        tunnel_all_dns: user.tunnel_all_dns,
        client_bypass_protocol: user.client_bypass_protocol,
        keepalive: user.keepalive,
        idle_timeout: idle,
        dyndns: config.listen_host_is_dyndns,
        rekey: None,
        proxy_url: config.proxy_url.clone(),
        session_timeout: user.session_timeout.map(|limit| {
            let gone = SystemTime::now()
                .duration_since(grant.authenticated)
                .unwrap_or_default();
            (limit, limit.saturating_sub(gone))
        }),
        custom_headers: config.custom_header.clone(),
        username: grant.username.clone(),
        groupname: grant.groupname.clone(),
        dtls: None,
        mtu,
        banner: config.banner.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rekey_times_stay_near_the_configured_one() {
        assert_eq!(jittered(3600, 0), 3571);
        assert_eq!(jittered(3600, 58), 3629);
        assert_eq!(jittered(4, 0), 3);
        assert_eq!(jittered(1, 255), 1);
        assert_eq!(jittered(0, 255), 1);
    }
}
