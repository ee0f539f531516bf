//! An embeddable build engine: executes BuildKit's LLB in the caller's process, without a daemon.

pub mod cancel;
pub mod clock;
pub mod content;
pub mod error;
pub mod id;
pub mod limits;
pub mod progress;
pub mod root;
pub mod session;
pub mod tree;
