//! Cache configs from anywhere, with and without layers of their own: read, indexed, merged, named
//! anew and written.
#![no_main]

use std::convert::Infallible;

use ashlar_llb::BlobDigest;
use ashlar_solver::cache::records::ConfigLayer;
use ashlar_solver::cache::{CacheRecords, ImportedRecords};
use libfuzzer_sys::fuzz_target;

/// Layers of the image that the same bytes are read as the cache of.
const IMAGE: [&[u8]; 3] = [b"a", b"b", b"a"];

fuzz_target!(|data: &[u8]| {
    if let Ok(records) = CacheRecords::from_json(data) {
        check(&records);
        let written = records.to_json();
        let again = CacheRecords::from_json(&written).expect("what was written is read");
        assert_eq!(again.to_json(), written);
    }
    let image = IMAGE.map(BlobDigest::of);
    let layers = image.map(ConfigLayer::new);
    if let Ok(records) = CacheRecords::from_inline_json(data, layers) {
        check(&records);
        if let Some(written) = records.to_inline_json(&image) {
            let layers = image.map(ConfigLayer::new);
            CacheRecords::from_inline_json(&written, layers).expect("what was written is read");
        }
    }
});

fn check(records: &CacheRecords<ConfigLayer>) {
    for (at, record) in records.records().iter().enumerate() {
        for links in &record.inputs {
            assert!(!links.is_empty());
            assert!(links.iter().all(|link| link.record < at));
        }
        for result in &record.results {
            let chain = records.chain(result.layer);
            assert!(chain.is_sorted());
        }
    }
    let _indexed = ImportedRecords::new(records);
    let Ok(named) = records.map_layers(|layer| Ok::<_, Infallible>(Some(layer.blob)));
    assert_eq!(named.layers().len(), records.layers().len());
    let merged = CacheRecords::merge([records.clone(), records.clone()]);
    assert!(merged.records().len() <= records.records().len());
}
