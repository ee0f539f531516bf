//! How a file op is written.
//!
//! Owns the numbering of inputs: those of the op first, then the outcomes of its own actions.

use std::collections::HashMap;
use std::sync::Arc;

use super::actions::{Attributes, CopyMode, CopyPath};
use super::{Action, ActionChain, CopyInput, FileVertex};
use crate::constraints::OpConstraints;
use crate::marshal::{InputList, MarshalContext, check_path};
use crate::vertex::{Output, Vertex};
use crate::{GuestPath, MarshalError, Mode, path, pb};

/// An input of an action.
#[derive(Clone, Copy)]
enum Source {
    /// One of the op's inputs, or none.
    Input(i64),
    /// The outcome of the action at this position.
    Action(usize),
}

impl Source {
    fn index(self, inputs: usize) -> i64 {
        match self {
            Self::Input(input) => input,
            Self::Action(position) => i64::try_from(inputs + position).unwrap_or(i64::MAX),
        }
    }
}

/// An action whose inputs are known.
struct Planned<'a> {
    action: &'a Action,
    chain: &'a ActionChain,
    /// Input in which names of owners are looked up.
    base: i64,
    first: Source,
    second: Source,
}

/// A chain of which some actions are planned.
struct Frame<'a> {
    chain: &'a ActionChain,
    done: usize,
}

impl FileVertex {
    pub(crate) fn write(
        &self,
        vertex: &Vertex,
        context: &MarshalContext<'_>,
        constraints: &OpConstraints,
    ) -> Result<pb::Op, MarshalError> {
        let chain = self.chain.as_ref();
        let Some(chain) = chain.filter(|chain| !chain.actions.is_empty()) else {
            return Err(MarshalError::NoActions {
                step: vertex.name(),
            });
        };
        let mut inputs = InputList::default();
        let planned = plan(chain, vertex, context, &mut inputs)?;
        let last = planned.len() - 1;
        let mut actions = Vec::with_capacity(planned.len());
        for (position, planned) in planned.iter().enumerate() {
            planned.action.check_names(vertex)?;
            actions.push(pb::FileAction {
                input: planned.first.index(inputs.len()),
                secondary_input: planned.second.index(inputs.len()),
                output: if position == last { 0 } else { pb::SKIP_OUTPUT },
                action: Some(planned.write(context)?),
            });
        }
        let file = pb::FileOp { actions };
        let op = pb::op::Op::File(file);
        Ok(context.op(op, inputs.into_vec(), constraints, false))
    }
}

/// Adds an output to the inputs and returns its position, or that of scratch.
fn add(
    output: &Output,
    vertex: &Vertex,
    context: &MarshalContext<'_>,
    inputs: &mut InputList,
) -> Result<i64, MarshalError> {
    let input = context.input(output, vertex)?;
    Ok(input.map_or(pb::EMPTY, |input| inputs.add(input)))
}

/// Puts the actions of a chain, and of the chains it copies from, in order.
fn plan<'a>(
    chain: &'a ActionChain,
    vertex: &Vertex,
    context: &MarshalContext<'_>,
    inputs: &mut InputList,
) -> Result<Vec<Planned<'a>>, MarshalError> {
    let mut planned: Vec<Planned<'a>> = Vec::new();
    // Position of the last action of each chain that is done.
    let mut outcomes: HashMap<*const ActionChain, usize> = HashMap::new();
    let mut stack = vec![Frame { chain, done: 0 }];
    // Where the last action of the innermost chain was put.
    let mut previous: Vec<Option<usize>> = vec![None];
    while let Some(frame) = stack.last_mut() {
        let chain = frame.chain;
        let Some(action) = chain.actions.get(frame.done) else {
            let last = previous.pop().flatten();
            stack.pop();
            if let (Some(last), false) = (last, stack.is_empty()) {
                outcomes.insert(chain, last);
            }
            continue;
        };
        let base = match &chain.base {
            Some(output) => add(output, vertex, context, inputs)?,
            None => pb::EMPTY,
        };
        let mut second = Source::Input(pb::EMPTY);
        if let Action::Copy(copy) = action {
            match copy.input() {
                CopyInput::State(state) => {
                    if let Some(output) = &state.output {
                        second = Source::Input(add(output, vertex, context, inputs)?);
                    }
                }
                CopyInput::Tree(tree) => match outcomes.get(&Arc::as_ptr(&tree.chain)) {
                    Some(position) => second = Source::Action(*position),
                    None if tree.chain.actions.is_empty() => {
                        return Err(MarshalError::NoActions {
                            step: vertex.name(),
                        });
                    }
                    None => {
                        stack.push(Frame {
                            chain: &tree.chain,
                            done: 0,
                        });
                        previous.push(None);
                        continue;
                    }
                },
            }
        }
        frame.done += 1;
        let before = previous.last_mut().expect("BUG: one entry per frame");
        let first = before.map_or(Source::Input(base), Source::Action);
        *before = Some(planned.len());
        planned.push(Planned {
            action,
            chain,
            base,
            first,
            second,
        });
    }
    Ok(planned)
}

impl Planned<'_> {
    fn write(&self, context: &MarshalContext<'_>) -> Result<pb::file_action::Action, MarshalError> {
        let values = context.values(&self.chain.values)?;
        let place = |path: &GuestPath| place(&values.dir, path, false);
        let owner = |attributes: &Attributes| {
            let owner = attributes.owner.as_ref();
            owner.map(|owner| owner.to_pb(self.base))
        };
        let time = |attributes: &Attributes| attributes.created.unwrap_or(-1);
        let mode = |mode: Mode| mode.bits().cast_signed();
        Ok(match self.action {
            Action::MakeDirectory(action) => pb::file_action::Action::Mkdir(pb::FileActionMkDir {
                path: place(&action.path),
                mode: mode(action.mode),
                make_parents: action.parents,
                owner: owner(&action.attributes),
                timestamp: time(&action.attributes),
            }),
            Action::MakeFile(action) => pb::file_action::Action::Mkfile(pb::FileActionMkFile {
                path: place(&action.path),
                mode: mode(action.mode),
                data: action.data.clone(),
                owner: owner(&action.attributes),
                timestamp: time(&action.attributes),
            }),
            Action::MakeSymlink(action) => {
                pb::file_action::Action::Symlink(pb::FileActionSymlink {
                    oldpath: action.old.to_string(),
                    newpath: action.new.to_string(),
                    owner: owner(&action.attributes),
                    timestamp: time(&action.attributes),
                })
            }
            Action::Remove(action) => pb::file_action::Action::Rm(pb::FileActionRm {
                path: place(&action.path),
                allow_not_found: action.allow_not_found,
                allow_wildcard: action.wildcard,
            }),
            Action::Copy(action) => pb::file_action::Action::Copy(pb::FileActionCopy {
                owner: owner(&action.attributes),
                timestamp: time(&action.attributes),
                dest: self::place(&values.dir, &action.dest, true),
                ..action.write(context)?
            }),
        })
    }
}

impl Action {
    /// Fails at what no tree can have.
    fn check_names(&self, vertex: &Vertex) -> Result<(), MarshalError> {
        let mode = match self {
            Self::MakeDirectory(action) => {
                check_path(&action.path, vertex)?;
                Some(action.mode).filter(|mode| !mode.is_plain())
            }
            Self::MakeFile(action) => {
                check_path(&action.path, vertex)?;
                Some(action.mode).filter(|mode| !mode.is_plain())
            }
            Self::MakeSymlink(action) => {
                check_path(&action.old, vertex)?;
                check_path(&action.new, vertex)?;
                None
            }
            Self::Remove(action) => {
                check_path(&action.path, vertex)?;
                None
            }
            Self::Copy(action) => {
                check_path(&action.source, vertex)?;
                check_path(&action.dest, vertex)?;
                match action.mode {
                    Some(CopyMode::Bits(mode)) if Mode::new(mode.bits()).is_none() => Some(mode),
                    _ => None,
                }
            }
        };
        match mode {
            Some(mode) => Err(MarshalError::Mode {
                step: vertex.name(),
                mode,
            }),
            None => Ok(()),
        }
    }
}

impl CopyPath {
    /// Writes everything but what depends on the tree that is copied to.
    fn write(&self, context: &MarshalContext<'_>) -> Result<pb::FileActionCopy, MarshalError> {
        let values = match self.input() {
            CopyInput::State(state) => context.values(&state.values)?,
            CopyInput::Tree(tree) => context.values(&tree.chain.values)?,
        };
        let (mode, mode_str) = match &self.mode {
            None => (-1, String::new()),
            Some(CopyMode::Bits(bits)) => (bits.bits().cast_signed(), String::new()),
            Some(CopyMode::Symbolic(text)) => (0, text.clone()),
        };
        Ok(pb::FileActionCopy {
            src: place(&values.dir, &self.source, false),
            mode,
            mode_str,
            follow_symlink: self.follow_symlinks,
            dir_copy_contents: self.contents_only,
            attempt_unpack_docker_compatibility: self.unpack,
            create_dest_path: self.create_dest_path,
            allow_wildcard: self.wildcard,
            allow_empty_wildcard: self.allow_empty_wildcard,
            always_replace_existing_dest_paths: self.replace_existing,
            include_patterns: self.include.clone(),
            exclude_patterns: self.exclude.clone(),
            required_paths: self.required_paths.clone(),
            ..pb::FileActionCopy::default()
        })
    }
}

/// Makes a path absolute and clean. A slash at the end, or `/.`, tells that the destination of
/// a copy is a directory, and is kept if `keep_slash` is set.
fn place(dir: &GuestPath, path: &GuestPath, keep_slash: bool) -> String {
    let path = path.as_str();
    let mut clean = if path.starts_with('/') {
        path::clean(path)
    } else {
        path::clean(&format!("/{dir}/{path}"))
    };
    if keep_slash && path.ends_with('/') && !clean.ends_with('/') {
        clean.push('/');
    } else if keep_slash && path.ends_with("/.") {
        if clean != "/" {
            clean.push('/');
        }
        clean.push('.');
    }
    clean
}
