//! A gate with everything around it.

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use ocserv_proto::config;
use ocserv_proto::secret::Secret;
use ocserv_sys::seqpacket;
use openssl::hash::MessageDigest;
use openssl::pkey::{Id, PKey, Private};
use openssl::rsa::Padding;
use openssl::sign::{RsaPssSaltlen, Signer};
use openssl::x509::X509;

use crate::gate::{serve, supervisor};
use crate::ipc::channel::{SyncChannel, from_bytes, memfd_with};
use crate::ipc::gate::{FromGate, GateSetup, GateVhost, ToGate, TunnelGrant};
use crate::ipc::ids::{ConnId, ConnTicket, GateId, SessionName, Slot};
use crate::ipc::packet::{Frame, MAX_FRAME};
use crate::ipc::secmod::{
    AuthOutcome, AuthQuestion, AuthReply, AuthRequest, KeyInfo, SignReply, SignRequest,
};

/// Nothing in these tests waits longer.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// This one ends the fake secmod.
pub const DEADLY_PASSWORD: &str = "deadly";
/// What the fake secmod takes.
pub const PASSWORD: &str = "correct horse";
/// What it gives.
pub const COOKIE: [u8; 32] = [0x5a; 32];
/// Of every granted session.
pub const SLOT: Slot = Slot(5);
pub const APP_ID: [u8; 32] = [0xab; 32];

const BASE: &str = "auth = \"plain[passwd=/nonexistent]\"\ntcp-port = 443\nudp-port = 443\n\
    device = vpns\nsocket-file = /nonexistent\nserver-cert = /nonexistent\n\
    server-key = /nonexistent\nipv4-network = 192.0.2.0/24\ndpd = 30\n";

/// A key and what it can sign.
pub struct TestKey {
    key: PKey<Private>,
    chain: Vec<u8>,
    schemes: Vec<u16>,
}

pub fn key(name: &str) -> TestKey {
    let (key, certificate, schemes): (&[u8], &[u8], &[u16]) = match name {
        "rsa" => (
            include_bytes!("../testdata/rsa.key"),
            include_bytes!("../testdata/rsa.crt"),
            &[0x0804, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601],
        ),
        "rsa-pss" => (
            include_bytes!("../testdata/rsa-pss.key"),
            include_bytes!("../testdata/rsa-pss.crt"),
            &[0x0809, 0x080a, 0x080b],
        ),
        "ecdsa" => (
            include_bytes!("../testdata/ecdsa.key"),
            include_bytes!("../testdata/ecdsa.crt"),
            &[0x0403],
        ),
        "ed25519" => (
            include_bytes!("../testdata/ed25519.key"),
            include_bytes!("../testdata/ed25519.crt"),
            &[0x0807],
        ),
        other => panic!("no key {other}"),
    };
    TestKey {
        key: PKey::private_key_from_pem(key).unwrap(),
        chain: X509::from_pem(certificate).unwrap().to_der().unwrap(),
        schemes: schemes.to_vec(),
    }
}

fn sign(key: &PKey<Private>, scheme: u16, message: &[u8]) -> Vec<u8> {
    if key.id() == Id::ED25519 {
        return Signer::new_without_digest(key)
            .unwrap()
            .sign_oneshot_to_vec(message)
            .unwrap();
    }
    let digest = match scheme {
        0x0403 | 0x0401 | 0x0804 | 0x0809 => MessageDigest::sha256(),
        0x0501 | 0x0805 | 0x080a => MessageDigest::sha384(),
        _ => MessageDigest::sha512(),
    };
    let mut signer = Signer::new(digest, key).unwrap();
    if scheme >= 0x0804 {
        signer.set_rsa_padding(Padding::PKCS1_PSS).unwrap();
        signer
            .set_rsa_pss_saltlen(RsaPssSaltlen::DIGEST_LENGTH)
            .unwrap();
    }
    signer.sign_oneshot_to_vec(message).unwrap()
}

/// A running gate.
pub struct Bed {
    supervisor: OwnedFd,
    pub link: OwnedFd,
    listener: TcpListener,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
    next_conn: u32,
    pub signatures: Arc<Mutex<Vec<u16>>>,
    keys: Arc<[TestKey]>,
    secmod: Vec<Arc<OwnedFd>>,
}

impl Bed {
    /// A gate with these keys and this configuration beside the basic one.
    pub fn new(keys: &[&str], extra: &str) -> Self {
        let keys: Arc<[TestKey]> = keys.iter().map(|name| key(name)).collect();
        let (supervisor, gate) = seqpacket::pair().unwrap();
        let (link, gate_link) = seqpacket::pair().unwrap();
        let thread = std::thread::spawn(move || serve_gate(gate));
        let setup = memfd_with(&setup(&keys, extra)).unwrap();
        tell(&supervisor, &ToGate::Configure, &[setup.as_raw_fd()]);
        tell(&supervisor, &ToGate::Dataplane, &[gate_link.as_raw_fd()]);
        let mut bed = Self {
            supervisor,
            link,
            listener: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(),
            thread: Some(thread),
            next_conn: 1,
            signatures: Arc::default(),
            keys,
            secmod: Vec::new(),
        };
        bed.start_secmod();
        assert!(matches!(bed.heard(), FromGate::Ready));
        bed
    }

    /// Gives the gate a fake secmod, the first or another.
    pub fn start_secmod(&mut self) {
        let (questions, gate_questions) = seqpacket::pair().unwrap();
        let (signing, gate_signing) = seqpacket::pair().unwrap();
        let (keys, made) = (Arc::clone(&self.keys), Arc::clone(&self.signatures));
        let ours = [&questions, &signing].map(|channel| channel.try_clone().unwrap());
        self.secmod = ours.map(Arc::new).to_vec();
        let channels = self.secmod.clone();
        std::thread::spawn(move || {
            answer_questions(SyncChannel::new(questions));
            end_secmod(&channels);
        });
        std::thread::spawn(move || answer_signing(SyncChannel::new(signing), &keys, &made));
        let channels = [gate_questions.as_raw_fd(), gate_signing.as_raw_fd()];
        self.tell(&ToGate::Secmod, &channels);
    }

    /// The fake secmod dies.
    pub fn kill_secmod(&mut self) {
        end_secmod(&self.secmod);
    }

    /// A TCP connection that the gate serves.
    pub fn connect(&mut self) -> (ConnId, TcpStream) {
        let client = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let (accepted, remote) = self.listener.accept().unwrap();
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        let ticket = ConnTicket {
            conn,
            gate: GateId(1),
            remote,
            local: accepted.local_addr().unwrap(),
            accepted_at: SystemTime::now(),
            mac: Secret::new(vec![0; 32]),
        };
        self.tell(&ToGate::Connection { ticket }, &[accepted.as_raw_fd()]);
        (conn, client)
    }

    pub fn tell(&self, message: &ToGate, fds: &[RawFd]) {
        tell(&self.supervisor, message, fds);
    }

    /// Next message of the gate.
    pub fn heard(&self) -> FromGate {
        receive(&self.supervisor, |bytes| from_bytes(bytes).unwrap())
    }

    /// Grants what the gate asks for.
    pub fn grant(&self, conn: ConnId) {
        match self.heard() {
            FromGate::OpenTunnel {
                conn: asked,
                request,
            } => {
                assert_eq!(asked, conn);
                assert_eq!(request.cookie.expose(), COOKIE);
            }
            other => panic!("{other:?}"),
        }
        self.tell(
            &ToGate::Tunnel {
                conn,
                result: Ok(Box::new(grant())),
            },
            &[],
        );
    }

    /// A packet that the gate hands to the dataplane.
    pub fn packet(&self) -> Vec<u8> {
        receive(&self.link, |message| match Frame::parse(message) {
            Some(Frame::Packet { slot, packet }) => {
                assert_eq!(slot, SLOT);
                packet.to_vec()
            }
            other => panic!("{other:?}"),
        })
    }

    /// A datagram that the gate wants sent.
    pub fn datagram(&self) -> Vec<u8> {
        receive(&self.link, |message| match Frame::parse(message) {
            Some(Frame::Datagram { bytes, .. }) => bytes.to_vec(),
            other => panic!("{other:?}"),
        })
    }

    pub fn send_frame(&self, frame: &Frame<'_>) {
        let mut message = Vec::new();
        frame.write(&mut message);
        seqpacket::send(self.link.as_fd(), &[IoSlice::new(&message)], &[]).unwrap();
    }

    /// The dataplane dies and another takes its place.
    pub fn replace_link(&mut self) {
        let (link, gate_link) = seqpacket::pair().unwrap();
        self.link = link;
        self.tell(&ToGate::Dataplane, &[gate_link.as_raw_fd()]);
    }

    /// Stops the gate and gives its result.
    pub fn stop(mut self) {
        self.tell(&ToGate::Stop, &[]);
        self.thread.take().unwrap().join().unwrap().unwrap();
    }
}

pub fn flow() -> (SocketAddr, SocketAddr) {
    (
        "192.0.2.7:40000".parse().unwrap(),
        "198.51.100.1:443".parse().unwrap(),
    )
}

fn serve_gate(channel: OwnedFd) -> anyhow::Result<()> {
    let start = supervisor::receive_start(&channel)?;
    serve(channel, start)
}

fn setup(keys: &[TestKey], extra: &str) -> GateSetup {
    let text = format!("{BASE}{extra}");
    let config = config::parse("test", text.as_bytes()).unwrap().config;
    let infos: Vec<KeyInfo> = keys
        .iter()
        .map(|key| KeyInfo {
            schemes: key.schemes.clone(),
            chain: vec![key.chain.clone()],
        })
        .collect();
    GateSetup {
        generation: 1,
        vhosts: config
            .vhosts
            .into_iter()
            .map(|vhost| GateVhost {
                config: vhost,
                keys: infos.clone(),
                ocsp: None,
                profile: None,
                auto_groups: Vec::new(),
            })
            .collect(),
        udp_port: config.udp_port,
        auth_timeout: config.auth_timeout,
        try_mtu_discovery: false,
        dtls_psk: true,
        kernel_path: false,
        log_level: 0,
        max_connections: 100,
    }
}

fn grant() -> TunnelGrant {
    TunnelGrant {
        slot: SLOT,
        name: SessionName("x".repeat(28)),
        username: "alice".to_owned(),
        groupname: String::new(),
        ipv4: Some((
            Ipv4Addr::new(192, 0, 2, 10),
            Ipv4Addr::new(255, 255, 255, 0),
        )),
        ipv6: None,
        settings: config::UserConfig::default(),
        extra_routes: Vec::new(),
        app_id: APP_ID,
        tun_mtu: 1500,
        authenticated: SystemTime::now(),
        hostname: None,
        server_ips: Vec::new(),
    }
}

fn tell(socket: &OwnedFd, message: &ToGate, fds: &[RawFd]) {
    let bytes = postcard::to_stdvec(message).unwrap();
    seqpacket::send(socket.as_fd(), &[IoSlice::new(&bytes)], fds).unwrap();
}

fn receive<T>(socket: &OwnedFd, read: impl FnOnce(&[u8]) -> T) -> T {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut waiting = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    let patience = PollTimeout::try_from(PATIENCE.as_millis()).unwrap();
    assert_eq!(poll(&mut waiting, patience).unwrap(), 1, "nothing came");
    let mut buffer = vec![0; MAX_FRAME.max(96 * 1024)];
    let received = seqpacket::recv(socket.as_fd(), &mut buffer).unwrap();
    read(&buffer[..received.len])
}

/// Closes its channels as the end of its process would.
fn end_secmod(channels: &[Arc<OwnedFd>]) {
    use nix::sys::socket::{Shutdown, shutdown};
    for channel in channels {
        shutdown(channel.as_raw_fd(), Shutdown::Both).unwrap();
    }
}

fn answer_questions(channel: SyncChannel) {
    while let Ok(Some((request, _))) = channel.recv::<AuthRequest>(PATIENCE) {
        let granted = AuthOutcome::Granted {
            cookie: Secret::new(COOKIE.to_vec()),
            username: "alice".to_owned(),
        };
        let outcome = match request.question {
            AuthQuestion::Start {
                password: Some(password),
                ..
            } if password.expose() == PASSWORD.as_bytes() => granted,
            AuthQuestion::Start {
                password: Some(password),
                ..
            } if password.expose() == DEADLY_PASSWORD.as_bytes() => return,
            _ => AuthOutcome::Denied {
                reason: "Authentication failed".to_owned(),
            },
        };
        channel
            .send(&AuthReply {
                request: request.request,
                outcome,
            })
            .unwrap();
    }
}

fn answer_signing(channel: SyncChannel, keys: &[TestKey], made: &Mutex<Vec<u16>>) {
    let mut stored = std::collections::HashMap::new();
    while let Ok(Some((request, _))) = channel.recv::<SignRequest>(PATIENCE) {
        let reply = match request {
            SignRequest::Sign {
                key,
                scheme,
                message,
                ..
            } => {
                made.lock().unwrap().push(scheme);
                let key = &keys[usize::try_from(key).unwrap()];
                SignReply::Signature(Some(sign(&key.key, scheme, &message)))
            }
            SignRequest::StoreTls { id, value, .. } => {
                stored.insert(id, value);
                continue;
            }
            SignRequest::LoadTls { id, take: true, .. } => SignReply::Tls(stored.remove(&id)),
            SignRequest::LoadTls { id, .. } => SignReply::Tls(stored.get(&id).cloned()),
        };
        channel.send(&reply).unwrap();
    }
}
