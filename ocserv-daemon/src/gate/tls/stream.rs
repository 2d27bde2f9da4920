//! An established TLS session, apart from its socket.
//!
//! rustls is driven directly, because records matter here: one CSTP packet is one TLS record in
//! either direction (protocol.md 1.10).

use std::io::{self, BufRead, IoSlice, Write};

use ocserv_proto::config::Cipher;
use ocserv_proto::secret::Secret;
use rustls::{ProtocolVersion, ServerConnection};
use tokio::net::TcpStream;

use super::suites::Allowance;

/// Label of the DTLS-PSK exporter (protocol.md 1.12).
const PSK_LABEL: &[u8] = b"EXPORTER-openconnect-psk";
/// Most that a record adds to its content.
const RECORD_OVERHEAD: usize = 5 + 8 + 16 + 1;

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// More may come.
    Open,
    /// The peer closed, orderly or not.
    Closed,
}

/// An established session.
#[derive(Debug)]
pub struct TlsSession {
    tls: ServerConnection,
    /// Upper bound of the bytes that wait for the socket.
    queued: usize,
    allowance: Allowance,
    description: String,
}

impl TlsSession {
    /// Takes over a session whose handshake is done; `scheme` is that of the server's signature.
    pub(super) fn new(mut tls: ServerConnection, scheme: Option<u16>) -> Self {
        // Bounded by `queued` instead: rustls would cut a packet in two at its limit.
        tls.set_buffer_limit(None);
        let description = super::describe::describe(&tls, scheme);
        let allowance = Allowance::new(tls.negotiated_cipher_suite());
        Self {
            tls,
            queued: 0,
            allowance,
            description,
        }
    }

    /// In occtl's form.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// The session's cipher.
    pub fn cipher(&self) -> Option<Cipher> {
        super::describe::cipher(&self.tls)
    }

    /// TLS 1.3, where keys can be renewed in place.
    pub fn is_tls13(&self) -> bool {
        self.tls.protocol_version() == Some(ProtocolVersion::TLSv1_3)
    }

    /// The key of DTLS-PSK (protocol.md 1.12).
    ///
    /// # Errors
    /// Those of rustls; none is known after the handshake.
    pub fn dtls_psk(&self) -> Result<Secret, rustls::Error> {
        self.tls
            .export_keying_material(vec![0; 32], PSK_LABEL, None)
            .map(Secret::new)
    }

    /// Upper bound of the bytes that wait for the socket.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Hands bytes from the socket to TLS; `on_record` gets the content of each whole record.
    ///
    /// # Errors
    /// A broken record or alert; `on_record`'s own.
    pub fn receive<E: From<io::Error>>(
        &mut self,
        mut input: &[u8],
        mut on_record: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<Incoming, E> {
        loop {
            // Before the first input too: the last read of the handshake may have brought content.
            if self.take_content(&mut on_record)? == Incoming::Closed {
                return Ok(Incoming::Closed);
            }
            if input.is_empty() {
                return Ok(Incoming::Open);
            }
            if self.tls.read_tls(&mut input)? == 0 {
                return Ok(Incoming::Closed);
            }
            self.tls
                .process_new_packets()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
    }

    /// Hands over the content of whole records.
    fn take_content<E: From<io::Error>>(
        &mut self,
        on_record: &mut impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<Incoming, E> {
        loop {
            let mut reader = self.tls.reader();
            let length = match reader.fill_buf() {
                Ok([]) => return Ok(Incoming::Closed),
                Ok(content) => {
                    on_record(content)?;
                    content.len()
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Incoming::Open);
                }
                Err(error) => return Err(error.into()),
            };
            reader.consume(length);
        }
    }

    /// Whether the keys are used up: the client needs another session.
    pub fn is_used_up(&self) -> bool {
        self.allowance.is_used_up()
    }

    /// rustls would take content and lose it.
    fn take_allowance(&mut self, len: usize) -> io::Result<()> {
        let allowed = self.allowance.take(len);
        allowed
            .then_some(())
            .ok_or_else(|| io::Error::other("the keys are used up"))
    }

    /// Queues `content` in records of at most 16 KiB.
    ///
    /// # Errors
    /// When the session was closed, or its keys are used up.
    pub fn queue(&mut self, content: &[u8]) -> io::Result<()> {
        self.take_allowance(content.len())?;
        self.tls.writer().write_all(content)?;
        self.queued += content.len() + RECORD_OVERHEAD * (1 + content.len() / (16 * 1024));
        Ok(())
    }

    /// Makes one record of a frame's two parts (together at most 16 KiB) and queues it.
    ///
    /// # Errors
    /// When the session was closed, or its keys are used up.
    pub fn queue_frame(&mut self, header: &[u8], payload: &[u8]) -> io::Result<()> {
        let parts = [IoSlice::new(header), IoSlice::new(payload)];
        let length = header.len() + payload.len();
        self.take_allowance(length)?;
        if self.tls.writer().write_vectored(&parts)? != length {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.queued += length + RECORD_OVERHEAD;
        Ok(())
    }

    /// Gives the socket what it takes now.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn try_flush(&mut self, tcp: &TcpStream) -> io::Result<()> {
        try_flush(tcp, &mut self.tls)?;
        self.count_queued()
    }

    /// Puts the true number in place of the bound. For that alone TLS is asked to look at its input.
    fn count_queued(&mut self) -> io::Result<()> {
        self.queued = if self.tls.wants_write() {
            let state = self.tls.process_new_packets();
            let state = state.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            state.tls_bytes_to_write()
        } else {
            0
        };
        Ok(())
    }

    /// True while bytes wait for the socket.
    pub fn wants_write(&self) -> bool {
        self.tls.wants_write()
    }

    /// Gives the socket everything, waiting for it. Cancel-safe.
    ///
    /// # Errors
    /// When the connection is broken.
    pub async fn flush(&mut self, tcp: &TcpStream) -> io::Result<()> {
        flush(tcp, &mut self.tls).await?;
        self.queued = 0;
        Ok(())
    }

    /// Queues `close_notify`.
    pub fn queue_close(&mut self) {
        self.tls.send_close_notify();
    }

    /// Queues a TLS 1.3 KeyUpdate that asks the peer for one too.
    ///
    /// # Errors
    /// In TLS 1.2.
    pub fn queue_key_update(&mut self) -> Result<(), rustls::Error> {
        self.tls.refresh_traffic_keys()
    }
}

/// Waits for bytes; 0 when the peer closed. Cancel-safe.
///
/// # Errors
/// As recv(2).
pub async fn read_some(tcp: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        tcp.readable().await?;
        match tcp.try_read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
}

/// Writes until TLS has nothing left; cancel-safe.
pub(super) async fn flush(tcp: &TcpStream, tls: &mut ServerConnection) -> io::Result<()> {
    loop {
        try_flush(tcp, tls)?;
        if !tls.wants_write() {
            return Ok(());
        }
        tcp.writable().await?;
    }
}

/// Writes what the socket takes now.
pub(super) fn try_flush(tcp: &TcpStream, tls: &mut ServerConnection) -> io::Result<()> {
    while tls.wants_write() {
        match tls.write_tls(&mut Socket(tcp)) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

struct Socket<'a>(&'a TcpStream);

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
