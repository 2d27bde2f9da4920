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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const APP_ID_BYTES: [u8; 32] = [0xa5; 32];

    /// A ClientHello as RFC 6347 4.2.2 lays it out.
    fn hello(session_id: &[u8], extensions: Option<&[u8]>) -> Vec<u8> {
        let mut body = vec![0xfe, 0xfd];
        body.extend([7; 32]);
        body.push(session_id.len() as u8);
        body.extend(session_id);
        body.extend([0, 0, 2, 0x00, 0xa9, 1, 0]);
        if let Some(extensions) = extensions {
            body.extend((extensions.len() as u16).to_be_bytes());
            body.extend(extensions);
        }
        let length = (body.len() as u32).to_be_bytes();
        let mut message = vec![1, length[1], length[2], length[3], 0, 0, 0, 0, 0];
        message.extend(&length[1..]);
        message.extend(body);
        let mut record = vec![22, 0xfe, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
        record.extend((message.len() as u16).to_be_bytes());
        record.extend(message);
        record
    }

    fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
        let length = data.len() as u16;
        [&kind.to_be_bytes()[..], &length.to_be_bytes(), data].concat()
    }

    #[test]
    fn openconnect_9_01_puts_it_into_the_session_id() {
        let datagram = hex::decode(include_str!("testdata/hello-openconnect-9.01.hex").trim());
        assert_eq!(
            hex::encode(find_app_id(&datagram.unwrap()).unwrap()),
            "59e4ae57fd396cb9ed92128444d7d6f1e80715ff31e9532655ed8b06004ce552"
        );
    }

    #[test]
    fn the_extension_comes_before_the_session_id() {
        let app_id = [&[32][..], &APP_ID_BYTES].concat();
        let extensions = [extension(0xff01, &[0]), extension(48018, &app_id)].concat();
        assert_eq!(
            find_app_id(&hello(&[1; 32], Some(&extensions))),
            Ok(APP_ID_BYTES)
        );
        assert_eq!(
            find_app_id(&hello(&[], Some(&extensions))),
            Ok(APP_ID_BYTES)
        );
    }

    #[test]
    fn a_hello_may_end_without_extensions() {
        assert_eq!(find_app_id(&hello(&APP_ID_BYTES, None)), Ok(APP_ID_BYTES));
        assert_eq!(
            find_app_id(&hello(&APP_ID_BYTES, Some(&[]))),
            Ok(APP_ID_BYTES)
        );
    }

    #[test]
    fn a_name_has_32_bytes() {
        assert_eq!(find_app_id(&hello(&[], None)), Err(HelloError::NoAppId));
        assert_eq!(
            find_app_id(&hello(&[1; 31], None)),
            Err(HelloError::NoAppId)
        );
        assert_eq!(
            find_app_id(&hello(&[1; 33], None)),
            Err(HelloError::Malformed)
        );
        let short = extension(48018, &[2, 1, 1]);
        assert_eq!(
            find_app_id(&hello(&[1; 32], Some(&short))),
            Err(HelloError::NoAppId)
        );
        let lying = extension(48018, &[32, 1, 1]);
        assert_eq!(
            find_app_id(&hello(&[1; 32], Some(&lying))),
            Err(HelloError::Malformed)
        );
    }

    #[test]
    fn a_random_of_zeros_is_refused() {
        let mut datagram = hello(&APP_ID_BYTES, None);
        datagram[27..59].fill(0);
        assert_eq!(find_app_id(&datagram), Err(HelloError::ZeroRandom));
    }

    #[test]
    fn fragments_and_other_messages_are_refused() {
        let whole = hello(&APP_ID_BYTES, None);
        let changed = |at: usize, byte: u8| {
            let mut datagram = whole.clone();
            datagram[at] = byte;
            find_app_id(&datagram)
        };
        assert_eq!(changed(0, 23), Err(HelloError::NotHandshake));
        assert_eq!(
            changed(4, 1),
            Err(HelloError::NotHandshake),
            "epoch 1 is encrypted"
        );
        assert_eq!(changed(13, 16), Err(HelloError::NotClientHello));
        assert_eq!(changed(21, 1), Err(HelloError::Fragmented), "offset");
        assert_eq!(
            changed(24, 10),
            Err(HelloError::Fragmented),
            "fragment length"
        );
        let mut longer = whole.clone();
        longer[15] = 1;
        longer[23] = 1;
        assert_eq!(
            find_app_id(&longer),
            Err(HelloError::Malformed),
            "beyond its record"
        );
    }

    proptest! {
        #[test]
        fn any_damage_is_survived(cut in 0usize..120, at in 0usize..120, byte: u8) {
            let app_id = [&[32][..], &APP_ID_BYTES].concat();
            let mut datagram = hello(&[1; 32], Some(&extension(48018, &app_id)));
            if let Some(place) = datagram.get_mut(at) {
                *place = byte;
            }
            let whole = datagram.len();
            datagram.truncate(cut);
            let result = find_app_id(&datagram);
            prop_assert!(cut >= whole || result.is_err());
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut datagram = hello(&[], None);
            datagram.truncate(25);
            datagram.extend(bytes);
            let body = ((datagram.len() - 25) as u16).to_be_bytes();
            let record = ((datagram.len() - 13) as u16).to_be_bytes();
            for (at, length) in [(11, record), (15, body), (23, body)] {
                datagram[at..at + 2].copy_from_slice(&length);
            }
            let result = find_app_id(&datagram);
            prop_assert!(!matches!(
                result,
                Err(HelloError::NotHandshake | HelloError::NotClientHello | HelloError::Fragmented)
            ));
        }
    }
}
