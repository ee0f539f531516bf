//! Why a vertex ran.
//!
//! Owns [`MissReason`], as a value and as text. A reason compares with the newest stored result of
//! the same op; it costs a few reads on a miss and nothing on a hit.

use std::fmt;

use super::listing::ContentChanges;
use crate::id::CacheKey;

/// The reason why a vertex was not taken from the cache.
///
/// Shown as half a sentence that says what is so: `input 1 is another: …`. What says it with the
/// names of the inputs is `Solved::explain`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MissReason {
    /// No record of this op with whatever inputs: the op itself is new, or changed.
    NeverSeen,
    /// The op was seen before, but never with this input.
    InputChanged {
        /// The first input that differs.
        input: usize,
        /// Its key when the op was last stored; `None` if that result is gone.
        old: Option<CacheKey>,
        /// Its key now.
        new: Option<CacheKey>,
    },
    /// The op was seen before, but never with this content of an input.
    ContentChanged {
        /// The first input that differs.
        input: usize,
        /// The key of its content when the op was last stored; `None` if that result is gone.
        old: Option<CacheKey>,
        /// The key of its content now.
        new: Option<CacheKey>,
        /// Where it differs; `None` if it is not remembered what the content was.
        changes: Option<ContentChanges>,
    },
    /// Each input was seen before, but not together with the others.
    InputsNewTogether,
    /// The key is known, but its result is gone or was never kept.
    DataGone,
    /// The vertex, or one whose result it uses, was asked to ignore the cache.
    Ignored,
    /// The key stands for one solve only, as that of a local directory does.
    Volatile,
}

/// Paths that are shown in a line.
const SHOWN: usize = 3;

impl MissReason {
    /// As [`fmt::Display`] shows it, with names for the inputs.
    pub fn text(&self, name: impl Fn(usize) -> Option<String>) -> String {
        let input = |at: usize| match name(at) {
            Some(name) => format!("input {at} ({name})"),
            None => format!("input {at}"),
        };
        let keys = |old: &Option<CacheKey>, new: &Option<CacheKey>| match (old, new) {
            (Some(old), Some(new)) => format!("{} instead of {}", short(*new), short(*old)),
            (None, Some(new)) => format!("{}; the earlier results are gone", short(*new)),
            _ => "that no other solve has".to_owned(),
        };
        match self {
            Self::NeverSeen => "a step like this was never stored".to_owned(),
            Self::InputChanged {
                input: at,
                old,
                new,
            } => {
                format!("{} is another: key {}", input(*at), keys(old, new))
            }
            Self::ContentChanged {
                input: at,
                old,
                new,
                changes,
            } => {
                let told = match changes {
                    Some(changes) if !changes.paths.is_empty() => listed(changes),
                    _ if old.is_some() => {
                        let keys = keys(old, new);
                        format!("key {keys}; what it was is not remembered")
                    }
                    _ => format!("key {}", keys(old, new)),
                };
                format!("the content of {} is another: {told}", input(*at))
            }
            Self::InputsNewTogether => {
                "each input was there before, but not together with the others".to_owned()
            }
            Self::DataGone => "its result was stored, and is gone".to_owned(),
            Self::Ignored => "it, or what it is made of, was to ignore the cache".to_owned(),
            Self::Volatile => "it is looked at in every build".to_owned(),
        }
    }
}

impl fmt::Display for MissReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(|_| None))
    }
}

/// The beginning of a key, enough to tell keys apart.
fn short(key: CacheKey) -> String {
    let mut text = key.to_string();
    text.truncate("sha256:".len() + 12);
    text
}

fn listed(changes: &ContentChanges) -> String {
    let shown: Vec<String> = changes
        .paths
        .iter()
        .take(SHOWN)
        .map(ToString::to_string)
        .collect();
    let more = changes.paths.len() - shown.len() + changes.more;
    let mut text = shown.join(", ");
    if more > 0 {
        text += &format!(", and {more} more");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::listing::Change;

    #[test]
    fn reasons_are_one_line_each() {
        let key = |name: &str| Some(CacheKey::of(name.as_bytes()));
        let mut changes = ContentChanges::default();
        for at in 0..5 {
            changes.push(format!("/src/{at}").into_bytes(), Change::Changed);
        }
        let content = |old, changes| MissReason::ContentChanged {
            input: 1,
            old,
            new: key("b"),
            changes,
        };
        let input = |old, new| MissReason::InputChanged { input: 0, old, new };
        let shown = |reason: &MissReason| reason.text(|at| (at == 1).then(|| "context".to_owned()));
        assert_eq!(
            shown(&content(key("a"), Some(changes))),
            "the content of input 1 (context) is another: /src/0 changed, /src/1 changed, \
             /src/2 changed, and 2 more"
        );
        assert_eq!(
            shown(&content(key("a"), None)),
            "the content of input 1 (context) is another: key sha256:3e23e8160039 instead of \
             sha256:ca978112ca1b; what it was is not remembered"
        );
        assert_eq!(
            shown(&content(None, None)),
            "the content of input 1 (context) is another: key sha256:3e23e8160039; the earlier \
             results are gone"
        );
        assert_eq!(
            shown(&input(key("a"), key("b"))),
            "input 0 is another: key sha256:3e23e8160039 instead of sha256:ca978112ca1b"
        );
        assert_eq!(
            shown(&input(key("a"), None)),
            "input 0 is another: key that no other solve has"
        );
    }
}
