//! Requests out of the bytes of one connection.

use ocserv_proto::http::{HttpError, Limits, Method, Request, RequestParser};

use crate::input::Choices;

const SMALL: Limits = Limits {
    head_bytes: 300,
    body_bytes: 40,
    target_bytes: 24,
    requests: 3,
};

/// Whatever the cuts, the same requests come out, and each is within the limits.
pub fn http(data: &[u8]) {
    for limits in [Limits::default(), SMALL] {
        let single = run(limits, data.chunks(1));
        check_bodies(data, &single);
        check_cuts(&single, &run(limits, [data].into_iter()));
        let pieces = Choices::new(data).pieces(data);
        check_cuts(&single, &run(limits, pieces.into_iter()));
    }
}

/// What one connection gave.
struct Outcome {
    /// With the number of bytes fed when it came out.
    requests: Vec<(usize, Request)>,
    error: Option<HttpError>,
    fed: usize,
    /// What follows a CONNECT.
    rest: Option<Vec<u8>>,
}

fn run<'a>(limits: Limits, pieces: impl Iterator<Item = &'a [u8]>) -> Outcome {
    let mut parser = RequestParser::new(limits);
    let mut outcome = Outcome {
        requests: Vec::new(),
        error: None,
        fed: 0,
        rest: None,
    };
    for piece in pieces {
        outcome.fed += piece.len();
        match parser.feed(piece) {
            Ok(None) => assert!(parser.is_partial() || outcome.fed == 0),
            Ok(Some(request)) => {
                check_request(&limits, &request);
                let is_connect = request.method() == Method::Connect;
                assert!(is_connect || !parser.is_partial());
                outcome.requests.push((outcome.fed, request));
                if is_connect {
                    outcome.rest = Some(parser.take_rest().to_vec());
                    break;
                }
            }
            Err(error) => {
                outcome.error = Some(error);
                break;
            }
        }
    }
    assert!(outcome.requests.len() <= limits.requests as usize);
    outcome
}

fn check_request(limits: &Limits, request: &Request) {
    assert!(request.target().len() <= limits.target_bytes);
    assert!(request.target().bytes().all(|byte| byte > b' '));
    assert!(request.target().starts_with(request.path()));
    assert!(request.minor_version() <= 1);
    assert!(request.header("Transfer-Encoding").is_none());
    let lengths: Vec<&str> = request.headers_named("content-length").collect();
    match lengths[..] {
        [] => assert!(request.body().is_empty()),
        [length] => assert_eq!(length.parse(), Ok(request.body().len())),
        _ => panic!("two lengths"),
    }
    assert!(request.body().len() <= limits.body_bytes);
    for name in NAMES {
        for value in request.headers_named(name) {
            assert!(!value.contains(['\r', '\n', '\0']), "{value:?}");
        }
    }
}

const NAMES: [&str; 5] = ["Host", "Cookie", "User-Agent", "X-A", "Connection"];

/// A body is what stood at the end of the request.
fn check_bodies(data: &[u8], single: &Outcome) {
    for (end, request) in &single.requests {
        assert!(data[..*end].ends_with(request.body()));
    }
}

/// Larger pieces may bring bytes behind a request, which is an error; else all is the same.
fn check_cuts(single: &Outcome, cut: &Outcome) {
    assert!(cut.requests.len() <= single.requests.len());
    for ((_, a), (_, b)) in cut.requests.iter().zip(&single.requests) {
        assert_eq!((a.method(), a.target()), (b.method(), b.target()));
        assert_eq!((a.minor_version(), a.body()), (b.minor_version(), b.body()));
        for name in NAMES {
            assert!(a.headers_named(name).eq(b.headers_named(name)));
        }
    }
    if cut.error.is_none() {
        assert_eq!(single.error, None);
        assert_eq!(cut.requests.len(), single.requests.len());
    }
    if let (Some(rest), Some((end, _))) = (&cut.rest, single.requests.last()) {
        assert_eq!(*end + rest.len(), cut.fed);
    }
}
