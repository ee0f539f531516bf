//! Definitions as text for people.

use std::collections::HashMap;
use std::fmt::{self, Write as _};

use super::Dump;
use crate::value::{Message as _, Role, write_quoted};
use crate::{OpDigest, Value, graph, pb};

/// How many digits of a digest are enough to tell vertices apart at a glance.
const SHORT: usize = "sha256:".len() + 12;

pub(super) fn write(dump: &Dump, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if dump.ops.is_empty() {
        return f.write_str("scratch: a definition without ops\n");
    }
    let mut numbers: HashMap<String, usize> = HashMap::with_capacity(dump.ops.len());
    for (number, (digest, _)) in dump.ops.iter().enumerate() {
        numbers.entry(digest.to_string()).or_insert(number);
    }
    for (number, (digest, op)) in dump.ops.iter().enumerate() {
        if number > 0 {
            f.write_char('\n')?;
        }
        write!(f, "#{number} ")?;
        match &op.op {
            None => f.write_str("result")?,
            Some(op) => write_plain(f, &title(op))?,
        }
        write!(f, "\n  digest: {digest}")?;
        for (position, input) in op.inputs.iter().enumerate() {
            write!(f, "\n  input {position}: ")?;
            match numbers.get(&input.digest) {
                Some(from) => write!(f, "#{from}")?,
                None => {
                    f.write_str("not in the definition, ")?;
                    write_quoted(f, &input.digest)?;
                }
            }
            if input.index != 0 {
                write!(f, " output {}", input.index)?;
            }
            if let Some(short) = input.digest.get(..SHORT) {
                f.write_str(" (")?;
                write_plain(f, short)?;
                f.write_char(')')?;
            }
        }
        if let Value::Fields(fields) = Dump::value(op) {
            for field in fields.iter().filter(|field| field.name != "inputs") {
                write_leaves(f, &mut field_path("", field), &field.value)?;
            }
        }
        if let Some(metadata) = dump.metadata(digest) {
            write_leaves(f, &mut "metadata".to_owned(), &metadata.to_value())?;
        }
        write_locations(f, dump, *digest)?;
        f.write_char('\n')?;
    }
    Ok(())
}

/// The path of a field below `path`, whose wrappers do not show.
fn field_path(path: &str, field: &crate::Field) -> String {
    match field.role {
        Role::Wrapper => path.to_owned(),
        Role::Key => format!("{path}[{:?}]", field.name),
        Role::Plain | Role::NotInJson if path.is_empty() => field.name.to_string(),
        Role::Plain | Role::NotInJson => format!("{path}.{}", field.name),
    }
}

/// Writes one line for each field that is set; lists of plain values take one line.
fn write_leaves(f: &mut fmt::Formatter<'_>, path: &mut String, value: &Value) -> fmt::Result {
    match value {
        Value::Fields(fields) if !fields.is_empty() => {
            for field in fields {
                write_leaves(f, &mut field_path(path, field), &field.value)?;
            }
            Ok(())
        }
        Value::List(values) if values.iter().any(|value| matches!(value, Value::Fields(_))) => {
            for (position, value) in values.iter().enumerate() {
                let length = path.len();
                write!(path, "[{position}]")?;
                write_leaves(f, path, value)?;
                path.truncate(length);
            }
            Ok(())
        }
        Value::Fields(_) if path.is_empty() || path == "metadata" => Ok(()),
        value => write!(f, "\n  {path}: {value}"),
    }
}

fn write_locations(f: &mut fmt::Formatter<'_>, dump: &Dump, digest: OpDigest) -> fmt::Result {
    let source: Option<&pb::Source> = dump.definition.source().map(|source| &**source);
    for location in graph::locations(source, digest) {
        f.write_str("\n  source: ")?;
        write_plain(f, location.file_name())?;
        if let Some((first, last)) = location.lines() {
            write!(f, ":{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
        }
    }
    Ok(())
}

/// The kind of an op and the first line of its name, which may say the kind itself.
pub(crate) fn title(op: &pb::op::Op) -> String {
    let (kind, name) = (graph::kind(Some(op)), graph::own_name(op));
    let line = name.lines().next().unwrap_or_default();
    match op {
        pb::op::Op::Source(_) | pb::op::Op::Exec(_) | pb::op::Op::File(_) => {
            format!("{kind} {line}")
        }
        _ => line.to_owned(),
    }
}

/// Writes text without quotes, with control characters and the like escaped.
pub(crate) fn write_plain(out: &mut impl fmt::Write, text: &str) -> fmt::Result {
    let quoted = format!("{text:?}");
    let inner = &quoted[1..quoted.len() - 1];
    out.write_str(&inner.replace("\\\"", "\"").replace("\\'", "'"))
}
