//! Images by name: what a name stood for when it was last written here.
//!
//! Owns [`Images`], the names of a store and the manifests or indexes they lead to. Exporters write
//! them, the image source reads them.
//!
//! Invariants:
//! - **A name is whole**: with its registry and a tag, as [`Reference::with_default_tag`] gives it.
//!   Names with a digest need no record and are refused.
//! - **A name promises nothing**: its blobs may be gone, which whoever reads it finds out.
//!
//! Leaves to others: the blobs (`content`), what the documents mean (`source::image`).

use std::sync::Arc;

use ashlar_llb::Reference;

use crate::error::{Blame, Fault};
use crate::meta::{Meta, MetaError};
use crate::oci::Descriptor;

/// The namespace in the database.
const NAMESPACE: &str = "image";

/// The named images of a store. Cheap to clone; several processes may use one store.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
///
/// use ashlar_llb::{BlobDigest, Reference};
/// use ashlar_solver::images::Images;
/// use ashlar_solver::meta::Memory;
/// use ashlar_solver::oci::{Descriptor, media_type};
///
/// let images = Images::new(Arc::new(Memory::new()));
/// let manifest = Descriptor::new(media_type::OCI_MANIFEST, BlobDigest::of(b"{}"), 2);
/// images.set(&Reference::parse("app:v1")?, &manifest)?;
/// assert_eq!(images.get(&Reference::parse("docker.io/library/app:v1")?)?, Some(manifest));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Images {
    meta: Arc<dyn Meta>,
}

/// A name cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImagesError {
    /// The name has a digest, so that it always leads to the same.
    #[error("{name} has a digest; only a tag can be made to lead somewhere")]
    Digest {
        /// The name.
        name: String,
    },
    /// The database did not answer.
    #[error("cannot {action} the image {name}")]
    Meta {
        /// What was tried.
        action: &'static str,
        /// The name.
        name: String,
        /// Why.
        #[source]
        source: Box<MetaError>,
    },
}

impl Blame for ImagesError {
    fn fault(&self) -> Fault {
        match self {
            Self::Digest { .. } => Fault::Input,
            Self::Meta { source, .. } => source.fault(),
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Digest { .. } => Some("leave the digest out".to_owned()),
            Self::Meta { source, .. } => source.remedy(),
        }
    }
}

impl Images {
    /// The images named in this database.
    pub fn new(meta: Arc<dyn Meta>) -> Self {
        Self { meta }
    }

    /// What a name leads to; `None` if it is not there, or was written by a version that cannot be
    /// understood. A name without tag has the tag `latest`.
    ///
    /// # Errors
    /// [`ImagesError`].
    pub fn get(&self, name: &Reference) -> Result<Option<Descriptor>, ImagesError> {
        let name = whole(name)?;
        let found = self.meta.name(NAMESPACE, name.as_bytes());
        let found = found.map_err(failed("look up", name))?;
        Ok(found.and_then(|value| serde_json::from_slice(&value).ok()))
    }

    /// Makes a name lead to a manifest or an index, whatever it led to before.
    ///
    /// # Errors
    /// [`ImagesError`].
    pub fn set(&self, name: &Reference, image: &Descriptor) -> Result<(), ImagesError> {
        self.set_all(std::slice::from_ref(name), image)
    }

    /// Makes names lead to a manifest or an index, whatever they led to before: all of them at once.
    ///
    /// # Errors
    /// [`ImagesError`]; they all lead to what they led to before then.
    pub fn set_all(&self, names: &[Reference], image: &Descriptor) -> Result<(), ImagesError> {
        let names: Vec<String> = names.iter().map(whole).collect::<Result<_, _>>()?;
        let value = serde_json::to_vec(image).expect("BUG: a descriptor has only text keys");
        let named = names.iter().map(|name| (name.as_bytes(), &value[..]));
        let named: Vec<(&[u8], &[u8])> = named.collect();
        let written = self.meta.put_names(NAMESPACE, &named);
        written.map_err(failed("name", names.join(", ")))
    }

    /// Removes a name; nothing happens if it is not there. The blobs stay.
    ///
    /// # Errors
    /// [`ImagesError`].
    pub fn remove(&self, name: &Reference) -> Result<(), ImagesError> {
        let name = whole(name)?;
        let removed = self.meta.remove_name(NAMESPACE, name.as_bytes());
        removed.map_err(failed("remove", name))
    }

    /// All names, in order, and what they lead to.
    ///
    /// # Errors
    /// [`ImagesError`].
    pub fn all(&self) -> Result<Vec<(Reference, Descriptor)>, ImagesError> {
        let all = self.meta.names(NAMESPACE);
        let all = all.map_err(failed("list", "names".to_owned()))?;
        let known = |(name, value): (Vec<u8>, Vec<u8>)| {
            let name = Reference::parse(&String::from_utf8(name).ok()?).ok()?;
            Some((name, serde_json::from_slice(&value).ok()?))
        };
        Ok(all.into_iter().filter_map(known).collect())
    }
}

fn whole(name: &Reference) -> Result<String, ImagesError> {
    if name.digest().is_some() {
        let name = name.to_string();
        return Err(ImagesError::Digest { name });
    }
    Ok(name.clone().with_default_tag().to_string())
}

fn failed(action: &'static str, name: String) -> impl FnOnce(MetaError) -> ImagesError {
    move |source| ImagesError::Meta {
        action,
        name,
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests {
    use ashlar_llb::BlobDigest;

    use super::*;
    use crate::meta::{Database, Memory};
    use crate::oci::media_type;

    fn reference(name: &str) -> Reference {
        Reference::parse(name).unwrap()
    }

    fn image(bytes: &[u8]) -> Descriptor {
        let size = bytes.len() as u64;
        Descriptor::new(media_type::OCI_INDEX, BlobDigest::of(bytes), size)
    }

    #[test]
    fn names_are_whole_and_the_last_one_counts() {
        let root = tempfile::tempdir().unwrap();
        let database = Database::open(root.path(), "boot").unwrap().database;
        let metas: [Arc<dyn Meta>; 2] = [Arc::new(Memory::new()), Arc::new(database)];
        for meta in metas {
            let images = Images::new(meta.clone());
            assert_eq!(images.get(&reference("app")).unwrap(), None);
            images.set(&reference("app"), &image(b"1")).unwrap();
            images
                .set(&reference("example.com/a/b:v1"), &image(b"2"))
                .unwrap();
            images
                .set(&reference("docker.io/library/app:latest"), &image(b"3"))
                .unwrap();
            let found = Images::new(meta.clone()).get(&reference("app:latest"));
            assert_eq!(found.unwrap(), Some(image(b"3")));
            assert_eq!(images.get(&reference("app:v1")).unwrap(), None);
            let all = images.all().unwrap();
            let names: Vec<String> = all.iter().map(|(name, _)| name.to_string()).collect();
            assert_eq!(
                names,
                ["docker.io/library/app:latest", "example.com/a/b:v1"]
            );
            images.remove(&reference("app")).unwrap();
            images.remove(&reference("app")).unwrap();
            assert_eq!(images.all().unwrap().len(), 1);
            let both = ["app", "other:v2"].map(reference);
            images.set_all(&both, &image(b"4")).unwrap();
            for name in &both {
                assert_eq!(images.get(name).unwrap(), Some(image(b"4")));
            }
            images.set_all(&[], &image(b"5")).unwrap();
            assert_eq!(images.all().unwrap().len(), 3);
            // What a newer version may write is not an error.
            meta.put_name(NAMESPACE, b"docker.io/library/app:latest", b"?")
                .unwrap();
            assert_eq!(images.get(&reference("app")).unwrap(), None);
        }
    }

    #[test]
    fn class_11_a_digest_cannot_be_made_to_mean_something_else() {
        let images = Images::new(Arc::new(Memory::new()));
        let pinned = reference("app:v1").with_digest(BlobDigest::of(b"x"));
        let error = images.set(&pinned, &image(b"y")).unwrap_err();
        assert!(matches!(error, ImagesError::Digest { .. }));
        assert_eq!(error.fault(), Fault::Input);
        assert!(images.get(&pinned).is_err() && images.remove(&pinned).is_err());
        // Nor is any other name written beside it.
        let both = [reference("other"), pinned];
        assert!(images.set_all(&both, &image(b"y")).is_err());
        assert_eq!(images.all().unwrap(), []);
    }
}
