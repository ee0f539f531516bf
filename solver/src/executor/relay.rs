//! Carries bytes between a process and [`Streams`].
//!
//! Owns the host's ends of its pipes or of its terminal. Output waits for a slow receiver; input
//! waits for a slow process; neither waits for the other.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use bytes::Bytes;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::mpsc;

use super::{Control, Output, Streams, TerminalSize};
use crate::cancel::Cancel;
use crate::progress::Stream;

/// Bytes read from a stream at once: what a pipe holds.
const CHUNK: usize = 64 << 10;

/// The same of a stream that has not had as many yet: most steps say little.
const FIRST: usize = 1 << 10;

/// The host's ends.
#[derive(Debug)]
pub(super) struct Relay {
    stdin: Option<Sender>,
    stdout: Receiver,
    /// None of its own with a terminal.
    stderr: Option<Receiver>,
    /// The master side.
    terminal: Option<OwnedFd>,
}

/// The ends of the process.
#[derive(Debug)]
pub(super) struct Ends {
    /// `None`: its input is empty.
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

impl Relay {
    /// Makes pipes; one for the input only if there is any.
    pub(super) fn pipes(with_stdin: bool) -> io::Result<(Self, Ends)> {
        let (stdin, input) = if with_stdin {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
            (Some(Sender::from_owned_fd(write)?), Some(read))
        } else {
            (None, None)
        };
        let (out, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (err, stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        let relay = Self {
            stdin,
            stdout: Receiver::from_owned_fd(out)?,
            stderr: Some(Receiver::from_owned_fd(err)?),
            terminal: None,
        };
        let ends = Ends {
            stdin: input,
            stdout,
            stderr,
        };
        Ok((relay, ends))
    }

    /// Takes the master side of a terminal.
    pub(super) fn terminal(master: BorrowedFd<'_>) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(master, true)?;
        let handle = || master.try_clone_to_owned();
        // To the runtime a terminal is a pipe each way.
        Ok(Self {
            stdin: Some(Sender::from_owned_fd_unchecked(handle()?)?),
            stdout: Receiver::from_owned_fd_unchecked(handle()?)?,
            stderr: None,
            terminal: Some(handle()?),
        })
    }

    /// Carries until all output is delivered: each stream has ended, or `ended` is raised and
    /// nothing is left in it. Something outside may still hold the other end. `signal` passes a
    /// signal on.
    pub(super) async fn carry(
        self,
        streams: Streams,
        ended: &Cancel,
        signal: impl Fn(i32) + Send,
    ) -> io::Result<()> {
        let output = &*streams.output;
        let out = forward(&self.stdout, Stream::Stdout, output, ended);
        let err = async {
            match &self.stderr {
                Some(stderr) => forward(stderr, Stream::Stderr, output, ended).await,
                None => Ok(()),
            }
        };
        let resize = |size: TerminalSize| {
            if let Some(terminal) = &self.terminal {
                let size = Winsize {
                    ws_row: size.rows,
                    ws_col: size.columns,
                    ws_xpixel: 0,
                    ws_ypixel: 0,
                };
                // The process may have ended, and its terminal with it.
                let _ = tcsetwinsize(terminal, size);
            }
        };
        tokio::select! {
            done = async { futures::try_join!(out, err).map(drop) } => done,
            () = feed(self.stdin, streams.stdin) => Ok(()),
            () = obey(streams.control, resize, signal) => Ok(()),
        }
    }
}

/// Sends a stream on, until it ends or the process has ended and nothing is left in it.
async fn forward(
    from: &Receiver,
    stream: Stream,
    output: &dyn Output,
    ended: &Cancel,
) -> io::Result<()> {
    let mut buffer = vec![0; FIRST];
    loop {
        let over = tokio::select! {
            biased;
            ready = from.readable() => {
                ready?;
                false
            }
            () = ended.cancelled() => true,
        };
        loop {
            let read = if over {
                // The runtime may not have been told yet of what was written last, and would say
                // that there is nothing.
                rustix::io::read(from, &mut buffer).map_err(io::Error::from)
            } else {
                from.try_read(&mut buffer)
            };
            match read {
                Ok(0) => return Ok(()),
                Ok(length) => {
                    let data = Bytes::copy_from_slice(&buffer[..length]);
                    output.write(stream, data).await;
                    if length == buffer.len() {
                        buffer.resize(CHUNK, 0);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && over => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The last process that had the terminal open is gone.
                Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => {
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Sends the input on and closes it at its end, or when the process reads no more. Never returns.
async fn feed(to: Option<Sender>, from: Option<mpsc::Receiver<Bytes>>) {
    if let (Some(to), Some(mut from)) = (to, from) {
        while let Some(data) = from.recv().await {
            if write_all(&to, &data).await.is_err() {
                break;
            }
        }
    }
    std::future::pending::<()>().await;
}

async fn write_all(to: &Sender, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        to.writable().await?;
        match to.try_write(data) {
            Ok(written) => data = &data[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Does what is asked. Never returns.
async fn obey(
    control: Option<mpsc::UnboundedReceiver<Control>>,
    resize: impl Fn(TerminalSize),
    signal: impl Fn(i32),
) {
    if let Some(mut control) = control {
        while let Some(control) = control.recv().await {
            match control {
                Control::Resize(size) => resize(size),
                Control::Signal(number) => signal(number),
            }
        }
    }
    std::future::pending::<()>().await;
}
