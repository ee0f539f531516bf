//! Ashlar.
