//! Platforms: what parses can be written, read again and matched.
#![no_main]

use ashlar_llb::Platform;
use ashlar_llb::platform::PlatformMatcher;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let host = Platform::linux_amd64();
    let Ok(platform) = Platform::parse_on(text, &host) else {
        return;
    };
    let normal = platform.clone().normalised();
    assert_eq!(normal.clone().normalised(), normal);
    let _ = (platform.format(), platform.format_all());
    let only = PlatformMatcher::only(&platform);
    let strict = PlatformMatcher::strict(&platform);
    let _ = (only.rank(&host), strict.matches(&host));
    assert!(strict.matches(&normal), "{platform:?} is not itself");
    // As in containerd an arm64 of a variant that nobody knows runs nothing.
    assert!(
        only.matches(&normal) || normal.architecture == "arm64",
        "{platform:?} does not match itself"
    );
});
