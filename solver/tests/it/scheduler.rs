//! The scheduler, on operations over numbers.

mod cancelling;
mod exporting;
mod importing;
mod kit;
mod matching;
mod measure;
mod random;
mod sharing;
