//! An embeddable build engine: executes BuildKit's LLB in the caller's process, without a daemon.
//!
//! A build is a graph: sources, steps that run a process, and changes to files. The graph is
//! described with [`ashlar_llb`]; a [`Solver`](solver::Solver) runs what is not in its cache; the
//! exporters of `ashlar-exporters` make images and directories of the result.
//!
//! # A build from one end to the other
//!
//! This one only copies and writes files, so that it needs neither root nor an image:
//!
//! ```
//! use ashlar_llb::{self as llb, Constraints, Platform, copy, mkfile};
//! use ashlar_solver::progress::{Event, Outcome};
//! use ashlar_solver::solver::{SolveError, SolveRequest, Solver};
//! use ashlar_solver::tree::TreePath;
//! use futures::StreamExt as _;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! # let folder = tempfile::tempdir()?;
//! # let (state, source) = (folder.path().join("state"), folder.path().join("source"));
//! # std::fs::create_dir(&source)?;
//! # std::fs::write(source.join("main.c"), "int main(void) { return 0; }")?;
//! // What to build. Nothing happens yet.
//! let files = llb::local("source").include(["*.c"]);
//! let tree = llb::scratch()
//!     .file(copy(&files, "/main.c", "/src/").create_dest_path())
//!     .file(mkfile("/VERSION", "1\n"));
//! let definition = tree.marshal(&Constraints::new(Platform::linux_amd64()))?;
//!
//! // The engine, with its store in the directory `state`. It uses the runtime it is built in.
//! let solver = Solver::builder().root(&state).build()?;
//!
//! // One solve; the definition's `source` is lent by the caller.
//! let request = SolveRequest::new(definition).local("source", &source);
//! let (mut events, outcome) = solver.solve(request.clone()).split();
//! let mut ran = 0;
//! while let Some(event) = events.next().await {
//!     ran += usize::from(matches!(event, Event::Completed { outcome: Outcome::Ran, .. }));
//! }
//! let solved = outcome.await?;
//! assert_eq!((ran, solved.ran()), (2, 2));
//!
//! // The result is a tree of files, here read in memory; exporters write it.
//! let view = solved.result.reference().view().map_err(SolveError::from)?;
//! assert!(view.lookup(&TreePath::new("src/main.c")?).is_some());
//!
//! // The same again: the directory is looked at, nothing runs.
//! assert_eq!(solver.solve(request).result().await?.ran(), 0);
//! # Ok(())
//! # })
//! # }
//! ```
//!
//! # The way through the crate
//!
//! | you want to | see |
//! |---|---|
//! | open an engine, choose its directory, network and limits | [`Solver`](solver::Solver), [`SolverBuilder`](solver::SolverBuilder) |
//! | run a definition, lend it directories | [`SolveRequest`](solver::SolveRequest), [`session`] |
//! | follow a solve, await it, cancel it | [`SolveHandle`](solver::SolveHandle), [`progress::Event`] |
//! | show progress on a terminal | `terminal::Terminal`, with the feature `terminal` |
//! | lend secrets and ssh agents | [`session`] |
//! | know why a vertex ran | [`Solved::explain`](solver::Solved::explain), [`cache::MissReason`] |
//! | take cache records along, use those of others | [`Solved::export_cache`](solver::Solved::export_cache), [`CacheImport`](solver::CacheImport), [`cache::records`] |
//! | know whose fault an error is, and what to do | [`SolveError`](solver::SolveError), [`error::Blame`] |
//! | look into a result | [`BuildResult`](result::BuildResult), [`refs::Ref`] |
//! | look into what a failed step left, or run a shell there | [`SolveError::failed_step`](solver::SolveError::failed_step), [`FailedStep`](solver::FailedStep) |
//! | run steps by something else than the built-in sandbox | [`executor::Executor`] |
//! | write an exporter | [`result::Store`], [`snapshot::Layer`], [`tree::pack`] |
//!
//! # Processes
//!
//! An exec op runs in namespaces of its own, started by `ashlar-sandbox`; nothing has to be
//! installed. An ordinary user can run steps too, where the kernel allows user namespaces and
//! overlay mounts in them, but has one user and one group there. Sources, file ops, merges,
//! exports and the cache always work as an ordinary user; what a user cannot have on disk (owners,
//! devices) lives in the index of a layer and is in the exported image all the same.
//!
//! # Being a guest
//!
//! The crate starts no runtime, installs no signal handler, prints nothing, and changes neither
//! working directory nor umask nor environment. Cancelling or dropping a solve kills its
//! processes before the call returns. What the solver started ends with the last clone of it.
//!
//! Several solvers, also of several processes of one user, may share a directory at the same
//! time.
//!
//! # Traces
//!
//! What a program wants to show its user are the events of a solve. For whoever looks for the time
//! that something took there are spans of `tracing`: `solve` (level info), in it `vertex` for each
//! piece of work on a vertex (debug; `work` is `cache map`, `content`, `load` or `run`, beside `digest`
//! and `name`), in it `request` for each request to a registry (debug; `host`, `method`) and the spans
//! of nested builds. No span has a credential, a secret or an argument of a step in it.
//!
//! # The layers below
//!
//! The remaining modules are the engine itself, from the bottom: [`content`] (blobs), [`meta`]
//! (database), [`tree`] (files as data), [`snapshot`] (layers on disk), [`source`], [`executor`],
//! [`operation`] and [`ops`] (what vertices do), [`cache`] and [`scheduler`] (what runs and what
//! does not). They are public for tests and for exporters, and change more than the front door.

pub mod cache;
pub mod cancel;
pub mod clock;
pub mod content;
pub mod dir;
pub mod error;
pub mod executor;
pub mod id;
pub mod images;
pub mod limits;
pub mod meta;
pub mod oci;
pub mod operation;
pub mod ops;
pub mod progress;
pub mod provenance;
pub mod refs;
#[cfg(feature = "registry")]
pub mod registry;
pub mod result;
pub mod root;
pub mod scheduler;
pub mod session;
pub mod snapshot;
pub mod solver;
pub mod source;
mod sync;
mod task;
#[cfg(feature = "terminal")]
pub mod terminal;
pub mod tree;
pub mod turns;
