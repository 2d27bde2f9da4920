//! One gate's channels. Whatever comes out of them may come from an attacker.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ocserv_proto::secret::Secret;
use tokio::sync::Semaphore;

use super::Secmod;
use super::tls_cache::TlsSessionKey;
use crate::ipc::channel::Channel;
use crate::ipc::ids::GateId;
use crate::ipc::secmod::{AuthReply, AuthRequest, SignReply, SignRequest};
use crate::ipc::ticket;

/// Questions of one gate that are worked on at once; the others wait in its socket.
const MAX_IN_FLIGHT: usize = 256;
/// Signing channels of one gate.
const MAX_SIGNING_CHANNELS: usize = 64;
/// Longest message to sign, bytes.
const MAX_MESSAGE_LEN: usize = 64 * 1024;
/// A gate that does not read its answers for this long is given up.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves a gate until it closes its channels or breaks the contract.
pub fn serve(secmod: &Rc<Secmod>, gate: GateId, channels: Vec<OwnedFd>) {
    let mut channels = channels.into_iter();
    let Some(questions) = channels.next() else {
        tracing::error!("gate {} came without a channel", gate.0);
        return;
    };
    let questions = answer_questions(Rc::clone(secmod), gate, questions);
    tokio::task::spawn_local(until_broken(gate, questions));
    for channel in channels.take(MAX_SIGNING_CHANNELS) {
        let signing = answer_signing(Rc::clone(secmod), channel);
        tokio::task::spawn_local(until_broken(gate, signing));
    }
}

async fn until_broken(gate: GateId, task: impl Future<Output = io::Result<()>>) {
    match task.await {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            tracing::error!(
                "gate {} broke the contract, its channel is closed: {error}",
                gate.0
            );
        }
        Err(error) => tracing::debug!("channel of gate {}: {error}", gate.0),
        Ok(()) => {}
    }
}

async fn answer_questions(secmod: Rc<Secmod>, gate: GateId, socket: OwnedFd) -> io::Result<()> {
    let channel = Rc::new(Channel::new(socket)?);
    let in_flight = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
    loop {
        let place = Arc::clone(&in_flight)
            .acquire_owned()
            .await
            .map_err(io::Error::other)?;
        let Some((request, _)) = channel.recv::<AuthRequest>().await? else {
            return Ok(());
        };
        if request.ticket.gate != gate || !ticket::verify(&request.ticket, &secmod.ticket_key()) {
            return Err(invalid("a ticket that is not its own"));
        }
        let (secmod, channel) = (Rc::clone(&secmod), Rc::clone(&channel));
        tokio::task::spawn_local(async move {
            let outcome = secmod.answer(request.ticket, request.question).await;
            let reply = AuthReply {
                request: request.request,
                outcome,
            };
            if let Err(error) = send(&channel, &reply).await {
                tracing::debug!("an answer to gate {} is lost: {error}", gate.0);
            }
            drop(place);
        });
    }
}

async fn answer_signing(secmod: Rc<Secmod>, socket: OwnedFd) -> io::Result<()> {
    let channel = Channel::new(socket)?;
    let mut refused_before = false;
    while let Some((request, _)) = channel.recv::<SignRequest>().await? {
        match request {
            SignRequest::Sign {
                vhost,
                key,
                scheme,
                message,
            } => {
                if message.len() > MAX_MESSAGE_LEN {
                    return Err(invalid("a message to sign that is too long"));
                }
                let signature = secmod.sign(vhost, key, scheme, message).await;
                // Once for each channel: a gate must not fill the log.
                if signature.is_none() && !std::mem::replace(&mut refused_before, true) {
                    tracing::error!("refused to sign: vhost {vhost}, key {key}, {scheme:#06x}");
                }
                send(&channel, &SignReply::Signature(signature)).await?;
            }
            SignRequest::StoreTls {
                vhost,
                remote,
                id,
                value,
            } => {
                secmod.store_tls(vhost, remote, id, value);
            }
            SignRequest::LoadTls {
                vhost,
                remote,
                id,
                take,
            } => {
                let session = secmod.load_tls(vhost, remote, id, take);
                send(&channel, &SignReply::Tls(session)).await?;
            }
        }
    }
    Ok(())
}

async fn send<T: serde::Serialize>(channel: &Channel, message: &T) -> io::Result<()> {
    tokio::time::timeout(REPLY_TIMEOUT, channel.send(message, &[])).await?
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl Secmod {
    async fn sign(&self, vhost: u32, key: u32, scheme: u16, message: Vec<u8>) -> Option<Vec<u8>> {
        let active = self.active()?;
        let keys = active.keys.get(vhost as usize);
        let found = keys.and_then(|keys| keys.get(key as usize)).map(Arc::clone);
        match found {
            Some(key) => self
                .pool
                .run(move || key.sign(scheme, &message))
                .await
                .flatten(),
            None => None,
        }
    }

    fn store_tls(&self, vhost: u32, remote: IpAddr, id: Vec<u8>, value: Secret) {
        let Some(active) = self.active() else { return };
        let Some(lifetime) = active.vhost(vhost).map(|(vhost, _)| vhost.cookie_timeout) else {
            return;
        };
        let key = TlsSessionKey { vhost, remote, id };
        self.state
            .borrow_mut()
            .tls
            .store(key, value, Instant::now(), lifetime);
    }

    fn load_tls(&self, vhost: u32, remote: IpAddr, id: Vec<u8>, take: bool) -> Option<Secret> {
        let key = TlsSessionKey { vhost, remote, id };
        self.state.borrow_mut().tls.load(&key, Instant::now(), take)
    }
}
