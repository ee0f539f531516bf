//! What an op is described with: texts by key.

use std::fmt;

use smol_str::SmolStr;

/// Texts, sorted by key. Most ops have one at most.
#[derive(Clone, Default)]
pub(crate) struct Texts(Vec<(SmolStr, SmolStr)>);

impl Texts {
    pub(crate) fn insert(&mut self, key: &str, text: &str) {
        match self.find(key) {
            Ok(known) => self.0[known].1 = text.into(),
            Err(place) => {
                if self.0.is_empty() {
                    self.0.reserve_exact(1);
                }
                self.0.insert(place, (key.into(), text.into()));
            }
        }
    }

    fn find(&self, key: &str) -> Result<usize, usize> {
        self.0
            .binary_search_by(|(known, _)| known.as_str().cmp(key))
    }

    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        let found = self.find(key).ok()?;
        Some(&self.0[found].1)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let texts = self.0.iter();
        texts.map(|(key, text)| (key.as_str(), text.as_str()))
    }
}

impl fmt::Debug for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}
