//! Annotations of images, by what they stand on and for which platform.

use std::collections::BTreeMap;

use ashlar_llb::Platform;

use crate::ExportError;

/// What an annotation stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum AnnotationKind {
    /// The manifest of each image.
    Manifest,
    /// The descriptor of each image in the index, or of the only one where it is written to.
    ManifestDescriptor,
    /// The index of all platforms.
    Index,
    /// The descriptor of that index where it is written to.
    IndexDescriptor,
}

impl AnnotationKind {
    const ALL: [(&'static str, Self); 5] = [
        ("", Self::Manifest),
        ("manifest", Self::Manifest),
        ("manifest-descriptor", Self::ManifestDescriptor),
        ("index", Self::Index),
        ("index-descriptor", Self::IndexDescriptor),
    ];
}

/// Annotations, each for one kind of document and for one platform or all.
///
/// ```
/// use ashlar_exporters::{AnnotationKind, Annotations};
///
/// let mut annotations = Annotations::default();
/// annotations.set(AnnotationKind::Manifest, None, "org.opencontainers.image.licenses", "MIT");
/// # let platform = ashlar_llb::Platform::linux_arm64();
/// annotations.set(AnnotationKind::ManifestDescriptor, Some(&platform), "com.example.tier", "2");
/// let mut parsed = Annotations::default();
/// parsed.parse("annotation.org.opencontainers.image.licenses", "MIT")?;
/// parsed.parse("annotation-manifest-descriptor[linux/arm64].com.example.tier", "2")?;
/// assert_eq!(annotations, parsed);
/// # Ok::<(), ashlar_exporters::ExportError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotations {
    /// By kind, text of the platform (empty for all) and key.
    all: BTreeMap<(AnnotationKind, String, String), String>,
}

/// Those that are written on one document.
pub(crate) type Written = BTreeMap<String, String>;

impl Annotations {
    /// Adds an annotation, for one platform of the result or for all. A platform that the result
    /// does not have is an error when it is exported.
    pub fn set(
        &mut self,
        kind: AnnotationKind,
        platform: Option<&Platform>,
        key: impl Into<String>,
        value: impl Into<String>,
    ) {
        let platform = platform.map(ToString::to_string).unwrap_or_default();
        self.all.insert((kind, platform, key.into()), value.into());
    }

    /// Adds an annotation by BuildKit's name for it, `annotation[-KIND]['['PLATFORM']'].KEY`. Gives
    /// false, and adds nothing, if `name` is not of this form.
    ///
    /// # Errors
    /// [`ExportError::Annotation`]: there is no such kind, or the platform is none.
    pub fn parse(&mut self, name: &str, value: impl Into<String>) -> Result<bool, ExportError> {
        let Some((kind, platform, key)) = split(name) else {
            return Ok(false);
        };
        let invalid = |reason: String| ExportError::Annotation {
            name: name.to_owned(),
            reason,
        };
        let known = AnnotationKind::ALL.iter().find(|(text, _)| *text == kind);
        let Some((_, kind)) = known else {
            let reason = "it is for none of manifest, manifest-descriptor, index, index-descriptor";
            return Err(invalid(reason.to_owned()));
        };
        let platform = match platform {
            "" => None,
            text => {
                let parsed = text.parse::<Platform>();
                Some(parsed.map_err(|error| invalid(error.to_string()))?)
            }
        };
        self.set(*kind, platform.as_ref(), key, value);
        Ok(true)
    }

    /// Adds all of `other`, which win.
    pub(crate) fn merge(&mut self, other: Self) {
        self.all.extend(other.all);
    }

    /// The platforms that are named.
    pub(crate) fn platforms(&self) -> impl Iterator<Item = &str> {
        let named = self.all.keys().map(|(_, platform, _)| platform.as_str());
        named.filter(|platform| !platform.is_empty())
    }

    /// Whether there is one of these kinds.
    pub(crate) fn has(&self, kinds: &[AnnotationKind]) -> bool {
        self.all.keys().any(|(kind, ..)| kinds.contains(kind))
    }

    /// Those of manifests and their descriptors for a platform: first those for all, then its own.
    pub(crate) fn of(&self, kind: AnnotationKind, platform: Option<&Platform>) -> Written {
        let own = platform.map(ToString::to_string);
        let mut written = Written::new();
        for wanted in ["", own.as_deref().unwrap_or_default()] {
            let of_platform = self
                .all
                .iter()
                .filter(|((of, platform, _), _)| *of == kind && platform == wanted);
            written.extend(of_platform.map(|((_, _, key), value)| (key.clone(), value.clone())));
        }
        written
    }

    /// Those of the index or its descriptor, for whichever platform they were given.
    pub(crate) fn of_index(&self, kind: AnnotationKind) -> Written {
        let wanted = self.all.iter().filter(|((of, ..), _)| *of == kind);
        wanted
            .map(|((_, _, key), value)| (key.clone(), value.clone()))
            .collect()
    }
}

/// Kind, platform and key in `annotation[-KIND]['['PLATFORM']'].KEY`.
fn split(name: &str) -> Option<(&str, &str, &str)> {
    let rest = name.strip_prefix("annotation")?;
    let (kind, rest) = match rest.strip_prefix('-') {
        None => ("", rest),
        Some(rest) => {
            let end = rest.find(['[', '.'])?;
            let (kind, rest) = rest.split_at(end);
            let fits = !kind.is_empty() && kind.bytes().all(|b| matches!(b, b'a'..=b'z' | b'-'));
            (fits.then_some(kind)?, rest)
        }
    };
    let (platform, rest) = match rest.strip_prefix('[') {
        None => ("", rest),
        Some(rest) => {
            let (platform, rest) = rest.split_once(']')?;
            let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'/' | b'-');
            let fits = !platform.is_empty() && platform.bytes().all(letter);
            (fits.then_some(platform)?, rest)
        }
    };
    let key = rest.strip_prefix('.')?;
    let fits = !key.is_empty() && !key.contains([' ', '\t', '\n', '\r', '\u{b}', '\u{c}']);
    fits.then_some((kind, platform, key))
}
