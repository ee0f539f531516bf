//! Engines that take an image, refuse it, break off, or say nothing. Real ones are in
//! `export_tools`.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ashlar_exporters::{Docker, ExportError, Exported, Exporter as _};
use ashlar_llb::{self as llb, mkfile};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::error::{Blame as _, Fault};
use ashlar_solver::result::BuildResult;

use super::support::{self, runtime, solve, temp, then};

/// What an engine answers: a status line and a body, or nothing at all.
type Says = dyn Fn(&str, usize) -> Option<(&'static str, String)> + Send + Sync;

/// An engine that notes what it is asked for.
struct Engine {
    socket: PathBuf,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Engine {
    /// Answers by `says`, which gets the request line and the bytes of the body. Of a body only
    /// `limit` bytes are read.
    fn start(folder: &Path, limit: usize, says: Arc<Says>) -> Self {
        let socket = folder.join("engine.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (noted, says) = (noted.clone(), says.clone());
                std::thread::spawn(move || answer(stream.unwrap(), limit, &*says, &noted));
            }
        });
        Self { socket, asked }
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

fn answer(mut stream: UnixStream, limit: usize, says: &Says, noted: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            return;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let line = head.lines().next().unwrap().to_owned();
    let mut body = Vec::new();
    let mut buffer = [0; 4096];
    if head.contains("chunked") {
        while body.len() < limit && !body.ends_with(b"0\r\n\r\n") {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(length) => body.extend_from_slice(&buffer[..length]),
            }
        }
    }
    let said = says(&line, body.len());
    noted.lock().unwrap().push(line);
    if let Some((status, text)) = said {
        let length = text.len();
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n");
        let _gone = stream.write_all((head + &text).as_bytes());
        let _gone = stream.shutdown(Shutdown::Write);
    }
    // Until the other side goes: who closes before may take the answer back with it.
    while matches!(stream.read(&mut buffer), Ok(1..)) {}
}

async fn result(folder: &Path) -> BuildResult {
    let solver = support::solver(folder.join("state"));
    let text = "many\n".repeat(2_000_000);
    let state = llb::scratch().file(mkfile("/file", text).created(then()));
    solve(&solver, support::request(&state)).await.result
}

async fn load(engine: &Engine, result: &BuildResult) -> Result<Exported, ExportError> {
    let docker = Docker::engine(&engine.socket).name("app:v1").name("b.c/d");
    let docker = docker.compression(ashlar_exporters::Compression::Uncompressed);
    docker.export(result, &Cancel::new()).await
}

#[test]
fn an_image_is_loaded_once_and_nothing_is_sent_then() {
    runtime().block_on(async {
        let folder = temp();
        let result = result(folder.path()).await;
        let engine = Engine::start(
            folder.path(),
            usize::MAX,
            Arc::new(|line: &str, sent| {
                if line.starts_with("GET") {
                    return Some(("404 Not Found", "{}".to_owned()));
                }
                assert!(sent > 10_000_000, "{sent}");
                Some(("200 OK", r#"{"stream":"Loaded image: app:v1"}"#.to_owned()))
            }),
        );
        let exported = load(&engine, &result).await.unwrap();
        assert_eq!(
            engine.asked(),
            [
                "GET /images/app:v1/json HTTP/1.1",
                "POST /images/load?quiet=1 HTTP/1.1"
            ]
        );
        // An engine that has it, by its config or by its manifest.
        for key in ["containerimage.config.digest", "containerimage.digest"] {
            let folder = temp();
            let text = format!("{{\"Id\":\"{}\"}}", exported.response[key]);
            let says = move |_: &str, _| Some(("200 OK", text.clone()));
            let has = Engine::start(folder.path(), 0, Arc::new(says));
            load(&has, &result).await.unwrap();
            assert_eq!(
                has.asked(),
                [
                    "GET /images/app:v1/json HTTP/1.1",
                    "GET /images/b.c/d:latest/json HTTP/1.1"
                ]
            );
        }
    });
}

#[test]
fn what_an_engine_says_is_told() {
    runtime().block_on(async {
        let folder = temp();
        let result = result(folder.path()).await;
        let no_space = r#"{"message":"no space \u001b left"}"#.to_owned();
        let bad_layer = "{\"stream\":\"x\"}\n{\"error\":\"bad layer\"}".to_owned();
        let cases = [
            // Before it has read all.
            (
                "500 Oh",
                no_space,
                65536,
                "does not take the image: no space   left",
            ),
            (
                "200 OK",
                bad_layer,
                usize::MAX,
                "does not take the image: bad layer",
            ),
            (
                "nonsense",
                String::new(),
                usize::MAX,
                "cannot talk to the engine",
            ),
            ("200 OK", "x".repeat(10 << 20), usize::MAX, "limit"),
            ("200 OK", "[".repeat(100_000), usize::MAX, ""),
        ];
        for (number, (status, body, limit, text)) in cases.into_iter().enumerate() {
            let folder = temp();
            let says = move |line: &str, _| match line.starts_with("GET") {
                true => Some(("404 Not Found", String::new())),
                false => Some((status, body.clone())),
            };
            let engine = Engine::start(folder.path(), limit, Arc::new(says));
            match load(&engine, &result).await {
                Ok(_) => assert_eq!(text, "", "{number}"),
                Err(error) => {
                    let found = support::chain(&error);
                    assert!(
                        !text.is_empty() && found.contains(text),
                        "{number}: {found}"
                    );
                    assert_eq!(error.fault(), Fault::Environment);
                }
            }
        }
        // One that says that all is well, and has nothing then, or something else.
        for (status, text) in [("404 Not Found", "{}"), ("200 OK", r#"{"Id":"sha256:00"}"#)] {
            let folder = temp();
            let says = move |line: &str, _| match line.starts_with("GET") {
                true => Some((status, text.to_owned())),
                false => Some(("200 OK", "{}".to_owned())),
            };
            let engine = Engine::start(folder.path(), usize::MAX, Arc::new(says));
            load(&engine, &result).await.unwrap();
            let docker = Docker::engine(&engine.socket).name("app:v1").verify(true);
            let error = docker.export(&result, &Cancel::new()).await.unwrap_err();
            let ExportError::Verify { path, .. } = &error else {
                panic!("{error:?}");
            };
            assert_eq!(*path, engine.socket);
        }
        // None listens.
        let docker = Docker::engine(folder.path().join("none.sock")).name("app:v1");
        let error = docker.export(&result, &Cancel::new()).await.unwrap_err();
        assert!(error.remedy().unwrap().contains("engine runs"), "{error}");
    });
}

#[test]
fn a_cancel_ends_a_load_into_an_engine_that_says_nothing() {
    runtime().block_on(async {
        let folder = temp();
        let result = result(folder.path()).await;
        for limit in [0, usize::MAX] {
            let folder = temp();
            let engine = Engine::start(
                folder.path(),
                limit,
                Arc::new(|line: &str, _| {
                    let gone = ("404 Not Found", String::new());
                    line.starts_with("GET").then_some(gone)
                }),
            );
            let cancel = Cancel::new();
            let docker = Docker::engine(&engine.socket).name("app:v1");
            let raise = cancel.clone();
            let asked = engine.asked.clone();
            let raised = std::thread::spawn(move || {
                while asked.lock().unwrap().len() < 2 {
                    std::thread::sleep(Duration::from_millis(5));
                }
                raise.cancel();
            });
            let error = docker.export(&result, &cancel).await.unwrap_err();
            assert!(matches!(error, ExportError::Cancelled), "{error:?}");
            raised.join().unwrap();
        }
    });
}
