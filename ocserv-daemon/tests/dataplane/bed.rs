//! The dataplane's surroundings.

use std::cell::OnceCell;
use std::fs::OpenOptions;
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
use nix::unistd::Pid;
use ocserv_common::replay::ReplayWindow;
use ocserv_daemon::dataplane;
use ocserv_daemon::ipc::channel::Channel;
use ocserv_daemon::ipc::dataplane::{FRAME_SIZE, FromDataplane, SessionParams, ToDataplane};
use ocserv_daemon::ipc::ids::{GateId, Slot};
use ocserv_daemon::ipc::packet::Frame;
use ocserv_daemon::logging;
use ocserv_daemon::role::{self, Confinement};
use ocserv_proto::cstp::PacketType;
use ocserv_proto::dtls::record::{ContentType, RecordHeader, VERSION_1_2};
use ocserv_proto::dtls::{ChannelKeys, Cipher, DtlsChannel};
use ocserv_proto::secret::Secret;
use ocserv_sys::seqpacket;
use ocserv_sys::shared_map::{Backing, SharedSessions};
use ocserv_sys::tun::TunDevice;
use ocserv_sys::udp;
use ocserv_sys::xsk::FrameMemory;
use tempfile::NamedTempFile;

use super::packets::client_hello;

/// Set in the process that is the dataplane.
pub const CHILD: &str = "DATAPLANE_UNDER_TEST";
pub const CLIENT_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 2));
pub const APP_ID: [u8; 32] = [3; 32];

const DEADLINE: Duration = Duration::from_secs(10);
/// What the client's and the server's keys consist of.
const CLIENT_BYTE: u8 = 1;
const SERVER_BYTE: u8 = 2;
const THREADS: usize = 2;
const SLOTS: u32 = 8;

/// What the child does.
pub fn run_dataplane() -> anyhow::Result<()> {
    let logging = logging::Settings {
        targets: vec![logging::Target::Stderr],
        level: 3,
    };
    logging::install("dataplane", &logging);
    let confinement = Confinement {
        user: Some((65534, 65534)),
        isolate: true,
        traceable: false,
        more_memory: None,
    };
    dataplane::run(role::take_channel()?, confinement)
}

/// Runs `test` in a thread with a network of its own, which ends with it.
pub fn in_own_network(test: fn()) -> bool {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
        ip("link set lo up");
        test();
    });
    thread.join().is_ok()
}

pub fn ip(arguments: &str) {
    let status = Command::new("ip")
        .args(arguments.split(' '))
        .status()
        .expect("iproute2");
    assert!(status.success(), "ip {arguments}");
}

/// Waits until `holds`.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < DEADLINE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Path MTU of a connected socket.
pub fn path_mtu(socket: &UdpSocket) -> i32 {
    nix::sys::socket::getsockopt(&socket, nix::sys::socket::sockopt::IpMtu).unwrap()
}

pub struct Bed {
    pub server: SocketAddr,
    pub shared: SharedSessions,
    shared_fd: OwnedFd,
    tun: TunDevice,
    sockets: Vec<OwnedFd>,
    runtime: tokio::runtime::Runtime,
    channel: Option<Channel>,
    child: Option<Child>,
    try_mtu_discovery: bool,
    /// By thread, for sockets past the stack; empty: there are none.
    pub frames: Vec<FrameMemory>,
    log: NamedTempFile,
    /// Of gate 1, for sessions that a test opens without one.
    gate: OnceCell<Link>,
}

impl Bed {
    pub fn start() -> Self {
        Self::with_discovery(false)
    }

    /// With `try-mtu-discovery` as told.
    pub fn with_discovery(try_mtu_discovery: bool) -> Self {
        Self::with(try_mtu_discovery, false, Vec::new())
    }

    /// All threads have the same socket, as if a service manager had handed it over.
    pub fn with_one_socket() -> Self {
        Self::with(false, true, Vec::new())
    }

    /// With memory for sockets past the stack.
    pub fn with_frames() -> Self {
        let frames = (0..THREADS).map(|_| FrameMemory::create(256, FRAME_SIZE).unwrap());
        Self::with(false, false, frames.collect())
    }

    fn with(try_mtu_discovery: bool, one_socket: bool, frames: Vec<FrameMemory>) -> Self {
        let mut tun = TunDevice::create("vpnt0", THREADS).unwrap();
        tun.set_mtu(1500).unwrap();
        tun.set_up().unwrap();
        ip("addr add 10.9.0.1/24 dev vpnt0");
        let first = udp::bind("127.0.0.1:0".parse().unwrap(), true).unwrap();
        let server = UdpSocket::from(first.try_clone().unwrap())
            .local_addr()
            .unwrap();
        let second = if one_socket {
            first.try_clone().unwrap()
        } else {
            udp::bind(server, true).unwrap()
        };
        let shared = SharedSessions::new(SLOTS);
        let shared_fd = SharedSessions::create_shard().unwrap();
        shared.add(0, &shared_fd, Backing::Memfd).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut bed = Self {
            server,
            shared,
            shared_fd,
            tun,
            sockets: vec![first, second],
            runtime,
            channel: None,
            child: None,
            try_mtu_discovery,
            frames,
            log: NamedTempFile::new().unwrap(),
            gate: OnceCell::new(),
        };
        bed.spawn();
        bed
    }

    /// Starts a dataplane with what the last one had.
    pub fn spawn(&mut self) {
        let (ours, theirs) = seqpacket::pair().unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .env(CHILD, "1")
            .stdin(Stdio::from(theirs))
            .stderr(Stdio::from(
                OpenOptions::new()
                    .append(true)
                    .open(self.log.path())
                    .unwrap(),
            ))
            .spawn()
            .unwrap();
        self.child = Some(child);
        let channel = self.runtime.block_on(async { Channel::new(ours) }).unwrap();
        self.channel = Some(channel);
        let setup = ToDataplane::Setup {
            threads: THREADS as u32,
            udp_per_thread: 1,
            slots: SLOTS,
            kernel_maps: false,
            try_mtu_discovery: self.try_mtu_discovery,
            costs: None,
            sockets: !self.frames.is_empty(),
            tun_ifindex: 0,
            log_level: 0,
        };
        let mut fds = Vec::new();
        let mut frames = self.frames.iter();
        for (queue, socket) in self.tun.queues().iter().zip(&self.sockets) {
            fds.extend([queue.as_fd(), socket.as_fd()]);
            fds.extend(frames.next().map(AsFd::as_fd));
        }
        // Nobody asks it for a way: no packet comes by these sockets.
        let route = std::fs::File::open("/dev/null").unwrap();
        fds.extend((!self.frames.is_empty()).then(|| route.as_fd()));
        self.tell(&setup, &fds);
        let shard = ToDataplane::ShardAdded { index: 0 };
        self.tell(&shard, &[self.shared_fd.as_fd()]);
        assert!(matches!(self.hear(), FromDataplane::Ready));
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        self.channel = None;
    }

    /// `/proc/<pid>/status` of the dataplane.
    pub fn status(&self) -> String {
        let pid = self.child.as_ref().unwrap().id();
        std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap()
    }

    /// Does `work` while the dataplane stands still.
    pub fn meanwhile(&self, work: impl FnOnce()) {
        let pid = Pid::from_raw(self.child.as_ref().unwrap().id() as i32);
        kill(pid, Signal::SIGSTOP).unwrap();
        work();
        kill(pid, Signal::SIGCONT).unwrap();
    }

    /// What the dataplane logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap()
    }

    pub fn tell(&self, message: &ToDataplane, fds: &[BorrowedFd<'_>]) {
        let channel = self.channel.as_ref().unwrap();
        self.runtime.block_on(channel.send(message, fds)).unwrap();
    }

    /// What the dataplane says next.
    pub fn hear(&self) -> FromDataplane {
        let channel = self.channel.as_ref().unwrap();
        let heard = self.runtime.block_on(async {
            tokio::time::timeout(DEADLINE, channel.recv::<FromDataplane>()).await
        });
        heard
            .expect("no word in time")
            .unwrap()
            .expect("the dataplane ended")
            .0
    }

    /// A socket on the server's side of the tun device.
    pub fn lan(&self) -> UdpSocket {
        let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket
    }

    pub fn add_gate(&self, gate: GateId) -> Link {
        let (ours, theirs) = seqpacket::pair().unwrap();
        self.tell(&ToDataplane::GateAdded { gate }, &[theirs.as_fd()]);
        Link { socket: ours }
    }

    pub fn add_session(&self, slot: u32, gate: GateId) {
        let params = SessionParams {
            slot: Slot(slot),
            gate,
            ipv4: Some(Ipv4Addr::new(10, 9, 0, 2 + slot as u8)),
            ipv6: None,
            iroutes: Vec::new(),
            app_id: Some(app_id(slot)),
            mtu: 1400,
            dpd: 90,
            switch_to_tcp: 0,
            rx_limit: 0,
            tx_limit: 0,
            net_priority: None,
        };
        self.tell(&ToDataplane::SessionAdded(Box::new(params)), &[]);
    }

    /// A session of gate 1 with a DTLS channel, where the test does not look at the gate.
    pub fn open_session(&self, slot: u32) -> Client {
        let gate = self.gate.get_or_init(|| self.add_gate(GateId(1)));
        self.open_session_of(gate, slot)
    }

    /// A session of gate 1, whose link is `gate`, with a DTLS channel.
    pub fn open_session_of(&self, gate: &Link, slot: u32) -> Client {
        self.add_session(slot, GateId(1));
        let client = Client::new(self.server);
        client.send_raw(&client_hello(&app_id(slot)));
        gate.receive();
        self.add_keys(slot, &client, 1);
        client
    }

    /// Sends keys without waiting for the answer.
    pub fn offer_keys(&self, slot: u32, channel: u8, peer: SocketAddr, generation: u64) {
        let message = ToDataplane::KeysAdded {
            slot: Slot(slot),
            channel,
            keys: Box::new(keys(false)),
            peer,
            local: self.server,
            generation,
        };
        self.tell(&message, &[]);
    }

    pub fn add_keys(&self, slot: u32, client: &Client, generation: u64) {
        self.offer_keys(slot, 0, client.socket.local_addr().unwrap(), generation);
        let answer = self.hear();
        assert!(matches!(answer, FromDataplane::KeysInstalled { slot: s } if s == Slot(slot)));
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprint!("{}", self.log());
        }
    }
}

/// What a ClientHello names the session of a slot by.
pub fn app_id(slot: u32) -> [u8; 32] {
    APP_ID.map(|byte| byte + slot as u8)
}

/// Keys as the server gets them, or with the halves exchanged for the client.
fn keys(for_client: bool) -> ChannelKeys {
    let half = |byte: u8| (Secret::new(vec![byte; 32]), Secret::new(vec![byte; 12]));
    let (ours, theirs) = if for_client {
        (SERVER_BYTE, CLIENT_BYTE)
    } else {
        (CLIENT_BYTE, SERVER_BYTE)
    };
    let (client_key, client_iv) = half(ours);
    let (server_key, server_iv) = half(theirs);
    ChannelKeys {
        cipher: Cipher::ChaCha20Poly1305,
        epoch: 1,
        next_send: 1,
        next_receive: 1,
        client_key,
        client_iv,
        server_key,
        server_iv,
    }
}

/// A client with its end of the DTLS channel.
pub struct Client {
    pub socket: UdpSocket,
    pub next_sequence: u64,
    pub last_received: Option<u64>,
    server: SocketAddr,
    channel: DtlsChannel,
    window: ReplayWindow,
}

impl Client {
    fn new(server: SocketAddr) -> Self {
        Self {
            socket: client_socket(),
            next_sequence: 1,
            last_received: None,
            server,
            channel: DtlsChannel::new(&keys(true)).unwrap(),
            window: ReplayWindow::new(),
        }
    }

    /// Goes on from another port; returns the old socket.
    pub fn rebind(&mut self) -> UdpSocket {
        std::mem::replace(&mut self.socket, client_socket())
    }

    pub fn seal(&mut self, kind: PacketType, payload: &[u8]) -> Vec<u8> {
        let mut record = vec![0; payload.len() + self.channel.overhead()];
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let len = self
            .channel
            .seal(sequence, kind.to_byte(), payload, &mut record)
            .unwrap();
        record.truncate(len);
        record
    }

    pub fn send_raw(&self, bytes: &[u8]) {
        self.socket.send_to(bytes, self.server).unwrap();
    }

    /// Sends records of one length as a message that comes merged.
    pub fn send_merged(&self, records: &[Vec<u8>]) {
        let parts: Vec<_> = records.iter().map(|record| IoSlice::new(record)).collect();
        let segment = [ControlMessage::UdpGsoSegments(&(records[0].len() as u16))];
        let to = SockaddrStorage::from(self.server);
        let socket = self.socket.as_raw_fd();
        sendmsg(socket, &parts, &segment, MsgFlags::empty(), Some(&to)).unwrap();
    }

    pub fn send(&mut self, kind: PacketType, payload: &[u8]) {
        let record = self.seal(kind, payload);
        self.send_raw(&record);
    }

    pub fn send_data(&mut self, packet: &[u8]) {
        self.send(PacketType::Data, packet);
    }

    /// An alert record that ends the channel; the channel's own `seal` makes data only.
    pub fn send_close_notify(&mut self) {
        use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
        let header = RecordHeader {
            content_type: ContentType::Alert,
            version: VERSION_1_2,
            epoch: 1,
            sequence: self.next_sequence,
            length: 18,
        };
        self.next_sequence += 1;
        let header = header.to_bytes();
        let mut nonce = [CLIENT_BYTE; 12];
        for (byte, mask) in nonce[4..].iter_mut().zip(&header[3..11]) {
            *byte ^= mask;
        }
        let mut aad = [0; 13];
        aad[..8].copy_from_slice(&header[3..11]);
        aad[8..11].copy_from_slice(&header[..3]);
        aad[12] = 2;
        let key = UnboundKey::new(&CHACHA20_POLY1305, &[CLIENT_BYTE; 32]).unwrap();
        let mut alert = vec![1, 0];
        let nonce = Nonce::assume_unique_for_key(nonce);
        let key = LessSafeKey::new(key);
        key.seal_in_place_append_tag(nonce, Aad::from(aad), &mut alert)
            .unwrap();
        self.send_raw(&[&header[..], &alert].concat());
    }

    /// Waits for a record and opens it.
    pub fn receive(&mut self) -> (PacketType, Vec<u8>) {
        let mut buffer = [0; 2048];
        let len = self.socket.recv(&mut buffer).expect("no record in time");
        let header = RecordHeader::parse(&buffer[..len]).unwrap();
        let opened = self.channel.open(&mut buffer[..len], &self.window).unwrap();
        self.last_received = Some(header.sequence);
        let (kind, payload) = opened.plaintext.split_first().unwrap();
        (PacketType::from_byte(*kind), payload.to_vec())
    }
}

/// A socket of a client, with a deadline.
pub fn client_socket() -> UdpSocket {
    let socket = udp::bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// The gate's end of a packet link.
pub struct Link {
    socket: OwnedFd,
}

impl Link {
    pub fn send(&self, frame: &Frame<'_>) {
        let mut bytes = Vec::new();
        frame.write(&mut bytes);
        self.send_raw(&bytes);
    }

    pub fn send_raw(&self, bytes: &[u8]) {
        seqpacket::send(self.socket.as_fd(), &[IoSlice::new(bytes)], &[]).unwrap();
    }

    /// Whether a frame waits.
    pub fn has_frame(&self) -> bool {
        self.wait(PollTimeout::ZERO)
    }

    fn wait(&self, timeout: PollTimeout) -> bool {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, timeout).unwrap() == 1
    }

    /// Waits for a frame.
    pub fn receive(&self) -> Vec<u8> {
        assert!(
            self.wait(PollTimeout::try_from(DEADLINE).unwrap()),
            "no frame in time"
        );
        let mut buffer = vec![0; 4096];
        let received = seqpacket::recv(self.socket.as_fd(), &mut buffer).unwrap();
        buffer.truncate(received.len);
        buffer
    }
}
