//! The threads of a run, and what is ready for them.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;
use std::time::Duration;

use ashlar_solver::cancel::{Cancel, Cancelled};

use super::codec::{Block, Codecs, block_size};
use super::cut::Cutter;
use super::ordered::Ordered;
use super::{Opened, Work};

/// Bytes of blocks that may be under way for each thread: one that is filled and some that wait.
const BUDGET: usize = 8 << 20;

/// How many of the largest blocks may be under way beside one for each thread: one that is filled,
/// and one that waits.
const AHEAD: usize = 2;

/// Bytes of blocks that may be under way.
fn budget<W: Work>(works: &[W], threads: usize) -> usize {
    let sizes = works.iter().map(|work| block_size(work.compression()));
    let largest = sizes.max().unwrap_or(0);
    (threads * BUDGET).max((threads + AHEAD) * largest)
}

/// How long a thread waits before it looks whether the work was cancelled.
const LOOK: Duration = Duration::from_millis(20);

/// One run.
pub(super) struct Pool<'a, W: Work> {
    works: &'a [W],
    cancel: &'a Cancel,
    threads: usize,
    budget: usize,
    outputs: Vec<Ordered<W>>,
    state: Mutex<State>,
    /// Something became ready, or free.
    changed: Condvar,
    failure: Mutex<Option<W::Error>>,
}

/// What the threads share.
struct State {
    ready: VecDeque<Ready>,
    /// The first work that nobody began.
    next: usize,
    /// Works that are being produced.
    producing: usize,
    /// Bytes of blocks that are under way.
    used: usize,
    /// Threads, the caller's included.
    threads: usize,
    stopped: bool,
    /// Buffers that were used before.
    spare: Vec<Vec<u8>>,
}

/// A block that can be compressed.
struct Ready {
    work: usize,
    number: u64,
    block: Block,
    /// What it counts in the budget.
    reserved: usize,
}

/// What a thread does next.
enum Task {
    Produce(usize),
    Press(Ready),
}

/// Ends the other threads if this one panics, so that the panic can go on.
struct Unwinding<'p, 'a, W: Work>(&'p Pool<'a, W>);

impl<W: Work> Drop for Unwinding<'_, '_, W> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
    }
}

/// A thread that produces: it can compress what is ready, and have other threads started.
pub(super) struct Thread<'scope, 'env, 'a, W: Work> {
    scope: &'scope Scope<'scope, 'env>,
    pool: &'env Pool<'a, W>,
    codecs: Codecs,
}

impl<'a, W: Work> Pool<'a, W> {
    pub(super) fn new(works: &'a [W], threads: usize, cancel: &'a Cancel) -> Self {
        Self {
            works,
            cancel,
            threads,
            budget: budget(works, threads),
            outputs: works.iter().map(|_| Ordered::new()).collect(),
            state: Mutex::new(State {
                ready: VecDeque::new(),
                next: 0,
                producing: 0,
                used: 0,
                threads: 1,
                stopped: false,
                spare: Vec::new(),
            }),
            changed: Condvar::new(),
            failure: Mutex::new(None),
        }
    }

    /// Does everything.
    pub(super) fn run(self) -> Result<Vec<W::Made>, W::Error> {
        std::thread::scope(|scope| {
            let mut thread = Thread {
                scope,
                pool: &self,
                codecs: Codecs::default(),
            };
            // A few small layers are done sooner than threads are started.
            if self.works.len() > 4 {
                thread.help();
            }
            thread.work();
        });
        // What failed because of it is not told.
        self.cancel.check()?;
        let failure = self.failure.into_inner();
        if let Some(error) = failure.unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let made = self.outputs.into_iter().map(Ordered::into_made).collect();
        let made: Option<Vec<W::Made>> = made;
        made.ok_or_else(|| Cancelled.into())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'s>(&self, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        let waited = self.changed.wait_timeout(state, LOOK);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn stop(&self) {
        self.state().stopped = true;
        self.changed.notify_all();
    }

    /// Ends the run with the first error.
    fn fail(&self, error: W::Error) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
        drop(failure);
        self.stop();
    }

    fn stopped(&self, state: &State) -> bool {
        state.stopped || self.cancel.is_cancelled()
    }
}

impl<'scope, 'env, 'a, W: Work> Thread<'scope, 'env, 'a, W> {
    /// Starts the other threads, if they are not there. Without one the rest does it all.
    fn help(&self) {
        let pool = self.pool;
        let missing = {
            let mut state = pool.state();
            let missing = pool.threads.saturating_sub(state.threads);
            state.threads += missing;
            missing
        };
        for _ in 0..missing {
            let (scope, builder) = (self.scope, std::thread::Builder::new());
            let started = builder
                .name("ashlar-blob".to_owned())
                .spawn_scoped(scope, move || {
                    let codecs = Codecs::default();
                    Thread {
                        scope,
                        pool,
                        codecs,
                    }
                    .work();
                });
            if started.is_err() {
                break;
            }
        }
    }

    /// Does what there is to do, until there is no more.
    fn work(&mut self) {
        let pool = self.pool;
        let _unwinding = Unwinding(pool);
        loop {
            let mut state = pool.state();
            let task = loop {
                if pool.stopped(&state) {
                    return;
                }
                if let Some(ready) = state.ready.pop_front() {
                    break Task::Press(ready);
                }
                if state.next < pool.works.len() {
                    state.next += 1;
                    state.producing += 1;
                    break Task::Produce(state.next - 1);
                }
                if state.producing == 0 {
                    return;
                }
                state = pool.wait(state);
            };
            drop(state);
            match task {
                Task::Press(ready) => self.press(ready),
                Task::Produce(at) => {
                    if let Err(error) = self.produce(at) {
                        pool.fail(error);
                    }
                    pool.state().producing -= 1;
                    pool.changed.notify_all();
                }
            }
        }
    }

    fn produce(&mut self, at: usize) -> Result<(), W::Error> {
        let pool = self.pool;
        let (work, ordered) = (&pool.works[at], &pool.outputs[at]);
        match work.open()? {
            Opened::Made(made) => {
                ordered.made(made);
                return Ok(());
            }
            Opened::Output(output) => ordered.begin(output),
        }
        let mut cutter = Cutter::new(work.compression(), at, self);
        work.produce(&mut cutter)?;
        let end = cutter.finish()?;
        self.advance(at, |ordered| ordered.end(end))
    }

    /// Lets the output go on after `change`, and gives what was written back.
    fn advance(&mut self, at: usize, change: impl FnOnce(&Ordered<W>)) -> Result<(), W::Error> {
        let pool = self.pool;
        let ordered = &pool.outputs[at];
        change(ordered);
        ordered.advance(
            &pool.works[at],
            &mut self.codecs,
            &mut |buffer, reserved| {
                let mut state = pool.state();
                state.used -= reserved;
                if state.spare.len() < 2 * pool.threads {
                    state.spare.push(buffer);
                }
                drop(state);
                pool.changed.notify_all();
            },
        )
    }

    fn press(&mut self, ready: Ready) {
        let pool = self.pool;
        let Ready {
            work,
            number,
            block,
            reserved,
        } = ready;
        let spare = self.buffer();
        let compression = pool.works[work].compression();
        let pressed = self.codecs.press(compression, block, spare);
        let done = pressed.map_err(W::Error::from).and_then(|(piece, buffer)| {
            self.give_back(buffer);
            self.advance(work, |ordered| ordered.add(number, piece, reserved))
        });
        if let Err(error) = done {
            pool.fail(error);
        }
    }

    fn buffer(&self) -> Vec<u8> {
        let mut state = self.pool.state();
        let shortest = (0..state.spare.len()).min_by_key(|at| state.spare[*at].len());
        let buffer = shortest.map(|at| state.spare.swap_remove(at));
        drop(state);
        let mut buffer = buffer.unwrap_or_default();
        buffer.clear();
        buffer
    }

    fn give_back(&self, buffer: Vec<u8>) {
        let mut state = self.pool.state();
        if state.spare.len() < 2 * self.pool.threads {
            state.spare.push(buffer);
        }
    }
}

/// What a cutter needs of the pool.
pub(super) trait Blocks {
    /// A buffer for a block of at most `size` bytes, with anything in it. Waits for it, or makes it.
    fn reserve(&mut self, size: usize) -> std::io::Result<Vec<u8>>;

    /// Takes a block that is complete. `full`: there is more to come.
    fn submit(&mut self, work: usize, number: u64, block: Block, reserved: usize, full: bool);
}

impl<W: Work> Blocks for Thread<'_, '_, '_, W> {
    fn reserve(&mut self, size: usize) -> std::io::Result<Vec<u8>> {
        let pool = self.pool;
        let mut state = pool.state();
        loop {
            if pool.stopped(&state) {
                // Why is told by who stopped it.
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
            if state.used == 0 || state.used + size <= pool.budget {
                state.used += size;
                // One that has been filled need not be filled with zeros.
                let longest = (0..state.spare.len()).max_by_key(|at| state.spare[*at].len());
                let buffer = longest.map(|at| state.spare.swap_remove(at));
                return Ok(buffer.unwrap_or_default());
            }
            match state.ready.pop_front() {
                Some(ready) => {
                    drop(state);
                    self.press(ready);
                    state = pool.state();
                }
                None => state = pool.wait(state),
            }
        }
    }

    fn submit(&mut self, work: usize, number: u64, block: Block, reserved: usize, full: bool) {
        self.pool.state().ready.push_back(Ready {
            work,
            number,
            block,
            reserved,
        });
        self.pool.changed.notify_one();
        if full {
            self.help();
        }
    }
}
