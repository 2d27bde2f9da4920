//! The client of the load generator: TLS, the login dialogue, CONNECT.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ocserv_tests::bed::{GATEWAY4, HOST, PASSWORD, PORT, USER};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

/// An answer that takes longer is a failure.
const STALL: Duration = Duration::from_secs(30);
/// Forms until the cookie; both programs need one or two.
const MOST_FORMS: usize = 4;
/// A CSTP frame: DISCONNECT with the reason "by the user" (protocol.md 11).
const SIGN_OFF: [u8; 9] = *b"STF\x01\x00\x01\x05\x00\xb0";
const LONGEST_ANSWER: usize = 64 * 1024;
/// What DTLS-PSK keys are exported by (protocol.md 1.12).
const EXPORTER_LABEL: &[u8] = b"EXPORTER-openconnect-psk";

/// Settings for full handshakes without any verification: the server's work is measured, not ours.
///
/// # Errors
/// When the provider lacks a protocol version.
pub fn tls_settings() -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut settings = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
        .with_no_client_auth();
    settings.resumption = Resumption::disabled();
    Ok(Arc::new(settings))
}

/// A TLS connection to the server.
pub struct Connection {
    stream: StreamOwned<ClientConnection, TcpStream>,
    /// The server's name of the login in progress, `webvpncontext=…`.
    context: Option<String>,
}

/// What the server granted to a session.
pub struct Tunnel {
    /// The name by which the DTLS handshake asks for the session.
    pub app_id: Vec<u8>,
    /// The key of the DTLS handshake.
    pub psk: [u8; 32],
    /// Its address in the tunnel.
    pub address: Ipv4Addr,
}

impl Connection {
    /// Connects; the handshake comes with the first request. To be called in the client's
    /// namespace.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn open(settings: &Arc<ClientConfig>) -> Result<Self> {
        let socket = TcpStream::connect((GATEWAY4, PORT)).context("connect")?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(STALL))?;
        socket.set_write_timeout(Some(STALL))?;
        let name = ServerName::try_from(HOST)?;
        let session = ClientConnection::new(Arc::clone(settings), name)?;
        Ok(Self {
            stream: StreamOwned::new(session, socket),
            context: None,
        })
    }

    /// Logs in by name and password, answering whatever the forms ask for; returns the cookie.
    ///
    /// # Errors
    /// When the server does not grant one.
    pub fn log_in(&mut self) -> Result<String> {
        let mut answer = self.post("/", "init", "<group-access>https://vpn/</group-access>")?;
        for _ in 0..MOST_FORMS {
            let mut fields = String::new();
            if answer.contains("name=\"username\"") {
                fields.push_str(&format!("<username>{USER}</username>"));
            }
            if answer.contains("name=\"password\"") {
                fields.push_str(&format!("<password>{PASSWORD}</password>"));
            }
            ensure!(!fields.is_empty(), "a form without known fields: {answer}");
            let auth = format!("<auth>{fields}</auth>");
            answer = self.post("/auth", "auth-reply", &auth)?;
            if let Some(cookie) = cookie(&answer, "webvpn") {
                return Ok(cookie.to_owned());
            }
        }
        bail!("no cookie after {MOST_FORMS} forms: {answer}");
    }

    /// Opens the session of a cookie.
    ///
    /// # Errors
    /// When the server refuses, or offers no DTLS.
    pub fn connect_tunnel(&mut self, cookie: &str) -> Result<Tunnel> {
        let answer = self.exchange(&format!(
            "CONNECT /CSCOSSLC/tunnel HTTP/1.1\r\nHost: {HOST}:{PORT}\r\n\
             User-Agent: Open AnyConnect VPN Agent v9.01-3\r\nCookie: webvpn={cookie}\r\n\
             X-CSTP-Version: 1\r\nX-CSTP-Hostname: bench\r\nX-CSTP-Base-MTU: 1500\r\n\
             X-CSTP-Address-Type: IPv6,IPv4\r\nX-CSTP-Full-IPv6-Capability: true\r\n\
             X-DTLS-Master-Secret: {:096}\r\nX-DTLS-CipherSuite: PSK-NEGOTIATE\r\n\r\n",
            0
        ))?;
        let app_id = header(&answer, "X-DTLS-App-ID").context("no X-DTLS-App-ID")?;
        let address = header(&answer, "X-CSTP-Address").context("no X-CSTP-Address")?;
        let mut psk = [0; 32];
        let session = &self.stream.conn;
        session.export_keying_material(&mut psk, EXPORTER_LABEL, None)?;
        Ok(Tunnel {
            app_id: from_hex(app_id).context("X-DTLS-App-ID")?,
            psk,
            address: address.parse().context("X-CSTP-Address")?,
        })
    }

    /// Version and cipher suite of the handshake.
    pub fn cipher(&self) -> String {
        let version = self.stream.conn.protocol_version();
        let suite = self.stream.conn.negotiated_cipher_suite();
        format!(
            "{} {}",
            version.and_then(|version| version.as_str()).unwrap_or("?"),
            suite
                .and_then(|suite| suite.suite().as_str())
                .unwrap_or("?")
        )
    }

    /// Ends the connection as a client that has what it wanted.
    pub fn close(mut self) {
        self.stream.conn.send_close_notify();
        // The server may have closed already.
        let _ = self.stream.flush();
    }

    /// Ends the session of this connection for good; its cookie is worth nothing from then on.
    ///
    /// # Errors
    /// When the server has closed already.
    pub fn sign_off(mut self) -> Result<()> {
        self.stream.write_all(&SIGN_OFF).context("DISCONNECT")?;
        self.close();
        Ok(())
    }

    fn post(&mut self, path: &str, kind: &str, inner: &str) -> Result<String> {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<config-auth client=\"vpn\" \
             type=\"{kind}\" aggregate-auth-version=\"2\"><version who=\"vpn\">v9.01-3</version>\
             <device-id>linux-64</device-id>{inner}</config-auth>\n"
        );
        let context = self.context.as_ref().map_or_else(String::new, |context| {
            format!("Cookie: webvpncontext={context}\r\n")
        });
        let answer = self.exchange(&format!(
            "POST {path} HTTP/1.1\r\nHost: {HOST}:{PORT}\r\n\
             User-Agent: Open AnyConnect VPN Agent v9.01-3\r\n{context}Accept: */*\r\n\
             Accept-Encoding: identity\r\nX-Transcend-Version: 1\r\nX-Aggregate-Auth: 1\r\n\
             Content-Type: application/xml; charset=utf-8\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))?;
        if let Some(context) = cookie(&answer, "webvpncontext") {
            self.context = Some(context.to_owned());
        }
        Ok(answer)
    }

    /// Sends a request and reads the whole answer, which must be a 200.
    fn exchange(&mut self, request: &str) -> Result<String> {
        self.stream
            .write_all(request.as_bytes())
            .context("request")?;
        self.stream.flush()?;
        let mut answer = Vec::new();
        let mut chunk = [0; 4096];
        while !is_whole(&answer) {
            let length = self.stream.read(&mut chunk).context("answer")?;
            ensure!(length > 0, "the server closed the connection");
            answer.extend_from_slice(&chunk[..length]);
            ensure!(answer.len() <= LONGEST_ANSWER, "an endless answer");
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        ensure!(answer.starts_with("HTTP/1.1 200 "), "refused: {answer}");
        Ok(answer)
    }
}

fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, _)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let body = header(&text, "Content-Length").and_then(|length| length.parse().ok());
    answer.len() >= head.len() + 4 + body.unwrap_or(0_usize)
}

fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = answer.split("\r\n").take_while(|line| !line.is_empty());
    lines.find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// The value of a cookie that is set, not cleared.
fn cookie<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let lines = answer.split("\r\n").take_while(|line| !line.is_empty());
    lines
        .filter_map(|line| {
            line.strip_prefix("Set-Cookie: ")?
                .strip_prefix(name)?
                .strip_prefix('=')
        })
        .map(|value| value.split(';').next().unwrap_or(value))
        .find(|value| !value.is_empty())
}

fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let pairs = (0..digits.len()).step_by(2);
    pairs
        .map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok())
        .collect()
}

/// Accepts every server.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::{cookie, from_hex, header, is_whole};

    #[test]
    fn cleared_cookies_and_longer_names_do_not_count() {
        let answer = "HTTP/1.1 200 OK\r\nSet-Cookie: webvpncontext=YQ==; Secure\r\n\
                      Set-Cookie: webvpn=; expires=x\r\nSet-Cookie: webvpnc=bu:/\r\n\r\n";
        assert_eq!(cookie(answer, "webvpn"), None);
        assert_eq!(cookie(answer, "webvpncontext"), Some("YQ=="));
        let granted = "HTTP/1.1 200 OK\r\nSet-Cookie: webvpn=Yg==; Secure\r\n\r\n";
        assert_eq!(cookie(granted, "webvpn"), Some("Yg=="));
    }

    #[test]
    fn an_answer_is_whole_with_its_body() {
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc";
        assert_eq!(header(answer, "Content-Length"), Some("3"));
        assert!(is_whole(answer.as_bytes()));
        assert!(!is_whole(&answer.as_bytes()[..answer.len() - 1]));
        assert!(is_whole(b"HTTP/1.1 200 CONNECTED\r\n\r\n"));
        assert!(!is_whole(b"HTTP/1.1 200 CONNECTED\r\n"));
    }

    #[test]
    fn hexadecimal_is_read() {
        assert_eq!(from_hex("00ff7A"), Some(vec![0, 255, 122]));
        assert_eq!(from_hex("0"), None);
        assert_eq!(from_hex("zz"), None);
    }
}
