//! Merges, differences and passthroughs: ops on whole trees.
//!
//! Owns their constructors, and the cases in which there is nothing to do and no op is made.

use std::sync::Arc;

use crate::caps::Cap;
use crate::constraints::OpConstraints;
use crate::vertex::{DiffVertex, Output, PassthroughVertex, Port, Unusable, Vertex, VertexOp};
use crate::{OpState, State};

/// Stacks trees, the first at the bottom, without copying anything.
///
/// The result has the settings of the first tree. Scratch is left out; one tree that is left is
/// returned as it is, without an op.
///
/// ```
/// use ashlar_llb as llb;
///
/// let app = llb::scratch().file(llb::mkfile("/app", ""));
/// let base = llb::image("alpine").env("PATH", "/bin");
/// let image = llb::merge([&base, &app]).run(["/app"]).root();
/// # let _ = image;
/// ```
#[must_use]
pub fn merge<T: Into<State>>(states: impl IntoIterator<Item = T>) -> OpState {
    let states = states.into_iter().map(Into::into);
    let mut states = states.filter(|state: &State| !state.is_scratch());
    let Some(first) = states.next() else {
        return OpState::existing(crate::scratch());
    };
    let others = states.filter_map(|state| state.output);
    let inputs: Box<[Output]> = first.output.iter().cloned().chain(others).collect();
    if inputs.len() < 2 {
        return OpState::existing(first);
    }
    made(&first, VertexOp::Merge(inputs), Cap::MergeOp)
}

/// Takes what `upper` changed with respect to `lower`: added and changed files, and the
/// removal of removed ones when it is merged onto something.
///
/// The result has the settings of `lower`. If that is scratch the result is `upper` itself,
/// without an op; if both are, it is scratch without settings.
///
/// ```
/// use ashlar_llb as llb;
///
/// let base = llb::image("alpine");
/// let added = llb::diff(&base, base.run(["apk", "add", "gcc"]).root());
/// let image = llb::merge::<llb::State>([llb::image("alpine:edge").into(), added.into()]);
/// # let _ = image;
/// ```
#[must_use]
pub fn diff(lower: impl Into<State>, upper: impl Into<State>) -> OpState {
    let (lower, upper) = (lower.into(), upper.into());
    if lower.is_scratch() {
        let empty = upper.is_scratch();
        return OpState::existing(if empty { crate::scratch() } else { upper });
    }
    let op = DiffVertex {
        lower: lower.output.clone(),
        upper: upper.output,
    };
    made(&lower, VertexOp::Diff(Box::new(op)), Cap::DiffOp)
}

fn made(settings: &State, op: VertexOp, cap: Cap) -> OpState {
    let vertex = Vertex {
        op,
        constraints: OpConstraints::needing(cap),
    };
    OpState::new(settings.with_output(Some(Output::first(vertex))))
}

/// An op that hands trees on once all its inputs are built.
///
/// ```
/// use ashlar_llb as llb;
/// use llb::Passthrough;
///
/// let base = llb::image("alpine");
/// let checks = base.run(["run-checks"]).root();
/// let released = Passthrough::new("checked").hands_on(&base).waits_for(&checks).output(0);
/// assert_eq!(released.working_dir(), "/");
/// let shorter = base.requires("checked", [checks]);
/// # let _ = shorter;
/// ```
#[derive(Clone, Debug)]
pub struct Passthrough {
    vertex: Arc<Vertex>,
}

impl Passthrough {
    /// An op without inputs. The id tells it apart from others with equal inputs.
    #[must_use]
    pub fn new(id: impl Into<String>) -> Self {
        let passthrough = PassthroughVertex {
            id: id.into(),
            inputs: Vec::new(),
            outputs: Vec::new(),
        };
        let vertex = Vertex {
            op: VertexOp::Passthrough(Box::new(passthrough)),
            constraints: OpConstraints::needing(Cap::PassthroughOp),
        };
        Self {
            vertex: Arc::new(vertex),
        }
    }

    fn add(mut self, state: State, hand_on: bool) -> Self {
        let Some(output) = state.output else {
            return self;
        };
        let VertexOp::Passthrough(passthrough) = &mut Arc::make_mut(&mut self.vertex).op else {
            unreachable!("BUG: the vertex of a passthrough is one");
        };
        if hand_on {
            passthrough.outputs.push(passthrough.inputs.len());
        }
        passthrough.inputs.push(output);
        self
    }

    fn options_mut(&mut self) -> &mut OpConstraints {
        &mut Arc::make_mut(&mut self.vertex).constraints
    }

    /// Adds a tree that is the next output. Scratch is left out.
    #[must_use]
    pub fn hands_on(self, state: impl Into<State>) -> Self {
        self.add(state.into(), true)
    }

    /// Adds a tree that only has to be built. Scratch is left out.
    #[must_use]
    pub fn waits_for(self, state: impl Into<State>) -> Self {
        self.add(state.into(), false)
    }

    fn port(&self, index: usize) -> Port {
        let count = match &self.vertex.op {
            VertexOp::Passthrough(passthrough) => passthrough.outputs.len(),
            _ => 0,
        };
        match u32::try_from(index) {
            Ok(number) if index < count => Port::Index(number),
            _ => Port::Unusable(Box::new(Unusable::NoOutputIndex { index })),
        }
    }

    fn result(&self, index: usize) -> Output {
        Output {
            vertex: Arc::clone(&self.vertex),
            port: self.port(index),
            platform: None,
        }
    }

    /// Returns an output, as a state with fresh settings. If there are fewer, marshalling the
    /// state fails.
    #[must_use]
    pub fn output(&self, index: usize) -> State {
        State::new(Some(self.result(index)))
    }
}

crate::constraints::op_options!(impl Passthrough);

impl State {
    /// Returns this tree, which engines now build only once `dependencies` are built. `id`
    /// tells apart what would otherwise be equal. Without dependencies nothing changes.
    #[must_use]
    pub fn requires<T: Into<Self>>(
        &self,
        id: impl Into<String>,
        dependencies: impl IntoIterator<Item = T>,
    ) -> Self {
        let mut dependencies = dependencies.into_iter().peekable();
        if dependencies.peek().is_none() {
            return self.clone();
        }
        let mut passthrough = Passthrough::new(id).hands_on(self);
        for dependency in dependencies {
            passthrough = passthrough.waits_for(dependency);
        }
        self.with_output(Some(passthrough.result(0)))
    }
}
