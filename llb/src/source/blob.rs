//! Single blobs of a registry or an OCI layout.
//!
//! Owns the builder of `docker-image+blob://` and `oci-layout+blob://` sources.

use super::http::permissions;
use crate::source::{InvalidSource, source_builder, source_state};
use crate::{Reference, State};

/// A blob as a file; a [`State`] with that one file, whose source op still takes options.
#[derive(Clone, Debug)]
pub struct Blob {
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
    blob("docker-image+blob://", reference.as_ref())
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
pub fn oci_layout_blob(reference: impl AsRef<str>) -> Blob {
    blob("oci-layout+blob://", reference.as_ref())
}

fn blob(scheme: &str, text: &str) -> Blob {
    let mut blob = Blob {
        state: source_state(scheme.to_owned(), Some("source.imageblob")),
    };
    let source = blob.source_mut();
    let name = || text.to_owned();
    match Reference::parse(text) {
        Err(error) => {
            source.invalid = Some(InvalidSource::Reference {
                reference: name(),
                source: error,
            });
        }
        Ok(reference) if reference.tag().is_some() => {
            source.invalid = Some(InvalidSource::Tagged { reference: name() });
        }
        Ok(reference) if reference.digest().is_none() => {
            source.invalid = Some(InvalidSource::NoDigest { reference: name() });
        }
        Ok(reference) => source.identifier = format!("{scheme}{reference}"),
    }
    blob
}

source_builder!(Blob);

impl Blob {
    /// Names the file.
    #[must_use]
    pub fn filename(self, name: impl Into<String>) -> Self {
        self.attr("http.filename", name, None)
    }

    /// Sets the permission bits of the file; others are dropped.
    #[must_use]
    pub fn mode(self, mode: u32) -> Self {
        match permissions(mode) {
            Some(text) => self.attr("http.perm", text, None),
            None => self,
        }
    }

    /// Sets the owner of the file. Zeros, the default, are not written.
    #[must_use]
    pub fn owner(self, uid: u32, gid: u32) -> Self {
        let mut blob = self;
        if uid != 0 {
            blob = blob.attr("http.uid", uid.to_string(), None);
        }
        if gid != 0 {
            blob = blob.attr("http.gid", gid.to_string(), None);
        }
        blob
    }

    /// Names the store the client lends the layout as. Of use for OCI layouts only.
    #[must_use]
    pub fn store(self, store_id: impl Into<String>) -> Self {
        self.attr("oci.store", store_id, None)
    }

    /// Names the session of the client that lends the layout. Of use for OCI layouts only.
    #[must_use]
    pub fn session(self, session_id: impl Into<String>) -> Self {
        self.attr("oci.session", session_id, None)
    }
}
