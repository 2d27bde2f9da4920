//! The bytes of an answer.

use zeroize::Zeroizing;

/// Room for the headers and forms: growing would leave copies of cookies behind.
const ROOM: usize = 8 * 1024;

/// Builds an answer, header by header in the order of the calls.
pub struct Answer {
    bytes: Zeroizing<Vec<u8>>,
}

impl Answer {
    /// Begins with the status line, e.g. `200 OK`, in the client's HTTP version.
    pub fn new(minor_version: u8, status: &str) -> Self {
        let mut answer = Self {
            bytes: Zeroizing::new(Vec::with_capacity(ROOM)),
        };
        answer.push(&format!("HTTP/1.{minor_version} "));
        answer.push_clean(status);
        answer.push("\r\n");
        answer
    }

    /// Adds a header. Line breaks in `value` become spaces, so that no value can add a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.push(name);
        self.push(": ");
        self.push_clean(value);
        self.push("\r\n");
        self
    }

    /// Adds whole header lines from the configuration (`included-http-headers`).
    pub fn lines(mut self, lines: &[String]) -> Self {
        for line in lines {
            self.push_clean(line);
            self.push("\r\n");
        }
        self
    }

    /// Ends the headers and adds the body.
    pub fn body(mut self, body: &[u8]) -> Zeroizing<Vec<u8>> {
        self.push("\r\n");
        self.bytes.extend_from_slice(body);
        self.bytes
    }

    fn push(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn push_clean(&mut self, text: &str) {
        self.bytes.extend(
            text.bytes()
                .map(|b| if b.is_ascii_control() { b' ' } else { b }),
        );
    }
}
