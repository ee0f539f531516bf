//! What a caller asks of a solver.

use std::path::PathBuf;

use ashlar_llb::{Definition, Platform};

use super::Durability;
use crate::session::{LocalDirectory, Session};

/// One solve: a definition and what the caller lends to it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SolveRequest {
    /// What to build.
    pub definition: Definition,
    /// Directories and layouts lent to this solve.
    pub session: Session,
    /// Run every vertex, whatever is in the cache; results are stored all the same. Default:
    /// false.
    pub no_cache: bool,
    /// When the result is safe from a power cut. Default: [`Durability::Background`].
    pub durability: Durability,
    /// The platform of the result; goes into image configs that do not name one. Default: that of
    /// the vertex the result comes from, else that of this machine.
    pub platform: Option<Platform>,
}

impl SolveRequest {
    /// Asks for `definition`, lending nothing.
    pub fn new(definition: Definition) -> Self {
        Self {
            definition,
            session: Session::default(),
            no_cache: false,
            durability: Durability::default(),
            platform: None,
        }
    }

    /// Lends a directory under the name that `llb::local` uses.
    #[must_use]
    pub fn local(mut self, name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        self.session
            .locals
            .insert(name.into(), LocalDirectory::new(path));
        self
    }

    /// Lends a directory that holds an OCI image layout, under the store id that
    /// `llb::oci_layout` uses.
    #[must_use]
    pub fn oci_layout(mut self, store: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        self.session.oci_layouts.insert(store.into(), path.into());
        self
    }

    /// Sets whether every vertex runs.
    #[must_use]
    pub fn no_cache(mut self, no_cache: bool) -> Self {
        self.no_cache = no_cache;
        self
    }

    /// Sets when the result is safe from a power cut.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }
}
