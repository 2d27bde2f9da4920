//! Senders that are nobody: datagrams at a fixed rate from a raw socket, and TCP connections that never
//! speak.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::socket::{
    AddressFamily, MsgFlags, MultiHeaders, SockFlag, SockProtocol, SockType, SockaddrIn, sendmmsg,
    socket,
};
use ocserv_tests::bed::{GATEWAY4, PORT};

use crate::records::packet;

/// Datagrams that are made ahead and sent again and again.
pub const POOL: usize = 4096;
/// Bytes of a header of a DTLS record: type, version, epoch, sequence number, length.
const RECORD_HEADER: usize = 13;
/// Bytes of a header of a handshake message.
const MESSAGE_HEADER: usize = 12;
/// Bytes of the shortest ClientHello.
pub const LEAST_HELLO: usize = RECORD_HEADER + 92;
/// Most datagrams of one call.
const BATCH: usize = 64;
/// How often it is looked what is due.
const TICK: Duration = Duration::from_micros(500);
/// Handshakes of TCP take longer if the gateway is in trouble; then there are fewer connections.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// What datagrams of strangers look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Random bytes.
    Noise,
    /// The first flight of a client that nobody knows.
    Hello,
    /// An application record, whose tag is wrong.
    Record,
}

/// Random enough, and the same in each run (xorshift64, Marsaglia).
pub struct Dice(u64);

impl Dice {
    /// The same row of numbers each time.
    pub const fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(8) {
            let roll = self.roll().to_be_bytes();
            piece.copy_from_slice(&roll[..piece.len()]);
        }
    }
}

impl Form {
    /// Writes a payload. Records have sequence numbers that no session has reached.
    ///
    /// # Panics
    /// If a hello is to be shorter than [`LEAST_HELLO`], or a record than its header.
    pub fn write(self, dice: &mut Dice, payload: &mut [u8]) {
        dice.fill(payload);
        let record = payload.len().saturating_sub(RECORD_HEADER) as u16;
        match self {
            Self::Noise => {}
            Self::Hello => {
                let header = [22, 0xfe, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
                payload[..11].copy_from_slice(&header);
                payload[11..13].copy_from_slice(&record.to_be_bytes());
                write_hello(&mut payload[RECORD_HEADER..]);
            }
            Self::Record => {
                payload[..7].copy_from_slice(&[23, 0xfe, 0xfd, 0, 1, 0, 0]);
                payload[7] |= 0x80;
                payload[11..13].copy_from_slice(&record.to_be_bytes());
            }
        }
    }
}

/// Makes random bytes a ClientHello (RFC 6347, 4.2.2) with a session id, by which servers look for a
/// session, and an extension that nobody knows.
fn write_hello(message: &mut [u8]) {
    let length = (message.len() - MESSAGE_HEADER) as u32;
    let [_, length @ ..] = length.to_be_bytes();
    // Type, length, number, begin and length of the fragment; version; then comes the random.
    message[..4].copy_from_slice(&[1, length[0], length[1], length[2]]);
    message[4..9].fill(0);
    message[9..12].copy_from_slice(&length);
    message[12..14].copy_from_slice(&[0xfe, 0xfd]);
    message[46] = 32;
    // No cookie; one suite; no compression.
    message[79..86].copy_from_slice(&[0, 0, 2, 0xc0, 0x2b, 1, 0]);
    let extensions = (message.len() - 88) as u16;
    message[86..88].copy_from_slice(&extensions.to_be_bytes());
    message[88..90].copy_from_slice(&[0xfa, 0xfa]);
    message[90..92].copy_from_slice(&(extensions - 4).to_be_bytes());
}

/// Packets to the gateway's port, or past it.
pub struct Ammunition {
    /// Sources of the packets, taken in turns.
    pub sources: Vec<SocketAddrV4>,
    /// Where they go.
    pub to: SocketAddrV4,
    /// What they are.
    pub form: Form,
    /// Bytes of a payload.
    pub length: usize,
}

impl Ammunition {
    /// From so many ports of one address to the gateway. `spared` are ports of others.
    ///
    /// # Errors
    /// When the gateway has no address.
    pub fn from_strangers(
        address: Ipv4Addr,
        spared: &[u16],
        form: Form,
        length: usize,
    ) -> Result<Self> {
        let mut dice = Dice::new();
        let ports = std::iter::repeat_with(move || (dice.roll() >> 32) as u16);
        let ports = ports.filter(|port| *port > 1024 && !spared.contains(port));
        Ok(Self {
            sources: ports
                .map(|port| SocketAddrV4::new(address, port))
                .take(POOL)
                .collect(),
            to: SocketAddrV4::new(GATEWAY4.parse()?, PORT),
            form,
            length,
        })
    }

    fn packets(&self) -> Vec<Vec<u8>> {
        let mut dice = Dice::new();
        let sources = self.sources.iter().cycle().take(POOL);
        let size = packet::HEADERS + self.length;
        sources
            .map(|from| {
                packet::stamped(*from, self.to, size, |payload| {
                    self.form.write(&mut dice, payload);
                })
            })
            .collect()
    }
}

/// Sends at most so many packets a second until it is told to stop; returns how many a second it was. To
/// be called in the sender's namespace.
///
/// # Errors
/// Without the right to raw sockets.
pub fn shoot(ammunition: &Ammunition, rate: f64, stop: &AtomicBool) -> Result<f64> {
    let packets = ammunition.packets();
    let socket = raw_socket()?;
    let to = SockaddrIn::from(ammunition.to);
    let mut headers = MultiHeaders::preallocate(BATCH, None);
    let begin = Instant::now();
    let (mut sent, mut due) = (0_usize, 0_usize);
    while !stop.load(Ordering::Relaxed) {
        due = due.max((begin.elapsed().as_secs_f64() * rate) as usize);
        // What could not be sent in time is not made good for all at once.
        let behind = (due - sent).min(BATCH);
        if behind == 0 {
            thread::sleep(TICK);
            continue;
        }
        if due - sent > 4 * BATCH {
            due = sent + behind;
        }
        let chosen = (0..behind).map(|at| &packets[(sent + at) % POOL]);
        let parts: Vec<_> = chosen
            .map(|packet| [std::io::IoSlice::new(packet)])
            .collect();
        let names = vec![Some(to); behind];
        // A device that is full has lost them.
        let _ = sendmmsg(
            socket.as_raw_fd(),
            &mut headers,
            &parts,
            &names,
            [],
            MsgFlags::empty(),
        );
        sent += behind;
    }
    Ok(sent as f64 / begin.elapsed().as_secs_f64())
}

fn raw_socket() -> Result<OwnedFd> {
    socket(
        AddressFamily::Inet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Raw,
    )
    .context("raw socket")
}

/// Opens at most so many TCP connections, one after the other, until one fails or the time is over. To be
/// called in the sender's namespace.
///
/// # Errors
/// When the gateway has no address.
pub fn connect_many(count: usize, limit: Duration) -> Result<Vec<TcpStream>> {
    let gateway = gateway()?;
    let begin = Instant::now();
    let mut open = Vec::new();
    while open.len() < count && begin.elapsed() < limit {
        match TcpStream::connect_timeout(&gateway, CONNECT_LIMIT) {
            Ok(stream) => open.push(stream),
            Err(_) => break,
        }
    }
    Ok(open)
}

/// Connects and closes at most so often a second until it is told to stop; returns how often it was. To be
/// called in the sender's namespace.
///
/// # Errors
/// When the gateway has no address.
pub fn churn(rate: f64, stop: &AtomicBool) -> Result<f64> {
    let gateway = gateway()?;
    let begin = Instant::now();
    let mut done = 0.0;
    while !stop.load(Ordering::Relaxed) {
        if done >= begin.elapsed().as_secs_f64() * rate {
            thread::sleep(TICK);
            continue;
        }
        // One that is refused does not count.
        if TcpStream::connect_timeout(&gateway, CONNECT_LIMIT).is_ok() {
            done += 1.0;
        }
    }
    Ok(done / begin.elapsed().as_secs_f64())
}

fn gateway() -> Result<SocketAddr> {
    Ok(SocketAddr::new(GATEWAY4.parse()?, PORT))
}

#[cfg(test)]
mod tests {
    use ocserv_proto::dtls::hello::find_app_id;
    use ocserv_proto::dtls::record::{ContentType, RecordHeader};

    use super::{Ammunition, Dice, Form, POOL};

    fn payload(form: Form) -> Vec<u8> {
        let mut payload = vec![0; 120];
        form.write(&mut Dice::new(), &mut payload);
        payload
    }

    #[test]
    fn forms_are_what_they_look_like() {
        let record = RecordHeader::parse(&payload(Form::Record)).unwrap();
        assert_eq!(record.content_type, ContentType::ApplicationData);
        assert_eq!((record.epoch, record.record_len()), (1, 120));
        assert!(record.sequence >= 1 << 31);

        let hello = payload(Form::Hello);
        let record = RecordHeader::parse(&hello).unwrap();
        assert_eq!((record.epoch, record.record_len()), (0, 120));
        assert_eq!(find_app_id(&hello).unwrap(), hello[60..92]);
    }

    #[test]
    fn strangers_have_many_ports_but_not_those_of_others() {
        let all = Ammunition::from_strangers([192, 0, 2, 1].into(), &[], Form::Noise, 20).unwrap();
        let spared = all.sources[7].port();
        let others =
            Ammunition::from_strangers([192, 0, 2, 1].into(), &[spared], Form::Noise, 20).unwrap();
        assert_eq!(others.sources.len(), POOL);
        assert!(others.sources.iter().all(|source| source.port() != spared));
        let packets = others.packets();
        assert!(packets.iter().all(|packet| packet.len() == 48));
        assert_ne!(packets[0][28..], packets[1][28..]);
    }
}
