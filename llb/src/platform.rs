//! Platforms: operating system, processor, and what goes with what.
//!
//! Texts, normal forms and matching are those of `github.com/containerd/platforms`. The host is
//! never asked; where a text leaves something open, the caller's own platform fills it in.

mod matcher;
mod parse;

use std::fmt;
use std::str::FromStr;

pub use matcher::PlatformMatcher;
pub use parse::ParsePlatformError;

use crate::{path, pb};

/// An operating system and a processor, in Go's words.
///
/// ```
/// use ashlar_llb::platform::Platform;
///
/// let platform: Platform = "linux/aarch64".parse()?;
/// assert_eq!(platform, Platform::linux_arm64());
/// assert_eq!(platform.to_string(), "linux/arm64");
/// # Ok::<(), ashlar_llb::platform::ParsePlatformError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Platform {
    /// Operating system, such as `linux`.
    pub os: String,
    /// Processor architecture, such as `amd64`.
    pub architecture: String,
    /// Variant of the architecture, such as `v7` of `arm`; may be empty.
    pub variant: String,
    /// Version of the operating system, of use on Windows; may be empty.
    pub os_version: String,
    /// Features of the operating system that are needed; may be empty.
    pub os_features: Vec<String>,
}

impl Platform {
    /// Makes a platform of two words, which are taken as they are.
    #[must_use]
    pub fn new(os: impl Into<String>, architecture: impl Into<String>) -> Self {
        Self {
            os: os.into(),
            architecture: architecture.into(),
            ..Self::default()
        }
    }

    /// Linux on 64-bit x86.
    #[must_use]
    pub fn linux_amd64() -> Self {
        Self::new("linux", "amd64")
    }

    /// Linux on 64-bit ARM.
    #[must_use]
    pub fn linux_arm64() -> Self {
        Self::new("linux", "arm64")
    }

    /// Linux on 32-bit ARM of version 7.
    #[must_use]
    pub fn linux_armhf() -> Self {
        Self::new("linux", "arm").with_variant("v7")
    }

    /// Linux on 32-bit ARM of version 6.
    #[must_use]
    pub fn linux_armel() -> Self {
        Self::new("linux", "arm").with_variant("v6")
    }

    /// Linux on IBM Z.
    #[must_use]
    pub fn linux_s390x() -> Self {
        Self::new("linux", "s390x")
    }

    /// Linux on big-endian POWER.
    #[must_use]
    pub fn linux_ppc64() -> Self {
        Self::new("linux", "ppc64")
    }

    /// Linux on little-endian POWER.
    #[must_use]
    pub fn linux_ppc64le() -> Self {
        Self::new("linux", "ppc64le")
    }

    /// Linux on 64-bit RISC-V.
    #[must_use]
    pub fn linux_riscv64() -> Self {
        Self::new("linux", "riscv64")
    }

    /// macOS on x86-64, which is what BuildKit's client calls Darwin.
    #[must_use]
    pub fn darwin() -> Self {
        Self::new("darwin", "amd64")
    }

    /// Windows on x86-64.
    #[must_use]
    pub fn windows() -> Self {
        Self::new("windows", "amd64")
    }

    /// The platform this library was compiled for. Variants are not known at compile time.
    #[must_use]
    pub fn of_target() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            "loongarch64" => "loong64",
            other => other,
        };
        let os = match std::env::consts::OS {
            "macos" => "darwin",
            other => other,
        };
        Self::new(os, architecture).normalised()
    }

    /// Sets the variant.
    #[must_use]
    pub fn with_variant(mut self, variant: impl Into<String>) -> Self {
        self.variant = variant.into();
        self
    }

    /// Parses `os[(version+feature…)]/architecture[/variant]`, or one of os and architecture
    /// alone; what is missing then is taken from `host`.
    ///
    /// Architectures and operating systems become Go's words, but a variant that is the
    /// default may stay; use [`normalised`](Self::normalised) to compare.
    ///
    /// # Errors
    /// See [`ParsePlatformError`].
    pub fn parse_on(text: &str, host: &Self) -> Result<Self, ParsePlatformError> {
        parse::parse(text, host)
    }

    /// Returns the form in which equal platforms are equal: Go's words, no variant that is the
    /// default, features sorted. An empty operating system becomes `linux`.
    #[must_use]
    pub fn normalised(mut self) -> Self {
        self.os = if self.os.is_empty() {
            "linux".to_owned()
        } else {
            parse::os(&self.os)
        };
        (self.architecture, self.variant) = parse::architecture(&self.architecture, &self.variant);
        self.os_features.sort();
        self.os_features.dedup();
        self
    }

    /// The platform as it is written.
    pub(crate) fn fields(&self) -> pb::PlatformFields<'_> {
        pb::PlatformFields {
            architecture: &self.architecture,
            os: &self.os,
            variant: &self.variant,
            os_version: &self.os_version,
            os_features: &self.os_features,
        }
    }

    /// Returns `os/architecture/variant` without what is empty; `unknown` without an os.
    #[must_use]
    pub fn format(&self) -> String {
        if self.os.is_empty() {
            return "unknown".to_owned();
        }
        path::join(&[&self.os, &self.architecture, &self.variant])
    }

    /// Returns the same with version and features of the operating system.
    #[must_use]
    pub fn format_all(&self) -> String {
        let mut features = self.os_features.clone();
        features.sort();
        features.dedup();
        let mut options = parse::encode_option(&self.os_version);
        for feature in &features {
            options.push('+');
            options.push_str(&parse::encode_option(feature));
        }
        if self.os.is_empty() || options.is_empty() {
            return self.format();
        }
        let os = format!("{}({options})", self.os);
        path::join(&[&os, &self.architecture, &self.variant])
    }
}

/// Writes [`Platform::format_all`].
impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.format_all())
    }
}

/// Parses on [`Platform::of_target`].
impl FromStr for Platform {
    type Err = ParsePlatformError;

    fn from_str(text: &str) -> Result<Self, ParsePlatformError> {
        Self::parse_on(text, &Self::of_target())
    }
}

impl From<&pb::Platform> for Platform {
    fn from(platform: &pb::Platform) -> Self {
        Self {
            os: platform.os.clone(),
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone(),
            os_version: platform.os_version.clone(),
            os_features: platform.os_features.clone(),
        }
    }
}

impl From<&Platform> for pb::Platform {
    fn from(platform: &Platform) -> Self {
        Self {
            os: platform.os.clone(),
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone(),
            os_version: platform.os_version.clone(),
            os_features: platform.os_features.clone(),
        }
    }
}
