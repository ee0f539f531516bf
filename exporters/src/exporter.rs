//! The trait of all exporters.

use std::collections::BTreeMap;

use ashlar_llb::BlobDigest;
use ashlar_solver::cancel::Cancel;
use ashlar_solver::result::BuildResult;
use async_trait::async_trait;

use crate::ExportError;

/// Writes a build result somewhere.
#[async_trait]
pub trait Exporter: Send + Sync + std::fmt::Debug {
    /// Exports `result`. May be called again, also at the same time for other results.
    ///
    /// # Errors
    /// [`ExportError`]. What stood at the destination before is untouched then, except that
    /// [`Local`](crate::Local) may have written some of its files.
    ///
    /// # Cancellation
    /// Raising `cancel` ends the export soon with [`ExportError::Cancelled`]. Dropping the future
    /// lets the part that is under way end by itself.
    async fn export(&self, result: &BuildResult, cancel: &Cancel) -> Result<Exported, ExportError>;
}

/// What an export made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exported {
    /// The digest of the image's manifest; `None` for outputs that are no image.
    pub digest: Option<BlobDigest>,
    /// What BuildKit returns to its client, by its keys: `containerimage.digest`,
    /// `containerimage.config.digest`, `containerimage.descriptor` (base64 of JSON), `image.name`.
    pub response: BTreeMap<String, String>,
}
