//! Keys that were made before.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use ashlar_llb::pb;
use ashlar_llb::{OpDigest, Vertex};

use super::{InputPlan, KeyError, OpKey};

/// Bytes from which on the key of an op is remembered: the text of smaller ones takes a few
/// microseconds.
const LARGE: usize = 16 << 10;

/// Keys that are remembered.
const MOST: usize = 1024;

/// Bytes of paths and patterns that a remembered key may have.
const MOST_SELECTED: usize = 4096;

/// The keys of large file ops that a solver has met, by what the ops are: making one takes several
/// times as long as hashing the op.
#[derive(Debug, Default)]
pub struct KnownKeys(Mutex<HashMap<OpDigest, OpKey>>);

impl KnownKeys {
    /// The key of a vertex that is the file op `op`.
    ///
    /// # Errors
    /// As for [`super::file`].
    pub(crate) fn file(&self, vertex: &Vertex, op: &pb::FileOp) -> Result<OpKey, KeyError> {
        let inputs = vertex.inputs().len();
        if vertex.raw().len() < LARGE {
            return super::file(op, inputs);
        }
        let digest = vertex.digest();
        let known = self.lock().get(&digest).cloned();
        if let Some(key) = known {
            return Ok(key);
        }
        let key = super::file(op, inputs)?;
        if key.inputs.iter().map(selected).sum::<usize>() <= MOST_SELECTED {
            let mut keys = self.lock();
            if keys.len() >= MOST {
                keys.clear();
            }
            keys.insert(digest, key.clone());
        }
        Ok(key)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<OpDigest, OpKey>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of what is looked at in an input.
fn selected(plan: &InputPlan) -> usize {
    let selectors = plan.content.iter().flatten();
    let bytes = selectors.map(|selector| {
        let lists = [&selector.include, &selector.exclude, &selector.required];
        let lists = lists.map(|list| list.iter());
        let patterns = lists.into_iter().flatten();
        size_of_val(selector)
            + selector.path.len()
            + patterns.map(|one| one.len() + 24).sum::<usize>()
    });
    size_of_val(plan) + bytes.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use ashlar_llb::{Constraints, Graph, Platform, State, copy, mkfile, scratch};

    use super::*;

    fn keys_of(known: &KnownKeys, state: State) -> Vec<OpKey> {
        let definition = state.marshal(&Constraints::new(Platform::linux_amd64()));
        let graph = Graph::load(&definition.unwrap()).unwrap();
        let file = |vertex: &Vertex| match vertex.op() {
            pb::op::Op::File(op) => {
                let key = known.file(vertex, op).unwrap();
                assert_eq!(key, super::super::file(op, vertex.inputs().len()).unwrap());
                Some(key)
            }
            _ => None,
        };
        graph.vertices().iter().filter_map(file).collect()
    }

    #[test]
    fn only_keys_of_large_ops_are_remembered_and_they_are_the_right_ones() {
        let known = KnownKeys::default();
        let large = scratch().file(mkfile("/a", vec![b'x'; LARGE]));
        let copied = scratch().file(copy(&large, "/a", "/a").mkfile("/b", vec![b'y'; LARGE]));
        let small = scratch().file(mkfile("/a", "x"));
        for _ in 0..2 {
            let [first] = &keys_of(&known, large.clone())[..] else {
                panic!("one op");
            };
            let [again, above] = &keys_of(&known, copied.clone())[..] else {
                panic!("two ops");
            };
            assert_eq!(first, again);
            assert_ne!(first.digest(), above.digest());
            assert_eq!(keys_of(&known, small.clone()).len(), 1);
        }
        assert_eq!(known.lock().len(), 2);
        let paths = (0..100).fold(mkfile("/b", vec![b'y'; LARGE]).into(), |actions, at| {
            let actions: ashlar_llb::FileActions = actions;
            actions.copy(&large, format!("/{at}"), "/").into()
        });
        keys_of(&known, scratch().file(paths));
        assert_eq!(known.lock().len(), 2, "one with many paths is not");
    }
}
