//! What is known about blobs beyond the layers they belong to.

use ashlar_llb::{BlobDigest, DiffId};

use super::Store;
use crate::cancel::{Cancel, Cancelled};
use crate::error::Failure;
use crate::meta::{LayerBlob, Meta};
use crate::oci::Descriptor;
use crate::turns::Turn;

/// Where the database notes what blobs were converted to: by the digest of the original and the
/// name of the variant, as descriptors in JSON with the diff id in [`UNCOMPRESSED`].
const VARIANTS: &str = "blob-variant";

/// Where the database notes which repositories have a blob: by host and digest, separated by
/// commas.
const REPOSITORIES: &str = "blob-repository";

/// The most repositories of one host that are noted for one blob.
const MAX_REPOSITORIES: usize = 8;

/// Annotation with the diff id of a layer.
const UNCOMPRESSED: &str = "containerd.io/uncompressed";

impl Store {
    /// Waits until nobody else makes the blob that `what` names, so that exports that run at the
    /// same time make it once. Blocks.
    ///
    /// # Errors
    /// [`Cancelled`].
    pub fn turn(&self, what: String, cancel: &Cancel) -> Result<Turn<String>, Cancelled> {
        self.making.take(what, cancel)
    }

    /// What the blob `original` was converted to under the name `variant`, if that is still
    /// there.
    ///
    /// # Errors
    /// The database or the store cannot be read.
    pub fn variant(
        &self,
        original: &BlobDigest,
        variant: &str,
    ) -> Result<Option<LayerBlob>, Failure> {
        let name = format!("{original} {variant}");
        let Some(json) = self.meta.name(VARIANTS, name.as_bytes())? else {
            return Ok(None);
        };
        // What cannot be read is made again.
        let Ok(mut found) = serde_json::from_slice::<Descriptor>(&json) else {
            return Ok(None);
        };
        let diff_id = found.annotations.remove(UNCOMPRESSED);
        let Some(diff_id) = diff_id.and_then(|text| text.parse::<DiffId>().ok()) else {
            return Ok(None);
        };
        let there = self.blobs.contains(&found.digest)?;
        Ok(there.then(|| LayerBlob {
            compression: variant.to_owned(),
            digest: found.digest,
            diff_id,
            size: found.size,
            media_type: found.media_type,
            annotations: found.annotations,
        }))
    }

    /// Notes what the blob `original` was converted to; the name of the variant is `made`'s
    /// compression.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn put_variant(&self, original: &BlobDigest, made: &LayerBlob) -> Result<(), Failure> {
        let name = format!("{original} {}", made.compression);
        let mut descriptor = Descriptor::new(&made.media_type, made.digest, made.size);
        descriptor.annotations.clone_from(&made.annotations);
        let diff_id = made.diff_id.to_string();
        descriptor
            .annotations
            .insert(UNCOMPRESSED.to_owned(), diff_id);
        let json = serde_json::to_vec(&descriptor).expect("BUG: a descriptor has only text keys");
        Ok(self.meta.put_name(VARIANTS, name.as_bytes(), &json)?)
    }

    /// The repositories of `host` that had the blob when it was last pulled from there or pushed
    /// there.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn repositories(&self, blob: &BlobDigest, host: &str) -> Result<Vec<String>, Failure> {
        repositories(&*self.meta, blob, host)
    }

    /// Notes that a repository of `host` has the blob. Writes nothing if that is known.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn put_repository(
        &self,
        blob: &BlobDigest,
        host: &str,
        repository: &str,
    ) -> Result<(), Failure> {
        put_repository(&*self.meta, blob, host, repository)
    }
}

fn repositories(meta: &dyn Meta, blob: &BlobDigest, host: &str) -> Result<Vec<String>, Failure> {
    let found = meta.name(REPOSITORIES, format!("{host} {blob}").as_bytes())?;
    let text = String::from_utf8(found.unwrap_or_default()).unwrap_or_default();
    let names = text.split(',').filter(|name| !name.is_empty());
    Ok(names.map(str::to_owned).collect())
}

/// See [`Store::put_repository`].
pub(crate) fn put_repository(
    meta: &dyn Meta,
    blob: &BlobDigest,
    host: &str,
    repository: &str,
) -> Result<(), Failure> {
    let mut known = repositories(meta, blob, host)?;
    if known.iter().any(|name| name == repository) {
        return Ok(());
    }
    known.insert(0, repository.to_owned());
    known.truncate(MAX_REPOSITORIES);
    let name = format!("{host} {blob}");
    Ok(meta.put_name(REPOSITORIES, name.as_bytes(), known.join(",").as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::Memory;

    #[test]
    fn repositories_are_noted_once_and_the_newest_are_kept() {
        let meta = Memory::new();
        let blob = BlobDigest::of(b"blob");
        for number in 0..10 {
            put_repository(&meta, &blob, "a.test", &format!("app/{number}")).unwrap();
        }
        put_repository(&meta, &blob, "b.test", "other").unwrap();
        put_repository(&meta, &blob, "b.test", "other").unwrap();
        let known = repositories(&meta, &blob, "a.test").unwrap();
        assert_eq!((known.len(), &known[0][..]), (8, "app/9"));
        assert_eq!(repositories(&meta, &blob, "b.test").unwrap(), ["other"]);
        assert!(repositories(&meta, &blob, "c.test").unwrap().is_empty());
        let another = BlobDigest::of(b"another");
        assert!(repositories(&meta, &another, "a.test").unwrap().is_empty());
    }
}
