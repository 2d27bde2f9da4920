//! A client on OpenSSL.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use openssl::ssl::{
    Ssl, SslContext, SslContextBuilder, SslMethod, SslStream, SslVerifyMode, SslVersion,
};

use super::bed::PASSWORD;

/// An established TLS session.
pub struct Client {
    pub tls: SslStream<Wire>,
}

/// The socket. The client's second flight stays back until the client waits for an answer: then
/// Finished and the first request go out in one piece, as stock clients send them.
pub struct Wire {
    tcp: TcpStream,
    written: Written,
}

enum Written {
    Nothing,
    Hello { held: Vec<u8> },
    All,
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Written::Hello { held } = &mut self.written
            && !held.is_empty()
        {
            self.tcp.write_all(held)?;
            self.written = Written::All;
        }
        self.tcp.read(buffer)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.written {
            Written::Nothing => {
                self.written = Written::Hello { held: Vec::new() };
                self.tcp.write(bytes)
            }
            Written::Hello { held } => {
                held.extend_from_slice(bytes);
                Ok(bytes.len())
            }
            Written::All => self.tcp.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn context(version: SslVersion) -> SslContext {
    let mut context = SslContextBuilder::new(SslMethod::tls_client()).unwrap();
    context.set_verify(SslVerifyMode::NONE);
    context.set_min_proto_version(Some(version)).unwrap();
    context.set_max_proto_version(Some(version)).unwrap();
    context.build()
}

impl Client {
    pub fn new(tcp: TcpStream, version: SslVersion) -> Self {
        let ssl = Ssl::new(&context(version)).unwrap();
        let mut tls = SslStream::new(
            ssl,
            Wire {
                tcp,
                written: Written::Nothing,
            },
        )
        .unwrap();
        tls.connect().unwrap();
        Self { tls }
    }

    /// Sends a request and reads head and body of the answer.
    pub fn request(&mut self, request: &str) -> String {
        self.tls.write_all(request.as_bytes()).unwrap();
        let mut answer = self.head();
        let length = answer
            .lines()
            .find_map(|line| line.strip_prefix("Content-Length: "))
            .map_or(0, |length| length.trim().parse().unwrap());
        let mut body = vec![0; length];
        self.tls.read_exact(&mut body).unwrap();
        answer.push_str(&String::from_utf8(body).unwrap());
        answer
    }

    fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.tls.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        String::from_utf8(head).unwrap()
    }

    pub fn post_form(&mut self, body: &str) -> String {
        self.request(&format!(
            "POST /auth HTTP/1.1\r\nHost: vpn.example\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
    }

    /// Logs in; gives the `webvpn` cookie as it came.
    pub fn log_in(&mut self) -> String {
        let password = PASSWORD.replace(' ', "+");
        let answer = self.post_form(&format!("username=alice&password={password}"));
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let cookie = answer
            .lines()
            .find_map(|line| line.strip_prefix("Set-Cookie: webvpn="));
        cookie.unwrap().split(';').next().unwrap().to_owned()
    }

    /// Sends CONNECT; the answer comes with [`Self::answer`].
    pub fn connect(&mut self, cookie: &str) {
        let request = format!(
            "CONNECT /CSCOSSLC/tunnel HTTP/1.1\r\nHost: vpn.example\r\n\
             User-Agent: Open AnyConnect VPN Agent v9.01\r\nCookie: webvpn={cookie}\r\n\
             X-CSTP-Base-MTU: 1500\r\nX-DTLS-CipherSuite: PSK-NEGOTIATE\r\n\r\n"
        );
        self.tls.write_all(request.as_bytes()).unwrap();
    }

    pub fn answer(&mut self) -> String {
        self.head()
    }

    pub fn send(&mut self, kind: u8, payload: &[u8]) {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        let header = [b'S', b'T', b'F', 1, length[0], length[1], kind, 0];
        self.tls
            .write_all(&[&header[..], payload].concat())
            .unwrap();
    }

    /// One record, which is one frame: type and payload.
    pub fn frame(&mut self) -> (u8, Vec<u8>) {
        let mut record = vec![0; 16 * 1024];
        let count = self.tls.read(&mut record).unwrap();
        let header = &record[..8];
        assert_eq!(&header[..4], b"STF\x01");
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        assert_eq!(count, 8 + length, "a record holds one frame");
        (header[6], record[8..count].to_vec())
    }

    /// The key of DTLS-PSK.
    pub fn psk(&self) -> [u8; 32] {
        let mut key = [0; 32];
        self.tls
            .ssl()
            .export_keying_material(&mut key, "EXPORTER-openconnect-psk", None)
            .unwrap();
        key
    }

    /// Waits for bytes that no request of ours brought.
    pub fn has_unasked_bytes(&self) -> bool {
        matches!(self.tls.get_ref().tcp.peek(&mut [0; 64]), Ok(count) if count > 0)
    }

    /// True when the peer closes in order.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.tls.read(&mut [0; 64]), Ok(0))
    }
}
