//! Messages as trees of named fields, for dumps and comparisons.
//!
//! Owns [`Value`] and how each message becomes one: field names are those of BuildKit's JSON,
//! in its order, and what is unset is left out, as there. Invariant: two ops have equal trees
//! exactly if their known fields are equal. Text, JSON and differences are made elsewhere.

mod definition;
mod op;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

pub(crate) use op::body;

/// What a field of an op or of its metadata holds.
///
/// Shown as text with everything escaped that could act on a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Value {
    /// A truth value.
    Bool(bool),
    /// A signed number.
    Int(i64),
    /// An unsigned number.
    Uint(u64),
    /// Permission bits; shown in octal.
    Mode(i64),
    /// A value of an enum, with its name if it is known.
    Enum {
        /// The number on the wire.
        number: i32,
        /// BuildKit's name of it.
        name: Option<&'static str>,
    },
    /// Text.
    Text(String),
    /// Bytes that need not be text.
    Bytes(Bytes),
    /// Values in order.
    List(Vec<Self>),
    /// A message or a map.
    Fields(Vec<Field>),
}

/// A named part of a message or a map.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Field {
    /// The name, as in BuildKit's JSON, or the key of a map.
    pub name: Cow<'static, str>,
    /// What it holds.
    pub value: Value,
    /// How the field differs from what it looks like.
    pub(crate) role: Role,
}

/// What a field is to the writers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A field of a message.
    Plain,
    /// An entry of a map.
    Key,
    /// An object that only BuildKit's JSON has around the members of a oneof.
    Wrapper,
    /// A field that BuildKit's JSON leaves out.
    NotInJson,
}

/// A message that can be taken apart.
pub(crate) trait Message {
    /// The fields that are set.
    fn fields(&self, out: &mut Fields);

    fn to_value(&self) -> Value {
        let mut out = Fields::default();
        self.fields(&mut out);
        Value::Fields(out.0)
    }
}

/// The fields of a message, as they are collected.
#[derive(Debug, Default)]
pub(crate) struct Fields(pub(crate) Vec<Field>);

impl Fields {
    fn push(&mut self, name: &'static str, role: Role, value: Value) {
        let name = Cow::Borrowed(name);
        self.0.push(Field { name, value, role });
    }

    pub(crate) fn always(&mut self, name: &'static str, value: Value) {
        self.push(name, Role::Plain, value);
    }

    fn some(&mut self, name: &'static str, is: bool, value: impl FnOnce() -> Value) {
        if is {
            self.always(name, value());
        }
    }

    pub(crate) fn bool(&mut self, name: &'static str, value: bool) {
        self.some(name, value, || Value::Bool(value));
    }

    pub(crate) fn int(&mut self, name: &'static str, value: i64) {
        self.some(name, value != 0, || Value::Int(value));
    }

    pub(crate) fn uint(&mut self, name: &'static str, value: u64) {
        self.some(name, value != 0, || Value::Uint(value));
    }

    pub(crate) fn mode(&mut self, name: &'static str, value: i64) {
        self.some(name, value != 0, || Value::Mode(value));
    }

    pub(crate) fn text(&mut self, name: &'static str, value: &str) {
        self.some(name, !value.is_empty(), || Value::Text(value.to_owned()));
    }

    pub(crate) fn bytes(&mut self, name: &'static str, value: &Bytes) {
        self.some(name, !value.is_empty(), || Value::Bytes(value.clone()));
    }

    /// An enum's number, with the name that `E` gives it.
    pub(crate) fn named<E: TryFrom<i32>>(
        &mut self,
        name: &'static str,
        number: i32,
        known: impl FnOnce(E) -> &'static str,
    ) {
        self.some(name, number != 0, || Value::Enum {
            number,
            name: E::try_from(number).ok().map(known),
        });
    }

    pub(crate) fn list(&mut self, name: &'static str, values: Vec<Value>) {
        self.some(name, !values.is_empty(), || Value::List(values));
    }

    pub(crate) fn texts(&mut self, name: &'static str, values: &[String]) {
        let values = values.iter().cloned().map(Value::Text);
        self.list(name, values.collect());
    }

    pub(crate) fn messages<M: Message>(&mut self, name: &'static str, values: &[M]) {
        self.list(name, values.iter().map(Message::to_value).collect());
    }

    pub(crate) fn message<M: Message>(&mut self, name: &'static str, value: Option<&M>) {
        if let Some(value) = value {
            self.always(name, value.to_value());
        }
    }

    pub(crate) fn map<V>(
        &mut self,
        name: &'static str,
        map: &BTreeMap<String, V>,
        value: impl Fn(&V) -> Value,
    ) {
        let entries = map.iter().map(|(key, held)| Field {
            name: Cow::Owned(key.clone()),
            value: value(held),
            role: Role::Key,
        });
        self.some(name, !map.is_empty(), || Value::Fields(entries.collect()));
    }

    /// The object that BuildKit's JSON has around a oneof.
    pub(crate) fn wrapper(&mut self, name: &'static str, fill: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        fill(&mut inner);
        self.push(name, Role::Wrapper, Value::Fields(inner.0));
    }

    pub(crate) fn not_in_json(&mut self, name: &'static str, value: Value) {
        self.push(name, Role::NotInJson, value);
    }
}

/// How much of a long value is shown.
const SHOWN: usize = 200;

/// Writes text in quotes, with all that a terminal could take as a command escaped.
pub(crate) fn write_quoted(out: &mut impl fmt::Write, text: &str) -> fmt::Result {
    let mut end = text.len().min(SHOWN);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    write!(out, "{:?}", &text[..end])?;
    if end < text.len() {
        write!(out, "… ({} bytes)", text.len())?;
    }
    Ok(())
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::Int(value) => write!(f, "{value}"),
            Self::Uint(value) => write!(f, "{value}"),
            Self::Mode(value) if *value < 0 => write!(f, "{value}"),
            Self::Mode(value) => write!(f, "0{value:o}"),
            Self::Enum {
                name: Some(name), ..
            } => f.write_str(name),
            Self::Enum { number, name: None } => write!(f, "{number}"),
            Self::Text(text) => write_quoted(f, text),
            Self::Bytes(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => write_quoted(f, text),
                Err(_) => write!(f, "({} bytes that are not text)", bytes.len()),
            },
            Self::List(values) => {
                f.write_str("[")?;
                for (position, value) in values.iter().enumerate() {
                    if position > 0 {
                        f.write_str(", ")?;
                    }
                    write!(f, "{value}")?;
                }
                f.write_str("]")
            }
            Self::Fields(fields) => {
                f.write_str("{")?;
                for (position, field) in fields.iter().enumerate() {
                    if position > 0 {
                        f.write_str(", ")?;
                    }
                    match field.role {
                        Role::Wrapper => {}
                        Role::Key => {
                            write_quoted(f, &field.name)?;
                            f.write_str(": ")?;
                        }
                        Role::Plain | Role::NotInJson => write!(f, "{}: ", field.name)?,
                    }
                    write!(f, "{}", field.value)?;
                }
                f.write_str("}")
            }
        }
    }
}
