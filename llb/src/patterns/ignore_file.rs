//! The `.dockerignore` file.

use crate::path;

/// Reads the patterns of a `.dockerignore` file.
///
/// Comments (a line's very first character is `#`) and empty lines go away, patterns are
/// cleaned, and a leading slash is dropped. A leading `!` is kept: it makes an exception.
#[must_use]
pub fn read_ignore_file(text: &str) -> Vec<String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.split('\n').filter_map(read_line).collect()
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
