//! One connection, its vhost's settings and the messages of a test.

use std::sync::Arc;

use ocserv_proto::cookies;
use ocserv_proto::http::{Limits, Request, RequestParser};
use ocserv_proto::login::{Action, Group, Login, LoginSettings, Outcome, Profile, Question};
use ocserv_proto::secret::Secret;

pub const SID: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

pub fn sid() -> Secret {
    Secret::new((0..32).collect())
}

/// A vhost without anything optional.
pub fn plain_settings() -> LoginSettings {
    LoginSettings {
        cookie_timeout_secs: 300,
        cert_sha1_hex: "F1FD03CA8402868A75100E9FF094B740F36CC45A".into(),
        ..LoginSettings::default()
    }
}

/// The settings under which the vectors of the reference were taken.
pub fn full_settings() -> LoginSettings {
    LoginSettings {
        groups: vec![
            Group {
                name: "g1".into(),
                label: None,
            },
            Group {
                name: "g2".into(),
                label: Some("My group".into()),
            },
        ],
        default_select_group: Some("DEFAULT".into()),
        select_group_by_url: true,
        banner: Some("Welcome & <b>".into()),
        pre_login_banner: Some("Pre & <b>".into()),
        profile: Some(Profile {
            file_name: "/etc/ocserv/vpnprofile.xml".into(),
            sha1_hex: "FA8AADA3B66D4848E76CCA992327B8D7EAB9AC1A".into(),
            content: b"<profile/>\n".to_vec(),
        }),
        included_http_headers: vec![
            "Strict-Transport-Security: max-age=31536000".into(),
            "X-Frame-Options: deny".into(),
        ],
        ..plain_settings()
    }
}

/// A connection that takes request bytes.
pub struct Connection {
    parser: RequestParser,
    login: Login,
}

impl Connection {
    pub fn new(settings: LoginSettings) -> Self {
        Self {
            parser: RequestParser::new(Limits::default()),
            login: Login::new(Arc::new(settings)),
        }
    }

    pub fn send(&mut self, bytes: &[u8]) -> Action {
        let request: Request = self.parser.feed(bytes).unwrap().unwrap();
        self.login.handle(&request)
    }

    pub fn get(&mut self, path: &str) -> Action {
        self.send(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes())
    }

    pub fn get_with(&mut self, path: &str, cookie: &str) -> Action {
        self.send(format!("GET {path} HTTP/1.1\r\nCookie: {cookie}\r\n\r\n").as_bytes())
    }

    pub fn post(&mut self, path: &str, body: &str) -> Action {
        self.post_with(
            path,
            "User-Agent: Open AnyConnect VPN Agent v9.01\r\n",
            body,
        )
    }

    pub fn post_with(&mut self, path: &str, lines: &str, body: &str) -> Action {
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\n{lines}Content-Length: {length}\r\n\r\n");
        self.send((head + body).as_bytes())
    }

    pub fn outcome(&mut self, outcome: Outcome) -> Action {
        self.login.outcome(outcome)
    }

    /// The first password prompt of secmod.
    pub fn challenge(&mut self) -> Action {
        self.outcome(challenge(sid(), "Please enter your password."))
    }
}

pub fn challenge(sid: Secret, message: &str) -> Outcome {
    Outcome::Challenge {
        sid,
        message: message.into(),
        counter: 0,
    }
}

pub fn denied() -> Outcome {
    Outcome::Denied {
        reason: "Authentication failed".into(),
    }
}

pub fn start(username: &str, group: Option<&str>, password: Option<&str>) -> Question {
    Question::Start {
        username: username.into(),
        group: group.map(str::to_owned),
        password: password.map(|text| Secret::from(text.to_owned())),
        user_agent: "Open AnyConnect VPN Agent v9.01".into(),
    }
}

pub fn go_on(password: &str) -> Question {
    Question::Continue {
        sid: sid(),
        password: Secret::from(password.to_owned()),
    }
}

#[track_caller]
pub fn question(action: Action) -> Question {
    match action {
        Action::Ask(question) => question,
        other => panic!("no question: {other:?}"),
    }
}

/// The answer and whether the connection closes.
#[track_caller]
pub fn answer(action: Action) -> (String, bool) {
    match action {
        Action::Respond { bytes, close } => (String::from_utf8(bytes.to_vec()).unwrap(), close),
        other => panic!("no answer: {other:?}"),
    }
}

#[track_caller]
pub fn is_login_form(action: Action) -> String {
    let (text, close) = answer(action);
    assert!(
        !close && text.starts_with("HTTP/1.1 200 OK\r\nSet-Cookie: webvpncontext=;"),
        "{text}"
    );
    assert!(text.contains("name=\"username\""), "{text}");
    text
}

/// The session identifier in a vector.
pub fn sid_in(vector: &str) -> Secret {
    let (_, rest) = vector.split_once("webvpncontext=").unwrap();
    cookies::decode(rest.split(';').next().unwrap()).unwrap()
}
