//! HTTP and the login dialogue on an established TLS session.

use ocserv_proto::connect::ConnectRequest;
use ocserv_proto::http::{Limits, Request, RequestParser};
use ocserv_proto::login::{Action, Login};
use zeroize::{Zeroize, Zeroizing};

use super::Gate;
use super::settings::Vhost;
use super::tls::{AcceptedTls, Incoming, read_some};
use crate::ipc::gate::EndReason;
use crate::ipc::ids::ConnTicket;

/// Bytes read at once: a request of usual size.
const READ: usize = 8192;
/// Headers of CONNECT that count (protocol.md 5.1).
const CONNECT_HEADERS: [&str; 11] = [
    "Cookie",
    "User-Agent",
    "X-CSTP-Hostname",
    "X-AnyConnect-Identifier-DeviceType",
    "X-AnyConnect-Identifier-Platform",
    "X-CSTP-Base-MTU",
    "X-CSTP-MTU",
    "X-CSTP-Address-Type",
    "X-CSTP-Full-IPv6-Capability",
    "X-DTLS-CipherSuite",
    "X-DTLS12-CipherSuite",
];

/// How the dialogue ended.
pub enum LoginEnd {
    /// With CONNECT and a cookie.
    Connect(Box<ConnectRequest>),
    /// The connection is to be closed in order.
    Close(EndReason),
}

/// Answers requests until CONNECT or the end. The caller bounds the time; the parser, everything
/// else.
pub async fn run(
    gate: &Gate,
    vhost: &Vhost,
    ticket: &ConnTicket,
    tls: &mut AcceptedTls,
) -> LoginEnd {
    let mut parser = RequestParser::new(Limits::default());
    let mut login = Login::new(vhost.login.clone());
    loop {
        let request = match next_request(tls, &mut parser, ticket).await {
            Ok(request) => request,
            Err(reason) => return LoginEnd::Close(reason),
        };
        let mut action = login.handle(&request);
        while let Action::Ask(question) = action {
            action = login.outcome(gate.questions.ask(ticket, tls.vhost, question).await);
        }
        match action {
            Action::Respond { bytes, close } => {
                let sent = match tls.session.queue(&bytes) {
                    Ok(()) => tls.session.flush(&tls.tcp).await,
                    broken => broken,
                };
                if sent.is_err() || close {
                    return LoginEnd::Close(EndReason::Unspecified);
                }
            }
            Action::Tunnel { cookie } => {
                if !parser.take_rest().is_empty() {
                    tracing::info!(
                        conn = ticket.conn.0,
                        "bytes follow CONNECT before its answer"
                    );
                    return LoginEnd::Close(EndReason::Error);
                }
                let mut client = connect_request(&request);
                client.cookie = Some(cookie);
                return LoginEnd::Connect(Box::new(client));
            }
            Action::Ask(_) | Action::Close => return LoginEnd::Close(EndReason::Unspecified),
        }
    }
}

async fn next_request(
    tls: &mut AcceptedTls,
    parser: &mut RequestParser,
    ticket: &ConnTicket,
) -> Result<Request, EndReason> {
    let mut cipher_text = vec![0; READ];
    let mut plain = Zeroizing::new(Vec::new());
    // The first round has no input: the handshake's last read may have brought the request.
    let mut count = 0;
    loop {
        plain.zeroize();
        let input = cipher_text.get(..count).unwrap_or_default();
        let state = tls.session.receive::<std::io::Error>(input, |record| {
            plain.extend_from_slice(record);
            Ok(())
        });
        // An answer to an alert or a KeyUpdate may be waiting.
        let sent = tls.session.flush(&tls.tcp).await;
        if state.is_err() || sent.is_err() {
            return Err(EndReason::Unspecified);
        }
        if !plain.is_empty() {
            match parser.feed(&plain) {
                Ok(Some(request)) => return Ok(request),
                Ok(None) => {}
                Err(error) => {
                    tracing::info!(conn = ticket.conn.0, remote = %ticket.remote, %error, "HTTP");
                    return Err(EndReason::Error);
                }
            }
        }
        if state.is_ok_and(|state| state == Incoming::Closed) {
            return Err(EndReason::Unspecified);
        }
        count = match read_some(&tls.tcp, &mut cipher_text).await {
            Ok(0) | Err(_) => return Err(EndReason::Unspecified),
            Ok(count) => count,
        };
    }
}

fn connect_request(request: &Request) -> ConnectRequest {
    ConnectRequest::parse(
        CONNECT_HEADERS
            .iter()
            .flat_map(|name| request.headers_named(name).map(move |value| (*name, value))),
    )
}
