//! Which vertex of one graph is which of another.

use std::collections::HashMap;
use std::mem::discriminant;

use crate::{Edge, Graph, Vertex, pb};

/// The matches, in both directions.
#[derive(Debug)]
pub(super) struct Matches {
    /// For each vertex of the first graph, its position in the second.
    pub(super) after: Vec<Option<usize>>,
    /// For each vertex of the second graph, its position in the first.
    pub(super) before: Vec<Option<usize>>,
}

impl Matches {
    fn add(&mut self, before: usize, after: usize) -> bool {
        let free = self.after[before].is_none() && self.before[after].is_none();
        if free {
            self.after[before] = Some(after);
            self.before[after] = Some(before);
        }
        free
    }
}

/// What a vertex says, apart from its inputs.
#[derive(PartialEq, Eq, Hash)]
struct Content<'a> {
    op: &'a pb::op::Op,
    platform: Option<&'a pb::Platform>,
    constraints: Option<&'a pb::WorkerConstraints>,
    inputs: usize,
}

impl<'a> Content<'a> {
    fn of(vertex: &'a Vertex) -> Self {
        Self {
            op: vertex.op(),
            platform: vertex.platform(),
            constraints: vertex.constraints(),
            inputs: vertex.inputs().len(),
        }
    }
}

pub(super) fn matches(before: &Graph, after: &Graph) -> Matches {
    let mut matches = Matches {
        after: vec![None; before.vertices().len()],
        before: vec![None; after.vertices().len()],
    };
    for (position, vertex) in before.vertices().iter().enumerate() {
        if let Some(same) = after.find(&vertex.digest()) {
            matches.add(position, same.index());
        }
    }
    by_content(before, after, &mut matches);
    by_place(before, after, &mut matches);
    matches
}

/// Matches what says the same, the first with the first where several do.
fn by_content(before: &Graph, after: &Graph, matches: &mut Matches) {
    let mut waiting: HashMap<Content<'_>, Vec<usize>> = HashMap::new();
    for (position, vertex) in before.vertices().iter().enumerate().rev() {
        if matches.after[position].is_none() {
            waiting
                .entry(Content::of(vertex))
                .or_default()
                .push(position);
        }
    }
    for (position, vertex) in after.vertices().iter().enumerate() {
        if matches.before[position].is_none()
            && let Some(found) = waiting.get_mut(&Content::of(vertex)).and_then(Vec::pop)
        {
            matches.add(found, position);
        }
    }
}

/// Matches what is at the same place below vertices that match, from the heads on. Both have
/// to be of one kind.
fn by_place(before: &Graph, after: &Graph, matches: &mut Matches) {
    let try_edges = |matches: &mut Matches, one: Edge, other: Edge| {
        let (one, other) = (one.vertex, other.vertex);
        let kind = |graph: &Graph, index| discriminant(graph.vertex(index).op());
        kind(before, one) == kind(after, other) && matches.add(one.index(), other.index())
    };
    if let (Some(one), Some(other)) = (before.head(), after.head()) {
        try_edges(matches, one, other);
    }
    // Users come after their inputs, so that all users of a vertex were here before it.
    for position in (0..before.vertices().len()).rev() {
        let Some(other) = matches.after[position] else {
            continue;
        };
        let inputs = before.vertices()[position].inputs();
        for (one, other) in inputs.iter().zip(after.vertices()[other].inputs()) {
            try_edges(matches, *one, *other);
        }
    }
}
