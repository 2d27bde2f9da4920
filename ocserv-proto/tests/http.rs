//! The request parser on hostile and on real bytes.

use ocserv_proto::http::{HttpError, Limits, Method, Request, RequestParser};
use proptest::prelude::*;

fn parse(bytes: &[u8]) -> Result<Option<Request>, HttpError> {
    RequestParser::new(Limits::default()).feed(bytes)
}

#[track_caller]
fn refused(bytes: impl AsRef<[u8]>) -> HttpError {
    match parse(bytes.as_ref()) {
        Err(error) => error,
        Ok(request) => panic!("accepted: {request:?}"),
    }
}

macro_rules! seed {
    ($name:literal) => {
        include_bytes!(concat!("../../fuzz/corpus/http/openconnect-9.01-", $name))
    };
}

#[test]
fn requests_of_stock_openconnect() {
    let seeds: [(&[u8], Method, &str, usize); 8] = [
        (seed!("init"), Method::Post, "/", 370),
        (seed!("group-select"), Method::Post, "/auth", 405),
        (seed!("username"), Method::Post, "/auth", 393),
        (seed!("password"), Method::Post, "/auth", 364),
        (seed!("get-noxmlpost"), Method::Get, "/", 0),
        (seed!("form-username"), Method::Post, "/auth", 28),
        (seed!("form-password"), Method::Post, "/auth", 16),
        (seed!("connect"), Method::Connect, "/CSCOSSLC/tunnel", 0),
    ];
    for (bytes, method, path, body) in seeds {
        let request = parse(bytes).unwrap().unwrap();
        assert_eq!((request.method(), request.path()), (method, path));
        assert_eq!((request.minor_version(), request.body().len()), (1, body));
        assert_eq!(
            request.header("user-agent"),
            Some("Open AnyConnect VPN Agent v9.01-3")
        );
    }
}

#[test]
fn a_request_in_single_bytes() {
    let mut parser = RequestParser::new(Limits::default());
    let bytes = seed!("username");
    let (last, first) = bytes.split_last().unwrap();
    for byte in first {
        assert!(parser.feed(&[*byte]).unwrap().is_none());
    }
    assert!(parser.is_partial());
    assert_eq!(parser.feed(&[*last]).unwrap().unwrap().body().len(), 393);
    assert!(!parser.is_partial());
}

#[test]
fn target_and_query() {
    let request = parse(b"GET /a/b?c=d?e HTTP/1.0\r\n\r\n").unwrap().unwrap();
    assert_eq!(request.target(), "/a/b?c=d?e");
    assert_eq!((request.path(), request.query()), ("/a/b", Some("c=d?e")));
    assert_eq!(request.minor_version(), 0);
}

#[test]
fn pipelined_requests() {
    let get = "GET / HTTP/1.1\r\n\r\n";
    assert_eq!(refused(format!("{get}{get}")), HttpError::Pipelined);
    let post = "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc";
    assert_eq!(refused(format!("{post}{get}")), HttpError::Pipelined);
    assert_eq!(refused(format!("{post}x")), HttpError::Pipelined);
    // The second one in a later read, while the first still lacks its body.
    let mut parser = RequestParser::new(Limits::default());
    assert!(
        parser
            .feed(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab")
            .unwrap()
            .is_none()
    );
    assert_eq!(
        parser.feed(b"cGET / HTTP/1.1\r\n\r\n").unwrap_err(),
        HttpError::Pipelined
    );
}

#[test]
fn bytes_after_connect_can_be_taken() {
    let mut parser = RequestParser::new(Limits::default());
    let request = parser
        .feed(b"CONNECT /CSCOSSLC/tunnel HTTP/1.1\r\n\r\nSTF")
        .unwrap()
        .unwrap();
    assert_eq!(request.method(), Method::Connect);
    assert_eq!(parser.take_rest().as_slice(), b"STF");
    assert!(parser.take_rest().is_empty());
}

#[test]
fn requests_follow_each_other_up_to_the_limit() {
    let mut parser = RequestParser::new(Limits::default());
    for _ in 0..16 {
        assert!(parser.feed(b"GET / HTTP/1.1\r\n\r\n").unwrap().is_some());
    }
    assert_eq!(
        parser.feed(b"GET / HTTP/1.1\r\n\r\n").unwrap_err(),
        HttpError::TooManyRequests
    );
}

#[test]
fn head_limit() {
    let line = |length: usize| format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(length));
    let rest = line(0).len();
    assert!(parse(line(16 * 1024 - rest).as_bytes()).unwrap().is_some());
    assert_eq!(refused(line(16 * 1024 - rest + 1)), HttpError::HeadTooLong);
    assert_eq!(
        refused(format!("GET / HTTP/1.1\r\n{}", "a: b\r\n".repeat(200))),
        HttpError::HeadTooLong
    );
    // Without an end, byte by byte.
    let mut parser = RequestParser::new(Limits::default());
    let mut fed = 0;
    let error = loop {
        match parser.feed(
            b"GET / HTTP/1.1\r\nA: xxxxxxxxxxxxx"
                .get(fed..=fed)
                .unwrap_or(b"x"),
        ) {
            Ok(None) => fed += 1,
            Ok(Some(request)) => panic!("accepted: {request:?}"),
            Err(error) => break error,
        }
    };
    assert_eq!((error, fed + 1), (HttpError::HeadTooLong, 16 * 1024));
}

#[test]
fn body_limit() {
    let post = |length: &str| format!("POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
    let mut largest = post("262144").into_bytes();
    largest.resize(largest.len() + 262_144, b'x');
    assert_eq!(parse(&largest).unwrap().unwrap().body().len(), 262_144);
    for length in [
        "262145",
        "4294967296",
        "18446744073709551616",
        "99999999999999999999999",
    ] {
        assert_eq!(refused(post(length)), HttpError::BodyTooLong, "{length}");
    }
}

#[test]
fn target_limit() {
    let get = |length: usize| format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(length - 1));
    assert!(parse(get(255).as_bytes()).unwrap().is_some());
    assert_eq!(refused(get(256)), HttpError::TargetTooLong);
}

#[test]
fn content_length_must_be_one_number() {
    for lines in [
        "Content-Length: -1",
        "Content-Length: +1",
        "Content-Length: 0x1",
        "Content-Length: ",
        "Content-Length: 1, 1",
        "Content-Length: 1\r\nContent-Length: 1",
        "Content-Length: 1\r\ncontent-length: 2",
    ] {
        let post = format!("POST / HTTP/1.1\r\n{lines}\r\n\r\nx");
        assert_eq!(refused(post), HttpError::BadContentLength, "{lines}");
    }
}

#[test]
fn transfer_encoding_is_refused() {
    for lines in [
        "Transfer-Encoding: chunked",
        "transfer-encoding: identity\r\nContent-Length: 1",
    ] {
        let post = format!("POST / HTTP/1.1\r\n{lines}\r\n\r\n0\r\n\r\n");
        assert_eq!(refused(post), HttpError::TransferEncoding, "{lines}");
    }
}

#[test]
fn connect_has_no_body() {
    let head = "CONNECT /CSCOSSLC/tunnel HTTP/1.1\r\nContent-Length: 1\r\n\r\nx";
    assert_eq!(refused(head), HttpError::ConnectWithBody);
}

#[test]
fn malformed_heads() {
    for head in [
        "GET / HTTP/2.0\r\n\r\n",
        "GET /\r\n\r\n",
        "GET / HTTP/1.1\r\nA b: c\r\n\r\n",
        "GET / HTTP/1.1\r\nA : c\r\n\r\n",
        "GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
        "GET / HTTP/1.1\r\nA: b\0c\r\n\r\n",
        "\u{16}\u{3}\u{1}\r\n\r\n",
    ] {
        assert!(matches!(refused(head), HttpError::Malformed(_)), "{head:?}");
    }
}

#[test]
fn debug_output_shows_no_header_and_no_query() {
    let bytes = b"GET /?hunter2 HTTP/1.1\r\nCookie: webvpn=hunter2\r\n\r\n";
    assert!(!format!("{:?}", parse(bytes).unwrap()).contains("hunter2"));
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_not_panic(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 0..8),
    ) {
        let mut parser = RequestParser::new(Limits::default());
        for piece in pieces {
            if parser.feed(&piece).is_err() {
                break;
            }
        }
    }

    #[test]
    fn request_like_bytes_do_not_panic(
        text in "(GET|POST|CONNECT| |/|\\?|HTTP/1\\.[01]|\r\n|Content-Length|: |[0-9]|Cookie|=){0,40}",
        split in 0_usize..100,
    ) {
        let mut parser = RequestParser::new(Limits::default());
        let (first, second) = text.as_bytes().split_at(split.min(text.len()));
        if parser.feed(first).is_ok() {
            let _ = parser.feed(second);
        }
    }

    #[test]
    fn cuts_do_not_matter(cut in 1_usize..1000) {
        let bytes = seed!("password");
        let (first, second) = bytes.split_at(cut.min(bytes.len() - 1));
        let mut parser = RequestParser::new(Limits::default());
        prop_assert!(parser.feed(first).unwrap().is_none());
        let request = parser.feed(second).unwrap().unwrap();
        let whole = parse(bytes).unwrap().unwrap();
        prop_assert_eq!(request.body(), whole.body());
    }
}
