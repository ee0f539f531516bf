//! Progress of a solve on a terminal: a line for each step that runs, with its last output, and bars
//! for what has an end. Feature `terminal`.
//!
//! Owns [`Terminal`], which turns events into lines. It draws only when it is given an event or
//! [`Terminal::tick`] is called, and only to the target that it was made with: it starts no thread
//! and looks at no environment.
//!
//! Invariant: nothing that a step writes reaches the terminal as a control character.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use ashlar_llb::OpDigest;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::progress::{Event, Outcome};

/// Where a [`Terminal`] draws: `DrawTarget::stderr()`, or any other terminal.
pub use indicatif::ProgressDrawTarget as DrawTarget;

/// The end of the output of a step that is kept, in bytes: what fits in any line.
const TAIL: usize = 4 << 10;

/// Draws the events of one solve.
///
/// ```
/// use ashlar_solver::terminal::{DrawTarget, Terminal};
///
/// // Standard error, unless it is no terminal: then nothing is drawn.
/// let mut terminal = Terminal::new(DrawTarget::stderr());
/// terminal.tick();
/// terminal.clear()?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Terminal {
    all: MultiProgress,
    steps: HashMap<OpDigest, Step>,
}

#[derive(Debug, Default)]
struct Step {
    name: String,
    started: Option<SystemTime>,
    /// While it runs.
    line: Option<ProgressBar>,
    parts: BTreeMap<Arc<str>, ProgressBar>,
    output: Vec<u8>,
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("BUG: the templates are constant")
}

impl Terminal {
    /// Draws on `target`.
    pub fn new(target: ProgressDrawTarget) -> Self {
        Self {
            all: MultiProgress::with_draw_target(target),
            steps: HashMap::new(),
        }
    }

    /// Shows an event.
    ///
    /// # Errors
    /// What the terminal says.
    pub fn show(&mut self, event: &Event) -> io::Result<()> {
        match event {
            Event::Vertex { digest, name, .. } => {
                self.step(*digest).name = printable(name);
            }
            Event::Started { digest, at } => {
                let line = ProgressBar::no_length();
                let line = self.all.add(line);
                line.set_style(style("{spinner} {elapsed:>4} {wide_msg}"));
                let step = self.step(*digest);
                line.set_message(step.name.clone());
                step.started = Some(*at);
                step.line = Some(line);
            }
            Event::Log { digest, data, .. } => self.step(*digest).write(data),
            Event::Status {
                digest,
                id,
                current,
                total,
                completed,
                ..
            } => self.part(*digest, id, *current, *total, *completed),
            Event::Completed {
                digest,
                at,
                outcome,
            } => {
                let (name, seconds) = self.step(*digest).end(*at);
                let ended = match outcome {
                    Outcome::Ran => format!("done {seconds:.1}s"),
                    Outcome::Looked => "looked".to_owned(),
                    Outcome::Cached => "cached".to_owned(),
                    Outcome::Cancelled => "cancelled".to_owned(),
                    Outcome::Failed(error) => format!("failed: {}", printable(error)),
                };
                self.all.println(format!("  {name}  {ended}"))?;
            }
            Event::Warning { message, .. } => {
                self.all
                    .println(format!("  warning: {}", printable(message)))?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Draws anew, for the spinners and times; about ten times a second is enough.
    pub fn tick(&self) {
        let lines = self.steps.values().filter_map(|step| step.line.as_ref());
        lines.for_each(ProgressBar::tick);
    }

    /// Removes the lines of steps that did not end.
    ///
    /// # Errors
    /// What the terminal says.
    pub fn clear(&mut self) -> io::Result<()> {
        self.all.clear()
    }

    fn step(&mut self, digest: OpDigest) -> &mut Step {
        self.steps.entry(digest).or_default()
    }

    fn part(&mut self, digest: OpDigest, id: &Arc<str>, current: u64, total: u64, over: bool) {
        let step = self.steps.entry(digest).or_default();
        if over {
            if let Some(part) = step.parts.remove(id) {
                part.finish_and_clear();
            }
            return;
        }
        let Some(line) = &step.line else { return };
        let part = step.parts.entry(id.clone()).or_insert_with(|| {
            let part = self.all.insert_after(line, ProgressBar::no_length());
            part.set_message(printable(id));
            part
        });
        if total > 0 && part.length() != Some(total) {
            part.set_style(style("       {bar:24} {pos}/{len} {wide_msg}"));
            part.set_length(total);
        } else if total == 0 {
            part.set_style(style("       {pos} {wide_msg}"));
        }
        part.set_position(current);
    }
}

impl Step {
    /// Shows the last line that has something in it.
    fn write(&mut self, data: &[u8]) {
        self.output.extend_from_slice(data);
        if self.output.len() > TAIL {
            self.output.drain(..self.output.len() - TAIL);
        }
        let text = String::from_utf8_lossy(&self.output);
        let last = text.lines().rev().map(printable);
        let last = last.filter(|line| !line.trim().is_empty()).take(1).next();
        if let (Some(line), Some(last)) = (&self.line, last) {
            line.set_message(format!("{}  {last}", self.name));
        }
    }

    /// Takes its lines away; its name, and how long it took.
    fn end(&mut self, at: SystemTime) -> (String, f64) {
        for part in std::mem::take(&mut self.parts).into_values() {
            part.finish_and_clear();
        }
        if let Some(line) = self.line.take() {
            line.finish_and_clear();
        }
        self.output = Vec::new();
        let took = self.started.and_then(|began| at.duration_since(began).ok());
        let seconds = took.map_or(0.0, |took| took.as_secs_f64());
        (self.name.clone(), seconds)
    }
}

/// The text without control characters and escape sequences.
fn printable(text: impl AsRef<str>) -> String {
    let mut out = String::new();
    let mut letters = text.as_ref().chars().peekable();
    while let Some(letter) = letters.next() {
        if letter == '\u{1b}' {
            if letters.next_if_eq(&'[').is_some() {
                // Parameters, up to the letter that says what to do.
                while letters.next().is_some_and(|it| !('@'..='~').contains(&it)) {}
            }
        } else if letter.is_control() {
            out.push(' ');
        } else {
            out.push(letter);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use indicatif::InMemoryTerm;

    use super::*;
    use crate::progress::Stream;

    fn terminal() -> (InMemoryTerm, Terminal) {
        let screen = InMemoryTerm::new(20, 60);
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(screen.clone()), 255);
        (screen, Terminal::new(target))
    }

    fn vertex(name: &str) -> (OpDigest, Event) {
        let digest = OpDigest::of(name.as_bytes());
        let event = Event::Vertex {
            digest,
            name: name.into(),
            inputs: Vec::new(),
        };
        (digest, event)
    }

    #[test]
    fn steps_that_run_have_lines_and_those_that_ended_are_told_once() {
        let (screen, mut terminal) = terminal();
        let at = SystemTime::UNIX_EPOCH;
        let log = |digest, text: &str| Event::Log {
            digest,
            stream: Stream::Stdout,
            data: Bytes::from(text.to_owned()),
            at,
        };
        let (make, event) = vertex("RUN make");
        terminal.show(&event).unwrap();
        let (copy, event) = vertex("COPY\u{7} .");
        terminal.show(&event).unwrap();
        for digest in [make, copy] {
            terminal.show(&Event::Started { digest, at }).unwrap();
        }
        terminal.show(&log(make, "one\ntw")).unwrap();
        terminal
            .show(&log(make, "o\u{1b}[31;1m red\u{1b}[2J\n\n"))
            .unwrap();
        terminal.tick();
        let text = screen.contents();
        assert!(text.contains("RUN make  two red"), "{text}");
        assert!(text.contains("COPY  ."), "{text}");

        let status = |current, completed| Event::Status {
            digest: copy,
            id: "transferring".into(),
            current,
            total: 100,
            completed,
            at,
        };
        terminal.show(&status(40, false)).unwrap();
        terminal.tick();
        let text = screen.contents();
        assert!(text.contains(" 40/100 transferring"), "{text}");
        terminal.show(&status(100, true)).unwrap();
        let completed = |digest, outcome| Event::Completed {
            digest,
            at: at + Duration::from_millis(2500),
            outcome,
        };
        terminal.show(&completed(copy, Outcome::Cached)).unwrap();
        let failed = Outcome::Failed("exit code:\n1".into());
        terminal.show(&completed(make, failed)).unwrap();
        let warning = Event::Warning {
            digest: None,
            message: "careful".into(),
        };
        terminal.show(&warning).unwrap();
        terminal.clear().unwrap();
        let text = screen.contents();
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        let expected = [
            "  COPY  .  cached",
            "  RUN make  failed: exit code: 1",
            "  warning: careful",
        ];
        assert_eq!(lines, expected, "{text}");
    }

    #[test]
    fn no_control_character_is_printed() {
        for (text, expected) in [
            ("a\u{1b}[1;31mb\u{1b}[0mc", "abc"),
            ("a\u{1b}]0;title\u{7}b", "a]0;title b"),
            ("tab\tand\rreturn", "tab and return"),
            ("\u{1b}[", ""),
            ("é 世\u{9b}31m", "é 世 31m"),
        ] {
            assert_eq!(printable(text), expected, "{text:?}");
        }
    }
}
