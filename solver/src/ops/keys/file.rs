//! The key of a file op.

use std::collections::{BTreeMap, BTreeSet};

use ashlar_llb::pb;
use ashlar_llb::pb::file_action::Action;
use ashlar_llb::pb::user_opt::User;
use sha2::{Digest as _, Sha256};

use super::json;
use super::messages::CopyOf;
use super::selector::deduplicate;
use super::{InputPlan, KeyError, OpKey, Selector, digest_joined};
use crate::id::CacheDigest;
use crate::ops::file::wildcard::has_wildcard;

/// Room for the text of most actions.
const ACTION: usize = 256;

/// The key, and what is looked at in inputs that are only read. An input that is changed counts by
/// how it was made.
pub(super) fn key(op: &pb::FileOp, count: usize) -> Result<OpKey, KeyError> {
    let mut hash = Sha256::new();
    // The text has nearly twice the bytes of the op, and nobody needs all of it at once.
    write(op, count, |text| hash.update(text));
    Ok(OpKey {
        digest: CacheDigest::from_bytes(hash.finalize().into()),
        inputs: Looks::of(op, count).plans(op)?,
    })
}

/// The text that the key is the digest of.
pub(super) fn preimage(op: &pb::FileOp, count: usize) -> String {
    let mut text = String::new();
    write(op, count, |part| text.push_str(part));
    text
}

/// Hands out the text of the op in parts: the JSON of the actions, each as a byte string.
fn write(op: &pb::FileOp, count: usize, mut out: impl FnMut(&str)) {
    let mut indexes = Vec::with_capacity(op.actions.len());
    let mut action_text = String::with_capacity(ACTION);
    let mut text = String::with_capacity(2 * ACTION);
    text.push_str(r#"{"Type":"buildkit.file.v0","Actions":["#);
    for (at, action) in op.actions.iter().enumerate() {
        action_text.clear();
        write_action(action, count, &mut action_text);
        if at > 0 {
            text.push(',');
        }
        json::push_byte_string(&mut text, action_text.as_bytes());
        out(&text);
        text.clear();
        indexes.push([action.input, action.secondary_input, action.output]);
    }
    text.push(']');
    if !is_default(&indexes) {
        json::push_int_lists(&mut text, "indexes", &indexes);
    }
    text.push('}');
    out(&text);
}

/// Writes the JSON of an action of an op with `count` inputs.
fn write_action(action: &pb::FileAction, count: usize, text: &mut String) {
    match &action.action {
        Some(Action::Mkdir(mkdir)) => json::push(text, mkdir),
        Some(Action::Mkfile(mkfile)) => json::push(text, mkfile),
        Some(Action::Symlink(symlink)) => json::push(text, symlink),
        Some(Action::Rm(rm)) => json::push(text, rm),
        Some(Action::Copy(copy)) => {
            // A selector covers the path; only the name ends up in the copy.
            let source = match input(action.secondary_input, count) {
                Some(_) => base_name(&copy.src),
                None => &copy.src,
            };
            json::push(text, &CopyOf { source, copy });
        }
        // No action of a checked graph.
        None => {}
    }
}

/// The number as that of an input, of `count`.
fn input(number: i64, count: usize) -> Option<i64> {
    let is_input = usize::try_from(number).is_ok_and(|number| number < count);
    is_input.then_some(number)
}

/// What the actions look at.
struct Looks {
    count: usize,
    selectors: BTreeMap<i64, Vec<Selector>>,
}

impl Looks {
    fn of(op: &pb::FileOp, count: usize) -> Self {
        let mut looks = Self {
            count,
            selectors: BTreeMap::new(),
        };
        for action in &op.actions {
            match &action.action {
                Some(Action::Mkdir(mkdir)) => looks.owner(mkdir.owner.as_ref()),
                Some(Action::Mkfile(mkfile)) => looks.owner(mkfile.owner.as_ref()),
                Some(Action::Copy(copy)) => {
                    looks.owner(copy.owner.as_ref());
                    if let Some(from) = input(action.secondary_input, count) {
                        looks.copy(from, copy);
                    }
                }
                // BuildKit does not look at the owner of a link.
                Some(Action::Symlink(_) | Action::Rm(_)) | None => {}
            }
        }
        looks
    }

    fn copy(&mut self, from: i64, copy: &pb::FileActionCopy) {
        self.selectors.entry(from).or_default().push(Selector {
            path: copy.src.clone(),
            wildcard: copy.allow_wildcard && has_wildcard(copy.src.as_bytes()),
            follow_links: copy.follow_symlink,
            include: copy.include_patterns[..].into(),
            exclude: copy.exclude_patterns[..].into(),
            required: copy.required_paths[..].into(),
        });
    }

    fn owner(&mut self, owner: Option<&pb::ChownOpt>) {
        let mut look = |user: Option<&pb::UserOpt>, path: &str| {
            if let Some(User::ByName(named)) = user.and_then(|user| user.user.as_ref()) {
                self.selectors
                    .entry(named.input)
                    .or_default()
                    .push(Selector::followed(path));
            }
        };
        look(owner.and_then(|owner| owner.user.as_ref()), "/etc/passwd");
        look(owner.and_then(|owner| owner.group.as_ref()), "/etc/group");
    }

    fn plans(self, op: &pb::FileOp) -> Result<Vec<InputPlan>, KeyError> {
        let mut plans = vec![InputPlan::default(); self.count];
        if self.selectors.is_empty() {
            return Ok(plans);
        }
        let changed: BTreeSet<i64> = op.actions.iter().map(|action| action.input).collect();
        for (input, selectors) in self.selectors {
            let Some(plan) = usize::try_from(input)
                .ok()
                .and_then(|input| plans.get_mut(input))
            else {
                return Err(KeyError::FileInput {
                    input,
                    count: self.count,
                });
            };
            if changed.contains(&input) {
                continue;
            }
            let mut paths: Vec<_> = selectors.iter().map(|selector| &selector.path).collect();
            paths.sort_by(|a, b| b.cmp(a));
            plan.selector = Some(digest_joined(paths));
            plan.content = Some(deduplicate(&selectors));
        }
        Ok(plans)
    }
}

/// Whether the actions form the usual chain on the first input, which early versions of BuildKit
/// did not tell from others.
///
/// The second condition is BuildKit's: it counts actions where inputs are meant, so that only
/// chains whose number of actions equals the number of inputs are usual.
fn is_default(indexes: &[[i64; 3]]) -> bool {
    let count = i64::try_from(indexes.len()).unwrap_or(i64::MAX);
    !indexes.is_empty()
        && (0..count)
            .zip(indexes)
            .all(|(at, &[input, secondary, output])| {
                input == if at == 0 { 0 } else { count + at - 1 }
                    && matches!(secondary, -1 | 1)
                    && output == if at == count - 1 { 0 } else { -1 }
            })
}

/// Go's `path.Base`: `.` for an empty path, `/` for one of slashes only.
fn base_name(path: &str) -> &str {
    let trimmed = path.trim_end_matches('/');
    match (path, trimmed) {
        ("", _) => ".",
        (_, "") => "/",
        _ => trimmed.rsplit('/').next().unwrap_or(trimmed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_names_are_those_of_go() {
        for (path, expected) in [
            ("", "."),
            ("/", "/"),
            ("//", "/"),
            ("/a/b", "b"),
            ("a/b//", "b"),
            ("/a/.", "."),
        ] {
            assert_eq!(base_name(path), expected, "{path}");
        }
    }

    #[test]
    fn the_usual_chain_is_recognised() {
        assert!(is_default(&[[0, -1, 0]]));
        assert!(is_default(&[[0, 1, -1], [2, -1, 0]]));
        assert!(!is_default(&[[0, -1, -1], [1, -1, 0]]));
        assert!(!is_default(&[[-1, 0, 0]]));
        assert!(!is_default(&[]));
    }

    #[test]
    fn an_owner_in_a_changed_input_is_no_content() {
        let owner = pb::ChownOpt {
            user: Some(pb::UserOpt {
                user: Some(User::ByName(pb::NamedUserOpt {
                    name: "bin".into(),
                    input: 0,
                })),
            }),
            group: None,
        };
        let mkdir = pb::FileActionMkDir {
            owner: Some(owner),
            ..pb::FileActionMkDir::default()
        };
        let action = |input| pb::FileAction {
            input,
            secondary_input: -1,
            output: 0,
            action: Some(Action::Mkdir(mkdir.clone())),
        };
        let changed = key(
            &pb::FileOp {
                actions: vec![action(0)],
            },
            1,
        )
        .unwrap();
        assert_eq!(changed.inputs, [InputPlan::default()]);
        let read = key(
            &pb::FileOp {
                actions: vec![action(-1)],
            },
            1,
        )
        .unwrap();
        assert_eq!(
            read.inputs[0].content,
            Some(vec![Selector::followed("/etc/passwd")])
        );
        assert!(matches!(
            key(
                &pb::FileOp {
                    actions: vec![action(-1)]
                },
                0
            ),
            Err(KeyError::FileInput { input: 0, count: 0 })
        ));
    }
}
