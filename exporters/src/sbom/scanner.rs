//! The trait of all scanners.

use ashlar_llb::Platform;
use ashlar_solver::cancel::Cancel;
use ashlar_solver::refs::Ref;
use ashlar_solver::tree::Timestamp;
use async_trait::async_trait;

use super::{SPDX_PREDICATE, ScanError};

/// Looks through a result and says what it contains.
#[async_trait]
pub trait Scanner: Send + Sync + std::fmt::Debug {
    /// Scans one tree. May be called again, also at the same time for others. The first document is
    /// the one about the tree itself; more may tell of what it was made from.
    ///
    /// The answer should depend on `target` alone, so that two exports of a result are the same.
    ///
    /// # Errors
    /// [`ScanError`]. The export that asked for the scan fails then.
    ///
    /// # Cancellation
    /// Raising `cancel` ends the scan soon with [`ScanError::Cancelled`].
    async fn scan(
        &self,
        target: &ScanTarget,
        cancel: &Cancel,
    ) -> Result<Vec<ScanDocument>, ScanError>;
}

/// What is to be scanned.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ScanTarget {
    /// What the document is called. BuildKit's name for the tree of a result is `sbom`.
    pub name: String,
    /// The tree.
    pub reference: Ref,
    /// The platform that it is for.
    pub platform: Platform,
    /// The time that documents are to bear.
    pub created: Timestamp,
}

impl ScanTarget {
    /// A tree under the name `sbom`.
    pub fn new(reference: Ref, platform: Platform, created: Timestamp) -> Self {
        Self {
            name: "sbom".to_owned(),
            reference,
            platform,
            created,
        }
    }
}

/// What a scanner says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScanDocument {
    /// Its name, which becomes that of a file with `.spdx.json` appended.
    pub name: String,
    /// What kind of document it is. Default: [`SPDX_PREDICATE`].
    pub predicate_type: String,
    /// The document, as JSON.
    pub predicate: Vec<u8>,
    /// What a person should know, one line each: files that could not be read, for example.
    pub remarks: Vec<String>,
}

impl ScanDocument {
    /// An SPDX document as JSON.
    pub fn spdx(name: impl Into<String>, json: impl Into<Vec<u8>>) -> Self {
        Self {
            name: name.into(),
            predicate_type: SPDX_PREDICATE.to_owned(),
            predicate: json.into(),
            remarks: Vec::new(),
        }
    }
}
