//! Programs in the kernel, a session in their maps, and user space's side of it.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions, Xdp};
use ocserv_common::kernel::{Counted, MAX_RECORD};
use ocserv_common::session::SessionShared;
use ocserv_daemon::costs::RecordLimits;
use ocserv_daemon::ipc::dataplane::SessionParams;
use ocserv_daemon::ipc::ids::{GateId, Slot};
use ocserv_daemon::kernel_path::{KernelPath, NewChannel, Options};
use ocserv_proto::dtls::{ChannelKeys, Cipher, DtlsChannel};
use ocserv_proto::secret::Secret;
use ocserv_sys::shared_map::{Backing, SharedSessions};

/// Slot of the session.
pub const SLOT: u32 = 3;
/// Where the client is.
pub const PEER4: &str = "192.0.2.77:40000";
/// Where the server listens.
pub const LOCAL4: &str = "198.51.100.1:443";
/// The same in IPv6.
pub const PEER6: &str = "[2001:db8::77]:40000";
/// See [`PEER6`].
pub const LOCAL6: &str = "[2001:db8::1]:443";
/// A flow of the client.
pub const FLOW4: (&str, &str) = (PEER4, LOCAL4);
/// The same in IPv6.
pub const FLOW6: (&str, &str) = (PEER6, LOCAL6);
/// Result of XDP programs.
pub const PASS: u32 = 2;
/// Result of XDP programs.
pub const DROP: u32 = 1;
/// Result of XDP programs: out by another device.
pub const XDP_REDIRECT: u32 = 4;
/// Result of TC programs: the next one, or the stack.
pub const TC_NEXT: u32 = u32::MAX;
/// Result of TC programs.
pub const TC_DROP: u32 = 2;
/// Result of TC programs: out by another device.
pub const TC_REDIRECT: u32 = 7;

/// What a program made of a packet.
#[derive(Debug, PartialEq, Eq)]
pub struct Ran {
    /// Its result.
    pub verdict: u32,
    /// The packet afterwards.
    pub packet: Vec<u8>,
    /// `xdp_rx` left its mark in the metadata, for `tc_deliver`.
    pub marked: bool,
}

/// Fields of a packet that is given to a TC program.
#[derive(Clone, Copy, Debug, Default)]
pub struct SkbFields {
    /// Device that it came by; 0: the host made it.
    pub ingress_ifindex: u32,
    /// Not 0: it stands for several packets.
    pub gso_size: u32,
}

/// Of a packet that came by some device.
pub const FORWARDED: SkbFields = SkbFields {
    ingress_ifindex: 1,
    gso_size: 0,
};

impl SkbFields {
    /// `struct __sk_buff`.
    pub fn bytes(self) -> Vec<u8> {
        let mut bytes = vec![0; 192];
        bytes[36..40].copy_from_slice(&self.ingress_ifindex.to_ne_bytes());
        bytes[176..180].copy_from_slice(&self.gso_size.to_ne_bytes());
        bytes
    }
}

/// Milliseconds of `CLOCK_MONOTONIC`.
pub fn now_ms() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    now.tv_sec() as u64 * 1000 + now.tv_nsec() as u64 / 1_000_000
}

/// The mark, as it lies in memory.
const MARK: [u8; 4] = *b"pxco";

/// Programs and maps of their own.
pub struct Bed {
    /// The programs.
    pub kernel: KernelPath,
    /// The session records, mapped as the dataplane does.
    pub shared: SharedSessions,
    /// Device towards the client.
    pub ifindex: u32,
    /// Outer IPv4 packets carry DF.
    pub dont_fragment: bool,
    _memory: OwnedFd,
}

impl Bed {
    /// Loads the programs; a session with both leases of [`params`] is there, without keys.
    pub fn new() -> Result<Self> {
        Self::with(|_| {})
    }

    /// The same with other options.
    pub fn with(change: impl FnOnce(&mut Options)) -> Result<Self> {
        let mut options = Options {
            slots: 100,
            limits: RecordLimits::fixed(MAX_RECORD),
            direct: false,
            tun_ifindex: 1,
            sockets: false,
        };
        change(&mut options);
        let mut kernel = KernelPath::load(options)?;
        let memory = kernel.make_shard(0)?;
        let shared = SharedSessions::new(options.slots);
        shared.add(0, &memory, Backing::KernelMap)?;
        Ok(Self {
            kernel,
            shared,
            ifindex: 1,
            dont_fragment: false,
            _memory: memory,
        })
    }

    /// The session's record.
    pub fn record(&self) -> &SessionShared {
        &self.shared[SLOT as usize]
    }

    /// Gives the session keys for a channel record, as the daemon does.
    pub fn install(
        &mut self,
        number: u8,
        generation: u64,
        flow: (&str, &str),
    ) -> Result<DtlsChannel> {
        let keys = keys(generation as u8);
        self.install_for(&params(), number, generation, flow, &keys)?;
        Ok(DtlsChannel::new(&keys)?)
    }

    /// The same for other parameters and keys.
    pub fn install_for(
        &mut self,
        params: &SessionParams,
        number: u8,
        generation: u64,
        (peer, local): (&str, &str),
        keys: &ChannelKeys,
    ) -> Result<()> {
        let record = &self.record().channels[usize::from(number)];
        record.start(generation, keys.epoch, keys.next_send, keys.next_receive, 1);
        let new = NewChannel {
            number,
            keys,
            generation,
            peer: peer.parse::<SocketAddr>()?,
            local: local.parse()?,
            ifindex: self.ifindex,
        };
        self.kernel
            .install(params, params.mtu, self.dont_fragment, &new)
    }

    /// Runs an XDP program once.
    pub fn xdp(&mut self, program: &str, frame: &[u8]) -> Result<Ran> {
        let found = self.kernel.ebpf_mut().program(program);
        let found: &Xdp = found.context("no such program")?.try_into()?;
        run(found, frame, None)
    }

    /// The same for a frame that came by this queue of a device.
    pub fn xdp_by(&mut self, program: &str, frame: &[u8], device: u32, queue: u32) -> Result<Ran> {
        let found = self.kernel.ebpf_mut().program(program);
        let found: &Xdp = found.context("no such program")?.try_into()?;
        // `struct xdp_md`.
        let context = [0, frame.len() as u32, 0, device, queue, 0].map(u32::to_ne_bytes);
        run(found, frame, Some(&context.concat()))
    }

    /// Runs a TC program once on a packet that the host forwards.
    pub fn tc(&mut self, program: &str, packet: &[u8]) -> Result<Ran> {
        self.tc_with(program, packet, FORWARDED)
    }

    /// The same for another packet.
    pub fn tc_with(&mut self, program: &str, packet: &[u8], skb: SkbFields) -> Result<Ran> {
        let found = self.kernel.ebpf_mut().program(program);
        let found: &SchedClassifier = found.context("no such program")?.try_into()?;
        run(found, packet, Some(&skb.bytes()))
    }

    /// Makes a channel one that the client was heard by.
    pub fn hear(&self, number: usize) {
        self.record().channels[number].live.heard(now_ms());
    }

    /// What the programs counted.
    pub fn count(&self, what: Counted) -> u64 {
        self.kernel.counts().unwrap().values[what as usize]
    }
}

/// Runs a program once.
pub fn run<'a, P>(program: &P, packet: &'a [u8], context: Option<&'a [u8]>) -> Result<Ran>
where
    P: for<'b> TestRun<Opts<'b> = TestRunOptions<'b>, Result = aya::programs::TestRunResult>,
{
    let mut out = vec![0; 4096];
    let result = program.test_run(TestRunOptions {
        data_in: Some(packet),
        data_out: Some(&mut out),
        ctx_in: context,
        ..TestRunOptions::new()
    })?;
    out.truncate(result.data_size_out as usize);
    // The metadata stands before the frame.
    let marked = out.starts_with(&MARK);
    if marked {
        out.drain(..MARK.len());
    }
    Ok(Ran {
        verdict: result.return_value,
        packet: out,
        marked,
    })
}

/// The session: 10.9.0.5 and fd00::5, nothing behind it.
pub fn params() -> SessionParams {
    SessionParams {
        slot: Slot(SLOT),
        gate: GateId(1),
        ipv4: Some([10, 9, 0, 5].into()),
        ipv6: Some(("fd00::5".parse().unwrap(), 128)),
        iroutes: Vec::new(),
        app_id: Some([7; 32]),
        mtu: 1500,
        dpd: 90,
        switch_to_tcp: 0,
        rx_limit: 0,
        tx_limit: 0,
        net_priority: None,
    }
}

/// Keys that depend on `seed`.
pub fn keys(seed: u8) -> ChannelKeys {
    let bytes = |len: usize, start: u8| {
        Secret::new(
            (0..len)
                .map(|n| {
                    start
                        .wrapping_add(seed)
                        .wrapping_mul(7)
                        .wrapping_add(n as u8)
                })
                .collect(),
        )
    };
    ChannelKeys {
        cipher: Cipher::ChaCha20Poly1305,
        epoch: 1,
        next_send: 1,
        next_receive: 1,
        client_key: bytes(32, 1),
        client_iv: bytes(12, 2),
        server_key: bytes(32, 3),
        server_iv: bytes(12, 4),
    }
}

/// The same keys the other way round: what the client has.
pub fn client_channel(seed: u8) -> DtlsChannel {
    let ChannelKeys {
        cipher,
        epoch,
        next_send,
        next_receive,
        client_key,
        client_iv,
        server_key,
        server_iv,
    } = keys(seed);
    DtlsChannel::new(&ChannelKeys {
        cipher,
        epoch,
        next_send,
        next_receive,
        client_key: server_key,
        client_iv: server_iv,
        server_key: client_key,
        server_iv: client_iv,
    })
    .unwrap()
}
