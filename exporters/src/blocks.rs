//! Tar streams made into blobs: in blocks, on several threads, with bytes that do not depend on
//! their number.
//!
//! Owns [`run`], which does a list of [`Work`]s at once:
//!
//! ```text
//! Work::produce ──▶ Cutter (blocks) ──▶ ready ──▶ Codec (pieces) ──▶ Ordered ──▶ Work::Output
//!                   hash: diff id                                    in order
//! ```
//!
//! Invariants:
//! - **A block is compressed by itself** (as a member, a frame, or a part of a stream with what
//!   stood before it as dictionary), so that its bytes depend on nothing but its place.
//! - **Memory is bounded**: a block counts from the moment it is begun until what became of it is
//!   written, and whoever wants to begin one when the budget is used up compresses others first.
//! - No thread outlives [`run`], and none waits while there is something to do.
//!
//! Leaves to others: what the streams are and what becomes of the blobs (`layer`).

mod codec;
mod cut;
mod estargz;
mod ordered;
mod pool;
mod runs;
#[cfg(test)]
mod tests;
mod text;
mod toc;

use std::io::Write;
use std::num::NonZero;

use ashlar_llb::{BlobDigest, DiffId};
use ashlar_solver::cancel::{Cancel, Cancelled};
use ashlar_solver::tree::Room;

pub(crate) use estargz::table_offset;

use crate::Compression;

/// The most threads of one run. One thread makes streams of about 600 MB/s; no level that is of
/// use in a build keeps more of them busy.
const MAX_THREADS: usize = 16;

/// One stream that is to become a blob.
pub(crate) trait Work: Sync {
    /// Where the blob is written.
    type Output: Write + Send;
    /// What is known of it in the end.
    type Made: Send;
    /// Why it could not be made.
    type Error: From<std::io::Error> + From<Cancelled> + Send;

    /// How it is compressed.
    fn compression(&self) -> Compression;

    /// Begins. May wait for others that make the same.
    fn open(&self) -> Result<Opened<Self::Output, Self::Made>, Self::Error>;

    /// Writes the stream.
    fn produce(&self, stream: &mut dyn Room) -> Result<(), Self::Error>;

    /// Ends: everything was written.
    fn finish(&self, output: Self::Output, told: Told) -> Result<Self::Made, Self::Error>;
}

/// How a work begins.
#[derive(Debug)]
pub(crate) enum Opened<O, M> {
    /// It was done before.
    Made(M),
    /// It is to be done.
    Output(O),
}

/// What is learnt about a stream on the way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    /// The digest of the stream; `None` where that is the digest of the blob.
    pub(crate) diff_id: Option<DiffId>,
    /// Bytes of the stream.
    pub(crate) size: u64,
    /// The digest of its table of contents, if it has one.
    pub(crate) contents: Option<BlobDigest>,
}

/// Does all works, on as many threads as there are processors, and tells what was made, in their
/// order. Blocks.
///
/// # Errors
/// The first that occurred. What was made until then is made.
///
/// # Cancellation
/// Raising `cancel` ends it soon.
pub(crate) fn run<W: Work>(works: &[W], cancel: &Cancel) -> Result<Vec<W::Made>, W::Error> {
    let processors = std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
    run_on(processors, works, cancel)
}

/// [`run`], on so many threads.
fn run_on<W: Work>(
    threads: NonZero<usize>,
    works: &[W],
    cancel: &Cancel,
) -> Result<Vec<W::Made>, W::Error> {
    let threads = threads.get().min(MAX_THREADS);
    pool::Pool::new(works, threads, cancel).run()
}
