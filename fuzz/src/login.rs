//! The login dialogue, from the first POST to the tunnel.

use std::sync::Arc;

use ocserv_proto::cookies;
use ocserv_proto::http::{Limits, Request, RequestParser};
use ocserv_proto::login::{Action, Group, Login, LoginSettings, Outcome, Profile, Question, Reply};
use ocserv_proto::secret::Secret;
use ocserv_proto::xml;

use crate::input::{Choices, segments, text};

/// The first segment is the body of a first POST, each further one a step of the dialogue: a first
/// byte that chooses what comes, and its text. The last one is the settings' text as well.
/// Answers are whole and no text leaves its place in them; questions are within their bounds.
pub fn login(data: &[u8]) {
    let segments: Vec<&[u8]> = segments(data).collect();
    let settings = settings(data, &text(segments.last().copied().unwrap_or_default()));
    let mut dialogue = Dialogue {
        login: Login::new(Arc::new(settings.clone())),
        settings,
        asked: false,
    };
    let body = segments.first().copied().unwrap_or_default();
    check_reply(body);
    let mut open = dialogue.request(&post("/auth", 0, body));
    for step in &segments[1..] {
        let Some((kind, text)) = step.split_first().filter(|_| open) else {
            return;
        };
        open = dialogue.step(*kind, text);
    }
}

struct Dialogue {
    login: Login,
    settings: LoginSettings,
    asked: bool,
}

impl Dialogue {
    /// False: the connection is closed.
    fn step(&mut self, kind: u8, bytes: &[u8]) -> bool {
        if self.asked && kind < 0xf0 {
            self.asked = false;
            let action = self.login.outcome(outcome(kind, text(bytes)));
            return self.check(action);
        }
        let path: String = text(bytes)
            .chars()
            .filter(char::is_ascii_graphic)
            .take(200)
            .collect();
        let request = match kind % 8 {
            0..=3 => post("/auth", kind, bytes),
            4 => post(&format!("/{path}"), kind, b"username=a&password=b"),
            5 => head("GET", &format!("/{path}"), kind, ""),
            6 => head("CONNECT", "/CSCOSSLC/tunnel", kind, ""),
            _ => head("GET", "/profiles/x", kind, ""),
        };
        self.request(&request)
    }

    fn request(&mut self, bytes: &[u8]) -> bool {
        let Some(request) = parse(bytes) else {
            return false;
        };
        let action = self.login.handle(&request);
        if self.asked {
            assert!(matches!(action, Action::Close), "a question is open");
            return false;
        }
        self.check(action)
    }

    fn check(&mut self, action: Action) -> bool {
        match action {
            Action::Respond { bytes, close } => {
                check_answer(&bytes, close, &self.settings);
                !close
            }
            Action::Ask(question) => {
                check_question(&question, &self.settings);
                self.asked = true;
                true
            }
            Action::Tunnel { cookie } => {
                assert_eq!(cookie.len(), 32);
                false
            }
            Action::Close => panic!("closed without a reason"),
        }
    }
}

fn parse(bytes: &[u8]) -> Option<Request> {
    RequestParser::new(Limits::default())
        .feed(bytes)
        .ok()
        .flatten()
}

fn post(path: &str, kind: u8, body: &[u8]) -> Vec<u8> {
    let length = format!("Content-Length: {}\r\n", body.len());
    let mut request = head("POST", path, kind, &length);
    request.extend_from_slice(body);
    request
}

fn head(method: &str, path: &str, kind: u8, lines: &str) -> Vec<u8> {
    let minor = (kind >> 4 & 1) ^ 1;
    let agent = if kind & 0x20 == 0 { "v9.01" } else { "v3.20" };
    let cookie = format!(
        "a=b; webvpn={0}; webvpncontext={0}",
        cookies::encode(&sid()).as_str()
    );
    let cookie = if kind & 0x40 == 0 { "" } else { &cookie };
    format!(
        "{method} {path} HTTP/1.{minor}\r\nUser-Agent: Open AnyConnect VPN Agent {agent}\r\n\
         Cookie: {cookie}\r\n{lines}\r\n"
    )
    .into_bytes()
}

fn sid() -> Secret {
    Secret::new((0..32).collect())
}

fn outcome(kind: u8, text: String) -> Outcome {
    match kind % 6 {
        0 | 1 => Outcome::Challenge {
            sid: sid(),
            message: text,
            counter: u32::from(kind >> 3),
        },
        2 => Outcome::Granted { cookie: sid() },
        3 => Outcome::Denied { reason: text },
        4 => Outcome::Known(true),
        _ => Outcome::Known(false),
    }
}

/// With texts from the file as an administrator may write them.
fn settings(data: &[u8], text: &str) -> LoginSettings {
    let mut choices = Choices::new(data);
    let mut some = || (choices.below(3) > 0).then(|| text.to_owned());
    LoginSettings {
        groups: vec![
            Group {
                name: "g1".into(),
                label: None,
            },
            Group {
                name: text.to_owned(),
                label: some(),
            },
        ],
        default_select_group: some(),
        select_group_by_url: some().is_some(),
        banner: some(),
        pre_login_banner: some(),
        cookie_timeout_secs: 300,
        cert_sha1_hex: "00".repeat(20),
        profile: some().map(|file_name| Profile {
            file_name,
            sha1_hex: "11".repeat(20),
            content: data.to_vec(),
        }),
        included_http_headers: some()
            .map(|text| format!("X-Included: {text}"))
            .into_iter()
            .collect(),
    }
}

/// What a body means does not depend on the dialogue.
fn check_reply(body: &[u8]) {
    let Ok(reply) = Reply::parse(body) else {
        return;
    };
    for name in [&reply.username, &reply.group].into_iter().flatten() {
        assert!((1..=255).contains(&name.len()) && !name.chars().any(char::is_control));
    }
    let mut login = Login::new(Arc::new(LoginSettings::default()));
    let request = post("/auth", 0, body);
    let Some(request) = parse(&request) else {
        return;
    };
    match (login.handle(&request), reply.username) {
        (
            Action::Ask(Question::Start {
                username,
                group,
                password,
                ..
            }),
            Some(typed),
        ) => {
            assert_eq!((username, group), (typed, reply.group));
            assert_eq!(
                password,
                reply.password.filter(|password| !password.is_empty())
            );
        }
        (Action::Respond { close: false, .. }, None) => {}
        (action, typed) => panic!("{typed:?} gives {action:?}"),
    }
}

fn check_question(question: &Question, settings: &LoginSettings) {
    let password = match question {
        Question::Start {
            username,
            group,
            password,
            user_agent,
        } => {
            assert!((1..=255).contains(&username.len()) && !username.chars().any(char::is_control));
            if let Some(group) = group {
                let listed = settings.groups.iter().any(|known| known.name == *group);
                assert!(listed || (1..=255).contains(&group.len()));
            }
            assert!(user_agent.len() <= 63);
            assert!(
                password
                    .as_ref()
                    .is_none_or(|password| !password.is_empty())
            );
            password.as_ref()
        }
        Question::Continue { sid, password } => {
            assert_eq!(sid.len(), 32);
            Some(password)
        }
        Question::Check { cookie } => {
            assert_eq!(cookie.len(), 32);
            None
        }
    };
    if let Some(password) = password {
        assert!(password.len() <= 1024 && !password.expose().contains(&0));
    }
}

/// A whole answer: a status line, header lines with names of ours, the announced body.
fn check_answer(bytes: &[u8], close: bool, settings: &LoginSettings) {
    let end = bytes
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .expect("an end of the head");
    let head = std::str::from_utf8(&bytes[..end]).expect("a head is text");
    let body = &bytes[end + 4..];
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    let (version, code) = status.split_at_checked(9).expect("a status line");
    assert!(matches!(version, "HTTP/1.0 " | "HTTP/1.1 "), "{status:?}");
    assert!(
        matches!(
            code.get(..4),
            Some("200 " | "400 " | "401 " | "404 " | "503 ")
        ),
        "{status:?}"
    );
    assert!(!status.chars().any(|c| c.is_ascii_control()));
    assert!(code.starts_with("200") || close, "errors close");
    let mut length = 0;
    let mut is_xml = false;
    for line in lines {
        assert!(
            !line.bytes().any(|byte| byte.is_ascii_control()),
            "{line:?}"
        );
        let (name, value) = line.split_once(": ").expect("name and value");
        assert!(HEADERS.contains(&name), "{line:?}");
        if name.eq_ignore_ascii_case("Content-Length") {
            length = value.parse().expect("a number");
        }
        if name == "Set-Cookie" {
            check_cookie(value);
        }
        is_xml |= line == "Content-Type: text/xml; charset=utf-8";
    }
    assert_eq!(length, body.len());
    if is_xml {
        check_form(std::str::from_utf8(body).expect("a form is text"), settings);
    }
}

const HEADERS: [&str; 7] = [
    "Connection",
    "Content-Type",
    "Content-Length",
    "Content-length",
    "X-Transcend-Version",
    "Set-Cookie",
    "X-Included",
];

fn check_cookie(value: &str) {
    let (name, attributes) = value.split_once('=').expect("a cookie");
    assert!(
        ["webvpn", "webvpncontext", "webvpnc"].contains(&name),
        "{value:?}"
    );
    assert!(attributes.ends_with("; Secure; HttpOnly"));
    assert!(attributes.matches(';').count() <= 4, "{value:?}");
}

/// Texts are texts: no element of theirs, none cut.
fn check_form(body: &str, settings: &LoginSettings) {
    let document = xml::parse(body).expect("well-formed");
    for element in document.descendants().filter(|node| node.is_element()) {
        let name = element.tag_name().name();
        assert!(ELEMENTS.contains(&name), "<{name}>");
        let most = match name {
            "option" => settings.groups.len() + 1,
            "input" => 2,
            _ => 1,
        };
        let same = document
            .descendants()
            .filter(|node| node.has_tag_name(name));
        assert!(same.count() <= most, "<{name}>");
        if name == "form" {
            assert_eq!(element.attribute("action"), Some("/auth"));
        }
    }
}

const ELEMENTS: [&str; 16] = [
    "config-auth",
    "version",
    "auth",
    "title",
    "banner",
    "message",
    "form",
    "input",
    "select",
    "option",
    "config",
    "vpn-profile-manifest",
    "vpn",
    "file",
    "uri",
    "hash",
];
