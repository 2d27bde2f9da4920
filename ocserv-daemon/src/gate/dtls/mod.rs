//! DTLS handshakes of a tunnel (protocol.md 8.3). OpenSSL does the handshake; the records that
//! follow are the dataplane's.
//!
//! The last flight waits until the dataplane has the keys, so that the client's first record meets
//! them. Later it is kept for a while, because the client repeats its own last flight when ours was
//! lost.

mod ciphers;
mod context;
mod handshake;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::Duration;

use ocserv_proto::Now;
use ocserv_proto::config::Cipher;
use ocserv_proto::dtls::record::{ContentType, RecordHeader};
use ocserv_proto::dtls::{self, ChannelKeys, hello};
use ocserv_proto::secret::Secret;

pub use ciphers::{matching, preferred};
pub use context::DtlsContext;
use handshake::{Handshake, Progress, records};

/// How long the last flight is kept for a client that did not get it.
const KEEP_LAST_FLIGHT: Duration = Duration::from_secs(15);
/// Shortest time between two new handshakes of a session (protocol.md 8.6).
const BETWEEN_HANDSHAKES: Duration = Duration::from_secs(3);
/// Most repetitions of a flight that the client asks for by repeating its own.
const MAX_REPEATS: u32 = 8;
/// Longest wait for the dataplane to have the keys; the supervisor drops those that come too fast.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Client and server address of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The client's.
    pub peer: SocketAddr,
    /// The one that the client sent to.
    pub local: SocketAddr,
}

/// What the tunnel must do.
#[derive(Debug)]
pub enum Action {
    /// Send these datagrams.
    Send(Flow, Vec<Vec<u8>>),
    /// Give the keys to the dataplane, then call [`DtlsServer::keys_installed`].
    Install(Flow, Box<ChannelKeys>),
    /// A handshake failed; for the log.
    Failed(Flow, String),
}

/// What is known of the session before its first handshake.
pub struct DtlsSettings {
    /// Shared by all sessions.
    pub context: DtlsContext,
    /// Exported from the TLS session.
    pub psk: Secret,
    /// Named in `X-DTLS-App-ID`.
    pub app_id: [u8; hello::APP_ID],
    /// Best first.
    pub ciphers: Vec<Cipher>,
}

/// The handshakes of one tunnel, one at a time.
pub struct DtlsServer {
    settings: DtlsSettings,
    state: State,
    last_start: Option<Now>,
}

enum State {
    Idle,
    Handshaking {
        flow: Flow,
        hello_random: [u8; 32],
        handshake: Box<Handshake>,
    },
    /// The keys are on their way to the dataplane.
    Installing {
        flow: Flow,
        flight: Vec<Vec<u8>>,
        give_up_at: Now,
    },
    /// The last flight was sent.
    Finished {
        flow: Flow,
        flight: Vec<Vec<u8>>,
        forget_at: Now,
        repeats: u32,
    },
}

impl DtlsServer {
    /// A session without DTLS yet.
    pub fn new(settings: DtlsSettings) -> Self {
        Self {
            settings,
            state: State::Idle,
            last_start: None,
        }
    }

    /// Takes a datagram that the dataplane could not open.
    pub fn datagram(&mut self, now: Now, flow: Flow, bytes: &[u8], actions: &mut Vec<Action>) {
        if let Some(random) = hello_random(bytes) {
            return self.client_hello(now, flow, random, bytes, actions);
        }
        match &mut self.state {
            State::Handshaking { flow: own, .. } if *own == flow => {
                self.advance(now, flow, bytes, actions);
            }
            State::Finished {
                flow: own,
                flight,
                repeats,
                ..
            } if *own == flow && *repeats > 0 && is_last_flight(bytes) => {
                *repeats -= 1;
                actions.push(Action::Send(flow, flight.clone()));
            }
            _ => {}
        }
    }

    /// The dataplane has the keys: the client may be told.
    pub fn keys_installed(&mut self, now: Now, actions: &mut Vec<Action>) {
        if let State::Installing { flow, flight, .. } = &mut self.state {
            let (flow, flight) = (*flow, std::mem::take(flight));
            actions.push(Action::Send(flow, flight.clone()));
            let forget_at = now + KEEP_LAST_FLIGHT;
            self.state = State::Finished {
                flow,
                flight,
                forget_at,
                repeats: MAX_REPEATS,
            };
        }
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Now> {
        match &self.state {
            State::Idle => None,
            State::Handshaking { handshake, .. } => {
                Some(handshake.resend_at.min(handshake.give_up_at))
            }
            State::Installing { give_up_at, .. } => Some(*give_up_at),
            State::Finished { forget_at, .. } => Some(*forget_at),
        }
    }

    /// Sends a flight again, or gives up.
    pub fn handle_timeout(&mut self, now: Now, actions: &mut Vec<Action>) {
        match &mut self.state {
            State::Handshaking {
                flow, handshake, ..
            } => {
                if now >= handshake.give_up_at {
                    actions.push(Action::Failed(*flow, "timed out".to_owned()));
                    self.state = State::Idle;
                } else if now >= handshake.resend_at {
                    handshake.resent(now);
                    actions.push(Action::Send(*flow, handshake.flight.clone()));
                }
            }
            State::Installing {
                flow, give_up_at, ..
            } if now >= *give_up_at => {
                actions.push(Action::Failed(*flow, "keys were not installed".to_owned()));
                self.state = State::Idle;
            }
            State::Finished { forget_at, .. } if now >= *forget_at => self.state = State::Idle,
            _ => {}
        }
    }

    fn client_hello(
        &mut self,
        now: Now,
        flow: Flow,
        random: [u8; 32],
        bytes: &[u8],
        actions: &mut Vec<Action>,
    ) {
        if hello::find_app_id(bytes) != Ok(self.settings.app_id) {
            return;
        }
        if let State::Handshaking {
            flow: own,
            hello_random,
            handshake,
        } = &mut self.state
            && *own == flow
            && *hello_random == random
        {
            // OpenSSL would not answer a repeated ClientHello before its timer.
            if handshake.repeats > 0 {
                handshake.repeats -= 1;
                actions.push(Action::Send(flow, handshake.flight.clone()));
            }
            return;
        }
        if self
            .last_start
            .is_some_and(|last| now < last + BETWEEN_HANDSHAKES)
        {
            return;
        }
        self.last_start = Some(now);
        let DtlsSettings {
            context,
            psk,
            ciphers,
            ..
        } = &self.settings;
        match Handshake::start(context, psk, ciphers, now) {
            Ok(handshake) => {
                let handshake = Box::new(handshake);
                self.state = State::Handshaking {
                    flow,
                    hello_random: random,
                    handshake,
                };
                self.advance(now, flow, bytes, actions);
            }
            Err(error) => actions.push(Action::Failed(flow, error.to_string())),
        }
    }

    fn advance(&mut self, now: Now, flow: Flow, bytes: &[u8], actions: &mut Vec<Action>) {
        let State::Handshaking { handshake, .. } = &mut self.state else {
            return;
        };
        match handshake.datagram(now, bytes) {
            Ok(Progress::Waiting { new_flight: true }) => {
                actions.push(Action::Send(flow, handshake.flight.clone()));
            }
            Ok(Progress::Waiting { new_flight: false }) => {}
            Ok(Progress::Done(keys)) => {
                let flight = std::mem::take(&mut handshake.flight);
                let give_up_at = now + INSTALL_TIMEOUT;
                self.state = State::Installing {
                    flow,
                    flight,
                    give_up_at,
                };
                actions.push(Action::Install(flow, keys));
            }
            Err(error) => {
                // What is left to send is an alert, if OpenSSL had something to say.
                let alert = std::mem::take(&mut handshake.flight);
                self.state = State::Idle;
                if alert.iter().all(|datagram| is_alert(datagram)) {
                    actions.push(Action::Send(flow, alert));
                }
                actions.push(Action::Failed(flow, error.to_string()));
            }
        }
    }
}

/// In occtl's form, e.g. `(DTLS1.2)-(PSK)-(AES-256-GCM)`.
pub fn describe(cipher: dtls::Cipher) -> String {
    let cipher = match cipher {
        dtls::Cipher::Aes128Gcm => Cipher::Aes128Gcm,
        dtls::Cipher::Aes256Gcm => Cipher::Aes256Gcm,
        dtls::Cipher::ChaCha20Poly1305 => Cipher::Chacha20Poly1305,
    };
    format!("(DTLS1.2)-(PSK)-({})", super::tls::cipher_name(cipher))
}

/// The random bytes of a datagram that begins with an unprotected ClientHello.
fn hello_random(datagram: &[u8]) -> Option<[u8; 32]> {
    const CLIENT_HELLO: u8 = 1;
    const BEFORE_RANDOM: usize = 12 + 2;
    let header = RecordHeader::parse(datagram)?;
    let (_, body) = records(datagram).next()?;
    let plain = header.content_type == ContentType::Handshake && header.epoch == 0;
    if !plain || body.first() != Some(&CLIENT_HELLO) {
        return None;
    }
    body.get(BEFORE_RANDOM..)?.first_chunk().copied()
}

/// True for what can be the client's ClientKeyExchange, ChangeCipherSpec and Finished again.
fn is_last_flight(datagram: &[u8]) -> bool {
    RecordHeader::parse(datagram).is_some_and(|header| {
        matches!(
            header.content_type,
            ContentType::Handshake | ContentType::ChangeCipherSpec
        )
    })
}

fn is_alert(datagram: &[u8]) -> bool {
    RecordHeader::parse(datagram)
        .is_some_and(|header| header.content_type == ContentType::Alert && header.epoch == 0)
}
