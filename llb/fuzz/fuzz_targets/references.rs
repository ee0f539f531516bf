//! Image references: what parses has a normal form that means the same.
#![no_main]

use ashlar_llb::reference::Reference;
use ashlar_llb::{Checksum, Constraints, OpDigest, Platform};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(digest) = text.parse::<OpDigest>() {
        assert_eq!(digest.to_string(), text);
    }
    if let Ok(checksum) = text.parse::<Checksum>() {
        assert_eq!(checksum.as_str(), text);
    }
    let constraints = Constraints::new(Platform::linux_amd64());
    let marshalled = ashlar_llb::image(text).marshal(&constraints);
    let Ok(reference) = Reference::parse(text) else {
        assert!(marshalled.is_err());
        return;
    };
    assert!(marshalled.is_ok());
    if !reference.domain().is_empty() {
        let again: Reference = reference
            .to_string()
            .parse()
            .expect("the normal form parses");
        assert_eq!(again, reference);
    }
    // The short form is for people: as in Docker it may mean something else when it is read.
    let _ = (
        reference.familiar(),
        reference.to_docker(),
        reference.with_default_tag().to_string(),
    );
});
