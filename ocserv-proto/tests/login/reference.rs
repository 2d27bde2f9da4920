//! Answers against those of ocserv 1.1.6, captured on the wire (the profile's path was replaced by
//! one of the same length). Where a later version or safety asks for other bytes, [`Expected`]
//! says so step by step.

use ocserv_proto::login::Outcome;

use crate::support::*;

macro_rules! vector {
    ($name:literal) => {
        Expected::new(include_str!(concat!("../vectors/ocserv-1.1.6/", $name)))
    };
}

/// A vector with the intended differences applied.
struct Expected(String);

impl Expected {
    fn new(vector: &str) -> Self {
        Self(vector.to_owned())
    }

    fn replace(mut self, old: &str, new: &str) -> Self {
        assert!(self.0.contains(old), "{old} is not in the vector");
        self.0 = self.0.replace(old, new);
        self
    }

    /// Since 1.2 XML of the dialogue names its character set.
    fn charset(self) -> Self {
        self.replace(
            "Content-Type: text/xml\r\n",
            "Content-Type: text/xml; charset=utf-8\r\n",
        )
    }

    /// The reference inserts banners as they are.
    fn escaped_banner(self) -> Self {
        self.replace(" & <b>", " &amp; &lt;b&gt;")
    }

    /// Since 1.4.0 the first form asks for the password as well.
    fn single_form(self) -> Self {
        const USERNAME: &str = "<input type=\"text\" name=\"username\" label=\"Username:\" />\n";
        const PASSWORD: &str =
            "<input type=\"password\" name=\"password\" label=\"Password:\" />\n";
        self.replace("enter your username.", "enter your username and password.")
            .replace(USERNAME, &format!("{USERNAME}{PASSWORD}"))
    }

    /// Puts the length right after the differences and compares.
    #[track_caller]
    fn assert(self, actual: &str) {
        let (head, body) = self.0.split_once("\r\n\r\n").unwrap();
        let head: Vec<String> = head
            .split("\r\n")
            .map(|line| match line.strip_prefix("Content-Length: ") {
                Some(_) => format!("Content-Length: {}", body.len()),
                None => line.to_owned(),
            })
            .collect();
        assert_eq!(actual, format!("{}\r\n\r\n{body}", head.join("\r\n")));
    }
}

const USER: &str = "<?xml version=\"1.0\"?><a><username>alice</username></a>";
const PASSWORD: &str = "<?xml version=\"1.0\"?><a><password>secret1</password></a>";

#[test]
fn login_form() {
    for action in [
        Connection::new(full_settings()).get("/"),
        Connection::new(full_settings()).post("/", "<?xml version=\"1.0\"?><config-auth/>"),
    ] {
        let (text, close) = answer(action);
        assert!(!close);
        vector!("form")
            .charset()
            .escaped_banner()
            .single_form()
            .assert(&text);
    }
    let (text, _) = answer(Connection::new(plain_settings()).get("/"));
    vector!("plain-form").charset().single_form().assert(&text);
}

#[test]
fn login_form_with_a_chosen_group() {
    let body = "<?xml version=\"1.0\"?><a><group-select>g2</group-select></a>";
    let (text, _) = answer(Connection::new(full_settings()).post("/", body));
    vector!("form-group-chosen")
        .charset()
        .escaped_banner()
        .single_form()
        .assert(&text);
}

#[test]
fn http_1_0_closes() {
    let (text, close) = answer(Connection::new(full_settings()).send(b"GET / HTTP/1.0\r\n\r\n"));
    assert!(close);
    vector!("form-http10")
        .charset()
        .escaped_banner()
        .single_form()
        .assert(&text);
}

#[test]
fn user_name_then_password() {
    let wanted = vector!("password-form").charset();
    let sid = sid_in(&wanted.0);
    let mut connection = Connection::new(full_settings());
    question(connection.post("/auth", USER));
    let (text, close) =
        answer(connection.outcome(challenge(sid.clone(), "Please enter your password.")));
    assert!(!close);
    wanted.assert(&text);

    question(connection.post("/auth", PASSWORD));
    let (text, close) = answer(connection.outcome(Outcome::Granted { cookie: sid }));
    assert!(!close);
    vector!("success").charset().escaped_banner().assert(&text);

    let (text, close) = answer(connection.get("/profiles/x.xml"));
    assert!(!close);
    vector!("profile").assert(&text);
}

#[test]
fn success_without_banner_and_profile() {
    let wanted = vector!("plain-success").charset();
    let mut connection = Connection::new(plain_settings());
    question(connection.post("/auth", USER));
    let granted = Outcome::Granted {
        cookie: sid_in(&wanted.0),
    };
    wanted.assert(&answer(connection.outcome(granted)).0);
}

#[test]
fn wrong_passwords() {
    let wanted = vector!("password-form-again").charset();
    let message = "Login failed.\nPlease enter your password.";
    let mut connection = Connection::new(full_settings());
    question(connection.post("/auth", USER));
    wanted.assert_after(&mut connection, message);
    question(connection.post("/auth", PASSWORD));
    let (text, close) = answer(connection.outcome(denied()));
    assert!(close);
    vector!("denied").assert(&text);
}

impl Expected {
    #[track_caller]
    fn assert_after(self, connection: &mut Connection, message: &str) {
        let sid = sid_in(&self.0);
        self.assert(&answer(connection.outcome(challenge(sid, message))).0);
    }
}

#[test]
fn unwrapped_forms_of_old_clients() {
    let agent = "User-Agent: Open AnyConnect VPN Agent v3.20\r\n";
    let mut connection = Connection::new(plain_settings());
    let (text, _) = answer(connection.send(format!("GET / HTTP/1.1\r\n{agent}\r\n").as_bytes()));
    vector!("v3-form").charset().single_form().assert(&text);

    let mut connection = Connection::new(full_settings());
    let wanted = vector!("v3-password-form").charset();
    let sid = sid_in(&wanted.0);
    question(connection.post_with("/auth", agent, "username=alice&group%5flist=g1"));
    wanted.assert_after(&mut connection, "Please enter your password.");
    question(connection.post_with("/auth", agent, "password=secret1"));
    let (text, _) = answer(connection.outcome(Outcome::Granted { cookie: sid }));
    vector!("v3-success")
        .charset()
        .escaped_banner()
        .assert(&text);
}

#[test]
fn pages() {
    let mut connection = Connection::new(full_settings());
    for (path, wanted) in [
        ("/1/index.html", vector!("index")),
        ("/logout", vector!("index")),
        ("/1/VPNManifest.xml", vector!("manifest")),
        (
            "/+CSCOT+/translation-table?textdomain%3DAnyConnect",
            vector!("manifest"),
        ),
        ("/1/binaries/update.txt", vector!("update")),
        ("/1/binaries/vpndownloader.sh", vector!("downloader")),
    ] {
        let (text, close) = answer(connection.get(path));
        assert!(!close, "{path}");
        wanted.assert(&text);
    }
}

#[test]
fn refusals() {
    let refusal = |action| {
        let (text, close) = answer(action);
        assert!(close, "{text}");
        text
    };
    let connection = || Connection::new(full_settings());
    vector!("not-found").assert(&refusal(connection().get("/nope")));
    vector!("not-found").assert(&refusal(connection().send(b"HEAD / HTTP/1.1\r\n\r\n")));
    vector!("not-found").assert(&refusal(connection().send(b"CONNECT /x HTTP/1.1\r\n\r\n")));
    vector!("profile-without-cookie").assert(&refusal(connection().get("/profiles/x.xml")));
    let tunnel = b"CONNECT /CSCOSSLC/tunnel HTTP/1.1\r\n\r\n";
    vector!("connect-no-cookie").assert(&refusal(connection().send(tunnel)));
    let mut asking = connection();
    question(asking.get_with("/profiles/x", &format!("webvpn={SID}")));
    vector!("connect-bad-cookie").assert(&refusal(asking.outcome(Outcome::Known(false))));
}
