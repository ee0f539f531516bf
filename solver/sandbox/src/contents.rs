//! Bytes that may be a secret.
//!
//! Owns: [`Contents`]. Invariant: the bytes are in one place however often the value is cloned,
//! never show in debug output, and are overwritten with zeros when the last clone is dropped.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Bytes that are shared by all clones, hidden from [`Debug`](fmt::Debug) and zeroed at the end.
#[derive(Clone, Default)]
pub struct Contents(Arc<Zeroizing<Vec<u8>>>);

impl Deref for Contents {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Contents(..)")
    }
}

impl From<Vec<u8>> for Contents {
    /// Takes the bytes over without a copy.
    fn from(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Zeroizing::new(bytes)))
    }
}

impl From<String> for Contents {
    /// Takes the text over without a copy.
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

impl From<&str> for Contents {
    fn from(text: &str) -> Self {
        text.as_bytes().to_vec().into()
    }
}

impl From<Arc<Zeroizing<Vec<u8>>>> for Contents {
    /// Shares the bytes with whoever else has them.
    fn from(bytes: Arc<Zeroizing<Vec<u8>>>) -> Self {
        Self(bytes)
    }
}
