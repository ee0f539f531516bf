//! How a file op is written.
//!
//! Owns the numbering of inputs: those of the op first, then the outcomes of its own actions.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use super::actions::{Attributes, CopyMode, CopyPath};
use super::{Action, ActionChain, CopyInput, FileVertex};
use crate::encode::Writer;
use crate::marshal::{MarshalContext, OpWriter, check_path};
use crate::state::Settings;
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
    /// The input that the chain starts from, or none.
    base: i64,
    /// Where its last action was put.
    previous: Option<usize>,
}

impl<'a> Frame<'a> {
    fn new(chain: &'a ActionChain, op: &mut OpWriter<'_, '_>) -> Result<Self, MarshalError> {
        let base = match &chain.base {
            Some(output) => op.input(output)?,
            None => pb::EMPTY,
        };
        Ok(Self {
            chain,
            done: 0,
            base,
            previous: None,
        })
    }
}

impl FileVertex {
    pub(crate) fn write(&self, op: &mut OpWriter<'_, '_>) -> Result<(), MarshalError> {
        let chain = self.chain.as_ref();
        let Some(chain) = chain.filter(|chain| !chain.actions.is_empty()) else {
            return Err(MarshalError::NoActions { step: op.step() });
        };
        let planned = plan(chain, op)?;
        for planned in &planned {
            planned.action.check_names(op)?;
        }
        let (inputs, last, context) = (op.input_count(), planned.len() - 1, op.context());
        op.write(None, pb::op::FILE, |out| {
            for (position, planned) in planned.iter().enumerate() {
                let output = if position == last { 0 } else { pb::SKIP_OUTPUT };
                planned.write(inputs, output, context, out)?;
            }
            Ok(())
        })
    }
}

/// Puts the actions of a chain, and of the chains it copies from, in order.
fn plan<'a>(
    chain: &'a ActionChain,
    op: &mut OpWriter<'_, '_>,
) -> Result<Vec<Planned<'a>>, MarshalError> {
    let mut planned: Vec<Planned<'a>> = Vec::with_capacity(chain.actions.len());
    // Position of the last action of each chain that is done.
    let mut outcomes: HashMap<*const ActionChain, usize> = HashMap::new();
    let mut frame = Frame::new(chain, op)?;
    // Chains that wait for the outcome of another.
    let mut waiting: Vec<Frame<'a>> = Vec::new();
    loop {
        let Some(action) = frame.chain.actions.get(frame.done) else {
            let Some(next) = waiting.pop() else {
                return Ok(planned);
            };
            if let Some(last) = frame.previous {
                outcomes.insert(frame.chain, last);
            }
            frame = next;
            continue;
        };
        let mut second = Source::Input(pb::EMPTY);
        if let Action::Copy(copy) = action {
            match copy.input() {
                CopyInput::State(state) => {
                    if let Some(output) = &state.output {
                        second = Source::Input(op.input(output)?);
                    }
                }
                CopyInput::Tree(tree) => match outcomes.get(&Arc::as_ptr(&tree.chain)) {
                    Some(position) => second = Source::Action(*position),
                    None if tree.chain.actions.is_empty() => {
                        return Err(MarshalError::NoActions { step: op.step() });
                    }
                    None => {
                        let next = Frame::new(&tree.chain, op)?;
                        waiting.push(std::mem::replace(&mut frame, next));
                        continue;
                    }
                },
            }
        }
        frame.done += 1;
        let before = frame.previous.replace(planned.len());
        planned.push(Planned {
            action,
            chain: frame.chain,
            base: frame.base,
            first: before.map_or(Source::Input(frame.base), Source::Action),
            second,
        });
    }
}

impl Planned<'_> {
    /// Writes the action as one of an op that has so many inputs.
    fn write(
        &self,
        inputs: usize,
        output: i64,
        context: &MarshalContext<'_>,
        out: &mut Writer,
    ) -> Result<(), MarshalError> {
        let place = |path, keep_slash| place(&self.chain.values, path, keep_slash, context);
        let owner = |attributes: &Attributes| {
            let owner = attributes.owner();
            owner.map(|owner| owner.to_pb(self.base))
        };
        let mut write = |action: pb::ActionFields<'_>| {
            let fields = pb::FileActionFields {
                input: self.first.index(inputs),
                secondary_input: self.second.index(inputs),
                output,
                action: Some(action),
            };
            out.message(pb::FileOp::ACTIONS, &fields);
        };
        match self.action {
            Action::MakeDirectory(action) => write(pb::ActionFields::MkDir(pb::MkDirFields {
                path: &place(&action.path, false)?,
                mode: action.mode.bits().cast_signed(),
                make_parents: action.parents,
                owner: owner(&action.attributes).as_ref(),
                timestamp: action.attributes.created(),
            })),
            Action::MakeFile(action) => write(pb::ActionFields::MkFile(pb::MkFileFields {
                path: &place(&action.path, false)?,
                mode: action.mode.bits().cast_signed(),
                data: &action.data,
                owner: owner(&action.attributes).as_ref(),
                timestamp: action.attributes.created(),
            })),
            Action::MakeSymlink(action) => write(pb::ActionFields::Symlink(pb::SymlinkFields {
                oldpath: action.old.as_str(),
                newpath: action.new.as_str(),
                owner: owner(&action.attributes).as_ref(),
                timestamp: action.attributes.created(),
            })),
            Action::Remove(action) => write(pb::ActionFields::Rm(pb::RmFields {
                path: &place(&action.path, false)?,
                allow_not_found: action.allow_not_found,
                allow_wildcard: action.wildcard,
            })),
            Action::Copy(action) => write(pb::ActionFields::Copy(pb::CopyFields {
                src: &action.source_place(context)?,
                dest: &place(&action.dest, true)?,
                owner: owner(&action.attributes).as_ref(),
                timestamp: action.attributes.created(),
                ..action.fields()
            })),
        }
        Ok(())
    }
}

impl Action {
    /// Fails at what no tree can have.
    fn check_names(&self, op: &OpWriter<'_, '_>) -> Result<(), MarshalError> {
        let mode = match self {
            Self::MakeDirectory(action) => {
                check_path(&action.path, op)?;
                Some(action.mode).filter(|mode| !mode.is_plain())
            }
            Self::MakeFile(action) => {
                check_path(&action.path, op)?;
                Some(action.mode).filter(|mode| !mode.is_plain())
            }
            Self::MakeSymlink(action) => {
                check_path(&action.old, op)?;
                check_path(&action.new, op)?;
                None
            }
            Self::Remove(action) => {
                check_path(&action.path, op)?;
                None
            }
            Self::Copy(action) => {
                check_path(&action.source, op)?;
                check_path(&action.dest, op)?;
                match action.mode {
                    Some(CopyMode::Bits(mode)) if Mode::new(mode.bits()).is_none() => Some(mode),
                    _ => None,
                }
            }
        };
        match mode {
            Some(mode) => Err(MarshalError::Mode {
                step: op.step(),
                mode,
            }),
            None => Ok(()),
        }
    }
}

impl CopyPath {
    /// The path that is copied, in the tree it is copied from.
    fn source_place(&self, context: &MarshalContext<'_>) -> Result<Cow<'_, str>, MarshalError> {
        let values = match self.input() {
            CopyInput::State(state) => &state.values,
            CopyInput::Tree(tree) => &tree.chain.values,
        };
        place(values, &self.source, false, context)
    }

    /// Everything that depends on neither tree.
    fn fields(&self) -> pb::CopyFields<'_> {
        let (mode, mode_str) = match &self.mode {
            None => (-1, ""),
            Some(CopyMode::Bits(bits)) => (bits.bits().cast_signed(), ""),
            Some(CopyMode::Symbolic(text)) => (0, &**text),
        };
        pb::CopyFields {
            src: "",
            dest: "",
            owner: None,
            mode,
            follow_symlink: self.follow_symlinks,
            dir_copy_contents: self.contents_only,
            attempt_unpack_docker_compatibility: self.unpack,
            create_dest_path: self.create_dest_path,
            allow_wildcard: self.wildcard,
            allow_empty_wildcard: self.allow_empty_wildcard,
            timestamp: -1,
            include_patterns: &self.more().include,
            exclude_patterns: &self.more().exclude,
            always_replace_existing_dest_paths: self.replace_existing,
            mode_str,
            required_paths: &self.more().required_paths,
        }
    }
}

/// Makes a path absolute and clean. A slash at the end, or `/.`, tells that the destination of
/// a copy is a directory, and is kept if `keep_slash` is set.
fn place<'p>(
    values: &Settings,
    path: &'p GuestPath,
    keep_slash: bool,
    context: &MarshalContext<'_>,
) -> Result<Cow<'p, str>, MarshalError> {
    let path = path.as_str();
    if path::is_clean_and_absolute(path) {
        return Ok(path.into());
    }
    let mut clean = if path.starts_with('/') {
        path::clean(path)
    } else {
        path::clean(&format!("/{}/{path}", context.values(values)?.dir))
    };
    if keep_slash && path.ends_with('/') && !clean.ends_with('/') {
        clean.push('/');
    } else if keep_slash && path.ends_with("/.") {
        if clean != "/" {
            clean.push('/');
        }
        clean.push('.');
    }
    Ok(clean.into())
}
