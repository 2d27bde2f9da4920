//! A whole request.

use zeroize::Zeroizing;

/// Request method (protocol.md 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `GET`
    Get,
    /// `POST`
    Post,
    /// `CONNECT`
    Connect,
    /// Any other: answered with `404`.
    Other,
}

/// A request with its body. Header values and the body may hold cookies and passwords: they are
/// overwritten when dropped, and `Debug` shows neither.
pub struct Request {
    pub(super) method: Method,
    pub(super) target: String,
    pub(super) minor_version: u8,
    pub(super) headers: Vec<(String, Zeroizing<String>)>,
    pub(super) body: Zeroizing<Vec<u8>>,
}

impl Request {
    /// The method.
    pub fn method(&self) -> Method {
        self.method
    }

    /// The request target as sent, with the query.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The target up to the first `?`, not percent-decoded.
    pub fn path(&self) -> &str {
        self.target
            .split_once('?')
            .map_or(self.target.as_str(), |(path, _)| path)
    }

    /// What follows the first `?`.
    pub fn query(&self) -> Option<&str> {
        self.target.split_once('?').map(|(_, query)| query)
    }

    /// 0 for HTTP/1.0, 1 for HTTP/1.1.
    pub fn minor_version(&self) -> u8 {
        self.minor_version
    }

    /// Value of the first header of this name, in any case. Bytes that are not UTF-8 come as
    /// U+FFFD.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self
            .headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        Some(value.as_str())
    }

    /// Values of all headers of this name, in order.
    pub fn headers_named(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers
            .iter()
            .filter(move |(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body; empty without one.
    pub fn body(&self) -> &[u8] {
        &self.body
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("path", &self.path())
            .field("minor_version", &self.minor_version)
            .field("headers", &self.headers.len())
            .field("body", &self.body.len())
            .finish()
    }
}
