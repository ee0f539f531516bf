//! Runs a step; if it fails, opens a shell in what it left behind.
//!
//! ```text
//! cargo run --example shell_on_failure -- 'make > /log 2>&1'
//! ```
//!
//! If standard input is a terminal, the shell gets one of its own, and `exit` or `^D` ends it.
//! Otherwise it runs the commands that it reads. What the shell changes is gone afterwards;
//! `--export DIR` writes the failed root into a directory first.

use std::error::Error;
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::PathBuf;

use ashlar_exporters::{Exporter as _, Local};
use ashlar_llb::{self as llb, Constraints, Platform, State, copy};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::executor::TerminalSize;
use ashlar_solver::progress::{Event, Stream};
use ashlar_solver::solver::{FailedStep, SolveRequest, Solver, StepProcess};
use bytes::Bytes;
use futures::StreamExt as _;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Where a static busybox is looked for, the base of the step.
const BUSYBOX: [&str; 2] = ["/bin/busybox", "/usr/bin/busybox"];

/// The names under which the base has it.
const NAMES: [&str; 12] = [
    "sh", "cat", "echo", "env", "grep", "id", "ls", "mkdir", "rm", "sleep", "stty", "tty",
];

struct Arguments {
    script: String,
    base: Option<(PathBuf, String)>,
    root: PathBuf,
    export: Option<PathBuf>,
}

#[expect(
    clippy::disallowed_methods,
    reason = "an example is a program of its own"
)]
fn arguments() -> Result<Arguments, Box<dyn Error>> {
    let usage = "usage: shell_on_failure [--base LAYOUT:TAG] [--root DIR] [--export DIR] SCRIPT";
    let home = std::env::var("HOME").unwrap_or_else(|_| "/tmp".to_owned());
    let (mut script, mut base, mut export) = (None, None, None);
    let mut root = PathBuf::from(home).join(".cache/ashlar");
    let mut rest = std::env::args().skip(1);
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or(usage);
        match argument.as_str() {
            "--base" => {
                let value = value()?;
                let (layout, tag) = value.rsplit_once(':').ok_or(usage)?;
                base = Some((PathBuf::from(layout), tag.to_owned()));
            }
            "--root" => root = value()?.into(),
            "--export" => export = Some(value()?.into()),
            _ if script.is_none() && !argument.starts_with("--") => script = Some(argument),
            _ => return Err(usage.into()),
        }
    }
    Ok(Arguments {
        script: script.ok_or(usage)?,
        base,
        root,
        export,
    })
}

/// The base, and the request that lends it.
fn base(arguments: &Arguments) -> Result<(State, SolveRequest), Box<dyn Error>> {
    let request = SolveRequest::new(llb::Definition::default());
    if let Some((layout, tag)) = &arguments.base {
        let state = llb::oci_layout(format!("base:{tag}")).store("base");
        return Ok((state.into(), request.oci_layout("base", layout)));
    }
    let mut places = BUSYBOX.iter().map(PathBuf::from);
    let busybox = places.find(|path| path.is_file());
    let busybox = busybox.ok_or("no busybox here: install busybox-static or give --base")?;
    let local = llb::local("busybox").include(["busybox"]);
    let copied = copy(&local, "/busybox", "/bin/busybox").create_dest_path();
    let mut state = llb::scratch()
        .file(copied)
        .file(llb::mkdir("/tmp").mode(0o777));
    for name in NAMES {
        state = state.file(llb::symlink("busybox", format!("/bin/{name}")));
    }
    let folder = busybox.parent().ok_or("busybox is in a directory")?;
    Ok((state, request.local("busybox", folder)))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = arguments()?;
    let (base, mut request) = base(&arguments)?;
    let step = base.run(["/bin/sh", "-c", &arguments.script]).root();
    request.definition = step.marshal(&Constraints::new(Platform::of_target()))?;

    let solver = Solver::builder().root(&arguments.root).build()?;
    let (mut events, outcome) = solver.solve(request).split();
    while let Some(event) = events.next().await {
        if let Event::Log { stream, data, .. } = event {
            write(stream, &data)?;
        }
    }
    let error = match outcome.await {
        Ok(_) => {
            eprintln!("the step succeeded");
            return Ok(());
        }
        Err(error) => error,
    };
    eprintln!("{error}");
    let Some(step) = error.failed_step() else {
        return Err("nothing is left to look at".into());
    };
    if let Some(directory) = &arguments.export {
        let files = Local::new(directory);
        files.export(&step.root(), &Cancel::new()).await?;
        eprintln!("the failed root is in {}", directory.display());
    }
    let code = shell(step).await?;
    eprintln!("the shell ended with {code}");
    // Standard input may still be waited for.
    std::process::exit(1)
}

/// Opens a shell in the failed root.
async fn shell(step: &FailedStep) -> Result<i32, Box<dyn Error>> {
    let mut rerun = step.rerun(["/bin/sh"]).env("PS1", "failed step> ");
    let raw = if std::io::stdin().is_terminal() {
        eprintln!("a shell in the failed root; end it with exit or ^D");
        rerun = rerun.terminal(size()).env("TERM", "xterm");
        Some(Raw::new()?)
    } else {
        None
    };
    let StepProcess {
        input,
        mut output,
        exit,
        ..
    } = rerun.start();
    let mut typed = read_input();
    let mut resized = signal(SignalKind::window_change())?;
    let feed = tokio::spawn(async move {
        loop {
            tokio::select! {
                data = typed.recv() => match data {
                    Some(data) => {
                        input.write(data).await;
                    }
                    None => break,
                },
                _ = resized.recv() => input.resize(size()),
            }
        }
    });
    while let Some((stream, data)) = output.next().await {
        write(stream, &data)?;
    }
    let ended = exit.await;
    feed.abort();
    drop(raw);
    Ok(ended?.status.code())
}

/// Reads standard input on a thread of its own: nothing else can wait for it and be stopped.
fn read_input() -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length) = std::io::stdin().lock().read(&mut buffer) {
            let data = Bytes::copy_from_slice(&buffer[..length]);
            if length == 0 || sender.blocking_send(data).is_err() {
                break;
            }
        }
    });
    receiver
}

fn write(stream: Stream, data: &[u8]) -> std::io::Result<()> {
    match stream {
        Stream::Stdout => {
            let mut out = std::io::stdout().lock();
            out.write_all(data)?;
            out.flush()
        }
        Stream::Stderr => std::io::stderr().write_all(data),
    }
}

/// The size of the terminal that this program runs on.
fn size() -> TerminalSize {
    let Ok(size) = tcgetwinsize(std::io::stdin()) else {
        return TerminalSize::default();
    };
    TerminalSize {
        rows: size.ws_row,
        columns: size.ws_col,
    }
}

/// Keeps the terminal from echoing and from acting on what is typed: the shell's own does that.
struct Raw(Termios);

impl Raw {
    fn new() -> std::io::Result<Self> {
        let before = tcgetattr(std::io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.0);
    }
}
