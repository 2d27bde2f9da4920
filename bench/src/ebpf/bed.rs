//! A network namespace with the programs in it, a session in their maps, and a way to its client.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions, TestRunResult, Xdp};
use nix::net::if_::if_nametoindex;
use ocserv_common::kernel::MAX_RECORD;
use ocserv_common::session::SessionShared;
use ocserv_daemon::costs::RecordLimits;
use ocserv_daemon::ipc::dataplane::SessionParams;
use ocserv_daemon::ipc::ids::{GateId, Slot};
use ocserv_daemon::kernel_path::{KernelPath, NewChannel, Options};
use ocserv_proto::dtls::{ChannelKeys, Cipher, DtlsChannel};
use ocserv_proto::secret::Secret;
use ocserv_sys::shared_map::{Backing, SharedSessions};
use ocserv_tests::namespace::Namespace;

use super::packets::{self, LEASE, PEER, SERVER};

const NAME: &str = "oxc-bench-ebpf";
const DEVICE: &str = "wan";
const PEER_DEVICE: &str = "client";
const PORTS: (u16, u16) = (40_000, 443);
const SLOT: u32 = 3;
const GENERATION: u64 = 1;
/// The first number that the client has not used.
const FIRST: u64 = 1;
/// The type byte of a packet, and one of a control packet.
pub const DATA: u8 = 0;
/// See [`DATA`].
pub const CONTROL: u8 = 3;

/// Removes the namespace in the end.
pub struct Network(Namespace);

impl Network {
    /// A device towards the client; the client's neighbour is known.
    ///
    /// # Errors
    /// Without root.
    pub fn new() -> Result<Self> {
        // What a run left behind that was killed.
        let _ = ocserv_tests::process::output("ip", &["netns", "delete", NAME]);
        let network = Self(Namespace::create(NAME)?);
        network.0.sysctl("net/ipv4/ip_forward", "1")?;
        for arguments in [
            &format!("link add {DEVICE} type veth peer name {PEER_DEVICE}"),
            &format!("link set {PEER_DEVICE} up"),
            &format!("address add {SERVER}/24 dev {DEVICE}"),
            &format!("link set {DEVICE} up"),
            &format!(
                "neighbour add 198.51.100.2 lladdr 02:00:00:00:00:02 nud permanent dev {DEVICE}"
            ),
            &format!("route add {PEER}/32 via 198.51.100.2"),
        ] {
            network.0.ip(arguments)?;
        }
        Ok(network)
    }

    /// Does something in the namespace.
    ///
    /// # Errors
    /// As the work has, or when the namespace is gone.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.0.run(work)?
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = ocserv_tests::process::output("ip", &["netns", "delete", NAME]);
    }
}

/// The programs and a session.
pub struct Bed {
    kernel: KernelPath,
    shared: SharedSessions,
    client: DtlsChannel,
    next: Cell<u64>,
    device: u32,
    _memory: OwnedFd,
}

/// What a program did, and how long it took by the kernel's clock.
pub struct Ran {
    /// Its result.
    pub verdict: u32,
    /// Nanoseconds.
    pub duration: Duration,
}

impl Bed {
    /// To be made in the namespace.
    ///
    /// # Errors
    /// When the kernel refuses something.
    pub fn new() -> Result<Self> {
        let options = Options {
            slots: 100,
            limits: RecordLimits::fixed(MAX_RECORD),
            direct: false,
            tun_ifindex: 1,
            sockets: false,
        };
        let mut kernel = KernelPath::load(options)?;
        let memory = kernel.make_shard(0)?;
        let shared = SharedSessions::new(options.slots);
        shared.add(0, &memory, Backing::KernelMap)?;
        let keys = keys(Cipher::ChaCha20Poly1305);
        record(&shared).channels[0].start(GENERATION, keys.epoch, FIRST, FIRST, 1);
        let new = NewChannel {
            number: 0,
            keys: &keys,
            generation: GENERATION,
            peer: (PEER, PORTS.0).into(),
            local: (SERVER, PORTS.1).into(),
            ifindex: if_nametoindex(DEVICE)?,
        };
        let params = params();
        kernel.install(&params, params.mtu, false, &new)?;
        Ok(Self {
            kernel,
            shared,
            client: DtlsChannel::new(&reversed(keys))?,
            next: Cell::new(FIRST),
            device: if_nametoindex(DEVICE)?,
            _memory: memory,
        })
    }

    /// Frames of the client, each with its own number, around packets of `len` bytes.
    ///
    /// # Errors
    /// When the length does not fit.
    pub fn frames(&self, count: usize, kind: u8, len: usize) -> Result<Vec<Vec<u8>>> {
        let inner = packets::inner(LEASE, [10, 20, 0, 2].into(), len);
        let frame = |_| {
            let sequence = self.next.replace(self.next.get() + 1);
            let mut record = vec![0; len + self.client.overhead()];
            self.client.seal(sequence, kind, &inner, &mut record)?;
            Ok(packets::frame(PORTS, &record))
        };
        (0..count).map(frame).collect()
    }

    /// Runs an XDP program once.
    ///
    /// # Errors
    /// As the kernel answers.
    pub fn xdp(&mut self, program: &str, frame: &[u8]) -> Result<Ran> {
        let found = self.kernel.ebpf_mut().program(program);
        let found: &Xdp = found.context("no such program")?.try_into()?;
        run(found, frame)
    }

    /// Runs a TC program once.
    ///
    /// # Errors
    /// As the kernel answers.
    pub fn tc(&mut self, program: &str, packet: &[u8]) -> Result<Ran> {
        let found = self.kernel.ebpf_mut().program(program);
        let found: &SchedClassifier = found.context("no such program")?.try_into()?;
        // The test harness gives the frames of `xdp_rx` the loopback as their device.
        let live = &record(&self.shared).channels[0].live;
        live.ifindex.set(self.device.into());
        run(found, packet)
    }

    /// Makes the channel one that packets go by.
    ///
    /// # Errors
    /// When the client's record is not taken.
    pub fn activate(&mut self) -> Result<()> {
        let frames = self.frames(1, DATA, 64)?;
        self.xdp("xdp_rx", &frames[0])?;
        ensure!(
            record(&self.shared).rx_packets.get() > 0,
            "xdp_rx does not take a valid record"
        );
        Ok(())
    }
}

fn record(shared: &SharedSessions) -> &SessionShared {
    &shared[SLOT as usize]
}

fn run<P>(program: &P, packet: &[u8]) -> Result<Ran>
where
    P: for<'b> TestRun<Opts<'b> = TestRunOptions<'b>, Result = TestRunResult>,
{
    let result = program.test_run(TestRunOptions {
        data_in: Some(packet),
        ..TestRunOptions::new()
    })?;
    Ok(Ran {
        verdict: result.return_value,
        duration: result.duration,
    })
}

fn params() -> SessionParams {
    SessionParams {
        slot: Slot(SLOT),
        gate: GateId(1),
        ipv4: Some(LEASE),
        ipv6: None,
        iroutes: Vec::new(),
        app_id: None,
        mtu: 1500,
        dpd: 90,
        switch_to_tcp: 0,
        rx_limit: 0,
        tx_limit: 0,
        net_priority: None,
    }
}

/// Keys of a channel: the same for all.
pub fn keys(cipher: Cipher) -> ChannelKeys {
    let bytes = |len: usize, start: u8| Secret::new((start..).take(len).collect());
    ChannelKeys {
        cipher,
        epoch: 1,
        next_send: FIRST,
        next_receive: FIRST,
        client_key: bytes(cipher.key_len(), 1),
        client_iv: bytes(cipher.iv_len(), 50),
        server_key: bytes(cipher.key_len(), 100),
        server_iv: bytes(cipher.iv_len(), 150),
    }
}

/// The client's view of keys.
pub fn reversed(keys: ChannelKeys) -> ChannelKeys {
    ChannelKeys {
        client_key: keys.server_key,
        client_iv: keys.server_iv,
        server_key: keys.client_key,
        server_iv: keys.client_iv,
        ..keys
    }
}
