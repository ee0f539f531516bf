//! JSON as Go's `encoding/json` writes it, for the few places where it ends up in digests.
//!
//! Source attributes hold lists of patterns as JSON arrays of strings, and Go escapes more than
//! other writers do: `<`, `>`, `&` and the line separators U+2028 and U+2029.

/// Writes an array of strings without spaces.
pub(crate) fn string_array<S: AsRef<str>>(values: &[S]) -> String {
    let mut out = String::from("[");
    for (position, value) in values.iter().enumerate() {
        if position > 0 {
            out.push(',');
        }
        string(&mut out, value.as_ref());
    }
    out.push(']');
    out
}

/// Appends one string with its quotes.
pub fn string(out: &mut String, value: &str) {
    out.push('"');
    let plain = |byte| matches!(byte, b' '..=b'~') && !b"\"\\<>&".contains(&byte);
    if value.bytes().all(plain) {
        out.push_str(value);
        out.push('"');
        return;
    }
    for character in value.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..='\u{1f}' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            _ => out.push(character),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::string_array;

    #[test]
    fn escapes_what_go_escapes() {
        assert_eq!(string_array::<&str>(&[]), "[]");
        assert_eq!(string_array(&["a", "b c/*"]), r#"["a","b c/*"]"#);
        assert_eq!(string_array(&["<&>\"\\"]), r#"["\u003c\u0026\u003e\"\\"]"#);
        assert_eq!(
            string_array(&["\u{0}\u{1f}\u{8}\u{c}\n\r\t\u{7f}é\u{2028}\u{2029}"]),
            "[\"\\u0000\\u001f\\b\\f\\n\\r\\t\u{7f}é\\u2028\\u2029\"]"
        );
    }
}
