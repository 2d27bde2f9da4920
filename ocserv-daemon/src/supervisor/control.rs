//! The server's end of the control socket (cli.md §5): who may ask, and for how long.
//!
//! Each client gets a task. A request goes to the supervisor's core as a [`ControlCall`]; what comes
//! back on its channel goes to the client. Nothing here knows what a request means.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::stat::{Mode, umask};
use ocserv_proto::control::{
    LENGTH_LEN, MAX_REQUEST, Request, Response, decode_request, encode_response, message_len,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

/// Clients that are served at once; further ones are turned away.
const MAX_CLIENTS: usize = 16;
/// A client has this long to send its request.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// The core has this long to answer, and a client to take the answer.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// Answers that may wait for a client: one, except for events.
const ANSWER_QUEUE: usize = 256;

/// A request, and where its answer goes. The core sends one answer and drops the channel, except
/// for [`Request::Events`], whose channel it keeps. The core never waits here: it uses `try_send`.
#[derive(Debug)]
pub struct ControlCall {
    /// What is asked.
    pub request: Request,
    /// Where to answer.
    pub answer: mpsc::Sender<Response>,
}

/// The listening socket; its file goes when this is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

/// Listens at `path`, in place of the socket of a server that is gone.
///
/// # Errors
/// Of the system, or if something other than a socket is at `path`.
pub fn bind(path: &Path) -> io::Result<ControlSocket> {
    match std::fs::symlink_metadata(path) {
        Ok(there) if there.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "not a socket")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let before = umask(Mode::from_bits_truncate(0o066));
    let listener = UnixListener::bind(path);
    umask(before);
    Ok(ControlSocket {
        listener: listener?,
        path: path.to_owned(),
    })
}

/// Serves root's occtl. `dispatch` takes a call to the core; it says false when there is no core any
/// more.
pub async fn serve<D, F>(socket: ControlSocket, dispatch: D)
where
    D: Fn(ControlCall) -> F + Clone + Send + 'static,
    F: Future<Output = bool> + Send,
{
    serve_user(socket, 0, dispatch).await;
}

async fn serve_user<D, F>(socket: ControlSocket, uid: u32, dispatch: D)
where
    D: Fn(ControlCall) -> F + Clone + Send + 'static,
    F: Future<Output = bool> + Send,
{
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        let stream = match socket.listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("ctl: cannot accept a client: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if !is_authorized(&stream, uid) {
            continue;
        }
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!("ctl: more than {MAX_CLIENTS} clients at once");
            continue;
        };
        let dispatch = dispatch.clone();
        tokio::spawn(async move {
            if let Err(error) = converse(stream, dispatch).await {
                tracing::debug!("ctl: {error}");
            }
            drop(place);
        });
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // It may be gone already, with its directory.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn is_authorized(stream: &UnixStream, uid: u32) -> bool {
    let peer = match stream.peer_cred() {
        Ok(peer) => peer,
        Err(error) => {
            tracing::warn!("ctl: cannot tell who a client is: {error}");
            return false;
        }
    };
    let pid = peer.pid().unwrap_or(0);
    if peer.uid() != uid {
        tracing::warn!(
            "ctl: received unauthorized request from pid {pid} and uid {}",
            peer.uid()
        );
        return false;
    }
    tracing::debug!(
        "ctl: received request from pid {pid} and uid {}",
        peer.uid()
    );
    true
}

async fn converse<D, F>(mut stream: UnixStream, dispatch: D) -> io::Result<()>
where
    D: Fn(ControlCall) -> F,
    F: Future<Output = bool>,
{
    let request = timeout(REQUEST_TIME, read_request(&mut stream)).await??;
    let streams = request == Request::Events;
    let (answer, mut answers) = mpsc::channel(ANSWER_QUEUE);
    let call = ControlCall { request, answer };
    if !timeout(ANSWER_TIME, dispatch(call)).await? {
        return Err(io::Error::other("the server is stopping"));
    }
    let first = timeout(ANSWER_TIME, answers.recv()).await?;
    let first = first.ok_or_else(|| io::Error::other("the request was not answered"))?;
    write_response(&mut stream, &first).await?;
    if streams {
        forward_events(stream, answers).await
    } else {
        Ok(())
    }
}

async fn read_request(stream: &mut UnixStream) -> io::Result<Request> {
    let mut field = [0; LENGTH_LEN];
    stream.read_exact(&mut field).await?;
    let len = message_len(field, MAX_REQUEST).map_err(io::Error::other)?;
    let mut message = vec![0; len];
    stream.read_exact(&mut message).await?;
    decode_request(&message).map_err(io::Error::other)
}

async fn write_response(stream: &mut UnixStream, response: &Response) -> io::Result<()> {
    let message = match encode_response(response) {
        Ok(message) => message,
        Err(error) => {
            encode_response(&Response::Failed(error.to_string())).map_err(io::Error::other)?
        }
    };
    timeout(ANSWER_TIME, stream.write_all(&message)).await?
}

/// Until the client hangs up (or says anything more) or the core ends the stream.
async fn forward_events(
    mut stream: UnixStream,
    mut events: mpsc::Receiver<Response>,
) -> io::Result<()> {
    let mut byte = [0];
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => write_response(&mut stream, &event).await?,
                None => return Ok(()),
            },
            _ = stream.read(&mut byte) => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ocserv_proto::control::{MAX_RESPONSE, decode_response, encode_request};
    use std::os::unix::fs::PermissionsExt;

    struct Bed {
        questions: mpsc::Receiver<ControlCall>,
        path: PathBuf,
        _directory: tempfile::TempDir,
    }

    fn own_uid() -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    fn bed(uid: u32) -> Bed {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("occtl.socket");
        let socket = bind(&path).unwrap();
        let (sender, questions) = mpsc::channel(8);
        tokio::spawn(serve_user(socket, uid, move |call| {
            let sender = sender.clone();
            async move { sender.send(call).await.is_ok() }
        }));
        Bed {
            questions,
            path,
            _directory: directory,
        }
    }

    async fn ask(path: &Path, request: &Request) -> UnixStream {
        let mut stream = UnixStream::connect(path).await.unwrap();
        stream
            .write_all(&encode_request(request).unwrap())
            .await
            .unwrap();
        stream
    }

    async fn read_response(stream: &mut UnixStream) -> Response {
        let mut field = [0; 4];
        stream.read_exact(&mut field).await.unwrap();
        let mut message = vec![0; message_len(field, MAX_RESPONSE).unwrap()];
        stream.read_exact(&mut message).await.unwrap();
        decode_response(&message).unwrap()
    }

    async fn is_closed(stream: &mut UnixStream) -> bool {
        // A peer that closes with unread bytes gives a reset in place of an end.
        matches!(stream.read(&mut [0]).await, Ok(0) | Err(_))
    }

    #[tokio::test]
    async fn a_request_is_answered_once() {
        let mut bed = bed(own_uid());
        let mut client = ask(&bed.path, &Request::User("test".to_owned())).await;
        let question = bed.questions.recv().await.unwrap();
        assert_eq!(question.request, Request::User("test".to_owned()));
        question
            .answer
            .try_send(Response::Users(Vec::new()))
            .unwrap();
        assert_eq!(
            read_response(&mut client).await,
            Response::Users(Vec::new())
        );
        assert!(is_closed(&mut client).await);
    }

    #[tokio::test]
    async fn events_stream_until_the_client_leaves() {
        let mut bed = bed(own_uid());
        let mut client = ask(&bed.path, &Request::Events).await;
        let question = bed.questions.recv().await.unwrap();
        question
            .answer
            .try_send(Response::Users(Vec::new()))
            .unwrap();
        question.answer.try_send(Response::Done).unwrap();
        assert_eq!(
            read_response(&mut client).await,
            Response::Users(Vec::new())
        );
        assert_eq!(read_response(&mut client).await, Response::Done);
        drop(client);
        question.answer.closed().await;
    }

    #[tokio::test]
    async fn other_users_are_not_served() {
        let mut bed = bed(own_uid() + 1);
        let mut client = UnixStream::connect(&bed.path).await.unwrap();
        assert!(is_closed(&mut client).await);
        assert!(bed.questions.try_recv().is_err());
    }

    #[tokio::test]
    async fn malformed_requests_close_the_connection() {
        let mut bed = bed(own_uid());
        for bytes in [
            &[0, 0, 0, 0][..],
            &[255; 8],
            &[0, 0, 0, 2, 1, 99],
            &[0, 0, 0, 1, 9],
        ] {
            let mut client = UnixStream::connect(&bed.path).await.unwrap();
            client.write_all(bytes).await.unwrap();
            assert!(is_closed(&mut client).await, "{bytes:?}");
        }
        assert!(bed.questions.try_recv().is_err());
    }

    #[tokio::test]
    async fn clients_are_counted() {
        let bed = bed(own_uid());
        let mut clients = Vec::new();
        for _ in 0..MAX_CLIENTS {
            clients.push(UnixStream::connect(&bed.path).await.unwrap());
        }
        let mut one_more = UnixStream::connect(&bed.path).await.unwrap();
        assert!(is_closed(&mut one_more).await);
    }

    #[tokio::test]
    async fn the_socket_is_its_owners_and_goes_with_the_server() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("occtl.socket");
        let socket = bind(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o711);
        drop(socket);
        assert!(!path.exists());

        std::fs::write(&path, "a file").unwrap();
        assert!(bind(&path).is_err());
        assert!(path.exists(), "what is no socket is not removed");
    }
}
