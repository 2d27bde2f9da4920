//! A running security module, with the test as supervisor and gate.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use ocserv_proto::config::{self, Config};
use ocserv_proto::secret::Secret;
use ocserv_sys::seqpacket;
use openssl::nid::Nid;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::test_keys::{certificate, ec, ed25519};
use crate::ipc::channel::{Channel, memfd_with};
use crate::ipc::ids::{ConnId, ConnTicket, GateId};
use crate::ipc::secmod::{
    AuthOutcome, AuthQuestion, AuthReply, AuthRequest, FromSecmod, KeyInfo, OpenRefused,
    OpenedSession, SecmodSetup, SignReply, SignRequest, ToSecmod,
};
use crate::ipc::ticket;

/// `password`, made by `openssl passwd -5`.
const HASH: &str = "$5$saltsaltsaltsalt$WsFBeg1qQ90JL3VkUTuM7xVV/5njhLngIVm6ftSnBR2";
pub const GATE: GateId = GateId(1);
/// A test that waits longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Bed {
    pub runtime: Runtime,
    pub dir: TempDir,
    pub supervisor: Option<Channel>,
    pub gate: Channel,
    pub signing: Channel,
    pub keys: Vec<Vec<KeyInfo>>,
    pub auto_groups: Vec<Vec<String>>,
    pub thread: Option<JoinHandle<anyhow::Result<()>>>,
    pub next_request: u64,
}

pub fn ticket_key() -> Secret {
    Secret::new(vec![9; 32])
}

pub fn ticket_from(conn: u32, remote: &str, accepted_at: SystemTime) -> ConnTicket {
    let mut ticket = ConnTicket {
        conn: ConnId(conn),
        gate: GATE,
        remote: SocketAddr::new(remote.parse().unwrap(), 4000),
        local: "192.0.2.254:443".parse().unwrap(),
        accepted_at,
        mac: Secret::default(),
    };
    ticket::sign(&mut ticket, &ticket_key());
    ticket
}

pub fn new_ticket(conn: u32) -> ConnTicket {
    ticket_from(conn, "192.0.2.1", SystemTime::now())
}

pub fn secret(text: &str) -> Secret {
    Secret::from(text.to_owned())
}

pub fn start(username: &str, password: Option<&str>, group: Option<&str>) -> AuthQuestion {
    AuthQuestion::Start {
        vhost: 0,
        username: username.to_owned(),
        group: group.map(str::to_owned),
        password: password.map(secret),
        user_agent: "agent".to_owned(),
    }
}

impl Bed {
    pub fn new() -> Self {
        Self::with("")
    }

    pub fn with(settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("passwd"),
            format!("ann:staff,admins:{HASH}\nbob:*:{HASH}\nshut:*:!{HASH}\na/b:*:{HASH}\n"),
        )
        .unwrap();
        for (name, key) in [("ec", ec(Nid::X9_62_PRIME256V1)), ("ed", ed25519())] {
            let pem = key.private_key_to_pem_pkcs8().unwrap();
            std::fs::write(dir.path().join(format!("{name}.key")), pem).unwrap();
            let pem = certificate(&key, 10).to_pem().unwrap();
            std::fs::write(dir.path().join(format!("{name}.crt")), pem).unwrap();
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _inside = runtime.enter();
        let (supervisor, thread) = role();
        let (gate, gate_end) = channel();
        let (signing, signing_end) = channel();
        let mut bed = Self {
            dir,
            supervisor: Some(supervisor),
            gate,
            signing,
            keys: vec![],
            auto_groups: vec![],
            thread: Some(thread),
            next_request: 0,
            runtime,
        };
        bed.configure(&bed.config(settings));
        match bed.event() {
            FromSecmod::Configured { auto_groups, keys } => {
                (bed.auto_groups, bed.keys) = (auto_groups, keys);
            }
            other => panic!("{other:?}"),
        }
        bed.tell(
            &ToSecmod::GateAdded { gate: GATE },
            &[&gate_end, &signing_end],
        );
        bed
    }

    pub fn config(&self, settings: &str) -> Config {
        let dir = self.dir.path().display();
        let text = format!(
            "auth = plain[passwd={dir}/passwd]\ntcp-port = 443\ndevice = vpns\n\
             socket-file = /s\nserver-cert = {dir}/ec.crt\nserver-key = {dir}/ec.key\n\
             server-cert = {dir}/ed.crt\nserver-key = {dir}/ed.key\n\
             ipv4-network = 10.0.0.0/24\n{settings}"
        );
        config::parse("test", text.as_bytes()).unwrap().config
    }

    pub fn configure(&self, config: &Config) {
        let setup = SecmodSetup {
            config: config.clone(),
            ticket_key: ticket_key(),
        };
        self.tell(&ToSecmod::Configure, &[&memfd_with(&setup).unwrap()]);
    }

    pub fn wait<T>(&self, task: impl Future<Output = std::io::Result<T>>) -> T {
        let result = self
            .runtime
            .block_on(async { tokio::time::timeout(PATIENCE, task).await });
        result.expect("an answer in time").unwrap()
    }

    pub fn tell(&self, message: &ToSecmod, fds: &[&OwnedFd]) {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        self.wait(self.supervisor.as_ref().unwrap().send(message, &fds));
    }

    pub fn event(&self) -> FromSecmod {
        self.wait(self.supervisor.as_ref().unwrap().recv())
            .expect("an event")
            .0
    }

    pub fn ask(&mut self, ticket: ConnTicket, question: AuthQuestion) -> AuthOutcome {
        self.next_request += 1;
        let request = AuthRequest {
            request: self.next_request,
            ticket,
            question,
        };
        self.wait(self.gate.send(&request, &[]));
        let (reply, _) = self.wait(self.gate.recv::<AuthReply>()).expect("an answer");
        assert_eq!(reply.request, self.next_request);
        reply.outcome
    }

    pub fn log_in(&mut self, ticket: ConnTicket, username: &str, group: Option<&str>) -> Secret {
        match self.ask(ticket, start(username, Some("password"), group)) {
            AuthOutcome::Granted {
                cookie,
                username: name,
            } => {
                assert_eq!(name, username);
                cookie
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn open(
        &self,
        ticket: ConnTicket,
        cookie: &Secret,
    ) -> Result<Box<OpenedSession>, OpenRefused> {
        self.tell(
            &ToSecmod::OpenSession {
                request: 77,
                ticket,
                cookie: cookie.clone(),
            },
            &[],
        );
        loop {
            if let FromSecmod::SessionOpened {
                request: 77,
                result,
            } = self.event()
            {
                return result;
            }
        }
    }

    pub fn sign(&self, request: &SignRequest) -> SignReply {
        self.wait(self.signing.send(request, &[]));
        self.wait(self.signing.recv()).expect("an answer").0
    }

    pub fn gate_is_dropped(&self) -> bool {
        let result = self.runtime.block_on(async {
            tokio::time::timeout(PATIENCE, self.gate.recv::<AuthReply>()).await
        });
        match result.expect("an end in time") {
            Ok(None) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
            Ok(Some(reply)) => panic!("{reply:?}"),
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // The role ends when its supervisor is gone.
        self.supervisor = None;
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.unwrap().unwrap().unwrap();
        }
    }
}

fn channel() -> (Channel, OwnedFd) {
    let (ours, theirs) = seqpacket::pair().unwrap();
    (Channel::new(ours).unwrap(), theirs)
}

fn role() -> (Channel, JoinHandle<anyhow::Result<()>>) {
    let (supervisor, theirs) = channel();
    (supervisor, std::thread::spawn(move || super::run(theirs)))
}
