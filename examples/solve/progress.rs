//! Progress as buildctl prints it.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::time::SystemTime;

use ashlar_llb::OpDigest;
use ashlar_solver::progress::{Event, Outcome, Stream};
use ashlar_solver::terminal::{DrawTarget, Terminal};
use ashlar_solver::tree::Timestamp;
use serde_json::{Value, json};

use super::flags::Mode;

/// What is known of a vertex.
#[derive(Default)]
struct Vertex {
    name: String,
    inputs: Vec<String>,
    /// Its number in plain output, given when it is first mentioned.
    number: Option<usize>,
    started: Option<SystemTime>,
    /// The last lines of its output, for the case that it fails.
    log: Vec<u8>,
    /// The end of its output that is no whole line yet.
    line: Vec<u8>,
    failed: bool,
}

/// Output that is shown again when a vertex fails: the last 8 KiB.
const LOG_TAIL: usize = 8 << 10;

pub struct Progress {
    mode: Mode,
    vertices: HashMap<OpDigest, Vertex>,
    numbers: usize,
    terminal: Terminal,
}

impl Progress {
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            vertices: HashMap::new(),
            numbers: 0,
            terminal: Terminal::new(DrawTarget::stderr()),
        }
    }

    pub fn show(&mut self, event: &Event) -> io::Result<()> {
        match event {
            Event::Vertex {
                digest,
                name,
                inputs,
            } => {
                let vertex = self.vertices.entry(*digest).or_default();
                vertex.name = name.to_string();
                vertex.inputs = inputs.iter().map(ToString::to_string).collect();
            }
            Event::Started { digest, at } => {
                self.vertices.entry(*digest).or_default().started = Some(*at);
            }
            Event::Log { digest, data, .. } => {
                let log = &mut self.vertices.entry(*digest).or_default().log;
                log.extend_from_slice(data);
                if log.len() > LOG_TAIL {
                    log.drain(..log.len() - LOG_TAIL);
                }
            }
            Event::Completed {
                digest,
                outcome: Outcome::Failed(_),
                ..
            } => {
                self.vertices.entry(*digest).or_default().failed = true;
            }
            _ => {}
        }
        match self.mode {
            Mode::Plain => self.plain(event),
            Mode::Tty => self.terminal.show(event),
            Mode::RawJson => self.raw(event),
            Mode::None => Ok(()),
        }
    }

    /// Draws what moves by itself.
    pub fn tick(&self) {
        if self.mode == Mode::Tty {
            self.terminal.tick();
        }
    }

    /// Takes away what moves, at the end.
    pub fn clear(&mut self) -> io::Result<()> {
        self.terminal.clear()
    }

    /// Shows the output of what failed once more, at the end, where it is looked for.
    pub fn failed(&self) -> io::Result<()> {
        if !matches!(self.mode, Mode::Plain | Mode::Tty) {
            return Ok(());
        }
        let mut out = io::stderr().lock();
        for vertex in self.vertices.values().filter(|vertex| vertex.failed) {
            writeln!(out, "------\n > {}:", vertex.name)?;
            out.write_all(&vertex.log)?;
            if !vertex.log.is_empty() && !vertex.log.ends_with(b"\n") {
                writeln!(out)?;
            }
            writeln!(out, "------")?;
        }
        Ok(())
    }

    /// The number of a vertex, with its heading if it is new.
    fn number(&mut self, digest: OpDigest) -> (usize, String) {
        let vertex = self.vertices.entry(digest).or_default();
        match vertex.number {
            Some(number) => (number, String::new()),
            None => {
                self.numbers += 1;
                vertex.number = Some(self.numbers);
                (
                    self.numbers,
                    format!("\n#{} {}\n", self.numbers, vertex.name),
                )
            }
        }
    }

    fn plain(&mut self, event: &Event) -> io::Result<()> {
        let mut text = String::new();
        match event {
            Event::Started { digest, .. } => text = self.number(*digest).1,
            Event::Completed {
                digest,
                at,
                outcome,
            } => {
                let (number, heading) = self.number(*digest);
                let vertex = self.vertices.entry(*digest).or_default();
                let seconds = vertex
                    .started
                    .and_then(|started| at.duration_since(started).ok())
                    .map_or(0.0, |time| time.as_secs_f64());
                text = heading;
                if !vertex.line.is_empty() {
                    let line = String::from_utf8_lossy(&vertex.line);
                    text += &format!("#{number} {seconds:.3} {line}\n");
                }
                text += &match outcome {
                    Outcome::Ran | Outcome::Looked => format!("#{number} DONE {seconds:.1}s\n"),
                    Outcome::Cached => format!("#{number} CACHED\n"),
                    Outcome::Cancelled => format!("#{number} CANCELED\n"),
                    Outcome::Failed(error) => format!("#{number} ERROR: {error}\n"),
                    _ => String::new(),
                };
            }
            Event::Log {
                digest, data, at, ..
            } => {
                let (number, heading) = self.number(*digest);
                let vertex = self.vertices.entry(*digest).or_default();
                let seconds = vertex
                    .started
                    .and_then(|started| at.duration_since(started).ok())
                    .map_or(0.0, |time| time.as_secs_f64());
                text = heading;
                vertex.line.extend_from_slice(data);
                while let Some(end) = vertex.line.iter().position(|&byte| byte == b'\n') {
                    let line: Vec<u8> = vertex.line.drain(..=end).collect();
                    text += &format!("#{number} {seconds:.3} {}", String::from_utf8_lossy(&line));
                }
            }
            Event::Status {
                digest,
                id,
                current,
                total,
                completed,
                ..
            } if *completed => {
                let (number, heading) = self.number(*digest);
                text = format!("{heading}#{number} {id} {current} / {total} done\n");
            }
            Event::Warning { message, .. } => text = format!("WARN: {message}\n"),
            _ => {}
        }
        io::stderr().lock().write_all(text.as_bytes())
    }

    fn raw(&self, event: &Event) -> io::Result<()> {
        let vertex = |digest: &OpDigest| {
            let known = self.vertices.get(digest);
            let mut value = json!({
                "digest": digest.to_string(),
                "name": known.map_or("", |vertex| vertex.name.as_str()),
            });
            if let Some(vertex) = known {
                if !vertex.inputs.is_empty() {
                    value["inputs"] = vertex.inputs.clone().into();
                }
                if let Some(started) = vertex.started {
                    value["started"] = time(started);
                }
            }
            value
        };
        let status = match event {
            Event::Vertex { digest, .. } | Event::Started { digest, .. } => {
                json!({ "vertexes": [vertex(digest)] })
            }
            Event::Completed {
                digest,
                at,
                outcome,
            } => {
                let mut vertex = vertex(digest);
                vertex["completed"] = time(*at);
                match outcome {
                    Outcome::Cached => vertex["cached"] = true.into(),
                    Outcome::Failed(error) => vertex["error"] = error.clone().into(),
                    Outcome::Cancelled => vertex["error"] = "context canceled".into(),
                    _ => {}
                }
                json!({ "vertexes": [vertex] })
            }
            Event::Status {
                digest,
                id,
                current,
                total,
                at,
                completed,
            } => {
                let mut status = json!({
                    "id": &**id,
                    "vertex": digest.to_string(),
                    "current": current,
                    "total": total,
                    "timestamp": time(*at),
                });
                if *completed {
                    status["completed"] = time(*at);
                }
                json!({ "statuses": [status] })
            }
            Event::Log {
                digest,
                stream,
                data,
                at,
            } => {
                let data = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, data);
                let stream = if *stream == Stream::Stdout { 1 } else { 2 };
                json!({ "logs": [{
                    "vertex": digest.to_string(),
                    "stream": stream,
                    "data": data,
                    "timestamp": time(*at),
                }] })
            }
            Event::Warning { digest, message } => json!({ "warnings": [{
                "vertex": digest.map(|digest| digest.to_string()),
                "level": 1,
                "short": base64::Engine::encode(
                    &base64::engine::general_purpose::STANDARD, message),
            }] }),
            _ => return Ok(()),
        };
        writeln!(io::stderr().lock(), "{status}")
    }
}

/// RFC 3339 with nanoseconds, UTC.
fn time(time: SystemTime) -> Value {
    Timestamp::from(time).to_string().into()
}
