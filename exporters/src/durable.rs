//! Outputs that are on disk when an export returns.
//!
//! Owns [`WriteOut`], which sends an output to disk while it is written, so that little is left at the end,
//! and what has to be synced beside it. Only the output is waited for: what an export made in the
//! store survives a power cut or is forgotten, as after any solve.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use ashlar_solver::solver::Durability;
use rustix::fs::{fdatasync, fsync, syncfs};
use rustix::io::retry_on_intr;

use crate::ExportError;

/// Bytes that are written before they are sent to disk: enough to keep a disk busy for longer than
/// the sync itself costs.
const AHEAD: u64 = 32 << 20;

/// Sends an output to disk while it is written, on a thread that lives no longer than this.
pub(crate) struct WriteOut {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Bytes written since the thread was last told.
    fresh: u64,
}

/// What the threads share.
struct Shared {
    send: Box<dyn Fn() -> io::Result<()> + Send + Sync>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// There is something to be sent.
    wanted: bool,
    ended: bool,
    /// The system tells the error of a write-out once.
    failed: Option<io::Error>,
}

impl fmt::Debug for WriteOut {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = formatter.debug_struct("WriteOut");
        debug.field("fresh", &self.fresh).finish_non_exhaustive()
    }
}

impl WriteOut {
    /// Sends the bytes of a file, if they are to be waited for.
    pub(crate) fn of_file(file: &File, durability: Durability) -> io::Result<Option<Self>> {
        if durability != Durability::Synced {
            return Ok(None);
        }
        let file = file.try_clone()?;
        Ok(Some(Self::new(move || {
            Ok(retry_on_intr(|| fdatasync(&file))?)
        })))
    }

    /// Sends the file system of a directory, if it is to be waited for: one sync for each of
    /// thousands of files would take minutes.
    pub(crate) fn of_files(
        directory: BorrowedFd<'_>,
        durability: Durability,
    ) -> io::Result<Option<Self>> {
        if durability != Durability::Synced {
            return Ok(None);
        }
        let directory = directory.try_clone_to_owned()?;
        Ok(Some(Self::new(move || {
            Ok(retry_on_intr(|| syncfs(&directory))?)
        })))
    }

    fn new(send: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Self {
        let shared = Shared {
            send: Box::new(send),
            state: Mutex::default(),
            changed: Condvar::new(),
        };
        Self {
            shared: Arc::new(shared),
            thread: None,
            fresh: 0,
        }
    }

    /// Tells that so many more bytes were written.
    pub(crate) fn add(&mut self, bytes: u64) {
        self.fresh += bytes;
        if self.fresh < AHEAD {
            return;
        }
        self.fresh = 0;
        self.shared.state().wanted = true;
        self.shared.changed.notify_all();
        if self.thread.is_none() {
            let shared = self.shared.clone();
            let thread = std::thread::Builder::new().name("ashlar-sync".to_owned());
            // Without the thread all is sent at the end.
            self.thread = thread.spawn(move || shared.run()).ok();
        }
    }

    /// Waits until all that was written is on disk.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.end();
        match self.shared.state().failed.take() {
            Some(error) => Err(error),
            None => (self.shared.send)(),
        }
    }

    fn end(&mut self) {
        let mut state = self.shared.state();
        state.ended = true;
        state.wanted = false;
        drop(state);
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

impl Drop for WriteOut {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        loop {
            let mut state = self.state();
            while !state.wanted {
                if state.ended {
                    return;
                }
                let waited = self.changed.wait(state);
                state = waited.unwrap_or_else(PoisonError::into_inner);
            }
            state.wanted = false;
            drop(state);
            if let Err(error) = (self.send)() {
                self.state().failed = Some(error);
                return;
            }
        }
    }
}

/// Brings a file to disk that is there already: who wrote it may not have waited.
pub(crate) fn sync_bytes(path: &Path) -> Result<(), ExportError> {
    let synced = File::open(path).and_then(|file| file.sync_data());
    synced.map_err(ExportError::io("sync", path))
}

/// Brings the names in a directory to disk.
pub(crate) fn sync_names(directory: &Path) -> Result<(), ExportError> {
    let directory = match directory.as_os_str().is_empty() {
        true => Path::new("."),
        false => directory,
    };
    let synced = File::open(directory).and_then(|opened| match retry_on_intr(|| fsync(&opened)) {
        // Some file systems have no such thing.
        Ok(()) | Err(rustix::io::Errno::INVAL) => Ok(()),
        Err(error) => Err(error.into()),
    });
    synced.map_err(ExportError::io("sync", directory))
}

/// Brings the name of a file to disk.
pub(crate) fn sync_name(path: &Path) -> Result<(), ExportError> {
    sync_names(path.parent().unwrap_or_else(|| Path::new("/")))
}

/// The method of exporters that says when an output counts as done.
macro_rules! durability_option {
    () => {
        /// Sets when the output counts as done. With [`Durability::Synced`] the export returns
        /// once all of the output is on disk: its bytes are before it is in its place, so that a
        /// power cut leaves the old output or the new one too. A sync that has begun is waited for
        /// even if the export is cancelled. Streams and engines do with their bytes what they want.
        /// Default: [`Durability::Background`], which leaves that to the system.
        #[must_use]
        pub fn durability(mut self, durability: Durability) -> Self {
            self.durability = durability;
            self
        }
    };
}

pub(crate) use durability_option;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn counting(fail: bool) -> (WriteOut, Arc<AtomicUsize>) {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        let out = WriteOut::new(move || {
            counted.fetch_add(1, Ordering::SeqCst);
            match fail {
                true => Err(io::ErrorKind::StorageFull.into()),
                false => Ok(()),
            }
        });
        (out, count)
    }

    fn wait_for(count: &AtomicUsize) {
        while count.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_is_small_is_sent_once() {
        let (mut out, count) = counting(false);
        out.add(AHEAD - 1);
        out.finish().unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn what_is_large_is_sent_while_it_is_written() {
        let (mut out, count) = counting(false);
        out.add(AHEAD);
        wait_for(&count);
        out.finish().unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn an_error_on_the_way_is_that_of_the_output() {
        let (mut out, count) = counting(true);
        out.add(AHEAD);
        wait_for(&count);
        out.add(AHEAD);
        let error = out.finish().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(count.load(Ordering::SeqCst), 1, "it is told once");
    }

    #[test]
    fn one_that_is_dropped_leaves_no_thread() {
        let (mut out, _) = counting(false);
        out.add(AHEAD);
        let shared = Arc::downgrade(&out.shared);
        drop(out);
        assert!(shared.upgrade().is_none());
    }

    #[test]
    fn nothing_is_waited_for_unless_asked() {
        let file = tempfile::tempfile().unwrap();
        let out = WriteOut::of_file(&file, Durability::Background).unwrap();
        assert!(out.is_none());
    }
}
