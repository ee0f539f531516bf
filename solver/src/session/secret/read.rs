//! Reading a secret from a descriptor, no more than is allowed and no longer than is wanted.

use std::io;
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use zeroize::Zeroizing;

use super::{MAX_SECRET, SecretValue};
use crate::cancel::Cancel;

/// How often a pipe that has nothing is left for a look at the cancellation.
const PATIENCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

/// How reading ended without an error of the system.
#[derive(Debug)]
pub(super) enum Read {
    All(SecretValue),
    TooBig,
    Cancelled,
}

/// Reads to the end. Blocks; waits for a pipe that has nothing yet.
pub(super) fn read(from: impl AsFd, cancel: &Cancel) -> io::Result<Read> {
    // One more than allowed tells what is too big. It never grows: growing leaves copies behind.
    let mut bytes = Zeroizing::new(vec![0; MAX_SECRET + 1]);
    let mut length = 0;
    while length < bytes.len() {
        if cancel.is_cancelled() {
            return Ok(Read::Cancelled);
        }
        let mut ready = [PollFd::new(&from, PollFlags::IN)];
        match poll(&mut ready, Some(&PATIENCE)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        match rustix::io::read(&from, &mut bytes[length..]) {
            Ok(0) => {
                let value = Zeroizing::new(bytes[..length].to_vec());
                return Ok(Read::All(value.into()));
            }
            Ok(more) => length += more,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Read::TooBig)
}

/// Does blocking work; its `Cancel` is raised if the future is dropped. `None`: the runtime is
/// going down.
pub(super) async fn unblock<T: Send + 'static>(
    work: impl FnOnce(Cancel) -> T + Send + 'static,
) -> Option<T> {
    struct Stop(Cancel);

    impl Drop for Stop {
        fn drop(&mut self) {
            self.0.cancel();
        }
    }

    let stop = Stop(Cancel::new());
    let inner = stop.0.clone();
    tokio::task::spawn_blocking(move || work(inner)).await.ok()
}
