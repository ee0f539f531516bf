//! A registry that does what a test tells it to, byte by byte, and writes down what it was sent.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ashlar_llb::digest::BlobDigest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What a client sent.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) path: String,
    /// By lower-case name.
    pub(crate) headers: BTreeMap<String, String>,
    /// As much of it as was read.
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Everything that was sent, to look for what must not be in it.
    pub(crate) fn text(&self) -> String {
        let Self {
            method,
            path,
            headers,
            ..
        } = self;
        format!("{method} {path} {headers:?} {}", self.body_text())
    }

    pub(crate) fn body_text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// How an answer is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Manner {
    /// As it should be.
    Whole,
    /// This many bytes of the body, then the connection is reset.
    Reset(usize),
    /// This many bytes of the body in each pause.
    Slow(usize, Duration),
    /// Nothing at all.
    Silent,
    /// Without telling a length, for ever.
    Endless,
}

/// What is answered.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) manner: Manner,
}

impl Reply {
    pub(crate) fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            manner: Manner::Whole,
        }
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn manner(mut self, manner: Manner) -> Self {
        self.manner = manner;
        self
    }
}

type Answer = dyn Fn(&Seen) -> Reply + Send + Sync;

/// What is done with a body that a client sends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Taken {
    /// It is read.
    Whole,
    /// So many bytes are read, and the connection is reset. The answer is asked for and not sent.
    Cut(usize),
    /// Nothing is read, and nothing is said.
    Ignored,
}

type Take = dyn Fn(&Seen) -> Taken + Send + Sync;

/// A running server; ends when dropped.
pub(crate) struct Fake {
    /// Host and port.
    pub(crate) host: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Answers that are being sent, and the most there ever were.
    open: Arc<[AtomicUsize; 2]>,
    _tasks: JoinSet<()>,
}

impl Fake {
    pub(crate) async fn start(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_taking(answer, |_| Taken::Whole).await
    }

    /// `take` decides about bodies, by the heads of requests.
    pub(crate) async fn start_taking(
        answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
        take: impl Fn(&Seen) -> Taken + Send + Sync + 'static,
    ) -> Self {
        let take: Arc<Take> = Arc::new(take);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let open = Arc::new([const { AtomicUsize::new(0) }; 2]);
        let (answer, log): (Arc<Answer>, _) = (Arc::new(answer), seen.clone());
        let counted = open.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                let take = take.clone();
                connections.spawn(serve(
                    stream,
                    answer.clone(),
                    take,
                    log.clone(),
                    counted.clone(),
                ));
            }
        });
        Self {
            host,
            seen,
            open,
            _tasks: tasks,
        }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The most answers that were being sent at the same time.
    pub(crate) fn peak(&self) -> usize {
        self.open[1].load(Ordering::SeqCst)
    }

    /// Requests whose path has this in it.
    pub(crate) fn count(&self, part: &str) -> usize {
        let seen = self.seen();
        seen.iter().filter(|seen| seen.path.contains(part)).count()
    }
}

async fn serve(
    mut stream: TcpStream,
    answer: Arc<Answer>,
    take: Arc<Take>,
    log: Arc<Mutex<Vec<Seen>>>,
    open: Arc<[AtomicUsize; 2]>,
) {
    while let Some((seen, whole)) = request(&mut stream, &*take).await {
        log.lock().unwrap().push(seen.clone());
        let reply = answer(&seen);
        if !whole {
            // A reset rather than an end, for there is more to be read.
            return;
        }
        let now = open[0].fetch_add(1, Ordering::SeqCst) + 1;
        open[1].fetch_max(now, Ordering::SeqCst);
        let more = respond(&mut stream, &seen, reply).await;
        open[0].fetch_sub(1, Ordering::SeqCst);
        if more.is_none() {
            return;
        }
    }
}

/// A request, and whether all of it was read.
async fn request(stream: &mut TcpStream, take: &Take) -> Option<(Seen, bool)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
        // Who wants to speak TLS is not understood.
        if head[0] == 0x16 {
            return None;
        }
    }
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.get("content-length").map_or(Ok(0), |n| n.parse());
    let length: usize = length.ok()?;
    let mut seen = Seen {
        method,
        path,
        headers,
        body: Vec::new(),
    };
    let wanted = match take(&seen) {
        Taken::Whole => length,
        Taken::Cut(most) => most.min(length),
        Taken::Ignored => {
            std::future::pending::<()>().await;
            return None;
        }
    };
    seen.body = vec![0; wanted];
    stream.read_exact(&mut seen.body).await.ok()?;
    let whole = matches!(take(&seen), Taken::Whole);
    Some((seen, whole))
}

/// `None` once the connection is of no more use.
async fn respond(stream: &mut TcpStream, seen: &Seen, reply: Reply) -> Option<()> {
    let mut head = format!("HTTP/1.1 {} Said\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let told = reply
        .headers
        .iter()
        .any(|(name, _)| name == "content-length");
    match reply.manner {
        Manner::Silent => {
            std::future::pending::<()>().await;
            return None;
        }
        Manner::Endless => {
            head.push_str("transfer-encoding: chunked\r\n\r\n");
            stream.write_all(head.as_bytes()).await.ok()?;
            loop {
                stream.write_all(b"400\r\n").await.ok()?;
                stream.write_all(&[b' '; 1024]).await.ok()?;
                stream.write_all(b"\r\n").await.ok()?;
            }
        }
        _ if told => head.push_str("\r\n"),
        _ => head.push_str(&format!("content-length: {}\r\n\r\n", reply.body.len())),
    }
    stream.write_all(head.as_bytes()).await.ok()?;
    if seen.method == "HEAD" {
        return Some(());
    }
    match reply.manner {
        Manner::Reset(after) => {
            let part = &reply.body[..after.min(reply.body.len())];
            stream.write_all(part).await.ok()?;
            stream.flush().await.ok()?;
            // What was written arrives before the end does.
            tokio::time::sleep(Duration::from_millis(20)).await;
            None
        }
        Manner::Slow(step, pause) => {
            for part in reply.body.chunks(step.max(1)) {
                stream.write_all(part).await.ok()?;
                tokio::time::sleep(pause).await;
            }
            Some(())
        }
        _ => {
            stream.write_all(&reply.body).await.ok()?;
            // A length that was told wrongly ends the connection.
            (!told).then_some(())
        }
    }
}

/// What a registry has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Store {
    /// By digest.
    blobs: BTreeMap<String, Vec<u8>>,
    /// By tag or digest.
    manifests: BTreeMap<String, (String, Vec<u8>)>,
    /// Whether `Range` is answered with a range.
    pub(crate) ranges: bool,
}

impl Store {
    pub(crate) fn new() -> Self {
        Self {
            ranges: true,
            ..Self::default()
        }
    }

    pub(crate) fn blob(&mut self, bytes: impl Into<Vec<u8>>) -> String {
        let bytes = bytes.into();
        let digest = BlobDigest::of(&bytes).to_string();
        self.blobs.insert(digest.clone(), bytes);
        digest
    }

    pub(crate) fn manifest(&mut self, tag: &str, media_type: &str, text: &str) -> String {
        let digest = BlobDigest::of(text.as_bytes()).to_string();
        let document = (media_type.to_owned(), text.as_bytes().to_vec());
        self.manifests.insert(tag.to_owned(), document.clone());
        self.manifests.insert(digest.clone(), document);
        digest
    }

    /// What an honest registry answers.
    pub(crate) fn reply(&self, seen: &Seen) -> Reply {
        let last = seen.path.rsplit('/').next().unwrap_or_default();
        if seen.path.contains("/manifests/") {
            let Some((media_type, bytes)) = self.manifests.get(last) else {
                let text =
                    r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
                return Reply::new(404).body(text);
            };
            return Reply::new(200)
                .header("content-type", media_type)
                .header("docker-content-digest", BlobDigest::of(bytes).to_string())
                .body(bytes.clone());
        }
        let Some(bytes) = self.blobs.get(last) else {
            return Reply::new(404);
        };
        let range = seen.header("range").filter(|_| self.ranges);
        let Some((from, to)) = range.and_then(|r| r.strip_prefix("bytes=")?.split_once('-')) else {
            return Reply::new(200).body(bytes.clone());
        };
        let from: usize = from.parse().unwrap();
        let to = to.parse().map_or(bytes.len(), |to: usize| to + 1);
        Reply::new(206)
            .header(
                "content-range",
                format!("bytes {from}-{}/{}", to - 1, bytes.len()),
            )
            .body(&bytes[from..to])
    }
}
