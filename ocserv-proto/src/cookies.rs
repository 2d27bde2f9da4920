//! Cookies of the login dialogue (protocol.md 4.6).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::http::Request;
use crate::secret::Secret;

/// The cookie that opens a tunnel.
pub const WEBVPN: &str = "webvpn";
/// The cookie that carries an unfinished login from form to form.
pub const WEBVPNCONTEXT: &str = "webvpncontext";

/// Bytes of a session identifier.
const SID_BYTES: usize = 32;
/// Characters of its base64 form, with padding.
const SID_CHARS: usize = 44;

/// The first cookie of this name that holds a session identifier; order, spaces and number of
/// `Cookie` headers do not matter.
pub fn session_id(request: &Request, name: &str) -> Option<Secret> {
    request
        .headers_named("Cookie")
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(key, _)| key.trim_end() == name)
        .find_map(|(_, value)| decode(value.trim()))
}

/// Strict base64 of exactly 32 bytes. The length is judged first: nothing else is ever decoded.
pub fn decode(value: &str) -> Option<Secret> {
    if value.len() != SID_CHARS {
        return None;
    }
    let bytes = Secret::new(STANDARD.decode(value).ok()?);
    (bytes.len() == SID_BYTES).then_some(bytes)
}

/// The value that [`decode`] takes back.
pub fn encode(sid: &Secret) -> zeroize::Zeroizing<String> {
    zeroize::Zeroizing::new(STANDARD.encode(sid.expose()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Limits, RequestParser};

    const ZEROS: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

    fn request(cookie_lines: &str) -> Request {
        let head = format!("GET / HTTP/1.1\r\n{cookie_lines}\r\n");
        RequestParser::new(Limits::default())
            .feed(head.as_bytes())
            .unwrap()
            .unwrap()
    }

    #[test]
    fn oversized_webvpncontext() {
        for length in [0, 43, 45, 48, 88, 4096, 12_000] {
            let value = "A".repeat(length);
            assert_eq!(decode(&value), None, "{length} characters");
            let request = request(&format!("Cookie: webvpncontext={value}\r\n"));
            assert_eq!(session_id(&request, WEBVPNCONTEXT), None);
        }
        assert_eq!(decode(ZEROS).map(|sid| sid.len()), Some(32));
    }

    #[test]
    fn decoding_is_strict() {
        // 33 bytes in 44 characters, url-safe alphabet, bits behind the end, padding inside.
        for bad in [
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            "_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB=",
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=A",
        ] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }

    #[test]
    fn cookies_come_in_any_order_and_header() {
        let found = |lines: &str| session_id(&request(lines), WEBVPN).is_some();
        assert!(found(&format!("Cookie: webvpn={ZEROS}\r\n")));
        assert!(found(&format!("Cookie: a=b;  webvpn={ZEROS} ;c\r\n")));
        assert!(found(&format!("Cookie: a=b\r\ncookie: webvpn={ZEROS}\r\n")));
        assert!(found(&format!("Cookie: webvpn=; webvpn={ZEROS}\r\n")));
        assert!(!found(&format!("Cookie: webvpncontext={ZEROS}\r\n")));
        assert!(!found(&format!("Cookie: xwebvpn={ZEROS}\r\n")));
    }

    #[test]
    fn encoding_is_taken_back() {
        let sid = Secret::new((0..32).collect());
        assert_eq!(
            &*encode(&sid),
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
        );
        assert_eq!(decode(&encode(&sid)), Some(sid));
    }
}
