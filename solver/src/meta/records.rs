//! Cache records: links between keys, and the results of keys.

use std::fmt::Debug;

use super::MetaError;
use crate::id::{CacheDigest, CacheKey, LayerId, ResultId, Selector, StackId};

/// The way from the key of an input to the key of an op (`CacheInfoLink` in BuildKit).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Link {
    /// What the op does.
    pub digest: CacheDigest,
    /// The op's output.
    pub output: u32,
    /// Which of the op's inputs.
    pub input: u32,
    /// A key of that input.
    pub dependency: CacheKey,
    /// The part of the input that counts; `None` for content keys and whole inputs.
    pub selector: Option<Selector>,
}

/// A stored result of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResultRow {
    /// The result.
    pub result: ResultId,
    /// When it was stored, in milliseconds since 1970.
    pub created_at: i64,
}

/// Records that belong together: they become visible in one transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordBatch {
    /// Links and the keys they lead to.
    pub links: Vec<(Link, CacheKey)>,
    /// Results of keys.
    pub results: Vec<(CacheKey, ResultId)>,
    /// What is remembered of the content that keys stand for. Of these the store keeps the latest
    /// few hundred.
    pub listings: Vec<(CacheKey, Vec<u8>)>,
    /// When, in milliseconds since 1970.
    pub created_at: i64,
}

/// Adds rows within one transaction.
pub trait RecordWriter: Debug {
    /// As [`Stacks::add_stack`](super::Stacks::add_stack). The id is good once the transaction is
    /// done.
    ///
    /// # Errors
    /// There is no such parent, or the database cannot be written.
    fn add_stack(&mut self, layer: LayerId, parent: Option<StackId>) -> Result<StackId, MetaError>;

    /// Adds records; those already there stay, a result stored again counts as new.
    ///
    /// # Errors
    /// The database cannot be written.
    fn save(&mut self, batch: &RecordBatch) -> Result<(), MetaError>;
}

/// What [`Records::write`] runs in its transaction.
pub type WriteBody<'a> = &'a mut dyn FnMut(&mut dyn RecordWriter) -> Result<(), MetaError>;

/// Reads records within one transaction.
pub trait RecordReader: Debug {
    /// A number that changes with every change of the records, by any process, that happened
    /// before this transaction. What was read under an equal number is still true.
    ///
    /// # Errors
    /// The database cannot be read.
    fn version(&mut self) -> Result<u64, MetaError>;

    /// Adds at most `limit` of the keys that `link` leads to to `targets`, in no particular order.
    ///
    /// # Errors
    /// The database cannot be read.
    fn targets(
        &mut self,
        link: &Link,
        limit: usize,
        targets: &mut Vec<CacheKey>,
    ) -> Result<(), MetaError>;

    /// Whether `link` leads to `target`.
    ///
    /// # Errors
    /// The database cannot be read.
    fn leads_to(&mut self, link: &Link, target: CacheKey) -> Result<bool, MetaError>;

    /// The results of `key`, newest first.
    ///
    /// # Errors
    /// The database cannot be read.
    fn results(&mut self, key: CacheKey) -> Result<Vec<ResultRow>, MetaError>;

    /// Whether any link belongs to this op digest, output and input: the op was seen before,
    /// with whatever inputs.
    ///
    /// # Errors
    /// The database cannot be read.
    fn seen(&mut self, digest: CacheDigest, output: u32, input: u32) -> Result<bool, MetaError>;

    /// Adds at most `limit` of the links that lead to `target` to `links`, in no particular order.
    ///
    /// # Errors
    /// The database cannot be read.
    fn sources(
        &mut self,
        target: CacheKey,
        limit: usize,
        links: &mut Vec<Link>,
    ) -> Result<(), MetaError>;

    /// The links of an input that lead to the newest result of an op and output; none if no result
    /// of it is left.
    ///
    /// # Errors
    /// The database cannot be read.
    fn latest(
        &mut self,
        digest: CacheDigest,
        output: u32,
        input: u32,
    ) -> Result<Vec<Link>, MetaError>;

    /// What is remembered of the content that a key stands for.
    ///
    /// # Errors
    /// The database cannot be read.
    fn listing(&mut self, content: CacheKey) -> Result<Option<Vec<u8>>, MetaError>;

    /// As [`Records::write`], in the middle of a read: what is read from then on is what is there
    /// after it.
    ///
    /// # Errors
    /// As for [`Records::write`].
    fn write(&mut self, body: WriteBody<'_>) -> Result<(), MetaError>;
}

/// Listings that are kept; the least recently stored go first. A listing has at most a few tens of
/// kilobytes.
pub(super) const LISTINGS: usize = 500;

/// How many more there may be: they go many at a time, because each removal changes pages that a new
/// one does not.
pub(super) const MORE_LISTINGS: usize = 64;

/// The cache records of all solves.
pub trait Records: Send + Sync + Debug {
    /// Calls `body` once, with a reader that sees one state of the records throughout. `body`
    /// must not call other methods of the database.
    ///
    /// # Errors
    /// The transaction cannot be started; `body` was not called then.
    fn read(&self, body: &mut dyn FnMut(&mut dyn RecordReader)) -> Result<(), MetaError>;

    /// Calls `body` once, with a writer whose rows become visible together when it returned
    /// `Ok`. `body` must not call other methods of the database.
    ///
    /// # Errors
    /// That of `body`, or the database cannot be written; nothing was added then.
    fn write(&self, body: WriteBody<'_>) -> Result<(), MetaError>;

    /// Adds records; those already there stay, a result stored again counts as new.
    ///
    /// # Errors
    /// The database cannot be written; nothing was added then.
    fn save(&self, batch: &RecordBatch) -> Result<(), MetaError> {
        self.write(&mut |writer| writer.save(batch))
    }

    /// Drops a result from the one key that it was found under, because its data is gone. The
    /// links stay: they are still true.
    ///
    /// # Errors
    /// The database cannot be written.
    fn drop_result(&self, key: CacheKey, result: ResultId) -> Result<(), MetaError>;
}
