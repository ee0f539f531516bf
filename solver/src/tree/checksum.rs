//! Checksums of content, as `cache/contenthash` of BuildKit computes them.

mod hasher;

pub use hasher::{FileHasher, file_digest};
