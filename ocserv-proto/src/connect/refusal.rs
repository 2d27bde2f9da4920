//! Error answers to CONNECT (protocol.md 5.2). The connection closes after them.

/// Why no tunnel is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No cookie, or one that cannot be decoded.
    NoCookie,
    /// The cookie is unknown, expired or denied. Clients stop reconnecting at 401 only.
    Cookie,
    /// There are no addresses to give.
    NoAddress,
    /// Something failed; clients try again.
    Internal,
}

impl Refusal {
    /// The whole answer.
    pub fn answer(self) -> &'static [u8] {
        match self {
            Self::NoCookie | Self::Internal => b"HTTP/1.1 503 Service Unavailable\r\n\r\n",
            Self::Cookie => b"HTTP/1.1 401 Cookie is not acceptable\r\n\r\n",
            Self::NoAddress => {
                b"HTTP/1.1 503 Service Unavailable\r\nX-Reason: Server configuration error\r\n\r\n"
            }
        }
    }
}
