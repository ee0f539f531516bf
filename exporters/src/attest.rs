//! Attestations that a user asks for: provenance, SBOMs, statements of one's own.
//!
//! Owns [`Attest`], what was asked for, and the option strings of `buildctl --opt attest:…` and
//! `buildx --attest`. It gives a result its attestations; exporters make statements of them and
//! write them into images (as manifests beside those of the platforms) or beside the files.
//!
//! Invariants:
//! - **Nothing unless asked for**: a result without attestations is exported plain.
//! - SBOMs come first, then provenance, then statements of the caller.
//!
//! Leaves to others: what the documents say (`provenance`, `sbom`), and how they are written
//! (`image`, `local`, `tar`).

mod error;
mod options;

use std::sync::Arc;

use ashlar_solver::cancel::Cancel;
use ashlar_solver::result::{
    Attestation, AttestationContent, AttestationKind, BuildResult, MakeContext, PlatformRef,
};
use ashlar_solver::tree::Timestamp;

pub use error::{AttestError, AttestOptionError};

use crate::platforms::targets;
use crate::provenance::{self, ProvenanceOptions};
use crate::sbom::{SPDX_PREDICATE, ScanDocument, ScanTarget, Scanner};

/// The name that BuildKit gives the SBOM of the result itself.
const CORE: &str = "sbom";

/// What is to be attested of a result.
///
/// ```
/// use ashlar_exporters::attest::Attest;
/// use ashlar_exporters::provenance::{ProvenanceMode, ProvenanceOptions};
/// use ashlar_exporters::sbom::PackageScanner;
/// # async fn example(result: ashlar_solver::result::BuildResult)
/// # -> Result<(), Box<dyn std::error::Error>> {
/// use ashlar_exporters::{Exporter as _, Oci};
/// use ashlar_solver::cancel::Cancel;
///
/// let attest = Attest::new()
///     .provenance(ProvenanceOptions::new().mode(ProvenanceMode::Min))
///     .sbom(PackageScanner::new());
/// let result = attest.apply(&result, &Cancel::new()).await?;
/// Oci::archive("app.tar").export(&result, &Cancel::new()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Attest {
    provenance: Option<ProvenanceOptions>,
    scanner: Option<Arc<dyn Scanner>>,
    created: Option<Timestamp>,
    statements: Vec<Attestation>,
}

impl Attest {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says how the result was made.
    #[must_use]
    pub fn provenance(mut self, options: ProvenanceOptions) -> Self {
        self.provenance = Some(options);
        self
    }

    /// Says what the result contains, as far as `scanner` finds out.
    #[must_use]
    pub fn sbom(mut self, scanner: impl Scanner + 'static) -> Self {
        self.scanner = Some(Arc::new(scanner));
        self
    }

    /// Adds a statement of one's own about each tree of the result.
    #[must_use]
    pub fn statement(mut self, statement: Attestation) -> Self {
        self.statements.push(statement);
        self
    }

    /// Sets the time that SBOMs bear, in seconds since 1970. Default: the epoch in the metadata of
    /// the result, or else when the result was made.
    #[must_use]
    pub fn source_date_epoch(mut self, seconds: i64) -> Self {
        self.created = Some(Timestamp {
            seconds,
            nanoseconds: 0,
        });
        self
    }

    /// Whether nothing was asked for.
    pub fn is_empty(&self) -> bool {
        self.provenance.is_none() && self.scanner.is_none() && self.statements.is_empty()
    }

    /// The result with its attestations. A tree that has an SBOM already gets no other.
    ///
    /// # Errors
    /// [`AttestError`]: a scan failed, provenance was asked for a result that no solve gave, or its
    /// materials are not as complete as they were to be.
    ///
    /// # Cancellation
    /// Raising `cancel` ends scans soon with [`AttestError::Scan`].
    pub async fn apply(
        &self,
        result: &BuildResult,
        cancel: &Cancel,
    ) -> Result<BuildResult, AttestError> {
        let mut attested = result.clone();
        for (tree, target) in result.refs().iter().zip(targets(result)?) {
            let id = target.id;
            if let Some(scanner) = &self.scanner
                && !has_sbom(result, &id)
            {
                let created = self.created(result, tree);
                let target = ScanTarget::new(tree.reference.clone(), target.platform, created);
                let documents = scanner.scan(&target, cancel).await?;
                for document in documents {
                    attested = attested.with_attestation(&id, sbom(document));
                }
            }
            if let Some(options) = &self.provenance {
                attested = attested.with_attestation(&id, provenance_of(tree, result, options)?);
            }
            for statement in &self.statements {
                attested = attested.with_attestation(&id, statement.clone());
            }
        }
        Ok(attested)
    }

    fn created(&self, result: &BuildResult, tree: &PlatformRef) -> Timestamp {
        let told = result.metadata_of(ashlar_solver::result::EPOCH_KEY, &tree.id);
        let told = told
            .and_then(|text| std::str::from_utf8(text).ok()?.parse().ok())
            .map(|seconds| Timestamp {
                seconds,
                nanoseconds: 0,
            });
        let made = || match &tree.provenance {
            Some(provenance) => provenance.finished,
            None => result.store.clock().now(),
        };
        self.created.or(told).unwrap_or_else(|| made().into())
    }
}

fn has_sbom(result: &BuildResult, id: &str) -> bool {
    let attested = result.attestations.get(id).into_iter().flatten();
    attested
        .into_iter()
        .any(|attestation| attestation.predicate_type == SPDX_PREDICATE)
}

fn sbom(document: ScanDocument) -> Attestation {
    let path = format!("{}.spdx.json", document.name);
    let mut attestation = Attestation::in_toto(document.predicate_type, path, document.predicate);
    let notes = [("reason", "sbom"), ("sbom-core", CORE)];
    for (key, value) in notes {
        attestation.metadata.insert(key.to_owned(), value.into());
    }
    attestation
}

fn provenance_of(
    tree: &PlatformRef,
    result: &BuildResult,
    options: &ProvenanceOptions,
) -> Result<Attestation, AttestError> {
    let noted = tree
        .provenance
        .clone()
        .ok_or_else(|| AttestError::NoProvenance {
            platform: tree.platform.to_string(),
        })?;
    provenance::check(&noted, options)?;
    let (store, reference, kept) = (
        result.store.clone(),
        tree.reference.clone(),
        options.clone(),
    );
    // Made when the layers are blobs, so that it can say which.
    let content = AttestationContent::Made(Arc::new(move |context: &MakeContext<'_>| {
        provenance::predicate(&noted, &kept, &reference, &store, context)
    }));
    let mut attestation = Attestation::new(
        AttestationKind::InToto,
        options.version.predicate_type(),
        &options.filename[..],
        content,
    );
    let notes = [
        ("reason", "provenance"),
        (
            "inline-only",
            if options.inline_only { "true" } else { "false" },
        ),
    ];
    for (key, value) in notes {
        attestation.metadata.insert(key.to_owned(), value.into());
    }
    Ok(attestation)
}
