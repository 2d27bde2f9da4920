//! Finds the session that a DTLS ClientHello names (protocol.md 8.3, 8.6).
//!
//! The App-ID of `X-DTLS-App-ID` is in extension 48018 (openconnect 7.08) or in the session id
//! (8.00 and later). Everything else of the hello is the handshake library's.

use thiserror::Error;

use super::record::{ContentType, RECORD_HEADER, RecordHeader};

/// Bytes of an App-ID.
pub const APP_ID: usize = 32;

const CLIENT_HELLO: u8 = 1;
const APP_ID_EXTENSION: u16 = 48018;

/// Why a datagram names no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HelloError {
    /// Not an unprotected handshake record.
    #[error("not a plain handshake record")]
    NotHandshake,
    /// A handshake message other than ClientHello.
    #[error("not a ClientHello")]
    NotClientHello,
    /// The hello is spread over several messages, which no known client does.
    #[error("fragmented ClientHello")]
    Fragmented,
    /// A length goes beyond its container.
    #[error("malformed ClientHello")]
    Malformed,
    /// All 32 random bytes are zero: a GnuTLS bug that makes the handshake worthless.
    #[error("ClientHello without random bytes")]
    ZeroRandom,
    /// Neither extension nor session id holds 32 bytes.
    #[error("ClientHello names no session")]
    NoAppId,
}

/// App-ID in the ClientHello that `datagram` begins with.
///
/// # Errors
/// [`HelloError`]: drop the datagram, or take it for a later flight of a known flow.
pub fn find_app_id(datagram: &[u8]) -> Result<[u8; APP_ID], HelloError> {
    let body = hello_body(datagram)?;
    let mut hello = Bytes(body);
    hello.take(2)?;
    let random = hello.take(32)?;
    if random.iter().all(|byte| *byte == 0) {
        return Err(HelloError::ZeroRandom);
    }
    let session_id = hello.take_u8_prefixed()?;
    if session_id.len() > 32 {
        return Err(HelloError::Malformed);
    }
    hello.take_u8_prefixed()?; // cookie
    hello.take_u16_prefixed()?; // cipher suites
    hello.take_u8_prefixed()?; // compression methods
    let named = match find_extension(hello)? {
        Some(app_id) => app_id,
        None => session_id,
    };
    named.try_into().map_err(|_| HelloError::NoAppId)
}

fn hello_body(datagram: &[u8]) -> Result<&[u8], HelloError> {
    let header = RecordHeader::parse(datagram).ok_or(HelloError::NotHandshake)?;
    if header.content_type != ContentType::Handshake || header.epoch != 0 {
        return Err(HelloError::NotHandshake);
    }
    let record = datagram
        .get(RECORD_HEADER..header.record_len())
        .ok_or(HelloError::Malformed)?;
    let mut message = Bytes(record);
    if message.take(1)? != [CLIENT_HELLO] {
        return Err(HelloError::NotClientHello);
    }
    let length = message.take(3)?;
    message.take(2)?; // message number
    let offset = message.take(3)?;
    let fragment_length = message.take(3)?;
    if offset != [0; 3] || fragment_length != length {
        return Err(HelloError::Fragmented);
    }
    message.take(be_len(length))
}

/// App-ID of extension 48018: a length byte, then the App-ID. What follows the compression methods
/// may be absent.
fn find_extension(mut hello: Bytes<'_>) -> Result<Option<&[u8]>, HelloError> {
    if hello.0.is_empty() {
        return Ok(None);
    }
    let mut extensions = Bytes(hello.take_u16_prefixed()?);
    while !extensions.0.is_empty() {
        let kind = extensions.take(2)?;
        let data = extensions.take_u16_prefixed()?;
        if kind == APP_ID_EXTENSION.to_be_bytes() {
            return Bytes(data).take_u8_prefixed().map(Some);
        }
    }
    Ok(None)
}

fn be_len(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .fold(0, |len, byte| len << 8 | usize::from(*byte))
}

/// Bytes still to be read.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], HelloError> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(HelloError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn take_u8_prefixed(&mut self) -> Result<&'a [u8], HelloError> {
        let length = be_len(self.take(1)?);
        self.take(length)
    }

    fn take_u16_prefixed(&mut self) -> Result<&'a [u8], HelloError> {
        let length = be_len(self.take(2)?);
        self.take(length)
    }
}
