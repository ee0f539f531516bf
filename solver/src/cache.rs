//! Cache keys and records: which work was done before.
//!
//! Owns the rule by which a vertex's key follows from its op and its inputs' keys ([`key`]), the
//! lookup of keys through stored and imported links ([`index`], [`import`]), records as values
//! ([`records`]), which of them a solve exports ([`export`]), those that wait to be stored
//! ([`pending`]), and the explanation of a miss ([`explain`], [`listing`]).
//!
//! As in BuildKit, an op without inputs has the key `sha256("<digest>@<output>")`, content has
//! `sha256("<digest>@-1")`, and the key of any other op is *found*: it is what stored links lead
//! to from keys of all its inputs at once. Where BuildKit invents a random id for a new key, the
//! id here is a digest of what the key stands for, so that two processes that do the same work at
//! the same time write the same records.
//!
//! Invariants: a key that depends on a volatile one is never stored and never looked up; every
//! link that is stored was true when it was stored and stays true, so links are never withdrawn,
//! only results are.

pub mod explain;
pub mod export;
pub mod import;
pub mod index;
pub mod key;
pub mod listing;
pub mod pending;
pub mod records;

pub use crate::meta::{Link, MetaError, RecordBatch, Records, ResultRow};
pub use explain::MissReason;
pub use export::{CacheMode, ExportSource, SolvedEdge, SolvedKeys, SolvedValue, SolvedVertex};
pub use import::ImportedRecords;
pub use index::{Backlink, Cache, KnownResult, Lookup, ResultSource};
pub use key::{InputPart, RunKey};
pub use listing::{Change, ContentChanges, ContentListing, ListedEntry, PathChange};
pub use pending::{NewRecords, NewResult};
pub use records::CacheRecords;
