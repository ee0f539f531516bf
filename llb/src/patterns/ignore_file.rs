//! The `.dockerignore` file.

use crate::path;

/// Reads the patterns of a `.dockerignore` file.
///
/// Comments (a line's very first character is `#`) and empty lines go away, patterns are
/// cleaned, and a leading slash is dropped. A leading `!` is kept: it makes an exception. Lines
/// are read when they are asked for, so that a file of any size costs no memory, and
/// [`PatternMatcher::new`](super::PatternMatcher::new) stops where there are too many.
///
/// ```
/// use ashlar_llb::patterns::{PatternMatcher, read_ignore_file};
///
/// let ignored = PatternMatcher::new(read_ignore_file("# outputs\n/target/\n!/target/keep\n"))?;
/// assert!(ignored.matches_or_parent_matches("target/debug")?);
/// assert!(!ignored.matches_or_parent_matches("target/keep")?);
/// # Ok::<(), ashlar_llb::patterns::BadPattern>(())
/// ```
pub fn read_ignore_file(text: &str) -> impl Iterator<Item = String> + Clone + use<'_> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.split('\n').filter_map(read_line)
}

fn read_line(line: &str) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let pattern = line.trim();
    if pattern.is_empty() {
        return None;
    }
    let exception = pattern.strip_prefix('!');
    let pattern = exception.map_or(pattern, str::trim);
    let mut cleaned = String::new();
    if !pattern.is_empty() {
        cleaned = path::clean(pattern);
        if cleaned.len() > 1 && cleaned.starts_with('/') {
            cleaned.remove(0);
        }
    }
    if exception.is_some() {
        cleaned.insert(0, '!');
    }
    Some(cleaned)
}
