//! The engine seam: what the scheduler asks of an op, generic over the result type `T`.
//!
//! Owns [`Operation`] (how one vertex is keyed and run), [`CacheMap`] (what its key is made of),
//! [`Context`] (what a call may use), [`RunLocks`] (who may run, of several processes), [`SubSolve`]
//! (how an op has a definition solved that it found), [`Results`] (how results outlive a solve) and
//! [`Import`] (results from elsewhere). Knows nothing of file systems: the scheduler is tested with
//! operations on numbers.
//!
//! Invariant: two operations whose cache maps and input keys are equal may stand in for each
//! other. Everything that decides the result is therefore in the cache map or in the inputs.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ashlar_llb::Definition;
use async_trait::async_trait;

use crate::cache::{ContentChanges, ContentListing, ImportedRecords, NewResult, RunKey};
use crate::cancel::Cancel;
use crate::error::{Blame, Failure, Fault, OperationError};
use crate::id::{CacheDigest, CacheKey, ContentDigest, ResultId, Selector};
use crate::progress::Reporter;

/// What one input contributes to the key of an op.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct InputKey {
    /// Which part of the input the op looks at; joins with the input's definition key. `None`:
    /// all of it.
    pub selector: Option<Selector>,
    /// Whether the op can be keyed by the content of this input: the scheduler then asks
    /// [`Operation::content_digest`] where definition keys do not match.
    pub content: bool,
    /// Whether [`Operation::content_digest`] costs little once the op has run, because the run
    /// reads the same bytes. An op that was never seen then runs first and gets its key after.
    pub deferrable: bool,
}

/// What the key of an op is made of (`CacheMap` in BuildKit).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheMap {
    /// What the op does.
    pub digest: CacheDigest,
    /// BuildKit's `random:` keys: the digest stands for this solve alone (it holds fresh random
    /// bytes), is never stored and never matched by another solve. Content keys of consumers are.
    pub volatile: bool,
    /// One entry per input of the vertex, in order.
    pub inputs: Vec<InputKey>,
    /// Whether [`Operation::further_cache_map`] may give another key. Only for ops without
    /// inputs: an image has a key by manifest and one by layers.
    pub further: bool,
}

impl CacheMap {
    /// The map of an op without inputs.
    pub fn leaf(digest: CacheDigest) -> Self {
        Self {
            digest,
            volatile: false,
            inputs: Vec::new(),
            further: false,
        }
    }

    /// The map of an op with `inputs`, none of them keyed by content.
    pub fn plain(digest: CacheDigest, inputs: usize) -> Self {
        Self {
            digest,
            volatile: false,
            inputs: vec![InputKey::default(); inputs],
            further: false,
        }
    }
}

/// What a call of an operation may use. Cheap to clone.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Context {
    /// Raised when nobody wants the result any more. An operation that sees it returns
    /// [`OperationError::Cancelled`] soon; its future may also be dropped at any await.
    pub cancel: Cancel,
    /// Progress of this vertex.
    pub reporter: Reporter,
    confined: Arc<AtomicBool>,
}

impl Context {
    /// Puts a context together.
    pub fn new(cancel: Cancel, reporter: Reporter) -> Self {
        Self {
            cancel,
            reporter,
            confined: Arc::default(),
        }
    }

    /// Says that the result of this run is good for this solve alone, because it depends on
    /// something that is not in the key: it is not stored, and the next solve runs the op again.
    pub fn confine(&self) {
        self.confined.store(true, Ordering::Relaxed);
    }

    /// Whether [`Context::confine`] was called.
    pub fn is_confined(&self) -> bool {
        self.confined.load(Ordering::Relaxed)
    }
}

/// An op was asked for content that its cache map does not offer.
#[derive(Debug, thiserror::Error)]
#[error("the op is not keyed by content")]
struct NotByContent;

impl Blame for NotByContent {
    fn fault(&self) -> Fault {
        Fault::Bug
    }
}

/// One vertex's work: how it is keyed and how it runs.
///
/// Every method may be called again: another solve may ask for the same work, and a run whose
/// owner was cancelled is started anew by a waiter. Blocking work belongs on
/// `tokio::task::spawn_blocking`; the futures are polled by tasks of the current runtime.
#[async_trait]
pub trait Operation<T>: Send + Sync + Debug {
    /// Gives what the key is made of. Pure for most ops; sources may ask a registry.
    ///
    /// # Errors
    /// Fails the vertex, and with it the solve.
    async fn cache_map(&self, context: &Context) -> Result<CacheMap, OperationError>;

    /// Gives another key of an op without inputs, the `index`th (from 1); asked only while
    /// nothing matched and the last map said [`CacheMap::further`]. `None`: there is none.
    ///
    /// # Errors
    /// As for [`cache_map`](Self::cache_map).
    async fn further_cache_map(
        &self,
        index: usize,
        context: &Context,
    ) -> Result<Option<CacheMap>, OperationError> {
        let _ = (index, context);
        Ok(None)
    }

    /// Computes the content digest of what this op sees of its `input`th input. Called only if
    /// the cache map says [`InputKey::content`] for it, so that ops that never say so need not
    /// implement it.
    ///
    /// # Errors
    /// Fails the vertex, and with it the solve.
    async fn content_digest(
        &self,
        input: usize,
        value: &T,
        context: &Context,
    ) -> Result<ContentDigest, OperationError>
    where
        T: Sync,
    {
        let _ = (input, value, context);
        Err(NotByContent.into())
    }

    /// Summarises what this op sees of its `input`th input, to be remembered, and tells how that
    /// differs from `old`, an earlier summary. Called only after a run, for inputs whose content
    /// digest was computed, so it need not read files. `None`: there is nothing to tell.
    ///
    /// # Errors
    /// Cost the explanation of a miss, nothing else.
    async fn describe_content(
        &self,
        input: usize,
        value: &T,
        old: Option<&ContentListing>,
        context: &Context,
    ) -> Result<Option<ContentDescription>, OperationError>
    where
        T: Sync,
    {
        let _ = (input, value, old, context);
        Ok(None)
    }

    /// Does the work and returns one value per output, unrequested ones included.
    ///
    /// # Errors
    /// Fails the vertex, and with it the solve.
    ///
    /// # Cancellation
    /// The future may be dropped at any await; what it started must end with it.
    async fn run(&self, inputs: Vec<T>, context: &Context) -> Result<Vec<T>, OperationError>;

    /// What the outputs of the op come from as it is there, whatever the store has of it: an image, to
    /// be had when something reads it. Costs nothing. None if the op is no source, or nobody asked for
    /// its key. Default: none.
    fn origins(&self) -> Vec<T> {
        Vec::new()
    }

    /// Whether a run uses what the caller of its solve lends, such as a secret. Equal runs still
    /// happen once, but a failure is then not handed to those who wait: another caller may have
    /// lent what this one did not. Default: false.
    fn is_personal(&self) -> bool {
        false
    }

    /// Whether equal runs that are wanted at the same time happen once. False for an op that waits
    /// for runs of others (build): two of them could wait for each other for ever. What it waits
    /// for is shared all the same. Default: true.
    fn is_shared(&self) -> bool {
        true
    }

    /// Whether equal runs of several processes on one store are kept apart, so that one of them does
    /// the work and the others find it. Of use where a run takes longer than making a file; never
    /// for an op that waits for other vertices, or that uses what its caller lends. Default: as
    /// [`Operation::takes_permit`], unless [`Operation::is_personal`].
    fn is_locked(&self, _inputs: &[T]) -> bool {
        self.takes_permit() && !self.is_personal()
    }

    /// Whether a run takes one of the scheduler's permits. True for ops that use a processor or
    /// the disk (BuildKit: source, exec, file), false for those that only arrange layers or that
    /// wait for other vertices (merge, diff, build, passthrough). Default: true.
    fn takes_permit(&self) -> bool {
        true
    }
}

/// The lock of a run; others get it when this is dropped.
pub type RunLock = Box<dyn Debug + Send>;

/// Keeps equal runs of several processes apart. Implemented over files of the store; by a double in
/// memory.
pub trait RunLocks: Send + Sync + Debug {
    /// Takes the lock of a run, unless somebody else has it: then `None`. Never waits. The lock of a
    /// process that dies is free.
    ///
    /// # Errors
    /// There can be no lock; the run goes on without one, and the reason is reported as a warning.
    fn try_lock(&self, run: RunKey) -> Result<Option<RunLock>, Failure>;
}

/// No locks: for a store that no other process uses.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoLocks;

impl RunLocks for NoLocks {
    fn try_lock(&self, _: RunKey) -> Result<Option<RunLock>, Failure> {
        Ok(Some(Box::new(())))
    }
}

/// How an op has a definition solved that it found in one of its inputs. Implemented at the top,
/// by the solver; by doubles in tests.
#[async_trait]
pub trait SubSolve<T>: Send + Sync + Debug {
    /// Solves `definition` with what the solve of the asking op was lent and is allowed, for the
    /// vertex that `context` belongs to. Takes no permit. May be called from many tasks.
    ///
    /// # Errors
    /// The definition is malformed, nested too deep, or one of its vertices failed.
    ///
    /// # Cancellation
    /// Ends with the flag of `context`; dropping the future ends it as well.
    async fn sub_solve(
        &self,
        definition: Definition,
        context: &Context,
    ) -> Result<SubSolved<T>, OperationError>;
}

/// What came of a definition that an op found.
#[derive(Debug, Clone)]
#[expect(
    clippy::exhaustive_structs,
    reason = "doubles of the seam build it as a literal"
)]
pub struct SubSolved<T> {
    /// The value of its one output.
    pub value: T,
    /// Whether the definition alone decides the value: nothing in it has to be looked at to know
    /// whether it changed.
    pub fixed: bool,
    /// What the value comes from ([`Operation::origins`]).
    pub origins: Vec<T>,
}

/// A summary of content.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(clippy::exhaustive_structs, reason = "what an operation tells")]
pub struct ContentDescription {
    /// What there is.
    pub listing: ContentListing,
    /// How it differs from what it was; `None` if that was not asked.
    pub changes: Option<ContentChanges>,
}

/// Records from elsewhere that a solve looks at beside those of the store, and their results.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "records and their results")]
pub struct Import<T> {
    /// The records.
    pub records: Arc<ImportedRecords>,
    /// What they name.
    pub results: Arc<dyn ImportedResults<T>>,
}

impl<T> Clone for Import<T> {
    fn clone(&self) -> Self {
        Self {
            records: Arc::clone(&self.records),
            results: Arc::clone(&self.results),
        }
    }
}

/// How results of imported records are had.
#[async_trait]
pub trait ImportedResults<T>: Send + Sync + Debug {
    /// Makes the result whose topmost layer has that place in the records; it was found under
    /// `key`, and made at `created_at` (milliseconds since 1970). What can wait should: most results
    /// are never looked into. `None`: it cannot be had; another one is tried, or the vertex runs.
    /// What is done for it is told to `reporter`.
    ///
    /// # Errors
    /// Taken for `None` and reported as a warning.
    async fn load(
        &self,
        key: CacheKey,
        layer: usize,
        created_at: i64,
        reporter: &Reporter,
    ) -> Result<Option<T>, Failure>;
}

/// How results outlive a solve. Implemented over layers, and by a double over numbers.
#[async_trait]
pub trait Results<T>: Send + Sync + Debug {
    /// `value` as it can be stored with its records; `None` if this value cannot be kept.
    fn keep(&self, value: &T) -> Option<Box<dyn NewResult>>;

    /// Loads a value that was saved, by this process or another. `None`: it is gone; the caller
    /// then drops the record and runs the vertex again.
    ///
    /// # Errors
    /// Taken for a miss and reported as a warning.
    async fn load(&self, id: ResultId) -> Result<Option<T>, Failure>;
}
