//! Cancellation as a value: every long call takes a [`Cancel`].
//!
//! A [`Cancel`] never un-cancels. A child is cancelled with its parent, never the other way round.

use tokio_util::sync::CancellationToken;

/// The work was cancelled. Not an error of anybody: an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cancelled")]
pub struct Cancelled;

/// A flag that many tasks watch and anyone may raise.
#[derive(Debug, Clone, Default)]
pub struct Cancel(CancellationToken);

impl Cancel {
    /// Makes a flag that is not raised.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a flag that is raised with this one, and may be raised alone.
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }

    /// Raises the flag.
    pub fn cancel(&self) {
        self.0.cancel();
    }

    /// Tells whether the flag is raised.
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Returns [`Cancelled`] if the flag is raised; for loops of blocking code.
    ///
    /// # Errors
    /// [`Cancelled`].
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.is_cancelled() {
            Err(Cancelled)
        } else {
            Ok(())
        }
    }

    /// Waits until the flag is raised. May be dropped and called again.
    pub async fn cancelled(&self) {
        self.0.cancelled().await;
    }
}
