//! Single blobs of a registry or an OCI layout.
//!
//! Owns the builder of `docker-image+blob://` and `oci-layout+blob://` sources.

use super::http::{id, permissions};
use crate::caps::Cap;
use crate::op_state::vertex_mut;
use crate::source::{InvalidSource, source_builder, source_state};
use crate::vertex::VertexOp;
use crate::{Mode, Reference, SessionId, State, StoreId};

/// A blob of a registry as a file; a [`State`] with that one file, whose source op still takes
/// options.
#[derive(Clone, Debug)]
pub struct Blob {
    state: State,
}

/// A blob of an OCI layout as a file; a [`State`] with that one file, whose source op still
/// takes options.
#[derive(Clone, Debug)]
pub struct OciBlob {
    state: State,
}

/// Starts from one blob of a registry's repository, `name@sha256:…`.
///
/// ```
/// use ashlar_llb as llb;
///
/// let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// let model = llb::image_blob(format!("example.com/models/small@{digest}")).filename("model");
/// # let _ = model;
/// ```
#[must_use]
pub fn image_blob(reference: impl AsRef<str>) -> Blob {
    Blob {
        state: blob("docker-image+blob://", reference.as_ref()),
    }
}

/// Starts from one blob of an OCI layout that a client lends, `name@sha256:…`.
///
/// ```
/// use ashlar_llb as llb;
///
/// let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// let model = llb::oci_layout_blob(format!("small@{digest}")).store("models");
/// # let _ = model;
/// ```
#[must_use]
pub fn oci_layout_blob(reference: impl AsRef<str>) -> OciBlob {
    OciBlob {
        state: blob("oci-layout+blob://", reference.as_ref()),
    }
}

fn blob(scheme: &str, text: &str) -> State {
    let name = || text.to_owned();
    let reference = match Reference::parse(text) {
        Err(source) => Err(InvalidSource::Reference {
            reference: name(),
            source,
        }),
        Ok(reference) if reference.tag().is_some() => {
            Err(InvalidSource::Tagged { reference: name() })
        }
        Ok(reference) if reference.digest().is_none() => {
            Err(InvalidSource::NoDigest { reference: name() })
        }
        Ok(reference) => Ok(format!("{scheme}{reference}")),
    };
    let cap = Some(Cap::SourceImageblob);
    match reference {
        Ok(identifier) => source_state(identifier, cap),
        Err(reason) => {
            let mut state = source_state(format!("{scheme}{text}"), cap);
            set_invalid(&mut state, reason);
            state
        }
    }
}

/// Has the marshal of a new source's state fail.
fn set_invalid(state: &mut State, reason: InvalidSource) {
    if let Some(vertex) = vertex_mut(state)
        && let VertexOp::Source(source) = &mut vertex.op
    {
        source.invalid = Some(reason);
    }
}

source_builder!(Blob);
source_builder!(OciBlob);

/// Writes the options of the file a blob becomes.
macro_rules! file_options {
    ($type:ident) => {
        impl $type {
            /// Names the file; its digest names it by default.
            #[must_use]
            pub fn filename(self, name: impl Into<String>) -> Self {
                self.text("http.filename", name, None)
            }

            /// Sets the permission bits of the file. The marshal fails with other bits, which
            /// BuildKit would drop. 0600 by default.
            #[must_use]
            pub fn mode(mut self, mode: impl Into<Mode>) -> Self {
                let mode = mode.into();
                self.source_mut().check_mode(mode);
                self.text("http.perm", permissions(mode), None)
            }

            /// Sets the owner of the file. Zeros, the default, are not written.
            #[must_use]
            pub fn owner(self, uid: u32, gid: u32) -> Self {
                self.text("http.uid", id(uid), None)
                    .text("http.gid", id(gid), None)
            }
        }
    };
}

file_options!(Blob);
file_options!(OciBlob);

impl OciBlob {
    /// Names the store the client lends the layout as.
    #[must_use]
    pub fn store(self, store_id: impl Into<StoreId>) -> Self {
        self.text("oci.store", store_id.into(), None)
    }

    /// Names the session of the client that lends the layout. Any session of the build by
    /// default.
    #[must_use]
    pub fn session(self, session_id: impl Into<SessionId>) -> Self {
        self.text("oci.session", session_id.into(), None)
    }
}
