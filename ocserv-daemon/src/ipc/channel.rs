//! Typed messages over SEQPACKET sockets.
//!
//! A message is one postcard-encoded value; what does not fit (a configuration) travels in a sealed
//! memfd. A receiver never trusts the sender: what does not decode is an error of kind
//! `InvalidData`, and the caller drops that peer.

use std::cell::RefCell;
use std::io::{self, IoSlice, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use ocserv_sys::seqpacket;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use zeroize::{Zeroize, Zeroizing};

/// Longest message in bytes. Larger values go into a memfd.
pub const MAX_MESSAGE: usize = 96 * 1024;
/// Largest memfd that is read, in bytes.
const MAX_MEMFD: u64 = 64 * 1024 * 1024;
/// Room for messages that the peer has not read yet, in bytes.
const BUFFER: usize = 1024 * 1024;

/// A channel for tasks of a tokio runtime. Several tasks may send; one should receive.
#[derive(Debug)]
pub struct Channel {
    /// A SEQPACKET socket: tokio only watches it, all calls on it are [`seqpacket`]'s.
    socket: UnixDatagram,
}

impl Channel {
    /// Wraps one end of [`ocserv_sys::seqpacket::pair`]; must be called inside a runtime.
    ///
    /// # Errors
    /// When the descriptor cannot be made non-blocking or watched.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        seqpacket::set_buffers(socket.as_fd(), BUFFER)?;
        let socket = std::os::unix::net::UnixDatagram::from(socket);
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: UnixDatagram::from_std(socket)?,
        })
    }

    /// Sends one message, waiting while the peer's queue is full.
    ///
    /// # Errors
    /// `BrokenPipe` when the peer is gone; `InvalidInput` when the message is too long.
    pub async fn send<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = encode(message)?;
        let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        self.socket
            .async_io(Interest::WRITABLE, || {
                seqpacket::send(self.socket.as_fd(), &[IoSlice::new(&bytes)], &fds)
            })
            .await
    }

    /// Sends one message without waiting.
    ///
    /// # Errors
    /// `WouldBlock` when the peer's queue is full, else as [`Channel::send`].
    pub fn try_send<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = encode(message)?;
        let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        seqpacket::send(self.socket.as_fd(), &[IoSlice::new(&bytes)], &fds)
    }

    /// Receives one message; `None` when the peer closed. Cancel-safe.
    ///
    /// # Errors
    /// `InvalidData` when the message does not decode, else as recvmsg(2).
    pub async fn recv<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        self.socket
            .async_io(Interest::READABLE, || receive(self.socket.as_fd()))
            .await
    }
}

/// A channel for a thread that waits: one call, one reply.
#[derive(Debug)]
pub struct SyncChannel {
    socket: OwnedFd,
}

impl SyncChannel {
    /// Wraps one end of [`ocserv_sys::seqpacket::pair`].
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// Sends `request`.
    ///
    /// # Errors
    /// As [`Channel::send`].
    pub fn send<T: Serialize>(&self, request: &T) -> io::Result<()> {
        let bytes = encode(request)?;
        seqpacket::send(self.socket.as_fd(), &[IoSlice::new(&bytes)], &[])
    }

    /// Receives one message; `None` when the peer closed.
    ///
    /// # Errors
    /// `TimedOut` after `timeout`, else as [`Channel::recv`].
    pub fn recv<T: DeserializeOwned>(
        &self,
        timeout: Duration,
    ) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let millis = u16::try_from(timeout.as_millis()).unwrap_or(u16::MAX);
        let mut waiting = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        if poll(&mut waiting, PollTimeout::from(millis))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        receive(self.socket.as_fd())
    }

    /// Sends `request` and waits for its reply.
    ///
    /// # Errors
    /// `TimedOut` after `timeout` (at most 65 s), `UnexpectedEof` when the peer is gone.
    pub fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        request: &Q,
        timeout: Duration,
    ) -> io::Result<A> {
        self.send(request)?;
        match self.recv(timeout)? {
            Some((answer, _)) => Ok(answer),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// A sealed memfd that holds `value`: the receiver sees it whole and nobody can change it.
///
/// # Errors
/// As memfd_create(2) and write(2).
pub fn memfd_with<T: Serialize>(value: &T) -> io::Result<OwnedFd> {
    let bytes = Zeroizing::new(postcard::to_stdvec(value).map_err(io::Error::other)?);
    let fd = memfd_create(
        c"ocserv",
        MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING,
    )?;
    let mut file = std::fs::File::from(fd);
    file.write_all(&bytes)?;
    file.seek(SeekFrom::Start(0))?;
    let fd = OwnedFd::from(file);
    let seals = SealFlag::F_SEAL_WRITE
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_SEAL;
    fcntl(&fd, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(fd)
}

/// Reads what [`memfd_with`] wrote.
///
/// # Errors
/// `InvalidData` when it is too large or does not decode.
pub fn read_memfd<T: DeserializeOwned>(fd: OwnedFd) -> io::Result<T> {
    let mut file = std::fs::File::from(fd);
    // A confined process may not ask for a file's status.
    let length = file.seek(SeekFrom::End(0))?;
    if length > MAX_MEMFD {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "memfd too large",
        ));
    }
    let mut bytes = Zeroizing::new(vec![0; usize::try_from(length).map_err(io::Error::other)?]);
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0)?;
    from_bytes(&bytes)
}

fn encode<T: Serialize>(message: &T) -> io::Result<Zeroizing<Vec<u8>>> {
    let bytes = Zeroizing::new(postcard::to_stdvec(message).map_err(io::Error::other)?);
    if bytes.len() > MAX_MESSAGE {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "message too long",
        ));
    }
    Ok(bytes)
}

thread_local! {
    /// Where messages arrive: one place for a thread, so that a channel that waits holds none.
    static ARRIVAL: RefCell<Box<[u8]>> = RefCell::new(vec![0; MAX_MESSAGE].into_boxed_slice());
}

/// Receives and decodes one message, and overwrites what it left behind.
fn receive<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    ARRIVAL.with_borrow_mut(|buffer| match seqpacket::recv(socket, buffer) {
        Ok(received) => {
            let bytes = buffer.get_mut(..received.len).unwrap_or_default();
            let message = decode(bytes, received.fds);
            bytes.zeroize();
            message
        }
        Err(error) => {
            // Too long a message has filled it.
            if error.kind() == io::ErrorKind::InvalidData {
                buffer.zeroize();
            }
            Err(error)
        }
    })
}

fn decode<T: DeserializeOwned>(
    bytes: &[u8],
    fds: Vec<OwnedFd>,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    Ok(Some((from_bytes(bytes)?, fds)))
}

/// Decodes one value; bytes left over are an error too.
///
/// # Errors
/// `InvalidData`.
pub fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    let invalid = |text| io::Error::new(io::ErrorKind::InvalidData, text);
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(invalid("bytes behind the message")),
        Err(_) => Err(invalid("message does not decode")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    #[test]
    fn values_and_descriptors_arrive() {
        runtime().block_on(async {
            let (a, b) = seqpacket::pair().unwrap();
            let (a, b) = (Channel::new(a).unwrap(), Channel::new(b).unwrap());
            let setup = memfd_with(&vec![1_u32, 2, 3]).unwrap();
            a.send(&("hello".to_owned(), 5_u8), &[setup.as_fd()])
                .await
                .unwrap();
            drop(a);
            let ((text, number), mut fds) = b.recv::<(String, u8)>().await.unwrap().unwrap();
            assert_eq!((text.as_str(), number), ("hello", 5));
            assert_eq!(
                read_memfd::<Vec<u32>>(fds.pop().unwrap()).unwrap(),
                [1, 2, 3]
            );
            assert!(b.recv::<u8>().await.unwrap().is_none(), "closed");
        });
    }

    #[test]
    fn what_does_not_decode_is_invalid_data() {
        runtime().block_on(async {
            let (a, b) = seqpacket::pair().unwrap();
            let b = Channel::new(b).unwrap();
            seqpacket::send(a.as_fd(), &[IoSlice::new(&[0xff; 40])], &[]).unwrap();
            let error = b.recv::<String>().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            SyncChannel::new(a).send(&(1_u8, 2_u8)).unwrap();
            let error = b.recv::<u8>().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "a byte too many");
        });
    }

    #[test]
    fn nothing_of_a_message_stays_in_memory() {
        runtime().block_on(async {
            let (a, b) = seqpacket::pair().unwrap();
            let b = Channel::new(b).unwrap();
            let left = || ARRIVAL.with_borrow(|buffer| buffer.iter().any(|byte| *byte != 0));
            SyncChannel::new(a.try_clone().unwrap())
                .send(&"cookie".to_owned())
                .unwrap();
            assert_eq!(b.recv::<String>().await.unwrap().unwrap().0, "cookie");
            assert!(!left());
            let long = vec![7; MAX_MESSAGE + 1];
            seqpacket::send(a.as_fd(), &[IoSlice::new(&long)], &[]).unwrap();
            let error = b.recv::<String>().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(!left());
        });
    }

    #[test]
    fn a_call_that_nobody_answers_times_out() {
        let (a, _b) = seqpacket::pair().unwrap();
        let error = SyncChannel::new(a)
            .call::<u8, u8>(&1, Duration::from_millis(20))
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_sealed_memfd_cannot_be_changed() {
        let fd = memfd_with(&7_u32).unwrap();
        let mut file = std::fs::File::from(fd);
        assert!(file.write_all(b"x").is_err());
        assert!(file.set_len(100).is_err());
    }
}
