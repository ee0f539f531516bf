//! An executor for tests: it does what it is told, without a process.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Executor, ExecutorError, Exit, ExitStatus, Process, Streams};
use crate::cancel::{Cancel, Cancelled};
use crate::progress::{Stream, Usage};

/// What a run does to files.
pub type Effect = Box<dyn FnOnce(&Process) + Send>;

/// What one run does.
#[non_exhaustive]
pub struct Script {
    /// Written in order.
    pub output: Vec<(Stream, Bytes)>,
    /// Does what the process would do to its files.
    pub effect: Option<Effect>,
    /// How it ends; `None`: it runs until it is cancelled.
    pub status: Option<ExitStatus>,
    /// What it says it used.
    pub usage: Option<Usage>,
    /// Whether it writes what it reads, after the rest of its output, until its input ends.
    pub echoes: bool,
}

impl Script {
    /// A run that writes nothing and ends with `code`.
    pub fn exit(code: i32) -> Self {
        Self {
            output: Vec::new(),
            effect: None,
            status: Some(ExitStatus::Exited(code)),
            usage: None,
            echoes: false,
        }
    }

    /// A run that never ends by itself.
    pub fn endless() -> Self {
        Self {
            output: Vec::new(),
            effect: None,
            status: None,
            usage: None,
            echoes: false,
        }
    }

    /// Adds output.
    #[must_use]
    pub fn writes(mut self, stream: Stream, data: impl Into<Bytes>) -> Self {
        self.output.push((stream, data.into()));
        self
    }

    /// Sets what it used.
    #[must_use]
    pub fn uses(mut self, usage: Usage) -> Self {
        self.usage = Some(usage);
        self
    }

    /// Writes what it reads.
    #[must_use]
    pub fn echoes(mut self) -> Self {
        self.echoes = true;
        self
    }

    /// Sets what it does to files.
    #[must_use]
    pub fn does(mut self, effect: impl FnOnce(&Process) + Send + 'static) -> Self {
        self.effect = Some(Box::new(effect));
        self
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("Script");
        f.field("output", &self.output)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// Plays scripts, one per run, in order. A run without a script is an error.
#[derive(Debug, Default)]
pub struct ScriptedExecutor {
    /// What is still to be played, and what was run.
    state: Mutex<(VecDeque<Script>, Vec<Process>)>,
}

impl ScriptedExecutor {
    /// Plays `scripts`.
    pub fn new(scripts: impl IntoIterator<Item = Script>) -> Self {
        Self {
            state: Mutex::new((scripts.into_iter().collect(), Vec::new())),
        }
    }

    /// Takes what was run since the last call, in order.
    pub fn take_runs(&self) -> Vec<Process> {
        std::mem::take(&mut self.lock().1)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (VecDeque<Script>, Vec<Process>)> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn next(&self, process: &Process) -> Option<Script> {
        let mut state = self.lock();
        state.1.push(process.clone());
        state.0.pop_front()
    }
}

#[async_trait]
impl Executor for ScriptedExecutor {
    async fn run(
        &self,
        process: Process,
        mut streams: Streams,
        cancel: &Cancel,
    ) -> Result<Exit, ExecutorError> {
        cancel.check()?;
        let script = self.next(&process);
        let script = script.ok_or(ExecutorError::Unscripted {
            args: process.args.clone(),
        })?;
        let play = async {
            for (stream, data) in script.output {
                streams.output.write(stream, data).await;
            }
            if let Some(stdin) = streams.stdin.as_mut().filter(|_| script.echoes) {
                while let Some(data) = stdin.recv().await {
                    streams.output.write(Stream::Stdout, data).await;
                }
            }
            if let Some(effect) = script.effect {
                effect(&process);
            }
            match script.status {
                Some(status) => Exit::new(status).usage(script.usage),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Cancelled.into()),
            exit = play => Ok(exit),
        }
    }
}
