//! Private keys that are somewhere else: rustls asks, the security module signs.
//!
//! rustls signs synchronously, so a call blocks its thread. Handshake steps therefore run on
//! blocking threads, as many as there are channels here.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::sign::{Signer, SigningKey};
use rustls::{Error, SignatureAlgorithm, SignatureScheme};

use crate::ipc::channel::SyncChannel;
use crate::ipc::secmod::{SignReply, SignRequest};

/// Longest wait for a free channel, and for the answer on it.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// A request is sent so often at most: one that is the death of secmod shall not be that of each
/// successor.
const MAX_TRIES: u32 = 2;

thread_local! {
    /// Scheme of the last signature made for this thread; see [`take_last_scheme`].
    static LAST_SCHEME: Cell<Option<u16>> = const { Cell::new(None) };
}

/// The scheme of the signature that the handshake step just run on this thread asked for. rustls
/// does not tell it, and occtl shows it.
pub fn take_last_scheme() -> Option<u16> {
    LAST_SCHEME.take()
}

/// The signing channels of this gate.
#[derive(Debug, Default)]
pub struct SignPool {
    channels: Mutex<Channels>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct Channels {
    /// Counts the times that secmod was replaced: channels to a dead one do not come back.
    generation: u64,
    idle: Vec<SignChannel>,
    in_use: usize,
}

/// One signing channel.
#[derive(Debug)]
struct SignChannel {
    channel: SyncChannel,
    /// The last call was given up; its answer comes before any other.
    owes_answer: bool,
}

impl SignChannel {
    fn call(&mut self, request: &SignRequest) -> io::Result<SignReply> {
        let deadline = Instant::now() + CALL_TIMEOUT;
        if self.owes_answer {
            self.answer(deadline)?;
        }
        self.channel.send(request)?;
        self.answer(deadline)
    }

    fn answer(&mut self, deadline: Instant) -> io::Result<SignReply> {
        self.owes_answer = true;
        let left = deadline.saturating_duration_since(Instant::now());
        let Some((reply, _)) = self.channel.recv(left)? else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        self.owes_answer = false;
        Ok(reply)
    }
}

impl SignPool {
    /// Puts these channels in place of all earlier ones.
    pub fn replace(&self, sockets: Vec<OwnedFd>) {
        let mut channels = self.lock();
        channels.generation += 1;
        channels.in_use = 0;
        channels.idle = sockets
            .into_iter()
            .map(|socket| SignChannel {
                channel: SyncChannel::new(socket),
                owes_answer: false,
            })
            .collect();
        self.freed.notify_all();
    }

    /// Number of channels, which bounds the useful number of threads.
    pub fn len(&self) -> usize {
        let channels = self.lock();
        channels.idle.len() + channels.in_use
    }

    /// One question and its answer. When secmod dies, its successor is waited for and asked.
    ///
    /// # Errors
    /// When there is none in time, or secmod is silent.
    pub fn call(&self, request: &SignRequest) -> io::Result<SignReply> {
        self.with_channel(|channel| channel.call(request))
    }

    /// A message that has no answer.
    ///
    /// # Errors
    /// When secmod is gone.
    pub fn tell(&self, request: &SignRequest) -> io::Result<()> {
        self.with_channel(|channel| channel.channel.send(request))
    }

    fn with_channel<T>(&self, work: impl Fn(&mut SignChannel) -> io::Result<T>) -> io::Result<T> {
        let deadline = Instant::now() + CALL_TIMEOUT;
        let mut tries = 1;
        loop {
            let (mut channel, generation) = self.take(deadline)?;
            let result = work(&mut channel);
            let error = result.as_ref().err().map(io::Error::kind);
            let mut channels = self.lock();
            if channels.generation == generation {
                channels.in_use -= 1;
                if matches!(error, None | Some(io::ErrorKind::TimedOut)) {
                    channels.idle.push(channel);
                }
                self.freed.notify_one();
            }
            match error {
                // Nothing was sent.
                Some(io::ErrorKind::BrokenPipe) => {}
                Some(io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof)
                    if tries < MAX_TRIES =>
                {
                    tries += 1;
                }
                _ => return result,
            }
        }
    }

    /// Takes a channel, waiting for one that is in use, or for those of secmod's successor.
    fn take(&self, deadline: Instant) -> io::Result<(SignChannel, u64)> {
        let mut channels = self.lock();
        loop {
            if let Some(channel) = channels.idle.pop() {
                channels.in_use += 1;
                return Ok((channel, channels.generation));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::NotConnected.into());
            }
            channels = self
                .freed
                .wait_timeout(channels, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Channels> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A key by its place in the configuration.
#[derive(Clone, Debug)]
pub struct RemoteKey {
    pub(super) pool: Arc<SignPool>,
    pub(super) vhost: u32,
    pub(super) key: u32,
    /// What it can make, best first.
    pub(super) schemes: Arc<[u16]>,
    /// Use this scheme whatever rustls says is offered: an RSASSA-PSS one, which rustls does not
    /// know and therefore leaves out of the list.
    pub(super) fixed: Option<u16>,
}

impl SigningKey for RemoteKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let offers = |scheme: u16| offered.iter().any(|o| u16::from(*o) == scheme);
        let scheme = self
            .fixed
            .or_else(|| self.schemes.iter().copied().find(|scheme| offers(*scheme)))?;
        Some(Box::new(RemoteSigner {
            key: self.clone(),
            scheme,
        }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match self.schemes.first() {
            Some(0x0203 | 0x0403 | 0x0503 | 0x0603) => SignatureAlgorithm::ECDSA,
            Some(0x0807) => SignatureAlgorithm::ED25519,
            _ => SignatureAlgorithm::RSA,
        }
    }
}

#[derive(Debug)]
struct RemoteSigner {
    key: RemoteKey,
    scheme: u16,
}

impl Signer for RemoteSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let request = SignRequest::Sign {
            vhost: self.key.vhost,
            key: self.key.key,
            scheme: self.scheme,
            message: message.to_vec(),
        };
        match self.key.pool.call(&request) {
            Ok(SignReply::Signature(Some(signature))) => {
                LAST_SCHEME.set(Some(self.scheme));
                Ok(signature)
            }
            Ok(_) => Err(Error::General(
                "the security module refused to sign".to_owned(),
            )),
            Err(error) => Err(Error::General(format!("signing: {error}"))),
        }
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::from(self.scheme)
    }
}
