//! Wildcards of paths and their components.

use ashlar_llb::patterns::Glob;

/// Whether a component has a character that is special in a pattern.
pub(crate) fn has_wildcard(part: &[u8]) -> bool {
    let mut bytes = part.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// A pattern or a component of one. A malformed one matches nothing, as in BuildKit.
#[derive(Debug)]
pub(super) struct Wildcard(Option<Glob>);

impl Wildcard {
    pub(super) fn new(pattern: &[u8]) -> Self {
        let pattern = std::str::from_utf8(pattern).ok();
        Self(pattern.and_then(|pattern| Glob::new(pattern).ok()))
    }

    pub(super) fn matches(&self, path: &[u8]) -> bool {
        self.0.as_ref().is_some_and(|glob| glob.matches(path))
    }
}
