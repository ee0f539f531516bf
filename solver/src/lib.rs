//! An embeddable build engine: executes BuildKit's LLB in the caller's process, without a daemon.

pub mod cache;
pub mod cancel;
pub mod clock;
pub mod content;
pub mod dir;
pub mod error;
pub mod executor;
pub mod id;
pub mod limits;
pub mod meta;
pub mod oci;
pub mod operation;
pub mod ops;
pub mod progress;
pub mod refs;
pub mod result;
pub mod root;
pub mod scheduler;
pub mod session;
pub mod snapshot;
pub mod solver;
pub mod source;
pub mod tree;
