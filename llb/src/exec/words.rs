//! The program and its arguments.

use std::fmt;

/// Texts one behind the other, each with its length in front of it, in one piece of memory.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Words(Box<[u8]>);

/// Bytes that a length takes.
const LENGTH: usize = size_of::<usize>();

impl Words {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The texts as bytes.
    pub(crate) fn bytes(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first_chunk::<LENGTH>()?;
            let (word, after) = after.split_at(usize::from_le_bytes(*length));
            rest = after;
            Some(word)
        })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        let texts = self.bytes().map(std::str::from_utf8);
        texts.map(|text| text.expect("BUG: words are made of texts"))
    }
}

impl<T: AsRef<str>> FromIterator<T> for Words {
    fn from_iter<I: IntoIterator<Item = T>>(words: I) -> Self {
        let words = words.into_iter();
        // Most arguments are short.
        let mut bytes = Vec::with_capacity(words.size_hint().0.clamp(2, 64) * 2 * LENGTH);
        for word in words {
            let word = word.as_ref();
            bytes.extend_from_slice(&word.len().to_le_bytes());
            bytes.extend_from_slice(word.as_bytes());
        }
        Self(bytes.into())
    }
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::Words;

    #[test]
    fn words_come_back() {
        let long = "x".repeat(300);
        for words in [vec![], vec![""], vec!["a", "", "ü", &long], vec![""; 70]] {
            let kept: Words = words.iter().collect();
            assert!(kept.iter().eq(words.iter().copied()));
            assert_eq!(kept.is_empty(), words.is_empty());
        }
    }
}
