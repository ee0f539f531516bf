//! A file that is rewritten while a build uses it never ends up under the key of its old bytes.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ashlar_llb::{self as llb, Mount, State, copy, mkdir};
use ashlar_solver::progress::Event;
use ashlar_solver::solver::{SolveError, SolveRequest, Solver};
use ashlar_solver::tree::WriteError;
use futures::StreamExt as _;

use super::support::{self, Need, Tree, build, file, files, skipped, temp};

const SIZE: usize = 2 << 20;

fn bytes(letter: u8) -> Vec<u8> {
    vec![letter; SIZE]
}

fn expected(letter: u8) -> Tree {
    Tree::from([("copy".to_owned(), file(0o644, &bytes(letter)))])
}

/// Rewrites the file in place and sets its time back, so that size and time tell nothing.
fn rewrite(path: &Path, letter: u8) {
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .unwrap();
    for offset in (0..SIZE).step_by(1 << 18) {
        file.write_all_at(&vec![letter; 1 << 18], offset as u64)
            .unwrap();
    }
    file.set_modified(support::then()).unwrap();
}

/// Fails unless the error says that a file changed.
fn check_changed(error: &SolveError) {
    let SolveError::Vertex { failure, .. } = error else {
        panic!("{error}")
    };
    let causes = std::iter::successors(Some(failure.as_error()), |error| error.source());
    let mut causes = causes.filter_map(|error| error.downcast_ref());
    let changed = causes.any(|error| matches!(error, WriteError::InputChanged { .. }));
    assert!(changed, "{}", failure.chain());
}

struct Context {
    folder: tempfile::TempDir,
    file: PathBuf,
    solver: Solver,
    request: SolveRequest,
}

impl Context {
    fn new(definition: &State) -> Self {
        let folder = temp();
        let file = folder.path().join("context/big");
        fs::create_dir(folder.path().join("context")).unwrap();
        let solver = support::solver(folder.path().join("state"));
        let request = support::request(definition).local("context", folder.path().join("context"));
        Self {
            folder,
            file,
            solver,
            request,
        }
    }

    /// With nobody writing, each content gives its own result.
    async fn check_quiet(&self) {
        for letter in *b"ab" {
            rewrite(&self.file, letter);
            let tree = build(&self.solver, self.request.clone()).await;
            assert!(
                tree == expected(letter),
                "another content under the key of {letter}: {tree:?}"
            );
        }
    }
}

/// Solves while a thread rewrites the file all the time, at another pace in each round.
fn race(definition: &State, with_base: bool) {
    support::runtime().block_on(async {
        let mut context = Context::new(definition);
        if with_base {
            let base = support::busybox(context.folder.path());
            context.request = context.request.local("base", base);
        }
        rewrite(&context.file, b'a');
        context.check_quiet().await;
        let (mut done, mut refused) = (0, 0);
        for pause in [0, 3, 10, 30, 100].repeat(3) {
            let stop = AtomicBool::new(false);
            let outcome = std::thread::scope(|scope| {
                scope.spawn(|| {
                    for letter in b"ba".iter().cycle() {
                        std::thread::sleep(Duration::from_millis(pause));
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        rewrite(&context.file, *letter);
                    }
                });
                // Records of earlier rounds would be hit before anything is copied.
                let request = context.request.clone().no_cache(true);
                let solve = context.solver.solve(request).result();
                let outcome = tokio::task::block_in_place(|| {
                    tokio::runtime::Handle::current().block_on(solve)
                });
                stop.store(true, Ordering::Relaxed);
                outcome
            });
            match outcome {
                Ok(_) => done += 1,
                Err(error) => {
                    check_changed(&error);
                    refused += 1;
                }
            }
            context.check_quiet().await;
        }
        println!("{done} solves succeeded, {refused} found that the file had changed");
        assert_eq!(done + refused, 15);
    });
}

#[test]
fn local_changed_between_key_and_copy() {
    let context = llb::local("context");
    race(&llb::scratch().file(copy(&context, "/big", "/copy")), false);
}

/// The directory becomes a layer, because something else than a copy wants it.
#[test]
fn local_changed_while_it_becomes_a_layer() {
    let context = llb::local("context");
    let other = llb::scratch().file(mkdir("/other"));
    let merged = llb::merge([context.into(), other]);
    race(&llb::scratch().file(copy(&merged, "/big", "/copy")), false);
}

#[test]
fn local_changed_while_it_is_mounted() {
    let needs = [Need::Root, Need::Tool("busybox")];
    if skipped("local_changed_while_it_is_mounted", &needs) {
        return;
    }
    let context = Mount::bind(llb::local("context")).readonly();
    let step = support::busybox_state().run(["cp", "/in/big", "/out/copy"]);
    let step = step.mount("/in", context).mount("/out", llb::scratch());
    race(&step.output("/out"), true);
}

/// The file changes after the build began and before the copy, which waits for a slow step.
#[test]
fn local_changed_while_a_step_runs() {
    let needs = [Need::Root, Need::Tool("busybox")];
    if skipped("local_changed_while_a_step_runs", &needs) {
        return;
    }
    support::runtime().block_on(async {
        let step = support::busybox_state()
            .run(["sh", "-c", "mkdir /out && touch /out/marker && sleep 1"])
            .ignore_cache()
            .custom_name("slow step");
        let local = llb::local("context");
        let copied = llb::scratch()
            .file(copy(step.root(), "/out/marker", "/marker").copy(&local, "/big", "/copy"));
        let out = llb::scratch().file(copy(&copied, "/copy", "/copy"));
        let mut context = Context::new(&out);
        let base = support::busybox(context.folder.path());
        context.request = context.request.local("base", base);
        rewrite(&context.file, b'a');

        let (mut events, outcome) = context.solver.solve(context.request.clone()).split();
        let mut step = None;
        while let Some(event) = events.next().await {
            match event {
                Event::Vertex { digest, name, .. } if &*name == "slow step" => step = Some(digest),
                Event::Started { digest, .. } if Some(digest) == step => {
                    tokio::time::sleep(Duration::from_millis(400)).await;
                    rewrite(&context.file, b'b');
                }
                _ => {}
            }
        }
        match outcome.await {
            Ok(solved) => assert!(files(&solved).await == expected(b'b')),
            Err(error) => check_changed(&error),
        }
        context.check_quiet().await;
    });
}
