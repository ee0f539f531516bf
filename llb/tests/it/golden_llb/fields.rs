//! Recipe objects, read so that nothing in them is overlooked.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::Value;

/// Names a feature of the recipe language that the builder does not have.
#[derive(Debug)]
pub(super) struct Unsupported(pub(super) String);

pub(super) type Result<T> = std::result::Result<T, Unsupported>;

pub(super) fn unsupported<T>(feature: impl Into<String>) -> Result<T> {
    Err(Unsupported(feature.into()))
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

pub(super) fn octal(text: &str) -> u32 {
    u32::from_str_radix(text, 8).expect("octal number")
}
