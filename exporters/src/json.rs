//! JSON as Go writes it, which image digests depend on.
//!
//! `encoding/json` escapes `<`, `>`, `&`, U+2028 and U+2029 in strings; `serde_json` does not.

use std::io;

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};

/// Writes `value` without white space.
pub(crate) fn compact(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut out = Vec::new();
    let formatter = Go(CompactFormatter);
    value.serialize(&mut serde_json::Serializer::with_formatter(
        &mut out, formatter,
    ))?;
    Ok(out)
}

/// Writes `value` with two spaces of indentation, as manifests are.
pub(crate) fn indented(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut out = Vec::new();
    let formatter = Go(PrettyFormatter::with_indent(b"  "));
    value.serialize(&mut serde_json::Serializer::with_formatter(
        &mut out, formatter,
    ))?;
    Ok(out)
}

/// Takes the white space out of JSON text that is known to be valid, keeping the order of members
/// and the spelling of numbers, and escapes strings as Go does.
pub(crate) fn squeeze(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_string = false;
    let mut escaped = false;
    for letter in text.chars() {
        if !in_string {
            in_string = letter == '"';
            if !letter.is_ascii_whitespace() {
                out.push(letter);
            }
            continue;
        }
        match escape(letter) {
            Some(sequence) if !escaped => out.push_str(sequence),
            _ => out.push(letter),
        }
        in_string = escaped || letter != '"';
        escaped = !escaped && letter == '\\';
    }
    out
}

fn escape(letter: char) -> Option<&'static str> {
    Some(match letter {
        '<' => "\\u003c",
        '>' => "\\u003e",
        '&' => "\\u0026",
        '\u{2028}' => "\\u2028",
        '\u{2029}' => "\\u2029",
        _ => return None,
    })
}

/// A formatter with Go's string escapes.
struct Go<F>(F);

macro_rules! forward {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {$(
        fn $name<W: ?Sized + io::Write>(&mut self, writer: &mut W, $($argument: $type),*) -> io::Result<()> {
            self.0.$name(writer, $($argument),*)
        }
    )*};
}

impl<F: Formatter> Formatter for Go<F> {
    forward! {
        begin_array();
        end_array();
        begin_array_value(first: bool);
        end_array_value();
        begin_object();
        end_object();
        begin_object_key(first: bool);
        end_object_key();
        begin_object_value();
        end_object_value();
    }

    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut from = 0;
        for (at, letter) in fragment.char_indices() {
            if let Some(sequence) = escape(letter) {
                writer.write_all(&fragment.as_bytes()[from..at])?;
                writer.write_all(sequence.as_bytes())?;
                from = at + letter.len_utf8();
            }
        }
        writer.write_all(&fragment.as_bytes()[from..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_as_in_go() {
        let value = serde_json::json!({"a": "x && y > z\u{2028}", "b": [1, {"c": "<"}], "e": {}});
        assert_eq!(
            String::from_utf8(compact(&value).unwrap()).unwrap(),
            r#"{"a":"x \u0026\u0026 y \u003e z\u2028","b":[1,{"c":"\u003c"}],"e":{}}"#
        );
        assert_eq!(
            String::from_utf8(indented(&value["b"]).unwrap()).unwrap(),
            "[\n  1,\n  {\n    \"c\": \"\\u003c\"\n  }\n]"
        );
    }

    #[test]
    fn squeezing_keeps_order_and_numbers() {
        let text = " { \"z\" : 1.50 ,\n \"a\\\" b\" : \"x < \\\\ \" , \"q\": [ ] } ";
        assert_eq!(squeeze(text), r#"{"z":1.50,"a\" b":"x \u003c \\ ","q":[]}"#);
    }
}
