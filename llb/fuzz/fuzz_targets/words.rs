//! The smallest languages: command lines, addresses of git repositories, paths.
#![no_main]

use ashlar_llb::{Constraints, Platform, path};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let words = ashlar_llb::shlex(text);
    assert!(words.iter().map(String::len).sum::<usize>() <= text.len());
    let clean = path::clean(text);
    assert_eq!(path::clean(&clean), clean);
    let _ = (path::dir(text), path::base(text), path::join(&["/", text]));
    let (url, fragment) = text.split_once('\n').unwrap_or((text, ""));
    let source = ashlar_llb::git(url).fragment(fragment);
    let constraints = Constraints::new(Platform::linux_amd64());
    let definition = source
        .marshal(&constraints)
        .expect("any address is written");
    assert_eq!(definition.ops().len(), 2);
});
