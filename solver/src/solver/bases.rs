//! What the head of a graph is built on.
//!
//! A tree that an op makes has the layers of *one* of its inputs below its own: that of a step's root
//! mount, that of the first action of a file op. What is mounted or copied from beside leaves no
//! layer. A merge has those of all its inputs, a difference those of its upper one.

use std::collections::HashSet;

use ashlar_llb::pb::op::Op;
use ashlar_llb::pb::{ExecOp, FileOp};
use ashlar_llb::{Edge, Graph, Vertex};

/// The vertices from outside whose layers the head of a graph can contain, sources and nested builds,
/// by their index; that of the lowest layers first.
pub(super) fn below(graph: &Graph) -> Vec<usize> {
    let mut sources = Vec::new();
    // Nearly every edge leads to a first output.
    let mut seen = vec![false; graph.vertices().len()];
    let mut seen_further: HashSet<Edge> = HashSet::new();
    let mut todo: Vec<Edge> = graph.head().into_iter().collect();
    while let Some(edge) = todo.pop() {
        let is_new = match edge.output {
            0 => !std::mem::replace(&mut seen[edge.vertex.index()], true),
            _ => seen_further.insert(edge),
        };
        if !is_new {
            continue;
        }
        let vertex = graph.vertex(edge.vertex);
        let before = todo.len();
        match vertex.op() {
            Op::Source(_) | Op::Build(_) => sources.push(edge.vertex.index()),
            Op::Exec(exec) => todo.extend(of_exec(exec, vertex, edge.output)),
            Op::File(file) => todo.extend(of_file(file, vertex, edge.output)),
            Op::Merge(merge) => {
                let inputs = merge.inputs.iter();
                todo.extend(inputs.filter_map(|merged| input(vertex, merged.input)));
            }
            Op::Diff(diff) => {
                let upper = diff.upper.iter();
                todo.extend(upper.filter_map(|upper| input(vertex, upper.input)));
            }
            Op::Passthrough(_) => todo.extend(vertex.inputs()),
        }
        // The first one is to be taken next.
        todo[before..].reverse();
    }
    sources
}

/// An input by its number; -1 is nothing.
fn input(vertex: &Vertex, number: i64) -> Option<Edge> {
    let at = usize::try_from(number).ok()?;
    vertex.inputs().get(at).copied()
}

/// The input of the mount that becomes an output.
fn of_exec(exec: &ExecOp, vertex: &Vertex, output: u32) -> Option<Edge> {
    let mut mounts = exec.mounts.iter();
    let mount = mounts.find(|mount| mount.output == i64::from(output))?;
    input(vertex, mount.input)
}

/// The input that the actions behind an output begin with.
fn of_file(file: &FileOp, vertex: &Vertex, output: u32) -> Option<Edge> {
    let inputs = vertex.inputs().len();
    let mut actions = file.actions.iter();
    let mut action = actions.find(|action| action.output == i64::from(output))?;
    // An action may name another one as its input, but there is no way round in a circle.
    for _ in &file.actions {
        let Some(earlier) = usize::try_from(action.input).ok()?.checked_sub(inputs) else {
            break;
        };
        action = file.actions.get(earlier)?;
    }
    input(vertex, action.input)
}

#[cfg(test)]
mod tests {
    use ashlar_llb::{self as llb, Constraints, Mount, Platform, State, copy, mkfile};

    use super::*;

    /// The images that a state is built on, by their names.
    fn images(state: &State) -> Vec<String> {
        let platform = Platform::of_target();
        let definition = state.marshal(&Constraints::new(platform)).unwrap();
        let graph = Graph::load(&definition).unwrap();
        let sources = below(&graph).into_iter();
        let named = sources.map(|at| match graph.vertices()[at].op() {
            Op::Source(source) => source.identifier.clone(),
            other => panic!("{other:?}"),
        });
        let last = |name: String| name.rsplit('/').next().unwrap().replace(":latest", "");
        named.map(last).collect()
    }

    fn image(name: &str) -> State {
        llb::image(format!("a.test/{name}")).into()
    }

    #[test]
    fn steps_and_files_are_on_what_they_change() {
        let beside = image("beside");
        let step = image("base").run(["make"]);
        let step = step.mount("/from", Mount::bind(&beside).readonly());
        let built = step.root();
        let both = built
            .file(mkfile("/one", "1").mkdir("/two"))
            .file(copy(&beside, "/a", "/a"));
        assert_eq!(images(&both), ["base"]);
        assert_eq!(images(&image("base")), ["base"]);
        assert_eq!(
            images(&llb::scratch().file(copy(&beside, "/a", "/a"))),
            [""; 0]
        );
    }

    #[test]
    fn a_merge_is_on_all_and_a_difference_on_its_upper_one() {
        let one = image("one").file(mkfile("/one", "1"));
        let two = image("two").file(mkfile("/two", "2"));
        let merged: State = llb::merge([one.clone(), two.clone(), image("one")]).into();
        assert_eq!(images(&merged), ["one", "two"]);
        let changes: State = llb::diff(&one, &two).into();
        assert_eq!(images(&changes), ["two"]);
    }

    #[test]
    fn another_mount_than_the_root_is_on_what_is_mounted() {
        let step = image("base").run(["make"]);
        let step = step.mount("/out", Mount::bind(image("out")));
        assert_eq!(images(&step.output("/out")), ["out"]);
    }
}
