//! From an accepted TCP socket to an established TLS session.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::server::{Accepted, Acceptor};
use rustls::{ServerConfig, ServerConnection};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;

use super::certificate::{Certificates, Resolver};
use super::resumption::RemoteSessions;
use super::signing::{SignPool, take_last_scheme};
use super::stream::{TlsSession, flush, read_some, try_flush};

/// Bytes read at once in a handshake: rustls' own step.
const STEP: usize = 4096;

/// Why there is no TLS session.
#[derive(Debug, Error)]
pub enum AcceptError {
    /// The peer closed before it sent a byte: a load balancer's probe (protocol.md 1.9).
    #[error("closed without a byte")]
    HealthProbe,
    /// The connection broke.
    #[error("connection: {0}")]
    Io(#[from] io::Error),
    /// The peer's messages, or signing, failed.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// A handshake step did not come to its end.
    #[error("handshake step was aborted")]
    Aborted,
}

/// TLS side of a vhost.
#[derive(Debug)]
pub struct VhostTls {
    /// Its place in the configuration.
    pub index: u32,
    /// Made by [`super::policy::server_config`].
    pub template: ServerConfig,
    /// What it can show.
    pub certificates: Arc<Certificates>,
}

/// An established session and the vhost that it belongs to.
#[derive(Debug)]
pub struct AcceptedTls {
    /// The socket.
    pub tcp: TcpStream,
    /// The session on it.
    pub session: TlsSession,
    /// Index of the vhost that SNI chose.
    pub vhost: u32,
}

/// Does the handshake. The caller bounds it in time.
///
/// # Errors
/// [`AcceptError`]; an alert was sent where one is due.
pub async fn accept<'v>(
    tcp: TcpStream,
    remote: IpAddr,
    choose_vhost: impl Fn(Option<&str>) -> &'v VhostTls,
    pool: &Arc<SignPool>,
) -> Result<AcceptedTls, AcceptError> {
    let (accepted, rest) = client_hello(&tcp).await?;
    let (config, vhost) = {
        let hello = accepted.client_hello();
        let vhost = choose_vhost(hello.server_name());
        let offered = hello
            .signature_schemes()
            .iter()
            .map(|scheme| u16::from(*scheme))
            .collect();
        let mut config = vhost.template.clone();
        config.cert_resolver = Arc::new(Resolver {
            certificates: Arc::clone(&vhost.certificates),
            offered,
        });
        config.session_storage = Arc::new(RemoteSessions {
            pool: Arc::clone(pool),
            vhost: vhost.index,
            remote,
        });
        (Arc::new(config), vhost.index)
    };
    let answer = spawn_blocking(move || {
        let result = accepted.into_connection(config);
        (result, take_last_scheme())
    });
    let (result, mut scheme) = answer.await.map_err(|_| AcceptError::Aborted)?;
    let mut connection = match result {
        Ok(connection) => connection,
        Err((error, alert)) => return Err(refuse(&tcp, error, alert)),
    };
    let mut input = rest;
    loop {
        if !input.is_empty() {
            let outcome = step(connection, input).await?;
            connection = outcome.connection;
            scheme = scheme.or(outcome.scheme);
            if let Err(error) = outcome.result {
                let _ = try_flush(&tcp, &mut connection);
                return Err(error);
            }
        }
        flush(&tcp, &mut connection).await?;
        if !connection.is_handshaking() {
            break;
        }
        input = vec![0; STEP];
        let count = read_some(&tcp, &mut input).await?;
        if count == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        input.truncate(count);
    }
    Ok(AcceptedTls {
        tcp,
        session: TlsSession::new(connection, scheme),
        vhost,
    })
}

/// Reads until the ClientHello is whole; gives what was read beyond it too.
async fn client_hello(tcp: &TcpStream) -> Result<(Accepted, Vec<u8>), AcceptError> {
    let mut acceptor = Acceptor::default();
    let mut buffer = vec![0; STEP];
    let mut first = true;
    loop {
        let count = match read_some(tcp, &mut buffer).await {
            Ok(0) if first => return Err(AcceptError::HealthProbe),
            Err(error) if first && error.kind() == io::ErrorKind::ConnectionReset => {
                return Err(AcceptError::HealthProbe);
            }
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            other => other?,
        };
        first = false;
        let mut input = buffer.get(..count).unwrap_or_default();
        while !input.is_empty() {
            acceptor.read_tls(&mut input)?;
            match acceptor.accept() {
                Ok(Some(accepted)) => return Ok((accepted, input.to_vec())),
                Ok(None) => {}
                Err((error, alert)) => return Err(refuse(tcp, error, alert)),
            }
        }
    }
}

/// Sends the alert if the socket takes it at once: nobody waits for a client that failed.
fn refuse(
    tcp: &TcpStream,
    error: rustls::Error,
    mut alert: rustls::server::AcceptedAlert,
) -> AcceptError {
    let mut bytes = Vec::new();
    if alert.write_all(&mut bytes).is_ok() {
        let _ = tcp.try_write(&bytes);
    }
    error.into()
}

struct Step {
    connection: ServerConnection,
    result: Result<(), AcceptError>,
    scheme: Option<u16>,
}

/// One step on a blocking thread: it may sign, or look a session up.
async fn step(mut connection: ServerConnection, input: Vec<u8>) -> Result<Step, AcceptError> {
    let work = spawn_blocking(move || {
        let result = process(&mut connection, &input);
        Step {
            connection,
            result,
            scheme: take_last_scheme(),
        }
    });
    work.await.map_err(|_| AcceptError::Aborted)
}

fn process(connection: &mut ServerConnection, mut input: &[u8]) -> Result<(), AcceptError> {
    while !input.is_empty() {
        if connection.read_tls(&mut input)? == 0 {
            break;
        }
        connection.process_new_packets()?;
    }
    Ok(())
}
