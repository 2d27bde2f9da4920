//! The whole role over its channels.

use std::time::{Duration, SystemTime};

use ocserv_proto::config;
use ocserv_proto::secret::Secret;

use super::test_bed::{Bed, new_ticket, secret, start, ticket_from, ticket_key};
use super::test_keys::verifies;
use crate::ipc::ids::{ConnId, ConnTicket, GateId};
use crate::ipc::secmod::{
    AuthOutcome, AuthQuestion, AuthRequest, FromSecmod, OpenRefused, SignReply, SignRequest,
    ToSecmod,
};
use crate::ipc::ticket;

#[test]
fn a_login_gives_a_cookie_that_opens_a_session() {
    let mut bed = Bed::new();
    let cookie = bed.log_in(new_ticket(1), "ann", None);
    assert_eq!(cookie.len(), 32);
    assert!(matches!(bed.event(), FromSecmod::SessionChanged(r) if r.authenticated.is_none()));
    assert!(matches!(bed.event(), FromSecmod::SessionChanged(r) if r.authenticated.is_some()));
    let FromSecmod::AuthSucceeded {
        conn,
        username,
        name,
        ..
    } = bed.event()
    else {
        panic!()
    };
    assert_eq!((conn, username.as_str()), (ConnId(1), "ann"));

    let check = |cookie: &Secret| AuthQuestion::Check {
        cookie: cookie.clone(),
    };
    assert!(matches!(
        bed.ask(new_ticket(2), check(&cookie)),
        AuthOutcome::Known(true)
    ));
    let wrong = Secret::new(vec![1; 32]);
    assert!(matches!(
        bed.ask(new_ticket(2), check(&wrong)),
        AuthOutcome::Known(false)
    ));

    let opened = bed.open(new_ticket(2), &cookie).unwrap();
    assert_eq!(
        (&opened.record.name, opened.record.groupname.as_str()),
        (&name, "staff")
    );
    assert!(opened.record.in_use);
    assert_eq!(
        bed.open(new_ticket(2), &wrong).unwrap_err(),
        OpenRefused::Unknown
    );

    bed.tell(
        &ToSecmod::CloseSession {
            name: name.clone(),
            conn: ConnId(2),
            keep_cookie: true,
        },
        &[],
    );
    assert!(bed.open(new_ticket(3), &cookie).is_ok());
    bed.tell(
        &ToSecmod::CloseSession {
            name: name.clone(),
            conn: ConnId(2),
            keep_cookie: false,
        },
        &[],
    );
    assert!(
        bed.open(new_ticket(3), &cookie).is_ok(),
        "another connection's tunnel ended, not this one's"
    );
    bed.tell(
        &ToSecmod::CloseSession {
            name,
            conn: ConnId(3),
            keep_cookie: false,
        },
        &[],
    );
    assert_eq!(
        bed.open(new_ticket(4), &cookie).unwrap_err(),
        OpenRefused::Unknown
    );
}

#[test]
fn three_wrong_passwords_end_a_login_with_the_texts_of_the_reference() {
    let mut bed = Bed::with("ban-points-wrong-password = 7\n");
    // A user who exists, one who does not and one who is locked must look the same.
    for (conn, user) in [(1, "ann"), (2, "nobody"), (3, "shut")] {
        let AuthOutcome::Challenge {
            sid,
            message,
            counter,
        } = bed.ask(new_ticket(conn), start(user, None, None))
        else {
            panic!("{user}")
        };
        assert_eq!(
            (message.as_str(), counter),
            ("Please enter your password.", 0)
        );
        let answer = || AuthQuestion::Continue {
            sid: sid.clone(),
            password: secret("wrong"),
        };
        for _ in 0..2 {
            let again = bed.ask(new_ticket(conn), answer());
            let AuthOutcome::Challenge {
                message, counter, ..
            } = again
            else {
                panic!("{user}")
            };
            assert_eq!(message, "Login failed.\nPlease enter your password.");
            assert_eq!(counter, 0);
        }
        let last = bed.ask(new_ticket(conn), answer());
        assert!(
            matches!(last, AuthOutcome::Denied { reason } if reason == "Authentication failed")
        );
        assert!(matches!(
            bed.ask(new_ticket(conn), answer()),
            AuthOutcome::Known(false)
        ));

        assert!(matches!(bed.event(), FromSecmod::SessionChanged(_)));
        for _ in 0..3 {
            let FromSecmod::AuthFailed {
                conn: at,
                username,
                points,
                ..
            } = bed.event()
            else {
                panic!("{user}")
            };
            assert_eq!((at, username.as_str(), points), (ConnId(conn), user, 7));
        }
        assert!(matches!(bed.event(), FromSecmod::SessionGone { .. }));
    }
}

#[test]
fn a_right_password_after_a_wrong_one_on_another_connection() {
    let mut bed = Bed::new();
    let first = bed.ask(new_ticket(1), start("ann", Some("wrong"), None));
    let AuthOutcome::Challenge { sid, .. } = first else {
        panic!("{first:?}")
    };
    let next = AuthQuestion::Continue {
        sid: sid.clone(),
        password: secret("password"),
    };
    let granted = bed.ask(new_ticket(2), next);
    let AuthOutcome::Granted { cookie, .. } = granted else {
        panic!("{granted:?}")
    };
    assert_eq!(cookie, sid, "the cookie is the session id");
}

#[test]
fn a_group_must_be_one_of_the_users() {
    let mut bed = Bed::with("default-select-group = mine\nauto-select-group = true\n");
    assert_eq!(bed.auto_groups, [["staff", "admins"]]);
    let cases = [
        (Some("admins"), "admins"),
        (Some("mine"), "staff"),
        (Some(""), "staff"),
    ];
    for (conn, (wanted, given)) in (1..).zip(cases) {
        let cookie = bed.log_in(new_ticket(conn), "ann", wanted);
        assert_eq!(
            bed.open(new_ticket(conn), &cookie)
                .unwrap()
                .record
                .groupname,
            given
        );
    }
    let refused = bed.ask(
        new_ticket(8),
        start("bob", Some("password"), Some("admins")),
    );
    let AuthOutcome::Denied { reason } = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(reason, "Authentication failed");
}

#[test]
fn names_that_no_file_can_hold_are_denied_at_once() {
    let mut bed = Bed::new();
    for name in ["", "a\nb", "a\0b", &"x".repeat(300)] {
        let outcome = bed.ask(new_ticket(1), start(name, Some("password"), None));
        assert!(matches!(outcome, AuthOutcome::Denied { .. }), "{name:?}");
        let FromSecmod::AuthFailed { username, .. } = bed.event() else {
            panic!("{name:?}")
        };
        assert!(username.len() < 256 && !username.chars().any(char::is_control));
    }
}

#[test]
fn a_login_after_auth_timeout_is_denied() {
    let mut bed = Bed::with("auth-timeout = 100\n");
    let late = ticket_from(1, "192.0.2.1", SystemTime::now() - Duration::from_secs(200));
    let outcome = bed.ask(late, start("ann", Some("password"), None));
    assert!(matches!(outcome, AuthOutcome::Denied { .. }));
}

#[test]
fn user_names_with_slash_get_no_session_where_users_have_files() {
    let dir = tempfile::tempdir().unwrap();
    let users = format!("config-per-user = {}\n", dir.path().display());
    std::fs::write(dir.path().join("ann"), "mtu = 1234\n").unwrap();
    let mut bed = Bed::with(&users);
    let cookie = bed.log_in(new_ticket(1), "ann", None);
    assert_eq!(bed.open(new_ticket(1), &cookie).unwrap().settings.mtu, 1234);
    let cookie = bed.log_in(new_ticket(2), "a/b", None);
    let refused = bed.open(new_ticket(2), &cookie).unwrap_err();
    assert!(
        matches!(refused, OpenRefused::BadUserConfig(_)),
        "{refused:?}"
    );
}

#[test]
fn a_successor_knows_the_sessions() {
    let mut bed = Bed::new();
    let cookie = bed.log_in(new_ticket(1), "ann", None);
    let record = bed.open(new_ticket(1), &cookie).unwrap().record;
    let successor = Bed::new();
    assert!(successor.open(new_ticket(1), &cookie).is_err());
    successor.tell(
        &ToSecmod::Restore {
            sessions: vec![record.clone()],
        },
        &[],
    );
    let again = successor.open(new_ticket(2), &cookie).unwrap().record;
    assert_eq!(
        (again.name, again.authenticated),
        (record.name, record.authenticated)
    );
}

#[test]
fn gates_sign_and_never_see_a_key() {
    let bed = Bed::new();
    assert_eq!(bed.keys[0].len(), 2);
    for (key, scheme) in [(0, 0x0403), (1, 0x0807)] {
        let info = &bed.keys[0][key];
        assert_eq!(info.schemes, [scheme]);
        let request = |scheme| SignRequest::Sign {
            vhost: 0,
            key: key as u32,
            scheme,
            message: b"hello".to_vec(),
        };
        let SignReply::Signature(Some(signature)) = bed.sign(&request(scheme)) else {
            panic!()
        };
        assert!(verifies(&info.chain[0], scheme, b"hello", &signature));
        assert!(matches!(
            bed.sign(&request(0x0804)),
            SignReply::Signature(None)
        ));
    }
    let unknown = SignRequest::Sign {
        vhost: 9,
        key: 9,
        scheme: 0x0403,
        message: vec![],
    };
    assert!(matches!(bed.sign(&unknown), SignReply::Signature(None)));
}

#[test]
fn tls_sessions_are_kept_for_all_gates() {
    let bed = Bed::new();
    let remote = "192.0.2.1".parse().unwrap();
    let store = SignRequest::StoreTls {
        vhost: 0,
        remote,
        id: vec![1, 2],
        value: secret("session"),
    };
    bed.wait(bed.signing.send(&store, &[]));
    let load = |take| SignRequest::LoadTls {
        vhost: 0,
        remote,
        id: vec![1, 2],
        take,
    };
    for take in [false, true] {
        let SignReply::Tls(Some(value)) = bed.sign(&load(take)) else {
            panic!()
        };
        assert_eq!(value, secret("session"));
    }
    assert!(matches!(bed.sign(&load(true)), SignReply::Tls(None)));
}

#[test]
fn a_forged_ticket_closes_the_gates_channel() {
    for forge in [
        (|t: &mut ConnTicket| t.remote.set_ip("198.51.100.7".parse().unwrap())) as fn(&mut _),
        |t: &mut ConnTicket| t.mac = Secret::new(vec![0; 32]),
        |t: &mut ConnTicket| {
            // Good, but of another gate.
            t.gate = GateId(2);
            ticket::sign(t, &ticket_key());
        },
    ] {
        let bed = Bed::new();
        let mut ticket = new_ticket(1);
        forge(&mut ticket);
        let question = start("ann", Some("password"), None);
        bed.wait(bed.gate.send(
            &AuthRequest {
                request: 1,
                ticket,
                question,
            },
            &[],
        ));
        assert!(bed.gate_is_dropped());
    }
}

#[test]
fn a_message_that_does_not_decode_closes_that_channel_only() {
    let bed = Bed::new();
    bed.wait(bed.gate.send(&vec![0xff_u8; 40], &[]));
    assert!(bed.gate_is_dropped());
    let request = SignRequest::LoadTls {
        vhost: 0,
        remote: "192.0.2.1".parse().unwrap(),
        id: vec![],
        take: false,
    };
    assert!(matches!(bed.sign(&request), SignReply::Tls(None)));
}

#[test]
fn a_bad_configuration_keeps_the_old_one() {
    let mut bed = Bed::new();
    let mut bad = bed.config("");
    bad.vhosts[0].server_key[0] = "/does/not/exist".into();
    bed.configure(&bad);
    let FromSecmod::ConfigureFailed { message } = bed.event() else {
        panic!()
    };
    assert!(message.contains("/does/not/exist"), "{message}");
    bed.log_in(new_ticket(1), "ann", None);
}

#[test]
fn a_second_factor_is_never_dropped() {
    let bed = Bed::new();
    let mut bad = bed.config("");
    bad.vhosts[0].auth.push(config::AuthMethod::Certificate);
    bed.configure(&bad);
    let FromSecmod::ConfigureFailed { message } = bed.event() else {
        panic!()
    };
    assert!(message.contains("plain+certificate"), "{message}");
}

#[test]
fn a_session_follows_its_vhost_through_a_reload() {
    let two = "[vhost:a.example.com]\n[vhost:b.example.com]\nmtu = 1222\n";
    let mut bed = Bed::with(two);
    let question = AuthQuestion::Start {
        vhost: 2,
        username: "ann".to_owned(),
        group: None,
        password: Some(secret("password")),
        user_agent: String::new(),
    };
    let granted = bed.ask(new_ticket(1), question);
    let AuthOutcome::Granted { cookie, .. } = granted else {
        panic!("{granted:?}")
    };
    bed.configure(&bed.config("[vhost:b.example.com]\nmtu = 1222\n"));
    let opened = bed.open(new_ticket(1), &cookie).unwrap();
    assert_eq!((opened.record.vhost, opened.settings.mtu), (1, 1222));
    bed.configure(&bed.config(""));
    assert_eq!(
        bed.open(new_ticket(1), &cookie).unwrap_err(),
        OpenRefused::Unknown
    );
}
