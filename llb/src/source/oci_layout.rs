//! Images of an OCI layout that a client lends.
//!
//! Owns the builder of `oci-layout://` sources.

use crate::caps::Cap;
use crate::source::{source_builder, source_state};
use crate::{SessionId, State, StoreId};

/// An image of an OCI layout; a [`State`] whose source op still takes options.
#[derive(Clone, Debug)]
pub struct OciLayout {
    state: State,
}

/// Starts from an image of an OCI layout. The reference is used as it is; engines want a digest
/// in it.
///
/// ```
/// use ashlar_llb as llb;
///
/// let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// let base = llb::oci_layout(format!("example.com/base@{digest}")).store("base");
/// # let _ = base;
/// ```
#[must_use]
pub fn oci_layout(reference: impl AsRef<str>) -> OciLayout {
    let identifier = format!("oci-layout://{}", reference.as_ref());
    OciLayout {
        state: source_state(identifier, Some(Cap::SourceOcilayout)),
    }
}

source_builder!(OciLayout);

impl OciLayout {
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

    /// Takes only the lowest `limit` layers.
    #[must_use]
    pub fn layer_limit(self, limit: u32) -> Self {
        self.attr("oci.layerlimit", limit.to_string(), None)
    }
}
