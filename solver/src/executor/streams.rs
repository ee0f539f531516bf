//! What a process is connected to while it runs.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::progress::{Reporter, Stream};

/// Takes what a process writes.
#[async_trait]
pub trait Output: Send + Sync + Debug {
    /// Takes a piece of output, cut at an arbitrary place; pieces of one stream come in order. The
    /// process waits while this does. Dropping the future drops the piece.
    async fn write(&self, stream: Stream, data: Bytes);

    /// Takes something that the user should know of the run, one line. Forgotten by default.
    fn warn(&self, message: String) {
        drop(message);
    }
}

#[async_trait]
impl Output for Reporter {
    async fn write(&self, stream: Stream, data: Bytes) {
        self.log(stream, data).await;
    }

    fn warn(&self, message: String) {
        Self::warn(self, message);
    }
}

/// How large a terminal is, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a terminal has two dimensions")]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

impl Default for TerminalSize {
    /// The size of the terminals that all others imitate.
    fn default() -> Self {
        Self {
            rows: 24,
            columns: 80,
        }
    }
}

/// What can be done to a process that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Control {
    /// Its terminal changed its size; it is told by SIGWINCH. Means nothing without a terminal.
    Resize(TerminalSize),
    /// It gets a signal, by the kernel's number; those it started do not. It is the init process
    /// of its PID namespace, to which the kernel passes only signals it has a handler for, SIGKILL
    /// and SIGSTOP; `^C` written to its terminal reaches what runs in the foreground.
    Signal(i32),
}

/// What a process reads, writes and is told.
#[derive(Debug)]
#[non_exhaustive]
pub struct Streams {
    /// Takes what it writes. With a terminal all of it is [`Stream::Stdout`].
    pub output: Arc<dyn Output>,
    /// What it reads, until the sender is dropped: then its input is at its end. What it does not
    /// read fills the channel, and is dropped when it ends. With a terminal there is no such end;
    /// `^D` stands for it. `None`: its input is empty, as that of every step of a build.
    pub stdin: Option<mpsc::Receiver<Bytes>>,
    /// Gives it a controlling terminal of this size in place of pipes.
    pub terminal: Option<TerminalSize>,
    /// What is done to it while it runs. Nothing, once the sender is dropped.
    pub control: Option<mpsc::UnboundedReceiver<Control>>,
}

impl Streams {
    /// No input, no terminal: what the steps of a build get.
    pub fn new(output: Arc<dyn Output>) -> Self {
        Self {
            output,
            stdin: None,
            terminal: None,
            control: None,
        }
    }

    /// Sets what it reads.
    #[must_use]
    pub fn stdin(mut self, stdin: mpsc::Receiver<Bytes>) -> Self {
        self.stdin = Some(stdin);
        self
    }

    /// Gives it a terminal.
    #[must_use]
    pub fn terminal(mut self, size: TerminalSize) -> Self {
        self.terminal = Some(size);
        self
    }

    /// Sets what is done to it.
    #[must_use]
    pub fn control(mut self, control: mpsc::UnboundedReceiver<Control>) -> Self {
        self.control = Some(control);
        self
    }
}
