//! The JSON of `buildctl debug dump-llb`.

use std::fmt::{self, Write as _};

use super::Dump;
use crate::value::{Message as _, Role};
use crate::{Value, go_json, pb};

pub(super) fn write(dump: &Dump, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let none = pb::OpMetadata::default();
    for (digest, op) in &dump.ops {
        f.write_str("{\"Op\":")?;
        write_value(f, &Dump::value(op))?;
        write!(f, ",\"Digest\":\"{digest}\",\"OpMetadata\":")?;
        write_value(f, &dump.metadata(digest).unwrap_or(&none).to_value())?;
        f.write_str("}\n")?;
    }
    Ok(())
}

fn write_text(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let mut quoted = String::with_capacity(text.len() + 2);
    go_json::string(&mut quoted, text);
    f.write_str(&quoted)
}

fn write_value(f: &mut fmt::Formatter<'_>, value: &Value) -> fmt::Result {
    match value {
        Value::Bool(value) => write!(f, "{value}"),
        Value::Int(value) | Value::Mode(value) => write!(f, "{value}"),
        Value::Uint(value) => write!(f, "{value}"),
        Value::Enum { number, .. } => write!(f, "{number}"),
        Value::Text(text) => write_text(f, text),
        Value::Bytes(bytes) => write_base64(f, bytes),
        Value::List(values) => {
            f.write_char('[')?;
            for (position, value) in values.iter().enumerate() {
                if position > 0 {
                    f.write_char(',')?;
                }
                write_value(f, value)?;
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
                write_value(f, &field.value)?;
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
