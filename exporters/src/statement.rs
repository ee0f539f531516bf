//! In-toto statements: what is attested, with subjects.
//!
//! Owns [`Statement`] and the way there: bundles are opened, contents read, subjects filled in. The
//! bytes are BuildKit's; where they go is up to the exporters.
//!
//! Invariant: **only the engine attests provenance.** Content out of the tree of a frontend is
//! refused as a provenance predicate.

mod bundle;

use std::collections::BTreeMap;
use std::io::Read as _;

use ashlar_llb::BlobDigest;
use ashlar_solver::cancel::Cancel;
use ashlar_solver::refs::Ref;
use ashlar_solver::result::{
    Attestation, AttestationContent, AttestationKind, MakeContext, Subject,
};
use ashlar_solver::tree::View;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{ExportError, json};

/// The type of a statement.
const STATEMENT: &str = "https://in-toto.io/Statement/v1";

/// How predicates of provenance are called.
const PROVENANCE: &str = "https://slsa.dev/provenance/";

/// Bytes that the content of an attestation may have, as in BuildKit.
const LIMIT: u64 = 40 << 20;

/// Bytes that all that is attested of one tree may have together.
const TOTAL: usize = 256 << 20;

/// Bytes that a statement for people may have.
const INDENTED: usize = 256 << 20;

/// A statement without subjects, its content read.
#[derive(Debug, Clone)]
pub(crate) struct Predicate {
    /// Where the content was; its last component names files.
    pub(crate) path: String,
    pub(crate) predicate_type: String,
    subjects: Vec<Subject>,
    pub(crate) content: Vec<u8>,
    /// Whether it is what a bill of materials is mainly made of.
    pub(crate) is_core: bool,
}

/// Something that a statement is about.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct StatementSubject {
    name: String,
    digest: BTreeMap<String, String>,
}

impl StatementSubject {
    pub(crate) fn new(name: impl Into<String>, digest: &BlobDigest) -> Self {
        let text = digest.to_string();
        let (algorithm, hex) = text.split_once(':').unwrap_or(("sha256", &text));
        Self {
            name: name.into(),
            digest: BTreeMap::from([(algorithm.to_owned(), hex.to_owned())]),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Statement<'a> {
    #[serde(rename = "_type")]
    kind: &'a str,
    predicate_type: &'a str,
    subject: Vec<StatementSubject>,
    predicate: &'a RawValue,
}

/// Opens bundles and reads contents; those that a bill of materials is mainly made of come first.
/// Blocks.
pub(crate) fn predicates<'a>(
    attestations: impl IntoIterator<Item = &'a Attestation>,
    context: &MakeContext<'_>,
) -> Result<Vec<Predicate>, ExportError> {
    read_within(TOTAL, attestations, context)
}

/// [`predicates`] that have no more than `limit` bytes together.
fn read_within<'a>(
    limit: usize,
    attestations: impl IntoIterator<Item = &'a Attestation>,
    context: &MakeContext<'_>,
) -> Result<Vec<Predicate>, ExportError> {
    let mut left = Left {
        limit,
        bytes: limit,
    };
    let (mut core, mut rest) = (Vec::new(), Vec::new());
    for attestation in attestations {
        let read = match attestation.kind {
            AttestationKind::Bundle => bundle::open(attestation, &mut left, context.cancel)?,
            _ => {
                let predicate = predicate(attestation, context)?;
                left.take(attestation, &predicate.content)?;
                vec![predicate]
            }
        };
        for mut predicate in read {
            let name = attestation.metadata.get("sbom-core");
            let is_named = |path: &str| {
                let stem = path.split('.').next().unwrap_or_default();
                name.is_some_and(|name| name == stem.as_bytes())
            };
            predicate.is_core = is_named(predicate.path.rsplit('/').next().unwrap_or_default());
            // As in BuildKit, the whole path decides on the order.
            match is_named(&predicate.path) {
                true => core.push(predicate),
                false => rest.push(predicate),
            }
        }
    }
    core.append(&mut rest);
    Ok(core)
}

/// How much may still be read.
struct Left {
    limit: usize,
    bytes: usize,
}

impl Left {
    fn take(&mut self, attestation: &Attestation, content: &[u8]) -> Result<(), ExportError> {
        let limit = self.limit;
        let left = self.bytes.checked_sub(content.len());
        self.bytes = left.ok_or_else(|| {
            let reason = format!("all that is attested has more than {limit} bytes");
            invalid(attestation, reason)
        })?;
        Ok(())
    }
}

fn invalid(attestation: &Attestation, reason: impl Into<String>) -> ExportError {
    ExportError::Attestation {
        path: attestation.path.clone(),
        reason: reason.into(),
    }
}

fn predicate(
    attestation: &Attestation,
    context: &MakeContext<'_>,
) -> Result<Predicate, ExportError> {
    if attestation.path.is_empty() {
        return Err(invalid(attestation, "it has no path"));
    }
    let content = match &attestation.content {
        AttestationContent::Bytes(bytes) => bytes.to_vec(),
        AttestationContent::Made(make) => make(context)?,
        AttestationContent::File(tree) => {
            if attestation.predicate_type.starts_with(PROVENANCE) {
                return Err(invalid(attestation, "frontends may not attest provenance"));
            }
            read(
                attestation,
                &view(tree, context.cancel)?,
                attestation.path.as_bytes(),
            )?
        }
        _ => {
            return Err(invalid(
                attestation,
                "its content is of a kind not known here",
            ));
        }
    };
    Ok(Predicate {
        path: attestation.path.clone(),
        predicate_type: attestation.predicate_type.clone(),
        subjects: attestation.subjects.clone(),
        content,
        is_core: false,
    })
}

fn view(tree: &Ref, cancel: &Cancel) -> Result<View, ExportError> {
    Ok(tree.view_until(cancel)?)
}

/// Reads a regular file of a tree; links are followed inside of it.
fn read(attestation: &Attestation, view: &View, path: &[u8]) -> Result<Vec<u8>, ExportError> {
    let name = String::from_utf8_lossy(path).into_owned();
    let failed = |reason: String| invalid(attestation, format!("cannot read {name}: {reason}"));
    let (at, node) = view
        .resolve(path, true)
        .map_err(|error| failed(error.to_string()))?;
    if node.entry().size > LIMIT {
        return Err(failed(format!("it has more than {LIMIT} bytes")));
    }
    let files = node
        .files()
        .filter(|_| node.entry().kind == ashlar_solver::tree::Kind::File);
    let files = files.ok_or_else(|| failed("it is no regular file".to_owned()))?;
    let file = files.open(&at).map_err(|error| failed(error.to_string()))?;
    let mut content = Vec::new();
    file.take(LIMIT)
        .read_to_end(&mut content)
        .map_err(|error| failed(error.to_string()))?;
    Ok(content)
}

impl Predicate {
    /// The statement as compact JSON. `exported` is what it is about unless it says otherwise.
    pub(crate) fn compact(&self, exported: &[StatementSubject]) -> Result<Vec<u8>, ExportError> {
        json::compact(&self.statement(exported, &self.raw()?)).map_err(ExportError::json)
    }

    /// The statement as JSON for people.
    pub(crate) fn indented(&self, exported: &[StatementSubject]) -> Result<Vec<u8>, ExportError> {
        let compact = self.compact(exported)?;
        let indented = json::indent(&compact, INDENTED);
        indented.ok_or_else(|| ExportError::Attestation {
            path: self.path.clone(),
            reason: format!("it is nested so deeply that its text has more than {INDENTED} bytes"),
        })
    }

    /// The predicate without white space.
    fn raw(&self) -> Result<Box<RawValue>, ExportError> {
        let wrong = |reason: String| ExportError::Attestation {
            path: self.path.clone(),
            reason: format!("the predicate is no JSON: {reason}"),
        };
        let text = match &self.content[..] {
            // Go writes nothing as null.
            b"" => "null",
            text => std::str::from_utf8(text).map_err(|error| wrong(error.to_string()))?,
        };
        let checked: &RawValue =
            serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
        let squeezed = json::squeeze(checked.get());
        RawValue::from_string(squeezed).map_err(|error| wrong(error.to_string()))
    }

    fn statement<'a>(
        &'a self,
        exported: &[StatementSubject],
        predicate: &'a RawValue,
    ) -> Statement<'a> {
        let itself = [Subject::Itself {
            name: String::new(),
        }];
        let wanted = match &self.subjects[..] {
            [] => &itself[..],
            subjects => subjects,
        };
        let mut subject = Vec::new();
        for each in wanted {
            match each {
                Subject::Itself { name } => {
                    for one in exported {
                        subject.push(one.clone());
                        if !matches!(name.as_str(), "" | "_") {
                            let name = name.clone();
                            let digest = one.digest.clone();
                            subject.push(StatementSubject { name, digest });
                        }
                    }
                }
                Subject::Raw { name, digests } => {
                    let name = match name.as_str() {
                        "" => "_",
                        name => name,
                    };
                    subject.push(StatementSubject {
                        name: name.to_owned(),
                        digest: digests.clone(),
                    });
                }
                _ => {}
            }
        }
        Statement {
            kind: STATEMENT,
            predicate_type: &self.predicate_type,
            subject,
            predicate,
        }
    }
}

#[cfg(test)]
mod tests;
