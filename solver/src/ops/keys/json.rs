//! JSON as Go's `encoding/json` writes BuildKit's generated structs: fields in the order of the
//! struct, those with a zero value left out, `<`, `>` and `&` escaped, bytes in base64.
//!
//! Cache keys are digests of this text, so a name or an order changed here is a missed cache.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ashlar_llb::go_json;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Something that Go writes as a JSON object.
pub(super) trait GoJson {
    /// Writes the fields in the order of the Go struct.
    fn fields(&self, out: &mut Fields<'_>);
}

/// The fields of one object. Every method leaves out the field if its value is Go's zero value,
/// unless its name says otherwise.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    text: &'a mut String,
    first: bool,
}

/// The text of one object.
pub(super) fn to_string(value: &dyn GoJson) -> String {
    let mut text = String::with_capacity(512);
    object(&mut text, value);
    text
}

/// Appends the text of one object.
pub(super) fn push(text: &mut String, value: &dyn GoJson) {
    object(text, value);
}

/// Appends a byte string.
pub(super) fn push_byte_string(text: &mut String, bytes: &[u8]) {
    quoted_base64(text, bytes);
}

/// Appends a further field of an object: a list of lists of numbers, left out if it is empty.
pub(super) fn push_int_lists(text: &mut String, name: &str, values: &[[i64; 3]]) {
    Fields { text, first: false }.int_lists(name, values);
}

fn object(text: &mut String, value: &dyn GoJson) {
    text.push('{');
    value.fields(&mut Fields { text, first: true });
    text.push('}');
}

fn array<T>(text: &mut String, values: &[T], mut element: impl FnMut(&mut String, &T)) {
    text.push('[');
    for (at, value) in values.iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        element(text, value);
    }
    text.push(']');
}

fn number(text: &mut String, value: i128) {
    if let Ok(digit @ 0..10) = u8::try_from(value) {
        text.push(char::from(b'0' + digit));
        return;
    }
    write!(text, "{value}").expect("BUG: writing to a string cannot fail");
}

fn quoted_base64(text: &mut String, bytes: &[u8]) {
    text.push('"');
    STANDARD.encode_string(bytes, text);
    text.push('"');
}

impl Fields<'_> {
    fn name(&mut self, name: &str) -> &mut String {
        if !self.first {
            self.text.push(',');
        }
        self.first = false;
        self.text.push('"');
        self.text.push_str(name);
        self.text.push_str("\":");
        self.text
    }

    /// A string, written even if empty.
    pub(super) fn string_always(&mut self, name: &str, value: &str) {
        go_json::string(self.name(name), value);
    }

    pub(super) fn string(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.string_always(name, value);
        }
    }

    pub(super) fn int(&mut self, name: &str, value: impl Into<i128>) {
        let value = value.into();
        if value != 0 {
            number(self.name(name), value);
        }
    }

    pub(super) fn bool(&mut self, name: &str, value: bool) {
        if value {
            self.name(name).push_str("true");
        }
    }

    pub(super) fn bytes(&mut self, name: &str, value: &[u8]) {
        if !value.is_empty() {
            quoted_base64(self.name(name), value);
        }
    }

    pub(super) fn strings(&mut self, name: &str, values: &[String]) {
        if !values.is_empty() {
            array(self.name(name), values, |text, value| {
                go_json::string(text, value);
            });
        }
    }

    pub(super) fn ints<T: Copy + Into<i128>>(&mut self, name: &str, values: &[T]) {
        if !values.is_empty() {
            array(self.name(name), values, |text, &value| {
                number(text, value.into());
            });
        }
    }

    /// A list of lists of numbers, none of which is left out.
    pub(super) fn int_lists(&mut self, name: &str, values: &[[i64; 3]]) {
        if !values.is_empty() {
            array(self.name(name), values, |text, list| {
                array(text, list, |text, &value| number(text, value.into()));
            });
        }
    }

    /// A list of byte strings, written even if empty.
    pub(super) fn byte_lists_always(&mut self, name: &str, values: &[impl AsRef<[u8]>]) {
        array(self.name(name), values, |text, value| {
            quoted_base64(text, value.as_ref());
        });
    }

    /// An object, written even if it has no field.
    pub(super) fn object_always(&mut self, name: &str, value: &dyn GoJson) {
        object(self.name(name), value);
    }

    pub(super) fn object<T: GoJson>(&mut self, name: &str, value: Option<&T>) {
        if let Some(value) = value {
            self.object_always(name, value);
        }
    }

    pub(super) fn objects<T: GoJson>(&mut self, name: &str, values: &[T]) {
        if !values.is_empty() {
            array(self.name(name), values, |text, value| object(text, value));
        }
    }

    pub(super) fn object_map<T: GoJson>(&mut self, name: &str, values: &BTreeMap<String, T>) {
        self.map(name, values, |text, value| object(text, value));
    }

    pub(super) fn string_map(&mut self, name: &str, values: &BTreeMap<String, String>) {
        self.map(name, values, |text, value| go_json::string(text, value));
    }

    pub(super) fn bool_map(&mut self, name: &str, values: &BTreeMap<String, bool>) {
        self.map(name, values, |text, value| {
            text.push_str(if *value { "true" } else { "false" });
        });
    }

    fn map<T>(
        &mut self,
        name: &str,
        values: &BTreeMap<String, T>,
        mut element: impl FnMut(&mut String, &T),
    ) {
        if values.is_empty() {
            return;
        }
        let text = self.name(name);
        text.push('{');
        for (at, (key, value)) in values.iter().enumerate() {
            if at > 0 {
                text.push(',');
            }
            go_json::string(text, key);
            text.push(':');
            element(text, value);
        }
        text.push('}');
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn bytes_are_padded_base64() {
        let mut text = String::new();
        super::push_byte_string(&mut text, b"foob");
        super::push_byte_string(&mut text, &[0xfb, 0xff, 0xbf]);
        assert_eq!(text, r#""Zm9vYg==""+/+/""#);
    }

    #[test]
    fn numbers_are_decimal() {
        for value in [-1, 0, 9, 10, i64::MIN] {
            let mut text = String::new();
            super::number(&mut text, value.into());
            assert_eq!(text, value.to_string());
        }
    }
}
