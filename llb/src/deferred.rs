//! Deferred states: functions that say what a state is once it is known what is asked of it.
//!
//! Owns the deferred vertex and [`Resolver`], which calls each function at most once per
//! marshal. Invariants: a function sees the settings of the state it was given, all known; what
//! it returns may itself be deferred, up to a limit; nothing is called before a marshal. When a
//! vertex is written is for [`marshal`](crate::marshal).

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::constraints::OpConstraints;
use crate::state::Settings;
use crate::vertex::{Link, Output, Vertex, VertexOp};
use crate::{Constraints, MarshalError, State};

/// How often a deferred state may turn out to be another deferred state.
const LIMIT: usize = 1000;

type Cause = Arc<dyn std::error::Error + Send + Sync>;
type Function = dyn Fn(State, &Constraints) -> Result<State, Cause> + Send + Sync;

/// A vertex that is not known yet.
#[derive(Clone)]
pub(crate) struct Deferred {
    from: State,
    function: Arc<Function>,
}

/// Why a deferred state could not be resolved: the error of its function.
///
/// Two of these are equal if their texts are.
#[derive(Clone)]
pub struct DeferredError(Cause);

impl fmt::Display for DeferredError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for DeferredError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for DeferredError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

impl PartialEq for DeferredError {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for DeferredError {}

impl DeferredError {
    /// Returns the error of the function, to be downcast.
    #[must_use]
    pub fn get_ref(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        &*self.0
    }
}

impl State {
    /// Leaves it to `function` what this state becomes, once the constraints of the marshal are
    /// known. The function is called at most once per marshal, however often the state is used,
    /// and only if it is; whatever it needs to look up, it has to find without `async`.
    ///
    /// It gets this state, whose settings it can ask for. Its outcome stands for the new state
    /// everywhere: as a root, a mount, the source of a copy. Settings made on the new state are
    /// made on the outcome. BuildKit's Go client calls this `Async`, and asks once for all
    /// marshals; here other constraints mean another call.
    ///
    /// ```
    /// use ashlar_llb as llb;
    /// use llb::{Constraints, Platform};
    ///
    /// let tools = llb::image("alpine").defer(|alpine, constraints| {
    ///     let package = match constraints.platform().architecture.as_str() {
    ///         "amd64" => "nasm",
    ///         "arm64" => "binutils",
    ///         other => return Err(format!("nothing is known for {other}")),
    ///     };
    ///     Ok(alpine.run(["apk", "add", package]).root())
    /// });
    /// let built = tools.run(["make"]).root();
    /// assert!(built.marshal(&Constraints::new(Platform::linux_amd64())).is_ok());
    /// let riscv = Constraints::new(Platform::linux_riscv64());
    /// let error = built.marshal(&riscv).unwrap_err();
    /// assert_eq!(error.step(), "deferred docker-image://docker.io/library/alpine:latest");
    /// ```
    #[must_use]
    pub fn defer<E>(
        &self,
        function: impl Fn(Self, &Constraints) -> Result<Self, E> + Send + Sync + 'static,
    ) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let function: Arc<Function> = Arc::new(move |state, constraints| {
            function(state, constraints).map_err(|error| Arc::from(error.into()))
        });
        let vertex = Vertex {
            op: VertexOp::Deferred(Box::new(Deferred {
                from: self.clone(),
                function,
            })),
            constraints: OpConstraints::default(),
        };
        let output = Output::first(vertex);
        let values = Settings::of_deferred(Arc::clone(&output.vertex));
        Self {
            output: Some(output),
            values,
        }
    }

    /// Returns this state with its tree and its settings known, as far as they were deferred.
    /// Trees that lead to this one may still be.
    ///
    /// # Errors
    /// If a function of [`State::defer`] fails.
    pub fn resolve(&self, constraints: &Constraints) -> Result<Self, MarshalError> {
        let resolver = Resolver::new(constraints);
        let output = match &self.output {
            Some(output) => resolver.output(output)?,
            None => None,
        };
        let values = resolver.values(&self.values)?;
        Ok(Self { output, values })
    }

    /// Moves what the state keeps alive to `links`.
    pub(crate) fn unlink(mut self, links: &mut Vec<Link>) {
        self.values.unlink(links);
        links.extend(self.output.take().map(|output| Link::Vertex(output.vertex)));
    }
}

impl Deferred {
    /// Name in error messages.
    pub(crate) fn name(&self) -> String {
        let from = self.from.output.as_ref();
        // Not the name of another deferred state, which could be one of very many.
        match from.map(|output| &output.vertex) {
            None => "deferred scratch".to_owned(),
            Some(vertex) if matches!(vertex.op, VertexOp::Deferred(_)) => "deferred state".into(),
            Some(vertex) => format!("deferred {}", vertex.name()),
        }
    }

    pub(crate) fn unlink(&mut self, links: &mut Vec<Link>) {
        std::mem::replace(&mut self.from, crate::scratch()).unlink(links);
    }
}

/// What deferred vertices turned out to be during one marshal.
pub(crate) struct Resolver<'a> {
    constraints: &'a Constraints,
    /// By identity of the vertex, which is kept alive with its outcome.
    known: RefCell<HashMap<*const Vertex, (Arc<Vertex>, State)>>,
}

impl fmt::Debug for Resolver<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

impl<'a> Resolver<'a> {
    pub(crate) fn new(constraints: &'a Constraints) -> Self {
        Self {
            constraints,
            known: RefCell::default(),
        }
    }

    /// The output behind deferred ones; nothing for scratch.
    pub(crate) fn output(&self, output: &Output) -> Result<Option<Output>, MarshalError> {
        let mut output = output.clone();
        for _ in 0..LIMIT {
            if !matches!(output.vertex.op, VertexOp::Deferred(_)) {
                return Ok(Some(output));
            }
            match self.state(&output.vertex)?.output {
                Some(next) => output = next,
                None => return Ok(None),
            }
        }
        Err(endless(&output.vertex))
    }

    /// The settings behind deferred ones.
    pub(crate) fn values(&self, values: &Settings) -> Result<Settings, MarshalError> {
        let mut values = values.clone();
        let mut layers = Vec::new();
        while let Some(later) = values.later.clone() {
            if layers.len() == LIMIT {
                return Err(endless(&later.origin));
            }
            values = self.state(&later.origin)?.values;
            layers.push(later.changes);
        }
        for change in layers.into_iter().rev().flatten() {
            values.set(change);
        }
        Ok(values)
    }

    /// What a deferred vertex turns out to be.
    fn state(&self, vertex: &Arc<Vertex>) -> Result<State, MarshalError> {
        let mut todo = vec![Arc::clone(vertex)];
        while let Some(top) = todo.last() {
            if self.is_known(top) {
                todo.pop();
                continue;
            }
            let VertexOp::Deferred(deferred) = &top.op else {
                unreachable!("BUG: only deferred vertices are asked what they are");
            };
            // The state the function gets has to be known first; no recursion, for a chain of
            // deferred states may be long.
            if let Some(later) = &deferred.from.values.later
                && !self
                    .known
                    .borrow()
                    .contains_key(&Arc::as_ptr(&later.origin))
            {
                let origin = Arc::clone(&later.origin);
                todo.push(origin);
                continue;
            }
            let from = State {
                output: deferred.from.output.clone(),
                values: self.values(&deferred.from.values)?,
            };
            let outcome = (deferred.function)(from, self.constraints);
            let state = outcome.map_err(|source| MarshalError::Deferred {
                step: top.name(),
                source: DeferredError(source),
            })?;
            let vertex = Arc::clone(top);
            self.known
                .borrow_mut()
                .insert(Arc::as_ptr(&vertex), (vertex, state));
        }
        let known = self.known.borrow();
        let (_, state) = &known[&Arc::as_ptr(vertex)];
        Ok(state.clone())
    }

    fn is_known(&self, vertex: &Arc<Vertex>) -> bool {
        self.known.borrow().contains_key(&Arc::as_ptr(vertex))
    }
}

fn endless(vertex: &Vertex) -> MarshalError {
    MarshalError::DeferredTooOften {
        step: vertex.name(),
    }
}
