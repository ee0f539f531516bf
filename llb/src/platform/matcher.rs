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
    /// variants, 32-bit `arm` on `arm64`. As in containerd, an `arm64` of an unknown variant runs
    /// nothing, not even itself.
    #[must_use]
    pub fn only(platform: &Platform) -> Self {
        let platform = platform.clone().normalised();
        let variant = |architecture: &str, variant: String| {
            Platform {
                architecture: architecture.to_owned(),
                variant,
                ..platform.clone()
            }
            .normalised()
        };
        let mut wanted = vec![platform.clone()];
        match platform.architecture.as_str() {
            "amd64" => {
                let lower = 1..version(&platform.variant).unwrap_or(1);
                wanted.extend(
                    lower
                        .rev()
                        .map(|lower| variant("amd64", format!("v{lower}"))),
                );
                wanted.push(variant("386", String::new()));
            }
            "arm" => {
                let lower = 5..version(&platform.variant).unwrap_or(5);
                wanted.extend(lower.rev().map(|lower| variant("arm", format!("v{lower}"))));
            }
            "arm64" => {
                let variants = arm64_variants(&platform.variant);
                let arm = if variants.is_empty() { 0..0 } else { 5..9 };
                wanted = variants
                    .into_iter()
                    .map(|name| variant("arm64", name))
                    .chain(
                        arm.rev()
                            .map(|version| variant("arm", format!("v{version}"))),
                    )
                    .collect();
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
    let windows = wanted.os == "windows";
    // Every Windows has this one.
    let needed = |feature: &&String| !windows || feature.as_str() != "win32k";
    let mut needed = candidate.os_features.iter().filter(needed);
    wanted.os == candidate.os
        && wanted.architecture == candidate.architecture
        && wanted.variant == candidate.variant
        && (!windows || windows_runs(&wanted.os_version, &candidate.os_version))
        && needed.all(|feature| wanted.os_features.contains(feature))
}

/// Builds of Windows Server that run images of all builds since the one before.
const LONG_TERM: [u16; 2] = [20_348, 26_100];

/// Tells whether a Windows of version `host` runs images of version `image`; an unset version fits
/// any. From Server 2022 on a build runs images of builds since the last long-term release.
fn windows_runs(host: &str, image: &str) -> bool {
    let Some(host) = windows_version(host) else {
        return true;
    };
    if image.is_empty() {
        return true;
    }
    let Some(image) = windows_version(image) else {
        return false;
    };
    let oldest = LONG_TERM.iter().rev().find(|&&release| release < host.2);
    let oldest = match oldest {
        Some(&release) => release,
        None if host.2 == LONG_TERM[0] => LONG_TERM[0],
        None => host.2,
    };
    (host.0, host.1) == (image.0, image.1) && (oldest..=host.2).contains(&image.2)
}

/// Reads major, minor and build number; `None` if it is no such version, or all are zero.
fn windows_version(version: &str) -> Option<(u8, u8, u16)> {
    let mut parts = version.split('.');
    let version = (
        parts.next()?.parse().ok()?,
        parts.next()?.parse().ok()?,
        parts.next()?.parse().ok()?,
    );
    (version != (0, 0, 0)).then_some(version)
}

/// Reads the number of `v7`. Numbers that no processor has are not read, so that a hostile
/// variant cannot make a long list.
fn version(variant: &str) -> Option<u32> {
    let version = variant.strip_prefix('v').unwrap_or(variant).parse().ok()?;
    (version <= 64).then_some(version)
}

/// What an arm64 of this variant runs, itself first; nothing if no such variant is known.
fn arm64_variants(variant: &str) -> Vec<String> {
    let variant = if variant.is_empty() { "v8" } else { variant };
    let name = |major: u32, minor: u32| match minor {
        0 => format!("v{major}"),
        _ => format!("v{major}.{minor}"),
    };
    let minor = |major, last| (0..=last).find(|&minor| name(major, minor) == variant);
    // Version 9.0 grew out of 8.5.
    let (nine, eight) = match (minor(8, 9), minor(9, 7)) {
        (Some(eight), _) => (None, eight),
        (None, Some(nine)) => (Some(nine), (nine + 5).min(9)),
        (None, None) => return Vec::new(),
    };
    let nines = (0..nine.map_or(0, |nine| nine + 1)).rev();
    nines
        .map(|minor| name(9, minor))
        .chain((0..=eight).rev().map(|minor| name(8, minor)))
        .collect()
}
