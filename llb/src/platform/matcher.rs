//! Which platforms will do where one is wanted.

use super::Platform;

/// Tells which platforms will do where one is wanted, and which will do best.
#[derive(Clone, Debug)]
pub struct PlatformMatcher {
    /// Normal forms, the best first.
    wanted: Vec<Platform>,
}

impl PlatformMatcher {
    /// Takes the platform itself and what its processor also runs: `386` on `amd64`, lower
    /// variants, 32-bit `arm` on `arm64`.
    #[must_use]
    pub fn only(platform: &Platform) -> Self {
        let platform = platform.clone().normalised();
        let mut wanted = vec![platform.clone()];
        let mut other = |architecture: &str, variant: String| {
            let platform = Platform {
                architecture: architecture.to_owned(),
                variant,
                ..platform.clone()
            };
            wanted.push(platform.normalised());
        };
        match platform.architecture.as_str() {
            "amd64" => {
                let version = version(&platform.variant).unwrap_or(1);
                (1..version)
                    .rev()
                    .for_each(|version| other("amd64", format!("v{version}")));
                other("386", String::new());
            }
            "arm" => {
                let version = version(&platform.variant).unwrap_or(5);
                (5..version)
                    .rev()
                    .for_each(|version| other("arm", format!("v{version}")));
            }
            "arm64" => {
                let (variants, arm) = below_arm64(&platform.variant);
                variants
                    .into_iter()
                    .for_each(|variant| other("arm64", variant));
                let version = version(&arm).unwrap_or(5);
                other("arm", arm);
                (5..version)
                    .rev()
                    .for_each(|version| other("arm", format!("v{version}")));
            }
            _ => {}
        }
        Self { wanted }
    }

    /// Takes the platform itself only, in whatever way it is written.
    #[must_use]
    pub fn strict(platform: &Platform) -> Self {
        Self {
            wanted: vec![platform.clone().normalised()],
        }
    }

    /// Tells whether the candidate will do.
    #[must_use]
    pub fn matches(&self, candidate: &Platform) -> bool {
        self.rank(candidate).is_some()
    }

    /// Returns how far down the list of what will do the candidate is; less is better, and
    /// `None` will not do.
    #[must_use]
    pub fn rank(&self, candidate: &Platform) -> Option<usize> {
        let candidate = candidate.clone().normalised();
        self.wanted
            .iter()
            .position(|wanted| matches(wanted, &candidate))
    }
}

/// Compares two normal forms. The candidate may need fewer features than are there.
fn matches(wanted: &Platform, candidate: &Platform) -> bool {
    wanted.os == candidate.os
        && wanted.architecture == candidate.architecture
        && wanted.variant == candidate.variant
        && (wanted.os != "windows" || build(&wanted.os_version, &candidate.os_version))
        && candidate
            .os_features
            .iter()
            .all(|feature| wanted.os_features.contains(feature))
}

/// Windows images run on the build they were made for; an unset version fits any.
fn build(wanted: &str, candidate: &str) -> bool {
    let first_three = |version: &'_ str| version.split('.').take(3).map(str::to_owned).collect();
    let (wanted, candidate): (Vec<String>, Vec<String>) =
        (first_three(wanted), first_three(candidate));
    wanted == [""] || candidate == [""] || wanted == candidate
}

/// Reads the number of `v7`. Numbers that no processor has are not read, so that a hostile
/// variant cannot make a long list.
fn version(variant: &str) -> Option<u32> {
    let version = variant.strip_prefix('v').unwrap_or(variant).parse().ok()?;
    (version <= 64).then_some(version)
}

/// The variants of arm64 below one, the best first, and the variant of 32-bit arm it runs.
fn below_arm64(variant: &str) -> (Vec<String>, String) {
    let variant = if variant.is_empty() { "v8" } else { variant };
    let (major, minor) = variant.split_once('.').unwrap_or((variant, ""));
    let name = |major: u32, minor: u32| match minor {
        0 => format!("v{major}"),
        _ => format!("v{major}.{minor}"),
    };
    let mut below = Vec::new();
    if let Some(major @ 8..) = version(major) {
        let mut minor = if variant.len() == 4 {
            version(minor).unwrap_or(0)
        } else {
            0
        };
        let mut major = major;
        if major == 9 {
            below.extend((0..minor).rev().map(|minor| name(9, minor)));
            // Version 9.0 grew out of 8.5.
            minor += 5;
            major = 8;
            below.push(name(8, minor));
        }
        below.extend((0..minor).rev().map(|minor| name(major, minor)));
    }
    let is_minor = variant.starts_with("v8.") || variant.starts_with("v9.");
    (
        below,
        if is_minor {
            "v8".to_owned()
        } else {
            variant.to_owned()
        },
    )
}
