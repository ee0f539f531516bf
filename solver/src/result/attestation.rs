//! What is attested of a result: in-toto statements before they have their subjects.
//!
//! Owns [`Attestation`]. Which manifest or file a statement ends up in is up to the exporters.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::cancel::Cancel;
use crate::error::OperationError;
use crate::meta::LayerBlob;
use crate::refs::Ref;

/// What an attestation is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AttestationKind {
    /// One in-toto statement; the content is its predicate.
    InToto,
    /// Several: the content is a directory, each file in it a whole statement.
    Bundle,
}

/// What an exporter tells who makes an attestation for it.
#[expect(
    missing_debug_implementations,
    reason = "a function has nothing to show"
)]
#[non_exhaustive]
pub struct MakeContext<'a> {
    /// Raised when nobody wants the attestation any more.
    pub cancel: &'a Cancel,
    /// BuildKit's compatibility level of the export: 10, 20 or 30.
    pub compatibility: u32,
    /// Gives the layers of the tree as blobs, the lowest first, as they are before times in them
    /// are rewritten; makes those that are missing. `None` for exports that are no image.
    pub layers: Option<&'a dyn Fn() -> Result<Vec<LayerBlob>, OperationError>>,
}

impl<'a> MakeContext<'a> {
    /// Of an export that is no image, at the newest level.
    pub fn new(cancel: &'a Cancel) -> Self {
        Self {
            cancel,
            compatibility: 30,
            layers: None,
        }
    }

    /// Of an image.
    pub fn of_image(
        cancel: &'a Cancel,
        compatibility: u32,
        layers: &'a dyn Fn() -> Result<Vec<LayerBlob>, OperationError>,
    ) -> Self {
        Self {
            cancel,
            compatibility,
            layers: Some(layers),
        }
    }
}

/// Makes the bytes of an attestation. Blocks; minds the cancel flag.
pub type MakeAttestation =
    dyn Fn(&MakeContext<'_>) -> Result<Vec<u8>, OperationError> + Send + Sync;

/// Where the bytes of an attestation are.
#[derive(Clone)]
#[non_exhaustive]
pub enum AttestationContent {
    /// Here. Only what the engine itself made may be provenance; that is here too.
    Bytes(Arc<[u8]>),
    /// Made when an exporter needs them; called once per export, on a thread that may block.
    Made(Arc<MakeAttestation>),
    /// In the tree of a frontend, at [`Attestation::path`].
    File(Ref),
}

impl fmt::Debug for AttestationContent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(formatter, "Bytes({} bytes)", bytes.len()),
            Self::Made(_) => formatter.write_str("Made(..)"),
            Self::File(tree) => formatter.debug_tuple("File").field(tree).finish(),
        }
    }
}

/// What a statement is about.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Subject {
    /// What is exported: the image under each of its names, or each file. With a name, that name
    /// is added.
    Itself {
        /// Another name; empty for none.
        name: String,
    },
    /// Something else.
    Raw {
        /// What it is called; empty is written as `_`.
        name: String,
        /// Its digests in hexadecimal, by algorithm (`sha256`).
        digests: BTreeMap<String, String>,
    },
}

/// Something that is attested of a tree.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Attestation {
    /// Whether it is one statement or a directory of them.
    pub kind: AttestationKind,
    /// What kind of predicate it is, a URI such as `https://spdx.dev/Document`. For a bundle: what
    /// all statements in it have to be; empty for anything.
    pub predicate_type: String,
    /// The name of the file that exporters of files write; in [`AttestationContent::File`] also
    /// where the content is.
    pub path: String,
    /// The predicate, or where it is. At most 40 MiB.
    pub content: AttestationContent,
    /// What it is about. Empty for the exported thing itself.
    pub subjects: Vec<Subject>,
    /// Further notes of frontends, by BuildKit's keys (`reason`, `sbom-core`, `inline-only`).
    pub metadata: BTreeMap<String, Vec<u8>>,
}

impl Attestation {
    /// One statement whose predicate is this JSON, about what is exported.
    pub fn in_toto(
        predicate_type: impl Into<String>,
        path: impl Into<String>,
        predicate: impl Into<Vec<u8>>,
    ) -> Self {
        let content = AttestationContent::Bytes(predicate.into().into());
        Self::new(AttestationKind::InToto, predicate_type, path, content)
    }

    /// An attestation about what is exported.
    pub fn new(
        kind: AttestationKind,
        predicate_type: impl Into<String>,
        path: impl Into<String>,
        content: AttestationContent,
    ) -> Self {
        Self {
            kind,
            predicate_type: predicate_type.into(),
            path: path.into(),
            content,
            subjects: Vec::new(),
            metadata: BTreeMap::new(),
        }
    }

    /// Says what it is about.
    #[must_use]
    pub fn subject(mut self, subject: Subject) -> Self {
        self.subjects.push(subject);
        self
    }

    /// Says that alone it is no reason to make an index of an image that is written to a file, and
    /// that it is not written beside files. Stored and pushed images have it.
    #[must_use]
    pub fn inline_only(mut self) -> Self {
        self.metadata
            .insert("inline-only".to_owned(), b"true".to_vec());
        self
    }

    /// Whether [`Attestation::inline_only`] was said.
    pub fn is_inline_only(&self) -> bool {
        self.metadata
            .get("inline-only")
            .is_some_and(|value| value == b"true")
    }
}
