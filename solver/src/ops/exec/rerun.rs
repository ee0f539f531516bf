//! Processes in the place of a failed step: for a person at a terminal, or a program.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ashlar_llb::pb;
use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::{ExecError, ExecOperation};
use crate::cancel::Cancel;
use crate::error::OperationError;
use crate::executor::{Control, Exit, Output, Streams, TerminalSize};
use crate::progress::Stream;
use crate::refs::Ref;
use crate::task::Task;

/// Pieces of output, of 64 KiB at most, that wait for a slow receiver.
const OUTPUT: usize = 16;

/// Pieces of input that wait for a slow process.
const INPUT: usize = 16;

/// Describes a process to be run in the place of a failed one.
#[derive(Debug)]
#[must_use = "nothing runs before it is started"]
pub struct Rerun {
    operation: ExecOperation,
    inputs: Vec<Ref>,
    terminal: Option<TerminalSize>,
}

impl Rerun {
    pub(super) fn new(operation: ExecOperation, inputs: Vec<Ref>) -> Self {
        Self {
            operation,
            inputs,
            terminal: None,
        }
    }

    /// Gives it a controlling terminal of this size. Without one it has pipes.
    pub fn terminal(mut self, size: TerminalSize) -> Self {
        self.terminal = Some(size);
        self
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        let env = &mut self.meta().env;
        let is_it = |entry: &str| entry.split('=').next() == Some(name);
        env.retain(|entry| !is_it(entry));
        env.push(format!("{name}={value}"));
        self
    }

    /// Sets who it runs as: a name or number, with a group after `:` if need be.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.meta().user = user.into();
        self
    }

    fn meta(&mut self) -> &mut pb::Meta {
        let op = Arc::make_mut(&mut self.operation.op);
        op.meta.get_or_insert_default()
    }

    /// Starts it, on the current tokio runtime. It does not take a permit of the solver's: a shell
    /// that waits for its user must hold up no build.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(self) -> StepProcess {
        let (to_process, stdin) = mpsc::channel(INPUT);
        let (control, controls) = mpsc::unbounded_channel();
        let (sender, receiver) = mpsc::channel(OUTPUT);
        let mut streams = Streams::new(Arc::new(Channel(sender)))
            .stdin(stdin)
            .control(controls);
        streams.terminal = self.terminal;
        let cancel = Cancel::new();
        let canceller = cancel.clone();
        let command = self.operation.meta().args.join(" ");
        let task = tokio::spawn(async move {
            let execution = self
                .operation
                .execute(self.inputs, streams, None, &cancel)
                .await;
            let (exit, mounts) = execution?;
            mounts.discard().await;
            exit.map_err(|source| {
                let step = None;
                ExecError::Run {
                    command,
                    source,
                    step,
                }
                .into()
            })
        });
        StepProcess {
            input: StepInput {
                stdin: to_process,
                control,
            },
            output: StepOutput(receiver),
            exit: StepExit(Task::new(task, canceller)),
        }
    }
}

/// A process that runs in the place of a failed one. Its parts may be used in different tasks.
#[derive(Debug)]
#[non_exhaustive]
pub struct StepProcess {
    /// What it reads and is told.
    pub input: StepInput,
    /// What it writes.
    pub output: StepOutput,
    /// How it ends.
    pub exit: StepExit,
}

/// The input of a process. Dropping it ends the input, but not that of a terminal, where `^D` (the
/// byte 4) stands for the end.
#[derive(Debug)]
pub struct StepInput {
    stdin: mpsc::Sender<Bytes>,
    control: mpsc::UnboundedSender<Control>,
}

impl StepInput {
    /// Sends input; waits while the process does not read. Returns whether anybody is there to read
    /// it.
    ///
    /// # Cancellation
    /// Dropping the future drops the piece.
    pub async fn write(&self, data: impl Into<Bytes>) -> bool {
        self.stdin.send(data.into()).await.is_ok()
    }

    /// Tells it that its terminal has another size.
    pub fn resize(&self, size: TerminalSize) {
        let _ended = self.control.send(Control::Resize(size));
    }

    /// Sends it a signal; see [`Control::Signal`] for what arrives.
    pub fn signal(&self, number: i32) {
        let _ended = self.control.send(Control::Signal(number));
    }
}

/// The output of a process: a stream of pieces that ends with it. The process waits while nobody
/// takes them; when this is dropped, they are thrown away.
#[derive(Debug)]
pub struct StepOutput(mpsc::Receiver<(Stream, Bytes)>);

impl futures::Stream for StepOutput {
    type Item = (Stream, Bytes);

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}

/// The end of a process, to be awaited: what it wrote is removed then. Dropping it kills the
/// process, which is gone when the drop returns; what it wrote is removed soon afterwards, and holds
/// on to the failed step until then.
#[derive(Debug)]
pub struct StepExit(Task<Result<Exit, OperationError>>);

impl StepExit {
    /// Kills the process and all it started; they are gone when this returns.
    pub fn kill(&self) {
        self.0.cancel().cancel();
    }

    /// A handle to kill it with from elsewhere.
    pub fn canceller(&self) -> Cancel {
        self.0.cancel().clone()
    }
}

impl Future for StepExit {
    type Output = Result<Exit, OperationError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|outcome| outcome.unwrap_or(Err(OperationError::Cancelled)))
    }
}

/// Output that somebody may take.
#[derive(Debug)]
struct Channel(mpsc::Sender<(Stream, Bytes)>);

#[async_trait]
impl Output for Channel {
    async fn write(&self, stream: Stream, data: Bytes) {
        let _nobody_listens = self.0.send((stream, data)).await;
    }
}
