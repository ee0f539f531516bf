//! What the user decides about provenance.

use std::fmt;

use ashlar_solver::error::{Blame, Fault};

/// How much provenance says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum ProvenanceMode {
    /// What the result was made of, when, and how complete that list is.
    Min,
    /// Also the whole definition, the source files of its steps, the ids of secrets and agents,
    /// and the layers of each step.
    #[default]
    Max,
}

/// The version of the predicate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum SlsaVersion {
    /// `https://slsa.dev/provenance/v0.2`.
    V02,
    /// `https://slsa.dev/provenance/v1`.
    #[default]
    V1,
}

impl SlsaVersion {
    /// The predicate type.
    pub fn predicate_type(self) -> &'static str {
        match self {
            Self::V02 => "https://slsa.dev/provenance/v0.2",
            Self::V1 => "https://slsa.dev/provenance/v1",
        }
    }
}

impl fmt::Display for SlsaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V02 => "v0.2",
            Self::V1 => "v1",
        })
    }
}

/// What is said of how a result was made (`attest:provenance=…`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProvenanceOptions {
    /// How much is said (`mode`). Default: [`ProvenanceMode::Max`].
    pub mode: ProvenanceMode,
    /// The version of the predicate (`version`). Default: [`SlsaVersion::V1`].
    pub version: SlsaVersion,
    /// A URI that says who builds (`builder-id`). Default: empty.
    pub builder_id: String,
    /// The name of the file that exporters of files write (`filename`). Default:
    /// `provenance.json`.
    pub filename: String,
    /// The caller's word that the same definition gives the same bytes (`reproducible`). Default:
    /// false.
    pub reproducible: bool,
    /// Whether it goes into images only that are stored or pushed with it, not into archives and
    /// directories (`inline-only`). Default: false.
    pub inline_only: bool,
    /// Whether it is an error if the list of what the result was made of is not complete, as with
    /// local directories (`complete-materials`). Default: false.
    pub complete_materials: bool,
    /// Whether it is said what the processes of steps used, if all is said (`capture-usage`).
    /// Default: false.
    pub capture_usage: bool,
}

impl Default for ProvenanceOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl ProvenanceOptions {
    /// The defaults, which are BuildKit's.
    pub fn new() -> Self {
        Self {
            mode: ProvenanceMode::default(),
            version: SlsaVersion::default(),
            builder_id: String::new(),
            filename: "provenance.json".to_owned(),
            reproducible: false,
            inline_only: false,
            complete_materials: false,
            capture_usage: false,
        }
    }

    /// Sets how much is said.
    #[must_use]
    pub fn mode(mut self, mode: ProvenanceMode) -> Self {
        self.mode = mode;
        self
    }

    /// Sets the version of the predicate.
    #[must_use]
    pub fn version(mut self, version: SlsaVersion) -> Self {
        self.version = version;
        self
    }

    /// Sets who builds.
    #[must_use]
    pub fn builder_id(mut self, id: impl Into<String>) -> Self {
        self.builder_id = id.into();
        self
    }

    /// Sets the name of the file that exporters of files write.
    #[must_use]
    pub fn filename(mut self, name: impl Into<String>) -> Self {
        self.filename = name.into();
        self
    }

    /// Sets whether the same definition gives the same bytes.
    #[must_use]
    pub fn reproducible(mut self, reproducible: bool) -> Self {
        self.reproducible = reproducible;
        self
    }

    /// Sets whether it goes into images only that are stored or pushed with it.
    #[must_use]
    pub fn inline_only(mut self, inline_only: bool) -> Self {
        self.inline_only = inline_only;
        self
    }

    /// Sets whether an incomplete list of materials is an error.
    #[must_use]
    pub fn complete_materials(mut self, complete: bool) -> Self {
        self.complete_materials = complete;
        self
    }

    /// Sets whether it is said what processes used.
    #[must_use]
    pub fn capture_usage(mut self, capture: bool) -> Self {
        self.capture_usage = capture;
        self
    }
}

/// The list of what a result was made of is not complete, and that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("provenance materials are incomplete: {}", reasons.join(", "))]
#[non_exhaustive]
pub struct IncompleteMaterials {
    /// What has no digest, and why.
    pub reasons: Vec<String>,
}

impl Blame for IncompleteMaterials {
    fn fault(&self) -> Fault {
        Fault::Input
    }

    fn remedy(&self) -> Option<String> {
        Some("build from sources with digests, such as images, git or http".to_owned())
    }
}
