//! A connection to the server's control socket.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use ocserv_proto::control::{
    LENGTH_LEN, MAX_RESPONSE, Request, Response, decode_response, encode_request, message_len,
};

/// Longer than the server lets itself take for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request that got no answer.
#[derive(Debug)]
pub enum AskError {
    /// There is no server, or it does not let this user in.
    Connect(String),
    /// It closed the connection, did not answer, or not in our language.
    Answer,
}

impl AskError {
    /// For standard error.
    pub fn message(&self) -> String {
        match self {
            Self::Connect(message) => message.clone(),
            Self::Answer => "could not send message; possibly insufficient permissions or \
                             server is offline."
                .to_owned(),
        }
    }
}

/// One request's connection.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
}

impl Connection {
    /// Connects and sends `request`.
    pub fn open(path: &Path, request: &Request) -> Result<Self, AskError> {
        let stream = UnixStream::connect(path).map_err(|error| {
            let reason = match error.raw_os_error() {
                Some(number) => Errno::from_raw(number).desc().to_owned(),
                None => error.to_string(),
            };
            let path = path.display();
            AskError::Connect(format!(
                "error connecting to ocserv socket '{path}': {reason}"
            ))
        })?;
        let mut connection = Self { stream };
        connection.send(request).map_err(|_| AskError::Answer)?;
        Ok(connection)
    }

    /// Waits for the next answer.
    pub fn receive(&mut self) -> Result<Response, AskError> {
        self.read_message().map_err(|_| AskError::Answer)
    }

    /// To wait for an answer beside something else.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    fn send(&mut self, request: &Request) -> io::Result<()> {
        self.stream.set_read_timeout(Some(PATIENCE))?;
        self.stream.set_write_timeout(Some(PATIENCE))?;
        let message = encode_request(request).map_err(io::Error::other)?;
        self.stream.write_all(&message)
    }

    fn read_message(&mut self) -> io::Result<Response> {
        let mut field = [0; LENGTH_LEN];
        self.stream.read_exact(&mut field)?;
        let mut message = vec![0; message_len(field, MAX_RESPONSE).map_err(io::Error::other)?];
        self.stream.read_exact(&mut message)?;
        decode_response(&message).map_err(io::Error::other)
    }
}

/// One request, one answer.
pub fn ask(path: &Path, request: &Request) -> Result<Response, AskError> {
    Connection::open(path, request)?.receive()
}
