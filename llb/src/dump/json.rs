//! The JSON of `buildctl debug dump-llb`.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use super::Dump;
use crate::value::{Message as _, Role};
use crate::{Value, go_json, pb};

pub(super) fn write(dump: &Dump, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let none = pb::OpMetadata::default();
    for (digest, op) in &dump.ops {
        f.write_str("{\"Op\":")?;
        write_value(f, &Dump::value(op), &as_is)?;
        write!(f, ",\"Digest\":\"{digest}\",\"OpMetadata\":")?;
        let metadata = dump.metadata(digest).unwrap_or(&none).to_value();
        write_value(f, &metadata, &as_is)?;
        f.write_str("}\n")?;
    }
    Ok(())
}

impl pb::Op {
    /// The op as BuildKit writes it as JSON, its texts as `text` makes them: `|text| text.into()`
    /// leaves them alone. Keys of maps are not among them.
    ///
    /// What a symlink action does and a numeric owner of 0 are not in it, as there.
    pub fn to_json(&self, text: &dyn Fn(&str) -> Cow<'_, str>) -> String {
        json(&self.to_value(), text)
    }
}

impl pb::Locations {
    /// The places as BuildKit writes them as JSON.
    pub fn to_json(&self) -> String {
        json(&self.to_value(), &as_is)
    }
}

fn json(value: &Value, text: &dyn Fn(&str) -> Cow<'_, str>) -> String {
    struct Shown<'a>(&'a Value, &'a dyn Fn(&str) -> Cow<'_, str>);

    impl fmt::Display for Shown<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write_value(f, self.0, self.1)
        }
    }

    Shown(value, text).to_string()
}

fn as_is(text: &str) -> Cow<'_, str> {
    Cow::Borrowed(text)
}

fn write_text(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let mut quoted = String::with_capacity(text.len() + 2);
    go_json::string(&mut quoted, text);
    f.write_str(&quoted)
}

fn write_value(
    f: &mut fmt::Formatter<'_>,
    value: &Value,
    text: &dyn Fn(&str) -> Cow<'_, str>,
) -> fmt::Result {
    match value {
        Value::Bool(value) => write!(f, "{value}"),
        Value::Int(value) | Value::Mode(value) => write!(f, "{value}"),
        Value::Uint(value) => write!(f, "{value}"),
        Value::Enum { number, .. } => write!(f, "{number}"),
        Value::Text(held) => write_text(f, &text(held)),
        Value::Bytes(bytes) => write_base64(f, bytes),
        Value::List(values) => {
            f.write_char('[')?;
            for (position, value) in values.iter().enumerate() {
                if position > 0 {
                    f.write_char(',')?;
                }
                write_value(f, value, text)?;
            }
            f.write_char(']')
        }
        Value::Fields(fields) => {
            f.write_char('{')?;
            let shown = fields.iter().filter(|field| field.role != Role::NotInJson);
            for (position, field) in shown.enumerate() {
                if position > 0 {
                    f.write_char(',')?;
                }
                write_text(f, &field.name)?;
                f.write_char(':')?;
                write_value(f, &field.value, text)?;
            }
            f.write_char('}')
        }
    }
}

/// Standard base64 with padding, as Go writes bytes.
fn write_base64(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    f.write_char('"')?;
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4_usize {
            let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize];
            f.write_char(if at <= chunk.len() { digit.into() } else { '=' })?;
        }
    }
    f.write_char('"')
}
