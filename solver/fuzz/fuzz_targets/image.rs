//! The documents of images: indexes, manifests and configs from anywhere lead to layers or to an
//! error. The input is the documents, each behind a line `---`; which one a descriptor leads to is told
//! by its digest.
#![no_main]

use ashlar_llb::Platform;
use ashlar_llb::digest::BlobDigest;
use ashlar_solver::limits::Limits;
use ashlar_solver::oci::Descriptor;
use ashlar_solver::source::image::{Documents, ImageError, resolve};
use futures::FutureExt as _;
use libfuzzer_sys::fuzz_target;

struct Parts<'a>(Vec<&'a [u8]>);

impl Documents for Parts<'_> {
    type Error = ImageError;

    async fn document(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>, ImageError> {
        let at = usize::from(descriptor.digest.as_bytes()[31]) % self.0.len();
        let bytes = self.0[at];
        assert!(
            descriptor.size <= limit,
            "a document larger than the limit is not read"
        );
        Ok(bytes.to_vec())
    }
}

fn parts(mut data: &[u8]) -> Parts<'_> {
    const MARK: &[u8] = b"\n---\n";
    let mut all = Vec::new();
    while let Some(at) = data.windows(MARK.len()).position(|part| part == MARK) {
        all.push(&data[..at]);
        data = &data[at + MARK.len()..];
    }
    all.push(data);
    Parts(all)
}

fuzz_target!(|data: &[u8]| {
    let documents = parts(data);
    let root = Descriptor::new(
        "",
        BlobDigest::from_bytes([0; 32]),
        documents.0[0].len() as u64,
    );
    let mut limits = Limits::default();
    limits.manifest_bytes = 1 << 20;
    let platform = Platform::linux_amd64();
    let resolved = resolve(&documents, root, &platform, &limits)
        .now_or_never()
        .expect("nothing waits");
    if let Ok(image) = resolved {
        assert_eq!(image.layers.len(), image.config.rootfs.diff_ids.len());
        assert!(image.layers.len() <= limits.image_layers);
        let _ = image.created();
        let count = image.layers.len();
        assert!(image.clone().limit_layers(count).is_ok());
        assert!(image.limit_layers(count + 1).is_err());
    }
});
