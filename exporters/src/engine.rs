//! Images into an engine that speaks Docker's API on a socket: Docker itself, or Podman.
//!
//! Owns [`Engine`]: which requests are made, and what the answers mean. An engine that has the
//! image under all its names is sent nothing. HTTP itself is left to hyper.
//!
//! Invariants:
//! - **Nothing goes on behind the caller**: connection and writer have ended when a call returns.
//! - Answers are an engine's word: they are read up to a limit and repeated as text only.

use std::io::{self, Write};
use std::path::PathBuf;
use std::pin::pin;

use ashlar_solver::cancel::Cancel;
use bytes::Bytes;
use futures::future::{Either, select};
use futures::stream::poll_fn;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, Limited, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::ExportError;
use crate::destination::Sink;
use crate::exporter::blocking;
use crate::image::Image;

/// Bytes of an answer that are read. What an engine says of an image has some thousands.
const ANSWER_LIMIT: usize = 4 << 20;

/// Pieces of the archive, each of 128 KiB at most, that wait for the engine.
const PIECES: usize = 8;

/// Letters of an engine's complaint that are repeated.
const LETTERS: usize = 300;

type Body = BoxBody<Bytes, io::Error>;

/// An engine, by its socket.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    socket: PathBuf,
}

/// What an engine answered.
struct Answer {
    status: StatusCode,
    body: Bytes,
}

impl Engine {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Loads an image that `write` writes as an archive, unless the engine has it. With `verify`
    /// the engine is asked afterwards what it has.
    pub(crate) async fn load(
        &self,
        image: &Image,
        write: impl FnOnce(&mut Sink<'_>, &Cancel) -> Result<(), ExportError> + Send + 'static,
        verify: bool,
        cancel: &Cancel,
    ) -> Result<(), ExportError> {
        if self.has(image, cancel).await? {
            return Ok(());
        }
        self.send(write, cancel).await?;
        if verify && !self.has(image, cancel).await? {
            return Err(ExportError::verify(image.root.digest, &self.socket));
        }
        Ok(())
    }

    /// Whether the image is there under each of its names; without a name, under its digest.
    async fn has(&self, image: &Image, cancel: &Cancel) -> Result<bool, ExportError> {
        #[derive(Deserialize)]
        struct Inspected {
            #[serde(rename = "Id", default)]
            id: String,
        }
        // Engines call an image by its config, or in newer stores by what leads to it.
        let ids: Vec<String> = image
            .config
            .iter()
            .chain([&image.root.digest])
            .map(ToString::to_string)
            .collect();
        let mut names: Vec<String> = image.names.iter().map(|name| name.familiar()).collect();
        if names.is_empty() {
            names.extend(ids.first().cloned());
        }
        for name in names {
            let path = format!("/images/{name}/json");
            let answer = self.request(Method::GET, &path, empty(), cancel).await?;
            let found = match answer.status {
                StatusCode::OK => serde_json::from_slice::<Inspected>(&answer.body).ok(),
                _ => None,
            };
            if !found.is_some_and(|found| ids.contains(&found.id)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn send(
        &self,
        write: impl FnOnce(&mut Sink<'_>, &Cancel) -> Result<(), ExportError> + Send + 'static,
        cancel: &Cancel,
    ) -> Result<(), ExportError> {
        let (pieces, mut waiting) = mpsc::channel(PIECES);
        let raised = cancel.clone();
        let writer = blocking(move || {
            let mut stream = Pieces(pieces);
            let mut sink = Sink::stream(&mut stream);
            let written = write(&mut sink, &raised).and_then(|()| sink.finish());
            if written.is_err() {
                // Without it the engine would take what it has for all.
                let _gone = stream
                    .0
                    .blocking_send(Err(io::ErrorKind::Interrupted.into()));
            }
            written
        });
        let body = poll_fn(move |context| waiting.poll_recv(context));
        let body = StreamBody::new(body).boxed();
        let loading = self.request(Method::POST, "/images/load?quiet=1", body, cancel);
        let (answered, written) = futures::join!(loading, writer);
        match written {
            // The engine stopped reading, and its answer says why: perhaps it had all it wanted.
            Err(ExportError::Io { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => return Err(error),
            Ok(()) => {}
        }
        let answer = answered?;
        if answer.status != StatusCode::OK {
            return Err(self.refused(complaint(&answer.body)));
        }
        match failure(&answer.body) {
            Some(reason) => Err(self.refused(reason)),
            None => Ok(()),
        }
    }

    /// One request on a connection of its own.
    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Body,
        cancel: &Cancel,
    ) -> Result<Answer, ExportError> {
        cancel.check()?;
        let broken = |error: hyper::Error| {
            let error = io::Error::other(error);
            ExportError::io("talk to the engine at", &self.socket)(error)
        };
        let exchange = async {
            let stream = UnixStream::connect(&self.socket).await;
            let stream = stream.map_err(ExportError::io("connect to", &self.socket))?;
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header(HOST, "engine")
                .header(CONTENT_TYPE, "application/x-tar")
                .body(body);
            let request = request.map_err(|error| self.refused(error.to_string()))?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
                .await
                .map_err(broken)?;
            let talk = pin!(async {
                let response = sender.send_request(request).await.map_err(broken)?;
                let status = response.status();
                let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect();
                let body = body
                    .await
                    .map_err(|error| self.refused(error.to_string()))?;
                let body = body.to_bytes();
                Ok(Answer { status, body })
            });
            match select(talk, pin!(connection)).await {
                Either::Left((answer, _)) => answer,
                // What came before the end is still to be read.
                Either::Right((_, talk)) => talk.await,
            }
        };
        match select(pin!(exchange), pin!(cancel.cancelled())).await {
            Either::Left((answer, _)) => answer,
            Either::Right(((), _)) => Err(ExportError::Cancelled),
        }
    }

    fn refused(&self, reason: String) -> ExportError {
        ExportError::Engine {
            socket: self.socket.clone(),
            reason,
        }
    }
}

fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

/// Hands pieces of a stream over; blocks while too many wait.
struct Pieces(mpsc::Sender<io::Result<Frame<Bytes>>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Frame::data(Bytes::copy_from_slice(bytes));
        match self.0.blocking_send(Ok(piece)) {
            Ok(()) => Ok(bytes.len()),
            Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The message of an error answer.
fn complaint(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Message {
        message: String,
    }
    let message = serde_json::from_slice(body).map(|Message { message }| message);
    shown(&message.unwrap_or_else(|_| String::from_utf8_lossy(body).into_owned()))
}

/// An error among the lines that tell how loading went: they begin before it is known.
fn failure(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        #[serde(default)]
        error: Option<String>,
    }
    let lines = serde_json::Deserializer::from_slice(body).into_iter::<Line>();
    let mut errors = lines.map_while(Result::ok).filter_map(|line| line.error);
    errors.next().map(|error| shown(&error))
}

/// A foreign text without what moves a terminal's cursor.
fn shown(text: &str) -> String {
    let letters = text.trim().chars().take(LETTERS);
    letters
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_an_engine_refuses_is_an_error_with_its_words() {
        use std::io::Read as _;

        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let engine = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut request, mut part) = (Vec::new(), [0; 1024]);
            while !request.ends_with(b"\r\n0\r\n\r\n") {
                let length = stream.read(&mut part).unwrap();
                assert!(length > 0, "the request does not end");
                request.extend_from_slice(&part[..length]);
            }
            let body = r#"{"message":"no space"}"#;
            let length = body.len();
            let status = "500 Internal Server Error";
            write!(
                stream,
                "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}"
            )
            .unwrap();
        });
        let (client, cancel) = (Engine::new(socket), Cancel::new());
        let sent = client.send(|sink, _| sink.put(b"image"), &cancel).await;
        engine.join().unwrap();
        let error = sent.unwrap_err();
        assert!(matches!(&error, ExportError::Engine { reason, .. } if reason == "no space"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_engine_that_stops_reading_says_why() {
        use std::io::Read as _;

        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for (status, body) in [("200 OK", ""), ("500 X", r#"{"message":"enough"}"#)] {
            let listener = listener.try_clone().unwrap();
            let engine = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                stream.read_exact(&mut [0; 1024]).unwrap();
                let length = body.len();
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}");
                write!(stream, "{head}\r\n\r\n{body}").unwrap();
                stream
            });
            let (client, cancel) = (Engine::new(socket.clone()), Cancel::new());
            let endless = |sink: &mut Sink<'_>, _: &Cancel| loop {
                sink.put(&[0; 1 << 20])?;
            };
            let sent = client.send(endless, &cancel).await;
            let _open_until_now = engine.join().unwrap();
            match sent {
                Ok(()) => assert_eq!(status, "200 OK"),
                Err(error) => {
                    let told =
                        matches!(&error, ExportError::Engine { reason, .. } if reason == "enough");
                    assert!(told && status == "500 X", "{error:?}");
                }
            }
        }
    }

    #[test]
    fn answers_are_understood() {
        let stream = b"{\"stream\":\"Loaded\"}\r\n{\"errorDetail\":{\"message\":\"x\"},\"error\":\"no \x1b space\"}\r\n";
        assert_eq!(failure(stream), None);
        let stream = br#"{"stream":"Loaded"} {"error":"no\u001b space"}"#;
        assert_eq!(failure(stream), Some("no  space".to_owned()));
        assert_eq!(failure(b"Loaded image: a\n"), None);
        assert_eq!(failure(b""), None);
        assert_eq!(complaint(br#"{"message":"bad"}"#), "bad");
        assert_eq!(complaint(b"<html>"), "<html>");
        assert_eq!(complaint("x".repeat(1000).as_bytes()).len(), LETTERS);
    }
}
