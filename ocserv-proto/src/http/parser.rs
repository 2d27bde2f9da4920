//! From bytes to requests, within limits.

use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use super::request::{Method, Request};

/// Most header lines of one request; `head_bytes` bounds their length.
const MAX_HEADERS: usize = 96;

/// Bounds of what a client may send before the tunnel (protocol.md 2.2, 2.3).
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Request line and headers, bytes.
    pub head_bytes: usize,
    /// Body, bytes.
    pub body_bytes: usize,
    /// Request target, bytes.
    pub target_bytes: usize,
    /// Requests on one connection.
    pub requests: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 16 * 1024,
            body_bytes: 256 * 1024,
            target_bytes: 255,
            requests: 16,
        }
    }
}

/// Why a connection must be closed without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HttpError {
    /// Request line and headers exceed [`Limits::head_bytes`], or are too many lines.
    #[error("request headers are too long")]
    HeadTooLong,
    /// The body exceeds [`Limits::body_bytes`].
    #[error("request body is too long")]
    BodyTooLong,
    /// The target exceeds [`Limits::target_bytes`].
    #[error("request target is too long")]
    TargetTooLong,
    /// More than [`Limits::requests`] on this connection.
    #[error("too many requests on one connection")]
    TooManyRequests,
    /// Bytes follow a request that was not answered yet.
    #[error("pipelined request")]
    Pipelined,
    /// Not HTTP/1.0 or 1.1.
    #[error("malformed request: {0}")]
    Malformed(httparse::Error),
    /// `Content-Length` is repeated or is no decimal number.
    #[error("bad Content-Length")]
    BadContentLength,
    /// `Transfer-Encoding` in a request: no VPN client needs it, request smuggling does.
    #[error("Transfer-Encoding in a request")]
    TransferEncoding,
    /// CONNECT with a body.
    #[error("CONNECT with a body")]
    ConnectWithBody,
}

/// Collects the bytes of one connection and cuts requests out of them.
pub struct RequestParser {
    limits: Limits,
    buffer: Zeroizing<Vec<u8>>,
    head: Option<Head>,
    requests: u32,
}

/// A parsed head that waits for its body.
struct Head {
    request: Request,
    bytes: usize,
    body_bytes: usize,
}

impl RequestParser {
    /// A parser for a new connection.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            buffer: Zeroizing::new(Vec::new()),
            head: None,
            requests: 0,
        }
    }

    /// Takes the next bytes; gives a request once it is whole. Answer it before feeding more:
    /// bytes after a whole request are [`HttpError::Pipelined`]. After CONNECT they are kept for
    /// [`Self::take_rest`].
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<Request>, HttpError> {
        self.append(bytes)?;
        // A head ends with a line: single bytes of a long one must not each parse it again.
        let may_end = bytes.contains(&b'\n') || self.buffer.len() >= self.limits.head_bytes;
        if self.head.is_none() && may_end {
            self.head = self.parse_head()?;
        }
        let Some(head) = self.head.take() else {
            return Ok(None);
        };
        let end = head.bytes + head.body_bytes;
        if self.buffer.len() < end {
            self.head = Some(head);
            return Ok(None);
        }
        let mut request = head.request;
        if request.method == Method::Connect {
            self.drop_front(end);
            return Ok(Some(request));
        }
        if self.buffer.len() > end {
            return Err(HttpError::Pipelined);
        }
        request
            .body
            .extend_from_slice(self.buffer.get(head.bytes..end).unwrap_or_default());
        self.drop_front(end);
        Ok(Some(request))
    }

    /// Bytes that came together with a CONNECT. A client waits for the answer before it sends
    /// packets, so anything but empty is [`HttpError::Pipelined`] in the caller's hands.
    pub fn take_rest(&mut self) -> Zeroizing<Vec<u8>> {
        std::mem::take(&mut self.buffer)
    }

    /// True while a request has begun and is not whole.
    pub fn is_partial(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Grows by hand: a plain reallocation would leave copies of passwords behind.
    fn append(&mut self, bytes: &[u8]) -> Result<(), HttpError> {
        let wanted = self.buffer.len().saturating_add(bytes.len());
        if wanted
            > self
                .limits
                .head_bytes
                .saturating_add(self.limits.body_bytes)
        {
            return Err(match &self.head {
                Some(_) => HttpError::Pipelined,
                None => HttpError::HeadTooLong,
            });
        }
        if wanted > self.buffer.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(wanted.next_power_of_two()));
            larger.extend_from_slice(&self.buffer);
            self.buffer = larger;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn drop_front(&mut self, count: usize) {
        let rest = self.buffer.get(count..).unwrap_or_default().to_vec();
        self.buffer.zeroize();
        self.buffer = Zeroizing::new(rest);
    }

    fn parse_head(&mut self) -> Result<Option<Head>, HttpError> {
        let mut lines = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut parsed = httparse::Request::new(&mut lines);
        let window = self
            .buffer
            .get(..self.limits.head_bytes)
            .unwrap_or(&self.buffer);
        let bytes = match parsed.parse(window) {
            Ok(httparse::Status::Complete(bytes)) => bytes,
            Ok(httparse::Status::Partial) if window.len() >= self.limits.head_bytes => {
                return Err(HttpError::HeadTooLong);
            }
            Ok(httparse::Status::Partial) => {
                let target = parsed.path.map_or(0, str::len);
                return if target > self.limits.target_bytes {
                    Err(HttpError::TargetTooLong)
                } else {
                    Ok(None)
                };
            }
            Err(httparse::Error::TooManyHeaders) => return Err(HttpError::HeadTooLong),
            Err(error) => return Err(HttpError::Malformed(error)),
        };
        let request = own(&parsed);
        if request.target.len() > self.limits.target_bytes {
            return Err(HttpError::TargetTooLong);
        }
        let body_bytes = body_length(&request)?;
        if body_bytes > self.limits.body_bytes {
            return Err(HttpError::BodyTooLong);
        }
        self.requests = self.requests.saturating_add(1);
        if self.requests > self.limits.requests {
            return Err(HttpError::TooManyRequests);
        }
        Ok(Some(Head {
            request,
            bytes,
            body_bytes,
        }))
    }
}

fn own(parsed: &httparse::Request<'_, '_>) -> Request {
    let method = match parsed.method {
        Some("GET") => Method::Get,
        Some("POST") => Method::Post,
        Some("CONNECT") => Method::Connect,
        _ => Method::Other,
    };
    let headers = parsed
        .headers
        .iter()
        .map(|line| {
            let value = String::from_utf8_lossy(line.value).into_owned();
            (line.name.to_owned(), Zeroizing::new(value))
        })
        .collect();
    Request {
        method,
        target: parsed.path.unwrap_or_default().to_owned(),
        minor_version: parsed.version.unwrap_or_default(),
        headers,
        body: Zeroizing::new(Vec::new()),
    }
}

/// Length of the body. Two lengths, even equal ones, are refused: a front end may see the other.
fn body_length(request: &Request) -> Result<usize, HttpError> {
    if request.header("Transfer-Encoding").is_some() {
        return Err(HttpError::TransferEncoding);
    }
    let mut lengths = request.headers_named("Content-Length");
    let Some(text) = lengths.next() else {
        return Ok(0);
    };
    if lengths.next().is_some() || text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(HttpError::BadContentLength);
    }
    // All digits: what does not parse is too large for the type, so for the limit as well.
    let length = text.parse().map_err(|_| HttpError::BodyTooLong)?;
    if request.method == Method::Connect && length != 0 {
        return Err(HttpError::ConnectWithBody);
    }
    Ok(length)
}
