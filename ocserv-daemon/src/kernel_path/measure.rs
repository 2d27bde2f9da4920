//! What opening a record costs on this machine, in the program and in user space, and a walk through the
//! host's stack. Done before anything else, with programs and maps of its own.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use nix::time::{ClockId, clock_gettime};
use ocserv_common::datagram::RECORD_HEADER;
use ocserv_common::encapsulation::{self, FRONT, Outgoing, front_len};
use ocserv_common::kernel::{Counted, FlowKey, MAX_RECORD};
use ocserv_common::replay::ReplayWindow;
use ocserv_proto::dtls::{ChannelKeys, Cipher, DtlsChannel};
use ocserv_proto::secret::Secret;
use ocserv_sys::shared_map::{Backing, SharedSessions};

use super::{KernelPath, NewChannel, Options};
use crate::costs::{Costs, Line, RecordLimits};
use crate::ipc::dataplane::SessionParams;
use crate::ipc::ids::{GateId, Slot};

/// Lengths of inner packets.
const SHORT: usize = 64;
const LONG: usize = 1400;
/// Records of each length; the fastest counts.
const RECORDS: usize = 48;
/// The first ones warm caches.
const WARM: usize = 8;
/// Datagrams of a round of walks, and rounds.
const DATAGRAMS: usize = 32;
const ROUNDS: usize = 12;
/// What a datagram to the host itself may take, ns.
const POSSIBLE: std::ops::Range<f64> = 200.0..100_000.0;
/// One that takes longer was filtered.
const PATIENCE: Duration = Duration::from_millis(50);

const DATA: u8 = 0;
const GENERATION: u64 = 1;
const EPOCH: u16 = 1;
const FIRST: u64 = 1;
const CLIENT: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 2), 40_000);
const SERVER: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 443);
const LEASE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

/// Measures; takes some milliseconds beside what loading a program takes.
///
/// # Errors
/// When the kernel refuses something.
pub fn costs() -> anyhow::Result<Costs> {
    let mut bed = Bed::new().context("setting up")?;
    let kernel = Line::through((SHORT, bed.in_kernel(SHORT)?), (LONG, bed.in_kernel(LONG)?));
    let user = Line::through(
        (SHORT, bed.in_user_space(SHORT)?),
        (LONG, bed.in_user_space(LONG)?),
    );
    let walk = walk().context("sending datagrams to this host")?;
    Ok(Costs::new(kernel, user, walk))
}

/// A session whose records a program opens.
struct Bed {
    kernel: KernelPath,
    client: DtlsChannel,
    server: DtlsChannel,
    next: u64,
    _shared: SharedSessions,
}

impl Bed {
    fn new() -> anyhow::Result<Self> {
        let options = Options {
            slots: 1,
            limits: RecordLimits::fixed(MAX_RECORD),
            direct: false,
            tun_ifindex: 1,
            sockets: false,
        };
        let mut kernel = KernelPath::load_some(options, &["xdp_rx"], &[])?;
        let memory = kernel.make_shard(0)?;
        let shared = SharedSessions::new(options.slots);
        shared.add(0, &memory, Backing::KernelMap)?;
        let keys = keys();
        shared[0].channels[0].start(GENERATION, keys.epoch, FIRST, FIRST, 1);
        let new = NewChannel {
            number: 0,
            keys: &keys,
            generation: GENERATION,
            peer: CLIENT.into(),
            local: SERVER.into(),
            ifindex: 1,
        };
        let params = params();
        kernel.install(&params, params.mtu, false, &new)?;
        Ok(Self {
            kernel,
            client: DtlsChannel::new(&reversed(&keys))?,
            server: DtlsChannel::new(&keys)?,
            next: FIRST,
            _shared: shared,
        })
    }

    /// The next record of the client around a packet of so many bytes.
    fn record(&mut self, len: usize) -> anyhow::Result<Vec<u8>> {
        let mut record = vec![0; len + self.client.overhead()];
        let sequence = self.next;
        self.next += 1;
        self.client.seal(sequence, DATA, &inner(len), &mut record)?;
        Ok(record)
    }

    fn in_kernel(&mut self, len: usize) -> anyhow::Result<f64> {
        let mut least = f64::INFINITY;
        let opened = |kernel: &KernelPath| -> anyhow::Result<u64> {
            Ok(kernel.counts()?.values[Counted::RxPackets as usize])
        };
        let before = opened(&self.kernel)?;
        for number in 0..WARM + RECORDS {
            let sequence = self.next;
            let frame = frame(sequence, &self.record(len)?);
            let program = self.kernel.ebpf_mut().program("xdp_rx");
            let program: &Xdp = program.context("no program")?.try_into()?;
            let ran = program.test_run(TestRunOptions {
                data_in: Some(&frame),
                ..TestRunOptions::new()
            })?;
            if number >= WARM {
                least = least.min(ran.duration.as_nanos() as f64);
            }
        }
        let all = opened(&self.kernel)? - before == (WARM + RECORDS) as u64;
        ensure!(all, "the program does not open its own records");
        Ok(least)
    }

    fn in_user_space(&mut self, len: usize) -> anyhow::Result<f64> {
        let window = ReplayWindow::new();
        let mut least = f64::INFINITY;
        for _ in 0..RECORDS / WARM {
            let records: anyhow::Result<Vec<_>> = (0..WARM).map(|_| self.record(len)).collect();
            let mut records = records?;
            let before = thread_time()?;
            for record in &mut records {
                let opened = self.server.open(record, &window);
                ensure!(opened.is_ok(), "a record does not open");
            }
            let spent = thread_time()?.saturating_sub(before);
            least = least.min(spent.as_nanos() as f64 / WARM as f64);
        }
        Ok(least)
    }
}

/// Sending and receiving a datagram, each by a call of its own.
fn walk() -> anyhow::Result<f64> {
    let from = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let to = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    from.connect(to.local_addr()?)?;
    to.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = [0; SHORT];
    let mut least = f64::INFINITY;
    for _ in 0..ROUNDS {
        // By the clock on the wall: some kernels do not count the receiving half to the thread.
        let before = Instant::now();
        for _ in 0..DATAGRAMS {
            from.send(&buffer)?;
            to.recv(&mut buffer)?;
        }
        least = least.min(before.elapsed().as_nanos() as f64 / DATAGRAMS as f64);
    }
    ensure!(POSSIBLE.contains(&least), "a datagram took {least:.0} ns");
    Ok(least)
}

/// Of this thread alone: other work of the machine does not count.
fn thread_time() -> anyhow::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// A packet of the client without ports.
fn inner(len: usize) -> Vec<u8> {
    const ESP: u8 = 50;
    let mut packet = vec![0; len];
    packet[..12].copy_from_slice(&[
        0x45,
        0,
        (len >> 8) as u8,
        len as u8,
        0,
        1,
        0,
        0,
        64,
        ESP,
        0,
        0,
    ]);
    packet[12..16].copy_from_slice(&LEASE.octets());
    packet[16..20].copy_from_slice(&SERVER.0.octets());
    packet
}

/// A record in a frame from the client.
fn frame(sequence: u64, record: &[u8]) -> Vec<u8> {
    /// Stands for a right one: programs leave it to the sender's device.
    const CHECKSUM: [u8; 2] = [0x12, 0x34];
    let out = Outgoing {
        flow: &FlowKey::new(SERVER.into(), CLIENT.into()),
        macs: &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2],
        epoch: EPOCH,
        sequence,
        length: record.len() - RECORD_HEADER,
        tos: 0,
        dont_fragment: true,
    };
    let mut front = [0; FRONT];
    encapsulation::write(&mut front, &out);
    encapsulation::set_udp_checksum(&mut front, CHECKSUM);
    let headers = &front[FRONT - front_len(true)..];
    [headers, &record[RECORD_HEADER..]].concat()
}

fn params() -> SessionParams {
    SessionParams {
        slot: Slot(0),
        gate: GateId(0),
        ipv4: Some(LEASE),
        ipv6: None,
        iroutes: Vec::new(),
        app_id: None,
        mtu: 1500,
        dpd: 0,
        switch_to_tcp: 0,
        rx_limit: 0,
        tx_limit: 0,
        net_priority: None,
    }
}

/// Any keys: nothing but test records is protected by them.
fn keys() -> ChannelKeys {
    let cipher = Cipher::ChaCha20Poly1305;
    let bytes = |len: usize, first: u8| Secret::new((first..).take(len).collect());
    ChannelKeys {
        cipher,
        epoch: EPOCH,
        next_send: FIRST,
        next_receive: FIRST,
        client_key: bytes(cipher.key_len(), 1),
        client_iv: bytes(cipher.iv_len(), 50),
        server_key: bytes(cipher.key_len(), 100),
        server_iv: bytes(cipher.iv_len(), 150),
    }
}

/// The client's view of them.
fn reversed(keys: &ChannelKeys) -> ChannelKeys {
    ChannelKeys {
        client_key: keys.server_key.clone(),
        client_iv: keys.server_iv.clone(),
        server_key: keys.client_key.clone(),
        server_iv: keys.client_iv.clone(),
        ..*keys
    }
}
