//! SLSA provenance: what a result was made of, and how, as a predicate of an in-toto statement.
//!
//! Owns [`ProvenanceOptions`] and the predicates of SLSA v0.2 and v1, in BuildKit's shape, made of
//! what the solver noted while it ran ([`Provenance`]). The members and their order are BuildKit's,
//! and so are its habits: numbers in the build config of v1 went through a 64-bit float.
//!
//! Invariants:
//! - **No secret.** Values of secrets are never known here. Passwords in addresses are masked
//!   wherever text is written down: in materials, arguments, variables, source files, and files that
//!   the definition has.
//! - The predicate depends on the result, the options and the blobs in the store alone.
//!
//! Leaves to others: statements and their subjects (`attest` and the exporters).
//!
//! [`Provenance`]: ashlar_solver::provenance::Provenance

mod layers;
mod materials;
mod options;
mod predicate;
mod steps;

pub use options::{IncompleteMaterials, ProvenanceMode, ProvenanceOptions, SlsaVersion};

pub(crate) use predicate::{check, predicate};
