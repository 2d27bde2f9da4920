use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;

use ocserv_proto::control::{MAX_REQUEST, decode_request, encode_response, message_len};

use super::super::sessions::tests::session;
use super::*;

/// A server that answers once, and gives back what it was asked.
struct Server {
    directory: tempfile::TempDir,
    thread: JoinHandle<Request>,
}

/// `None` closes the connection without an answer.
fn server(response: Option<Response>) -> Server {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut field = [0; 4];
        stream.read_exact(&mut field).unwrap();
        let mut message = vec![0; message_len(field, MAX_REQUEST).unwrap()];
        stream.read_exact(&mut message).unwrap();
        if let Some(response) = response {
            stream
                .write_all(&encode_response(&response).unwrap())
                .unwrap();
        }
        decode_request(&message).unwrap()
    });
    Server { directory, thread }
}

fn run(input: &str, json: bool, response: Option<Response>) -> (u8, String, Request) {
    let server = server(response);
    let socket = server.directory.path().join("socket");
    let mut session = Session {
        socket,
        json,
        debug: false,
        ended: false,
    };
    let (code, output) = session.command(input);
    (code, output, server.thread.join().unwrap())
}

fn failed() -> Option<Response> {
    Some(Response::Failed("not found".to_owned()))
}

#[test]
fn orders_answer_in_the_measured_words() {
    let name = || "test".to_owned();
    let ip = Request::UnbanIp("198.51.100.1".parse().unwrap());
    let cases = [
        (
            "disconnect user test",
            Request::DisconnectUser(name()),
            "user 'test' was disconnected\n",
            "could not disconnect user 'test'\n",
        ),
        (
            "disconnect id 7",
            Request::DisconnectId(7),
            "connection ID '7' was disconnected\n",
            "could not disconnect ID '7'\n",
        ),
        (
            "terminate user test",
            Request::TerminateUser(name()),
            "user 'test' was terminated (session invalidated)\n",
            "could not terminate user 'test'\n",
        ),
        (
            "terminate id 7",
            Request::TerminateId(7),
            "connection ID '7' was terminated (session invalidated)\n",
            "could not terminate ID '7'\n",
        ),
        (
            "unban ip 198.51.100.1",
            ip,
            "IP '198.51.100.1' was unbanned\n",
            "could not unban IP '198.51.100.1'\n",
        ),
        (
            "reload",
            Request::Reload,
            "Server scheduled to reload\n",
            "Error scheduling reload\n",
        ),
        (
            "stop now",
            Request::Stop,
            "Server scheduled to stop\n",
            "Error scheduling server stop\n",
        ),
    ];
    for (input, request, done, not_done) in cases {
        let expected = (0, done.to_owned(), request.clone());
        assert_eq!(run(input, false, Some(Response::Done)), expected);
        assert_eq!(
            run(input, true, failed()),
            (1, not_done.to_owned(), request)
        );
    }
}

#[test]
fn missing_users_and_sessions_have_their_status() {
    let none = || Some(Response::Users(Vec::new()));
    let request = Request::User("test".to_owned());
    assert_eq!(
        run("show user test", false, none()),
        (2, String::new(), request)
    );
    assert_eq!(
        run("show id 9", true, none()),
        (2, "[\n]\n".to_owned(), Request::Id(9))
    );
    assert_eq!(
        run("show users", false, none()),
        (0, String::new(), Request::Users)
    );
    let (code, text, _) = run(
        "show session abc",
        false,
        Some(Response::Sessions(Vec::new())),
    );
    assert_eq!((code, &*text), (0, "Session ID not found or expired\n"));
    let (code, text, _) = run(
        "show session abc",
        true,
        Some(Response::Sessions(Vec::new())),
    );
    assert_eq!((code, &*text), (0, "[\n]\n"));
}

#[test]
fn the_datapath_is_shown_in_both_forms() {
    use ocserv_proto::control::DatapathInfo;
    let answer = || {
        Some(Response::Datapath(Box::new(DatapathInfo {
            state: "off".to_owned(),
            ..DatapathInfo::default()
        })))
    };
    let (code, text, request) = run("show datapath", false, answer());
    assert_eq!((code, request), (0, Request::Datapath));
    assert!(text.starts_with("General info:\n\tState: off\n"), "{text}");
    let (code, json, _) = run("show datapath", true, answer());
    assert_eq!(code, 0);
    assert!(
        json.starts_with("  {\n    \"State\":  \"off\",\n"),
        "{json}"
    );
    let none = (1, String::new(), Request::Datapath);
    assert_eq!(run("show datapath", false, failed()), none);
    assert_eq!(run("show datapath", true, None), none);
}

#[test]
fn a_server_that_does_not_answer_is_offline() {
    let (code, text, _) = run("show status", true, None);
    assert_eq!(
        (code, &*text),
        (1, "  {\n    \"Status\":  \"offline\"\n  }\n")
    );
    assert_eq!(
        run("show users", false, None),
        (1, String::new(), Request::Users)
    );
    assert_eq!(run("reload", false, None).1, "Error scheduling reload\n");
    let socket = PathBuf::from("/nonexistent/socket");
    let mut session = Session {
        socket,
        json: true,
        debug: false,
        ended: false,
    };
    assert_eq!(session.command("show status"), (1, String::new()));
}

#[test]
fn terminate_session_finds_one() {
    let input = "terminate session GVsche";
    let one = Response::Terminated {
        session: session().session,
        username: "test".to_owned(),
        in_use: true,
    };
    let (code, text, request) = run(input, false, Some(one));
    assert_eq!((code, &*text), (0, "session 'GVsche' was terminated\n"));
    assert_eq!(request, Request::TerminateSession("GVsche".to_owned()));
    let (code, text, _) = run(input, false, Some(Response::Sessions(Vec::new())));
    assert_eq!(
        (code, &*text),
        (1, "no session matching 'GVsche' was found\n")
    );
    let two = Response::Sessions(vec![session(), session()]);
    let expected = "ambiguous session ID 'GVsche' matches 2 sessions:\n\
                    \x20 GVscheingvEuN4erZ7lLAz3acmU=  user: test\n\
                    \x20 GVscheingvEuN4erZ7lLAz3acmU=  user: test\n\
                    use the full session ID to terminate a specific session\n";
    assert_eq!(run(input, false, Some(two)).1, expected);
}

#[test]
fn what_needs_no_server_asks_none() {
    let socket = PathBuf::from("/nonexistent/socket");
    let mut session = Session {
        socket,
        json: false,
        debug: false,
        ended: false,
    };
    let all = commands::beginning_with("");
    assert_eq!(session.command("show id x"), (1, all.clone()));
    assert_eq!(session.command("disconnect id x"), (1, all));
    assert_eq!(session.command("unban ip zzz"), (1, String::new()));
    assert_eq!(session.command("terminate session a;b"), (1, String::new()));
    assert_eq!(session.command("foo"), (1, String::new()));
    assert_eq!(session.command("help").0, 0);
    assert!(!session.ended);
    assert_eq!(session.command("quit"), (0, String::new()));
    assert!(session.ended);
}
