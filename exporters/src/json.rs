//! JSON as Go writes it, which image digests depend on.
//!
//! `encoding/json` escapes `<`, `>`, `&`, U+2028 and U+2029 in strings; `serde_json` does not.

mod shape;
mod time;

use std::io;

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};

pub(crate) use shape::{DOCKER_IMAGE, IMAGE};
pub(crate) use time::time_text;

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

/// Spreads compact JSON over lines, with two spaces of indentation; as Go's `json.Indent`. `None` if
/// that makes more than `most` bytes: indentation multiplies what is deep.
pub(crate) fn indent(compact: &[u8], most: usize) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(most.min(compact.len() * 2));
    let mut depth = 0_usize;
    let (mut in_string, mut escaped) = (false, false);
    let line = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.resize(out.len() + 2 * depth, b' ');
    };
    let mut bytes = compact.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if out.len() + 2 * depth > most {
            return None;
        }
        if in_string {
            out.push(byte);
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        match byte {
            b'{' | b'[' => {
                out.push(byte);
                let end = bytes.next_if(|next| matches!(next, b'}' | b']'));
                match end {
                    Some(end) => out.push(end),
                    None => {
                        depth += 1;
                        line(&mut out, depth);
                    }
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                line(&mut out, depth);
            }
            b':' => out.extend(b": "),
            _ => {
                in_string = byte == b'"';
                out.push(byte);
            }
        }
    }
    (out.len() <= most).then_some(out)
}

/// Writes a value as Go does that was read into an `any`: members sorted, numbers as 64-bit
/// floating point.
pub(crate) fn go_value(value: &Value) -> String {
    let mut out = String::new();
    write_go_value(&mut out, value);
    out
}

fn write_go_value(out: &mut String, value: &Value) {
    let separate = |out: &mut String, position| {
        if position > 0 {
            out.push(',');
        }
    };
    match value {
        Value::Number(number) => *out += &go_number(number.as_f64().unwrap_or(0.0)),
        Value::Array(values) => {
            out.push('[');
            for (position, value) in values.iter().enumerate() {
                separate(out, position);
                write_go_value(out, value);
            }
            out.push(']');
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| *name);
            out.push('{');
            for (position, (name, value)) in members.into_iter().enumerate() {
                separate(out, position);
                ashlar_llb::go_json::string(out, name);
                out.push(':');
                write_go_value(out, value);
            }
            out.push('}');
        }
        Value::String(text) => ashlar_llb::go_json::string(out, text),
        Value::Null => *out += "null",
        Value::Bool(true) => *out += "true",
        Value::Bool(false) => *out += "false",
    }
}

/// The shortest text that reads back as this number; with an exponent from 1e21 and below 1e-6.
fn go_number(number: f64) -> String {
    let size = number.abs();
    if size == 0.0 || (1e-6..1e21).contains(&size) {
        return format!("{number}");
    }
    let text = format!("{number:e}");
    match text.split_once('e') {
        Some((digits, exponent)) if !exponent.starts_with('-') => format!("{digits}e+{exponent}"),
        _ => text,
    }
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

    #[test]
    fn indentation_is_gos() {
        let text = r#"{"a":[],"b":{"c":[1,"x:{,"],"d":{}}}"#;
        let spread = "{\n  \"a\": [],\n  \"b\": {\n    \"c\": [\n      1,\n      \"x:{,\"\n    ],\n    \"d\": {}\n  }\n}";
        let (bytes, most) = (text.as_bytes(), spread.len());
        assert_eq!(indent(bytes, most).as_deref(), Some(spread.as_bytes()));
        assert_eq!(indent(bytes, most - 1), None);
        assert_eq!(squeeze(spread), text);
    }

    #[test]
    fn values_are_gos() {
        for (text, written) in [
            ("1.50", "1.5"),
            ("-0.0", "-0"),
            ("100", "100"),
            ("12345678901234567890", "12345678901234567000"),
            ("1e21", "1e+21"),
            ("1.5e300", "1.5e+300"),
            ("0.00000012", "1.2e-7"),
            ("0.000001", "0.000001"),
            (
                r#"{"b":[1,null,true],"a":"<"}"#,
                r#"{"a":"\u003c","b":[1,null,true]}"#,
            ),
        ] {
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(go_value(&value), written, "{text}");
        }
    }

    #[test]
    fn class_12_what_is_deep_is_not_indented_without_end() {
        let deep = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        assert_eq!(indent(deep.as_bytes(), 1 << 20), None);
    }
}
