//! Nothing: resolving this crate's dependencies is the test.
