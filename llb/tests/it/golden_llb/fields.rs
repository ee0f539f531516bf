//! Recipe objects, read so that nothing in them is overlooked.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::Value;

/// Why a recipe cannot be done.
#[derive(Debug)]
pub(super) enum Stop {
    /// The builder does not have a feature of the recipe language.
    Unsupported(String),
    /// A definition in it does not marshal.
    Marshal(ashlar_llb::MarshalError),
    /// A definition in it cannot be taken back.
    Import(ashlar_llb::ImportError),
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unsupported(feature) => write!(f, "the builder has no {feature}"),
            Self::Marshal(error) => error.fmt(f),
            Self::Import(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Stop {}

pub(super) type Result<T> = std::result::Result<T, Stop>;

pub(super) fn unsupported<T>(feature: impl Into<String>) -> Result<T> {
    Err(Stop::Unsupported(feature.into()))
}

/// A recipe object, and which of its keys were looked at.
pub(super) struct Fields<'a> {
    value: &'a Value,
    seen: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(value: &'a Value) -> Self {
        assert!(
            value.is_object() || value.is_null(),
            "not an object: {value}"
        );
        Self {
            value,
            seen: RefCell::default(),
        }
    }

    /// The value of a key, if it is there.
    pub(super) fn value(&self, key: &'static str) -> Option<&'a Value> {
        self.seen.borrow_mut().insert(key);
        self.value.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn text(&self, key: &'static str) -> Option<&'a str> {
        self.value(key).map(text)
    }

    pub(super) fn need(&self, key: &'static str) -> &'a str {
        self.text(key)
            .unwrap_or_else(|| panic!("no {key} in {}", self.value))
    }

    pub(super) fn flag(&self, key: &'static str) -> bool {
        self.value(key)
            .is_some_and(|value| value.as_bool().expect("bool"))
    }

    pub(super) fn number(&self, key: &'static str) -> Option<i64> {
        self.value(key).map(|value| value.as_i64().expect("number"))
    }

    pub(super) fn list(&self, key: &'static str) -> &'a [Value] {
        self.value(key)
            .map_or(&[], |value| value.as_array().expect("list"))
    }

    pub(super) fn texts(&self, key: &'static str) -> Vec<&'a str> {
        self.list(key).iter().map(text).collect()
    }

    pub(super) fn object(&self, key: &'static str) -> Option<Self> {
        self.value(key).map(Fields::new)
    }

    /// Fails if the object has keys nobody looked at.
    pub(super) fn finish(self) -> Result<()> {
        let seen = self.seen.borrow();
        let keys = self.value.as_object().into_iter().flatten();
        for (key, _) in keys {
            if !seen.contains(key.as_str()) {
                return unsupported(format!("{key:?}"));
            }
        }
        Ok(())
    }
}

pub(super) fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("not a text: {value}"))
}

/// Reads a number that has to be in range for its option.
pub(super) fn integer<T: TryFrom<i64>>(value: i64) -> Result<T> {
    match T::try_from(value) {
        Ok(value) => Ok(value),
        Err(_) => unsupported(format!("number {value} here")),
    }
}

/// Reads a number the way Go converts a wider one: the bits that fit are kept.
pub(super) fn wrapped(value: i64) -> u32 {
    let low = value & i64::from(u32::MAX);
    u32::try_from(low).expect("32 bits")
}

pub(super) fn octal(text: &str) -> u32 {
    u32::from_str_radix(text, 8).expect("octal number")
}
