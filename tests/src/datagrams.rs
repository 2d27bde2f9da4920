//! Numbered datagrams with checked contents.

use std::collections::HashSet;
use std::io::IoSlice;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::bed::{Bed, LAN4, LAN6};
use crate::client::Client;
use crate::namespace::Namespace;
use crate::wait;

/// Numbers of one datagram.
const HEAD: usize = 8;
/// No datagram for so long: no more come.
const SILENCE: Duration = Duration::from_secs(1);
/// Pause behind each group, so that none is lost to a full queue.
const PAUSE: Duration = Duration::from_millis(30);

/// What came of the datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrived {
    /// Datagrams, each counted once.
    pub count: usize,
    /// Of these, how many came behind one that was sent later.
    pub overtaken: usize,
    /// Datagrams that had come before.
    pub repeated: usize,
}

/// Datagrams with `bytes` bytes each, from the client to the lan and back, in both address families.
/// All must arrive, in order.
///
/// # Errors
/// When one is lost, changed or overtaken.
pub fn pass_all_ways(bed: &Bed, client: &Client, bytes: usize) -> Result<()> {
    const GROUPS: usize = 10;
    let sizes = [bytes; 10];
    let sent = GROUPS * sizes.len();
    let (own4, own6) = (client.address4()?, client.address6()?);
    let ways = [
        (client.namespace(), bed.lan(), LAN4),
        (client.namespace(), bed.lan(), LAN6),
        (bed.lan(), client.namespace(), &own4),
        (bed.lan(), client.namespace(), &own6),
    ];
    for (from, to, address) in ways {
        let arrived = pass(from, to, address, GROUPS, &sizes)?;
        let all = Arrived {
            count: sent,
            ..Arrived::default()
        };
        ensure!(arrived == all, "{arrived:?} of {sent} to {address}");
    }
    Ok(())
}

/// Sends groups of datagrams of the given sizes (bytes) to `address`, which is in `to`.
///
/// # Errors
/// When a socket fails, or a datagram has other contents than it was sent with.
pub fn pass(
    from: &Namespace,
    to: &Namespace,
    address: &str,
    groups: usize,
    sizes: &[usize],
) -> Result<Arrived> {
    let group: Vec<_> = sizes.iter().map(|size| (*size, Duration::ZERO)).collect();
    let mut steps = group.repeat(groups);
    for last in steps.iter_mut().skip(sizes.len() - 1).step_by(sizes.len()) {
        last.1 = PAUSE;
    }
    pass_paced(from, to, address, &steps)
}

/// Sends datagrams, each of so many bytes and with a pause behind it.
///
/// # Errors
/// As [`pass`] has.
pub fn pass_paced(
    from: &Namespace,
    to: &Namespace,
    address: &str,
    steps: &[(usize, Duration)],
) -> Result<Arrived> {
    pass_by(from, to, address, steps.len(), |sender| send(sender, steps))
}

/// Sends groups of messages to `address`, which is in `to`. A message is one or more datagrams with these
/// bytes, all of the same size but a shorter last; the kernel cuts it (`UDP_SEGMENT`), so that its datagrams
/// reach the next device at once, where they can be merged. There is a pause behind each group.
///
/// # Errors
/// As [`pass`] has; `EIO` before Linux 6.11 where the device leaves checksums to the host.
pub fn pass_together(
    from: &Namespace,
    to: &Namespace,
    address: &str,
    groups: usize,
    messages: &[&[usize]],
) -> Result<Arrived> {
    let all: usize = messages.iter().map(|sizes| sizes.len()).sum();
    pass_by(from, to, address, groups * all, |sender| {
        let mut next = 0;
        for _ in 0..groups {
            for sizes in messages {
                send_together(sender, next, sizes)?;
                next += sizes.len() as u64;
            }
            thread::sleep(PAUSE);
        }
        Ok(())
    })
}

/// Sends by `send`, and receives until so many have come or no more come.
fn pass_by(
    from: &Namespace,
    to: &Namespace,
    address: &str,
    expected: usize,
    send: impl FnOnce(&UdpSocket) -> Result<()>,
) -> Result<Arrived> {
    let address: IpAddr = address.parse().context("address")?;
    let receiver = to.run(|| UdpSocket::bind((address, 0)))??;
    receiver.set_read_timeout(Some(SILENCE))?;
    let target = receiver.local_addr()?;
    let any = if address.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let sender = from.run(|| UdpSocket::bind(any))??;
    sender.connect(target)?;
    thread::scope(|scope| {
        let receiving = scope.spawn(|| receive(&receiver, expected));
        let sent = send(&sender);
        let received = receiving.join().map_err(|_| anyhow!("receiver panicked"))?;
        sent.and(received)
    })
}

fn send(sender: &UdpSocket, steps: &[(usize, Duration)]) -> Result<()> {
    for (number, (size, pause)) in (0..).zip(steps) {
        sender.send(&contents(number, *size)).context("send")?;
        if !pause.is_zero() {
            thread::sleep(*pause);
        }
    }
    Ok(())
}

/// One message with datagrams of these sizes, the first of which has this number.
fn send_together(sender: &UdpSocket, first: u64, sizes: &[usize]) -> Result<()> {
    let datagrams = (first..).zip(sizes);
    let message: Vec<u8> = datagrams
        .flat_map(|(number, size)| contents(number, *size))
        .collect();
    let segment = u16::try_from(*sizes.first().context("an empty message")?)?;
    let flags = MsgFlags::empty();
    let control = [ControlMessage::UdpGsoSegments(&segment)];
    let parts = [IoSlice::new(&message)];
    let sent = sendmsg::<()>(sender.as_raw_fd(), &parts, &control, flags, None);
    ensure!(sent.context("sendmsg")? == message.len());
    Ok(())
}

fn receive(receiver: &UdpSocket, expected: usize) -> Result<Arrived> {
    let mut arrived = Arrived::default();
    let (mut latest, mut known) = (0, HashSet::new());
    let mut buffer = [0; 2048];
    let deadline = std::time::Instant::now() + wait::LONG;
    while arrived.count < expected && std::time::Instant::now() < deadline {
        let Ok(length) = receiver.recv(&mut buffer) else {
            break;
        };
        let datagram = &buffer[..length];
        let head = datagram.first_chunk::<HEAD>().context("a short datagram")?;
        let number = u64::from_be_bytes(*head);
        ensure!(datagram == contents(number, length), "datagram {number}");
        if !known.insert(number) {
            arrived.repeated += 1;
            continue;
        }
        arrived.count += 1;
        arrived.overtaken += usize::from(number < latest);
        latest = latest.max(number);
    }
    Ok(arrived)
}

/// The contents of datagram `number`.
fn contents(number: u64, size: usize) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    let body = (HEAD..size).map(|at| (number as usize * 31 + at * 7) as u8);
    bytes.extend(body);
    bytes
}
