//! Writes the seeds of the message targets: one file for each message, as it is sent.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, SystemTime};
use std::{fs, io};

use ocserv_daemon::ipc::dataplane::FromDataplane;
use ocserv_daemon::ipc::gate::{EndReason, FromGate, TunnelRequest};
use ocserv_daemon::ipc::ids::{ConnId, ConnTicket, GateId, SessionName, Slot};
use ocserv_daemon::ipc::secmod::{
    AuthOutcome, AuthQuestion, AuthReply, AuthRequest, FromSecmod, KeyInfo, SessionRecord,
    SessionState, SignReply, SignRequest,
};
use ocserv_proto::control::{
    BanInfo, DatapathDevice, DatapathInfo, Event, EventEnd, LENGTH_LEN, ProgramInfo, Request,
    Response, SessionInfo, StatusInfo, UserInfo, encode_request, encode_response,
};
use ocserv_proto::dtls::{ChannelKeys, Cipher};
use ocserv_proto::secret::Secret;
use serde::Serialize;

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    fs::create_dir_all(corpus.join("control"))?;
    fs::create_dir_all(corpus.join("ipc"))?;
    for (number, request) in requests().iter().enumerate() {
        let message = encode_request(request).map_err(io::Error::other)?;
        fs::write(
            corpus.join(format!("control/request-{number}")),
            &message[LENGTH_LEN..],
        )?;
    }
    for (number, response) in responses().iter().enumerate() {
        let message = encode_response(response).map_err(io::Error::other)?;
        fs::write(
            corpus.join(format!("control/response-{number}")),
            &message[LENGTH_LEN..],
        )?;
    }
    let ipc = |name: &str, message: Vec<u8>| fs::write(corpus.join("ipc").join(name), message);
    for (number, message) in from_gate().iter().enumerate() {
        ipc(&format!("from-gate-{number}"), bytes(0, message))?;
    }
    for (number, question) in questions().into_iter().enumerate() {
        let request = AuthRequest {
            request: 9,
            ticket: ticket(),
            question,
        };
        ipc(&format!("auth-{number}"), bytes(1, &request))?;
    }
    for (number, message) in sign_requests().iter().enumerate() {
        ipc(&format!("sign-{number}"), bytes(2, message))?;
    }
    let moved = FromDataplane::PeerMoved {
        channel: 1,
        generation: 7,
        slot: Slot(3),
        peer: peer(),
        local: local(),
    };
    ipc("from-dataplane", bytes(3, &moved))?;
    let ended = FromDataplane::ChannelEnded {
        slot: Slot(3),
        channel: 1,
        generation: 7,
    };
    ipc("from-dataplane-ended", bytes(3, &ended))?;
    for (number, message) in from_secmod().iter().enumerate() {
        ipc(&format!("from-secmod-{number}"), bytes(4, message))?;
    }
    let outcome = AuthOutcome::Challenge {
        sid: secret(),
        message: "Token:".into(),
        counter: 1,
    };
    ipc(
        "auth-reply",
        bytes(
            5,
            &AuthReply {
                request: 9,
                outcome,
            },
        ),
    )?;
    ipc(
        "sign-reply",
        bytes(6, &SignReply::Signature(Some(vec![5; 64]))),
    )?;
    ipc("ticket", bytes(7, &ticket()))
}

fn bytes(kind: u8, message: &impl Serialize) -> Vec<u8> {
    let body = postcard::to_stdvec(message).unwrap_or_default();
    [&[kind], &body[..]].concat()
}

fn secret() -> Secret {
    Secret::new(vec![0x5a; 32])
}

fn peer() -> SocketAddr {
    (Ipv4Addr::new(192, 0, 2, 1), 4433).into()
}

fn local() -> SocketAddr {
    (Ipv6Addr::LOCALHOST, 443).into()
}

fn ticket() -> ConnTicket {
    ConnTicket {
        conn: ConnId(5),
        gate: GateId(2),
        remote: peer(),
        local: local(),
        accepted_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        mac: secret(),
    }
}

fn requests() -> Vec<Request> {
    vec![
        Request::Status,
        Request::User("test".into()),
        Request::Id(7),
        Request::Session("h2fkc5".into()),
        Request::Events,
        Request::DisconnectUser("test".into()),
        Request::TerminateSession("h2fkc5".into()),
        Request::UnbanIp(peer().ip()),
        Request::Stop,
        Request::Datapath,
    ]
}

fn responses() -> Vec<Response> {
    let user = UserInfo {
        username: "test".into(),
        mtu: Some(1434),
        remote_ip: Some(peer().ip()),
        ipv4: Some((Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 1))),
        traffic: Some((1, 2)),
        routes: vec!["10.1.0.0/16".into()],
        ..UserInfo::default()
    };
    let session = SessionInfo {
        session: "h2fkc5".into(),
        created: 1_700_000_000,
        expires: None,
        authenticated: true,
        username: "test".into(),
        groupname: String::new(),
        vhost: "default".into(),
        user_agent: "Open AnyConnect VPN Agent v9.01".into(),
        remote_ip: peer().ip(),
        activated: true,
        in_use: false,
        certificate_auth: false,
    };
    let end = EventEnd {
        reason: "user disconnected".into(),
        duration: 60,
    };
    let terminated = Response::Terminated {
        session: "h2fkc5".into(),
        username: "test".into(),
        in_use: true,
    };
    vec![
        Response::Status(Box::new(StatusInfo {
            secmod_pids: vec![7, 8],
            ..StatusInfo::default()
        })),
        Response::Users(vec![user.clone()]),
        Response::Sessions(vec![session]),
        Response::Bans(vec![BanInfo {
            ip: local().ip(),
            score: 80,
            expires: Some(1),
        }]),
        Response::Event(Box::new(Event {
            user,
            end: Some(end),
        })),
        terminated,
        Response::Failed("no such user".into()),
        Response::Datapath(Box::new(datapath())),
    ]
}

fn datapath() -> DatapathInfo {
    DatapathInfo {
        state: "on".into(),
        forward: "stack".into(),
        max_record: 512,
        programs: vec![ProgramInfo {
            name: "from_client".into(),
            id: 41,
        }],
        devices: vec![DatapathDevice {
            name: "eth0".into(),
            role: "wan".into(),
            mode: "native".into(),
        }],
        left: vec![("long record".into(), 3)],
        ..DatapathInfo::default()
    }
}

fn from_gate() -> Vec<FromGate> {
    let conn = ConnId(5);
    let request = TunnelRequest {
        cookie: secret(),
        hostname: Some("phone".into()),
        user_agent: "Open AnyConnect VPN Agent v9.01".into(),
        device_type: String::new(),
        device_platform: "linux-64".into(),
        wants_ipv4: true,
        wants_ipv6: false,
        vhost: 0,
    };
    let part = |length| Secret::new(vec![3; length]);
    let keys = ChannelKeys {
        cipher: Cipher::Aes256Gcm,
        epoch: 1,
        next_send: 1,
        next_receive: 1,
        client_key: part(32),
        client_iv: part(4),
        server_key: part(32),
        server_iv: part(4),
    };
    vec![
        FromGate::Ready,
        FromGate::OpenTunnel {
            conn,
            request: Box::new(request),
        },
        FromGate::TunnelUp {
            conn,
            mtu: 1434,
            tls_cipher: "(TLS1.3)".into(),
        },
        FromGate::InstallKeys {
            conn,
            keys: Box::new(keys),
            peer: peer(),
            local: local(),
            cipher: "(DTLS1.2)-(PSK)-(AES-256-GCM)".into(),
        },
        FromGate::Closed {
            conn,
            reason: EndReason::UserDisconnect,
        },
    ]
}

fn questions() -> Vec<AuthQuestion> {
    vec![
        AuthQuestion::Start {
            vhost: 0,
            username: "alice".into(),
            group: Some("staff".into()),
            password: Some(Secret::from("pw".to_owned())),
            user_agent: "Open AnyConnect VPN Agent v9.01".into(),
        },
        AuthQuestion::Continue {
            sid: secret(),
            password: Secret::from("pw".to_owned()),
        },
        AuthQuestion::Check { cookie: secret() },
    ]
}

fn sign_requests() -> Vec<SignRequest> {
    let remote = peer().ip();
    vec![
        SignRequest::Sign {
            vhost: 0,
            key: 0,
            scheme: 0x0804,
            message: vec![0x20; 98],
        },
        SignRequest::StoreTls {
            vhost: 0,
            remote,
            id: vec![1; 32],
            value: secret(),
        },
        SignRequest::LoadTls {
            vhost: 1,
            remote,
            id: vec![1; 32],
            take: true,
        },
    ]
}

fn from_secmod() -> Vec<FromSecmod> {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let name = SessionName("h2fkc5".into());
    let record = SessionRecord {
        name: name.clone(),
        cookie_hash: [9; 32],
        state: SessionState::Authenticated,
        vhost: 0,
        username: "alice".into(),
        groupname: "staff".into(),
        remote: peer().ip(),
        user_agent: String::new(),
        created: time,
        authenticated: Some(time),
        expires: None,
        in_use: true,
        activated: true,
        conn: Some(ConnId(5)),
    };
    let keys = vec![vec![KeyInfo {
        schemes: vec![0x0804],
        chain: vec![vec![0x30, 0]],
    }]];
    vec![
        FromSecmod::Configured {
            auto_groups: vec![vec!["staff".into()]],
            keys,
        },
        FromSecmod::SessionChanged(Box::new(record)),
        FromSecmod::SessionGone { name },
        FromSecmod::AuthFailed {
            conn: ConnId(5),
            remote: peer().ip(),
            username: "alice".into(),
            points: 10,
        },
    ]
}
