//! Fields of an output string, one by one.

use std::collections::BTreeMap;

use super::OutputError;

/// Attributes that are not used up yet.
#[derive(Debug)]
pub(super) struct Fields {
    kind: &'static str,
    attributes: BTreeMap<String, String>,
    valid: Vec<&'static str>,
}

impl OutputError {
    pub(super) fn value(
        key: impl Into<String>,
        value: impl Into<String>,
        expected: impl Into<String>,
    ) -> Self {
        Self::Value {
            key: key.into(),
            value: value.into(),
            expected: expected.into(),
        }
    }
}

impl Fields {
    pub(super) fn new(
        kind: &'static str,
        attributes: BTreeMap<String, String>,
        valid: Vec<&'static str>,
    ) -> Self {
        Self {
            kind,
            attributes,
            valid,
        }
    }

    pub(super) fn take(&mut self, key: &str) -> Option<String> {
        debug_assert!(
            self.valid.contains(&key),
            "{key} is no key of {}",
            self.kind
        );
        self.attributes.remove(key)
    }

    pub(super) fn needed(&mut self, key: &'static str) -> Result<String, OutputError> {
        match self.take(key) {
            Some(value) if !value.is_empty() => Ok(value),
            // A misspelt key is why it is missing.
            _ => {
                self.known()?;
                Err(OutputError::Missing { key })
            }
        }
    }

    /// Takes all of these keys.
    pub(super) fn take_all(&mut self, wanted: impl Fn(&str) -> bool) -> Vec<(String, String)> {
        let keys = self.attributes.keys().filter(|key| wanted(key));
        let keys: Vec<String> = keys.cloned().collect();
        let pairs = keys
            .into_iter()
            .filter_map(|key| self.attributes.remove_entry(&key));
        pairs.collect()
    }

    pub(super) fn number(&mut self, key: &'static str) -> Result<Option<i64>, OutputError> {
        let Some(value) = self.take(key) else {
            return Ok(None);
        };
        match value.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(OutputError::value(key, value, "a whole number")),
        }
    }

    /// Reads what Go's `strconv.ParseBool` reads.
    pub(super) fn switch(&mut self, key: &'static str) -> Result<Option<bool>, OutputError> {
        let Some(value) = self.take(key) else {
            return Ok(None);
        };
        match value.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Some(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Some(false)),
            _ => Err(OutputError::value(key, value, "true or false")),
        }
    }

    /// The same, but nothing is true.
    pub(super) fn flag(&mut self, key: &'static str) -> Result<Option<bool>, OutputError> {
        if self.attributes.get(key).is_some_and(String::is_empty) {
            self.attributes.remove(key);
            return Ok(Some(true));
        }
        self.switch(key)
    }

    /// Nothing may be left.
    pub(super) fn end(self) -> Result<(), OutputError> {
        match self.attributes.keys().next() {
            Some(key) => Err(self.unknown(key)),
            None => Ok(()),
        }
    }

    fn known(&self) -> Result<(), OutputError> {
        let is_known = |key: &str| self.valid.iter().any(|form| is_of(key, form));
        match self.attributes.keys().find(|key| !is_known(key)) {
            Some(key) => Err(self.unknown(key)),
            None => Ok(()),
        }
    }

    fn unknown(&self, key: &str) -> OutputError {
        let mut near: Vec<_> = self
            .valid
            .iter()
            .map(|valid| (distance(of_all(key), word(valid)), *valid))
            .filter(|(distance, _)| *distance <= 2)
            .collect();
        near.sort_unstable();
        let hint = near
            .first()
            .map(|(_, near)| format!(" (did you mean `{near}`?)"));
        OutputError::Key {
            kind: self.kind,
            key: key.to_owned(),
            hint: hint.unwrap_or_default(),
            valid: self.valid.join(", "),
        }
    }
}

/// Whether a key is the word of a form as it stands in an error, with what may follow it.
fn is_of(key: &str, form: &str) -> bool {
    match form.split_once('[') {
        None => key == form,
        Some((word, more)) if more.starts_with('/') => of_all(key) == word,
        Some((word, _)) => key.starts_with(word),
    }
}

fn word(form: &str) -> &str {
    form.split_once('[').map_or(form, |(word, _)| word)
}

/// A key without the platform that it is for.
pub(super) fn of_all(key: &str) -> &str {
    key.split_once('/').map_or(key, |(key, _)| key)
}

/// How many letters have to be put in, left out or replaced.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, letter) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (at, other) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[at + 1];
            row[at + 1] = replaced.min(diagonal + 1).min(row[at] + 1);
        }
    }
    row[right.len()]
}

/// Cuts a line of comma-separated values.
pub(crate) fn split(text: &str) -> Result<Vec<String>, OutputError> {
    let wrong = || OutputError::Quotes {
        text: text.to_owned(),
    };
    let mut fields = Vec::new();
    let mut letters = text.chars().peekable();
    while letters.peek().is_some() {
        let mut field = String::new();
        if letters.next_if_eq(&'"').is_some() {
            loop {
                match letters.next().ok_or_else(wrong)? {
                    '"' if letters.next_if_eq(&'"').is_some() => field.push('"'),
                    '"' => break,
                    letter => field.push(letter),
                }
            }
            match letters.next() {
                None | Some(',') => {}
                Some(_) => return Err(wrong()),
            }
        } else {
            for letter in letters.by_ref() {
                match letter {
                    ',' => break,
                    '"' => return Err(wrong()),
                    letter => field.push(letter),
                }
            }
        }
        if !field.is_empty() {
            fields.push(field);
        }
    }
    Ok(fields)
}
