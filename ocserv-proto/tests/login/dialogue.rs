//! States and decisions of the dialogue.

use ocserv_proto::login::{Action, Outcome, Question};
use proptest::prelude::*;

use crate::support::*;

fn xml(inner: &str) -> String {
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<config-auth>{inner}</config-auth>")
}

#[test]
fn both_fields_in_one_form() {
    let mut connection = Connection::new(plain_settings());
    let body = xml("<auth><username>alice</username><password>pw</password></auth>");
    assert_eq!(
        question(connection.post("/auth", &body)),
        start("alice", None, Some("pw"))
    );
}

#[test]
fn empty_password_asks_for_it() {
    let mut connection = Connection::new(plain_settings());
    let asked = question(connection.post("/auth", "username=alice&password="));
    assert_eq!(asked, start("alice", None, None));
    connection.challenge();
    // As an answer to a prompt an empty one is good (push confirmations).
    assert_eq!(question(connection.post("/auth", "password=")), go_on(""));
}

#[test]
fn second_factor_has_its_own_input() {
    let mut connection = Connection::new(plain_settings());
    question(connection.post("/auth", "username=alice&password=pw"));
    let message = "Token <1> & \"2\":".to_owned();
    let (text, _) = answer(connection.outcome(Outcome::Challenge {
        sid: sid(),
        message,
        counter: 2,
    }));
    assert!(
        text.contains("<message>Token &lt;1&gt; &amp; &quot;2&quot;:</message>"),
        "{text}"
    );
    assert!(
        text.contains("name=\"secondary_password\" label=\"Password2:\""),
        "{text}"
    );
    let reply = xml("<auth><secondary_password>123</secondary_password></auth>");
    assert_eq!(question(connection.post("/auth", &reply)), go_on("123"));
}

#[test]
fn user_name_repeated_with_an_answer_continues() {
    let mut connection = Connection::new(full_settings());
    question(connection.post("/auth", "username=alice&group_list=g1"));
    connection.challenge();
    let same = "username=alice&group_list=g1&password=pw";
    assert_eq!(question(connection.post("/auth", same)), go_on("pw"));
    connection.challenge();
    let other = "username=bob&group_list=g1&password=pw";
    assert_eq!(
        question(connection.post("/auth", other)),
        start("bob", Some("g1"), Some("pw"))
    );
}

#[test]
fn continues_on_a_new_connection_with_webvpncontext() {
    let mut connection = Connection::new(plain_settings());
    let cookie = format!("Cookie: webvpncontext={SID}\r\n");
    assert_eq!(
        question(connection.post_with("/auth", &cookie, "password=pw")),
        go_on("pw")
    );
    // Unknown there: begin again.
    is_login_form(connection.outcome(Outcome::Known(false)));
    // And the dialogue does go on from there.
    let asked = question(connection.post("/auth", "username=alice"));
    assert_eq!(asked, start("alice", None, None));
}

#[test]
fn oversized_webvpncontext() {
    let mut connection = Connection::new(plain_settings());
    for length in [0, 43, 45, 64, 12_000] {
        let cookie = format!("Cookie: webvpncontext={}\r\n", "A".repeat(length));
        is_login_form(connection.post_with("/auth", &cookie, "password=pw"));
    }
}

#[test]
fn password_without_a_login_gets_the_form() {
    is_login_form(Connection::new(plain_settings()).post("/auth", "password=pw"));
}

#[test]
fn the_login_form_ends_a_login_under_way() {
    let mut connection = Connection::new(plain_settings());
    question(connection.post("/auth", "username=alice"));
    connection.challenge();
    is_login_form(connection.get("/"));
    is_login_form(connection.post("/auth", "password=pw"));
}

#[test]
fn groups_by_name_label_and_default() {
    for (typed, wanted) in [
        ("g2", Some("g2")),
        ("My+group", Some("g2")),
        ("DEFAULT", None),
        ("", None),
        ("unlisted", Some("unlisted")),
    ] {
        let mut connection = Connection::new(full_settings());
        let body = format!("username=alice&group_list={typed}");
        assert_eq!(
            question(connection.post("/auth", &body)),
            start("alice", wanted, None)
        );
    }
}

#[test]
fn chosen_group_comes_first() {
    for (typed, first) in [
        (
            "g2",
            "<option value=\"g2\">My group</option>\n<option>DEFAULT</option>",
        ),
        (
            "My+group",
            "<option value=\"g2\">My group</option>\n<option>DEFAULT</option>",
        ),
        ("DEFAULT", "<option>DEFAULT</option>\n<option value=\"g1\">"),
        (
            "unlisted",
            "<option>DEFAULT</option>\n<option value=\"g1\">",
        ),
    ] {
        let mut connection = Connection::new(full_settings());
        let text = is_login_form(connection.post("/auth", &format!("group_list={typed}")));
        assert!(
            text.contains(&format!("label=\"Group:\">\n{first}")),
            "{typed}: {text}"
        );
    }
}

#[test]
fn url_chooses_the_group() {
    for path in ["/g2", "/My%20group", "/g2/", "/g2?query"] {
        let mut connection = Connection::new(full_settings());
        let text = is_login_form(connection.post(path, &xml("")));
        let list = "label=\"Group:\">\n<option value=\"g2\">My group</option>\n</select>";
        assert!(text.contains(list), "{path}: {text}");
        let asked = question(connection.post("/auth", "username=alice&group_list=g1"));
        assert_eq!(asked, start("alice", Some("g2"), None));
    }
    let mut settings = full_settings();
    settings.select_group_by_url = false;
    let text = is_login_form(Connection::new(settings).post("/g2", &xml("")));
    assert!(text.contains("value=\"g1\""), "{text}");
}

#[test]
fn unknown_post_paths_serve_the_login_until_it_begins() {
    let mut connection = Connection::new(plain_settings());
    is_login_form(connection.post("/whatever", ""));
    question(connection.post("/whatever", "username=alice"));
    connection.challenge();
    let (text, close) = answer(connection.post("/whatever", "password=pw"));
    assert!(
        close && text.starts_with("HTTP/1.1 404 Not found\r\n"),
        "{text}"
    );
}

#[test]
fn path_traversal_on_profiles() {
    let mut connection = Connection::new(full_settings());
    let cookie = format!("webvpn={SID}");
    let check = Question::Check { cookie: sid() };
    assert_eq!(
        question(connection.get_with("/profiles/../../etc/passwd", &cookie)),
        check
    );
    let (wanted, _) = answer(connection.outcome(Outcome::Known(true)));
    assert!(wanted.ends_with("\r\n\r\n<profile/>\n"), "{wanted}");
    for path in [
        "/profiles",
        "/profiles/",
        "/profiles/..%2f..%2fetc/shadow",
        "/profiles//etc/passwd?x",
    ] {
        assert_eq!(
            question(connection.get_with(path, &cookie)),
            check,
            "{path}"
        );
        let served = answer(connection.outcome(Outcome::Known(true)));
        assert_eq!(served, (wanted.clone(), false), "{path}");
    }
}

#[test]
fn a_user_may_have_a_profile_of_his_own() {
    let mut connection = Connection::new(full_settings());
    question(connection.get_with("/profiles/x", &format!("webvpn={SID}")));
    let own = Outcome::OwnProfile(b"<own/>\n".to_vec());
    let (text, close) = answer(connection.outcome(own));
    assert!(!close && text.ends_with("\r\n\r\n<own/>\n"), "{text}");
}

#[test]
fn no_profile_is_not_found_even_with_a_cookie() {
    let mut connection = Connection::new(plain_settings());
    question(connection.get_with("/profiles/x", &format!("webvpn={SID}")));
    let (text, close) = answer(connection.outcome(Outcome::Known(true)));
    assert!(close && text.starts_with("HTTP/1.1 404 "), "{text}");
}

#[test]
fn user_names_with_nul_and_control_characters() {
    for body in [
        "username=al%00ice&password=pw".to_owned(),
        "username=al%0d%0aice&password=pw".to_owned(),
        xml("<username>al&#9;ice</username><password>pw</password>"),
        format!("username={}&password=pw", "x".repeat(256)),
        format!("username=alice&password={}", "x".repeat(1025)),
    ] {
        let (text, close) = answer(Connection::new(plain_settings()).post("/auth", &body));
        let wanted = "HTTP/1.1 401 Authentication failed\r\nContent-Length: 0\r\n\r\n";
        assert_eq!((text.as_str(), close), (wanted, true));
    }
}

#[test]
fn bad_xml_is_a_bad_request() {
    let deep = "<a>".repeat(50_000);
    for body in [xml("<a>"), xml("<!DOCTYPE x>"), xml(&deep), xml("&b;")] {
        let (text, close) = answer(Connection::new(plain_settings()).post("/auth", &body));
        let wanted = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
        assert_eq!((text.as_str(), close), (wanted, true));
    }
}

#[test]
fn a_reason_cannot_add_a_header() {
    let mut connection = Connection::new(plain_settings());
    question(connection.post("/auth", "username=alice"));
    let (text, _) = answer(connection.outcome(Outcome::Denied {
        reason: "a\r\nb: c".into(),
    }));
    assert_eq!(text, "HTTP/1.1 401 a  b: c\r\nContent-Length: 0\r\n\r\n");
}

#[test]
fn connect_hands_over_the_cookie() {
    for target in ["/CSCOSSLC/tunnel", "CSCOSSLC/tunnel"] {
        let mut connection = Connection::new(plain_settings());
        let head = format!("CONNECT {target} HTTP/1.1\r\nCookie: a=b; webvpn={SID}\r\n\r\n");
        match connection.send(head.as_bytes()) {
            Action::Tunnel { cookie } => assert_eq!(cookie, sid()),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_request_while_a_question_is_open_closes() {
    let mut connection = Connection::new(plain_settings());
    question(connection.post("/auth", "username=alice"));
    assert!(matches!(connection.get("/"), Action::Close));
}

#[test]
fn outcomes_out_of_place() {
    assert!(matches!(
        Connection::new(plain_settings()).outcome(denied()),
        Action::Close
    ));
    let mut connection = Connection::new(plain_settings());
    question(connection.post("/auth", "username=alice"));
    let (text, close) = answer(connection.outcome(Outcome::Known(true)));
    assert!(
        close && text.starts_with("HTTP/1.1 401 Internal error\r\n"),
        "{text}"
    );
}

#[test]
fn debug_output_shows_no_secret() {
    let mut connection = Connection::new(plain_settings());
    let asked = connection.post("/auth", "username=alice&password=hunter2");
    assert!(!format!("{asked:?}").contains("hunter2"));
    let granted = connection.outcome(Outcome::Granted { cookie: sid() });
    assert!(
        !format!("{granted:?}").contains("72, 84, 84, 80"),
        "{granted:?}"
    );
}

#[test]
fn user_agent_is_kept_to_63_bytes() {
    let mut connection = Connection::new(plain_settings());
    let line = format!("User-Agent: {}é{}\r\n", "x".repeat(62), "y".repeat(40));
    match question(connection.post_with("/auth", &line, "username=alice")) {
        Question::Start { user_agent, .. } => assert_eq!(user_agent, "x".repeat(62)),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn arbitrary_posts_do_not_panic(
        path in "/[ -~&&[^ ?#]]{0,20}",
        body in proptest::collection::vec(any::<u8>(), 0..256),
    ) {
        let mut connection = Connection::new(full_settings());
        let mut bytes =
            format!("POST {path} HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
        bytes.extend(body);
        connection.send(&bytes);
        connection.challenge();
    }
}
