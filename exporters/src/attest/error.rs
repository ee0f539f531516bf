//! Why something cannot be attested.

use ashlar_solver::error::{Blame, Fault};

use crate::ExportError;
use crate::provenance::IncompleteMaterials;
use crate::sbom::ScanError;

/// What was asked for cannot be attested.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttestError {
    /// The result could not be looked through.
    #[error("cannot make an SBOM of the result")]
    Scan(#[from] ScanError),
    /// The materials of the result are not as complete as was asked.
    #[error(transparent)]
    Incomplete(#[from] IncompleteMaterials),
    /// What the result says of itself makes no sense.
    #[error(transparent)]
    Result(#[from] ExportError),
    /// Nobody noted how a tree was made.
    #[error("there is no provenance of the result for {platform}: no solve gave it")]
    NoProvenance {
        /// The platform of the tree.
        platform: String,
    },
}

impl Blame for AttestError {
    fn fault(&self) -> Fault {
        match self {
            Self::Scan(error) => error.fault(),
            Self::Incomplete(error) => error.fault(),
            Self::Result(error) => error.fault(),
            Self::NoProvenance { .. } => Fault::Input,
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Scan(error) => error.remedy(),
            Self::Incomplete(error) => error.remedy(),
            Self::Result(error) => error.remedy(),
            Self::NoProvenance { .. } => None,
        }
    }
}

/// An option string for attestations cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttestOptionError {
    /// There is no such attestation.
    #[error("unknown attestation type `{kind}`; there are: provenance, sbom")]
    Type {
        /// What was asked for.
        kind: String,
    },
    /// The string names no attestation.
    #[error("`{text}` needs `type=provenance` or `type=sbom`")]
    NoType {
        /// The string.
        text: String,
    },
    /// The attestation has no such key.
    #[error("attestation `{kind}` has no key `{key}`; it has: {valid}")]
    Key {
        /// The attestation.
        kind: &'static str,
        /// The key.
        key: String,
        /// All its keys.
        valid: String,
    },
    /// A quoted field does not end, or goes on after its end.
    #[error("quotes in `{text}` do not enclose a field; write: \"key=a,b\"")]
    Quotes {
        /// The string.
        text: String,
    },
    /// A value does not fit its key.
    #[error("invalid value `{value}` for `{key}`: expected {expected}")]
    Value {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// What would fit.
        expected: &'static str,
    },
}

impl Blame for AttestOptionError {
    fn fault(&self) -> Fault {
        Fault::Input
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Value { key, .. } if key == "generator" => {
                Some("give Attest::sbom a Scanner that runs the program".to_owned())
            }
            _ => None,
        }
    }
}
