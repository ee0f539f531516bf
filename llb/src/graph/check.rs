//! The rules each op has to follow by itself.

use crate::pb;
use crate::pb::file_action::Action;
use crate::pb::op::Op;

/// What is wrong with a field of an op.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The field has to be there, and to be other than empty.
    #[error("it is missing or empty")]
    Missing,
    /// The number is not a value of the field's enum.
    #[error("{value} is not a {name}")]
    UnknownEnum {
        /// The number.
        value: i32,
        /// The enum.
        name: &'static str,
    },
    /// The position does not exist.
    #[error("position {value} is not one of {count}")]
    Position {
        /// The position.
        value: i64,
        /// How many there are.
        count: usize,
    },
    /// The output number is not the next one: outputs are numbered from 0 in their order.
    #[error("output number {value} should be {expected}")]
    OutputNumber {
        /// The number.
        value: i64,
        /// The number it should be.
        expected: usize,
    },
    /// An input of a merge or diff does not name the envelope's input of the same position. BuildKit
    /// goes by the order of the envelope, so any other number would be misleading.
    #[error("input number {value} should be {expected}")]
    InputNumber {
        /// The number.
        value: i64,
        /// The number it should be.
        expected: usize,
    },
    /// Two file actions claim the same output.
    #[error("output {value} is claimed twice")]
    DuplicateOutput {
        /// The output.
        value: i64,
    },
    /// None of the mounts has the destination `/`.
    #[error("none of them is the root")]
    NoRootMount,
    /// The root mount is not a bind mount.
    #[error("the root has to be a bind mount")]
    RootMountType,
    /// The number of inputs differs between the op and its envelope.
    #[error("{inner} inputs do not agree with the {outer} of the envelope")]
    InputCount {
        /// Number of inputs inside.
        inner: usize,
        /// Number of inputs of the envelope.
        outer: usize,
    },
}

/// The path of a field and what is wrong with it.
type Invalid = (String, Fault);

/// Checks an op with `inputs` inputs. Returns how many outputs it has.
pub(super) fn check(op: &Op, inputs: usize) -> Result<u32, Invalid> {
    let outputs = match op {
        Op::Source(_) => 1,
        Op::Exec(exec) => check_exec(exec, inputs)?,
        Op::File(file) => check_file(file, inputs)?,
        Op::Build(build) => check_build(build, inputs)?,
        Op::Merge(merge) => check_merge(merge, inputs)?,
        Op::Diff(diff) => check_diff(diff, inputs)?,
        Op::Passthrough(passthrough) => check_passthrough(passthrough, inputs)?,
    };
    Ok(u32::try_from(outputs).unwrap_or(u32::MAX))
}

/// The name of an op's kind.
pub(crate) fn kind(op: Option<&Op>) -> &'static str {
    match op {
        None => "none",
        Some(Op::Source(_)) => "source",
        Some(Op::Exec(_)) => "exec",
        Some(Op::File(_)) => "file",
        Some(Op::Build(_)) => "build",
        Some(Op::Merge(_)) => "merge",
        Some(Op::Diff(_)) => "diff",
        Some(Op::Passthrough(_)) => "passthrough",
    }
}

fn check_exec(exec: &pb::ExecOp, inputs: usize) -> Result<usize, Invalid> {
    let meta = exec.meta.as_ref();
    let meta = meta.ok_or_else(|| ("exec.meta".to_owned(), Fault::Missing))?;
    present(!meta.args.is_empty(), "exec.meta.args")?;
    present(!meta.cwd.is_empty(), "exec.meta.cwd")?;
    present(!exec.mounts.is_empty(), "exec.mounts")?;
    known::<pb::NetMode>(exec.network, "NetMode", || "exec.network".to_owned())?;
    known::<pb::SecurityMode>(exec.security, "SecurityMode", || "exec.security".to_owned())?;
    let mut outputs = 0;
    for (number, mount) in exec.mounts.iter().enumerate() {
        check_mount(mount, inputs, &mut outputs)
            .map_err(|(field, fault)| (format!("exec.mounts[{number}]{field}"), fault))?;
    }
    if !exec.mounts.iter().any(|mount| mount.dest == pb::ROOT_MOUNT) {
        return Err(("exec.mounts".to_owned(), Fault::NoRootMount));
    }
    Ok(outputs)
}

/// Checks one mount; `outputs` counts the outputs so far. Field paths start with a dot.
fn check_mount(mount: &pb::Mount, inputs: usize, outputs: &mut usize) -> Result<(), Invalid> {
    let kind = known::<pb::MountType>(mount.mount_type, "MountType", || ".mountType".to_owned())?;
    known::<pb::MountContentCache>(mount.content_cache, "MountContentCache", || {
        ".contentCache".to_owned()
    })?;
    position_or_empty(mount.input, inputs, || ".input".to_owned())?;
    if mount.dest == pb::ROOT_MOUNT && kind != pb::MountType::Bind {
        return Err((".mountType".to_owned(), Fault::RootMountType));
    }
    match kind {
        pb::MountType::Cache => {
            present(mount.cache_opt.is_some(), ".cacheOpt")?;
            let sharing = mount.cache_opt.as_ref().map_or(0, |cache| cache.sharing);
            known::<pb::CacheSharingOpt>(sharing, "CacheSharingOpt", || {
                ".cacheOpt.sharing".to_owned()
            })?;
        }
        pb::MountType::Secret => present(mount.secret_opt.is_some(), ".secretOpt")?,
        pb::MountType::Ssh => present(mount.ssh_opt.is_some(), ".SSHOpt")?,
        pb::MountType::Bind | pb::MountType::Tmpfs => {}
    }
    // Secret and ssh mounts carry output 0 by BuildKit's habit and make no output; a cache
    // mount hands on the input it started from, if it has one.
    let makes_output = match kind {
        pb::MountType::Bind => mount.output != pb::SKIP_OUTPUT,
        pb::MountType::Cache => mount.output != pb::SKIP_OUTPUT && mount.input != pb::EMPTY,
        _ => false,
    };
    if makes_output {
        output_number(mount.output, *outputs).map_err(|fault| (".output".to_owned(), fault))?;
        *outputs += 1;
    }
    Ok(())
}

fn check_file(file: &pb::FileOp, inputs: usize) -> Result<usize, Invalid> {
    present(!file.actions.is_empty(), "file.actions")?;
    let mut produced = vec![false; file.actions.len()];
    let mut outputs = 0;
    for (number, action) in file.actions.iter().enumerate() {
        let path = |field: &str| format!("file.actions[{number}]{field}");
        let trees = inputs + number;
        position_or_empty(action.input, trees, || path(".input"))?;
        position_or_empty(action.secondary_input, trees, || path(".secondaryInput"))?;
        let Some(kind) = &action.action else {
            return Err((path(".action"), Fault::Missing));
        };
        let owner = match kind {
            Action::Copy(copy) => copy.owner.as_ref(),
            Action::Mkfile(mkfile) => mkfile.owner.as_ref(),
            Action::Mkdir(mkdir) => mkdir.owner.as_ref(),
            Action::Symlink(symlink) => symlink.owner.as_ref(),
            Action::Rm(_) => None,
        };
        for named in owner
            .into_iter()
            .flat_map(|owner| [&owner.user, &owner.group])
            .flatten()
        {
            // A name on scratch is what clients write; it can only fail once the op runs.
            if let Some(pb::user_opt::User::ByName(name)) = &named.user {
                position_or_empty(name.input, trees, || path(".owner.byName.input"))?;
            }
        }
        if action.output == pb::SKIP_OUTPUT {
            continue;
        }
        let slot = usize::try_from(action.output)
            .ok()
            .and_then(|slot| produced.get_mut(slot));
        let (value, count) = (action.output, file.actions.len());
        match slot {
            None => return Err((path(".output"), Fault::Position { value, count })),
            Some(true) => return Err((path(".output"), Fault::DuplicateOutput { value })),
            Some(slot) => *slot = true,
        }
        outputs += 1;
    }
    // All numbers are different, so they are 0..outputs if the first `outputs` are there.
    if outputs == 0 || !produced[..outputs].iter().all(|&produced| produced) {
        return Err(("file.actions.output".to_owned(), Fault::Missing));
    }
    Ok(outputs)
}

fn check_build(build: &pb::BuildOp, inputs: usize) -> Result<usize, Invalid> {
    if build.builder != pb::LLB_BUILDER {
        position(build.builder, inputs, || "build.builder".to_owned())?;
    }
    for (name, input) in &build.inputs {
        position(input.input, inputs, || {
            format!("build.inputs[{:?}]", crate::digest::excerpt(name))
        })?;
    }
    Ok(1)
}

fn check_merge(merge: &pb::MergeOp, outer: usize) -> Result<usize, Invalid> {
    let inner = merge.inputs.len();
    same_count("merge.inputs", inner, outer)?;
    present(inner > 0, "merge.inputs")?;
    for (expected, input) in merge.inputs.iter().enumerate() {
        input_number(input.input, expected)
            .map_err(|fault| (format!("merge.inputs[{expected}]"), fault))?;
    }
    Ok(1)
}

fn check_diff(diff: &pb::DiffOp, outer: usize) -> Result<usize, Invalid> {
    let lower = diff
        .lower
        .ok_or_else(|| ("diff.lower".to_owned(), Fault::Missing))?;
    let upper = diff
        .upper
        .ok_or_else(|| ("diff.upper".to_owned(), Fault::Missing))?;
    let sides = [
        ("diff.lower.input", lower.input),
        ("diff.upper.input", upper.input),
    ];
    let mut inner = 0;
    for (field, input) in sides {
        if input != pb::EMPTY {
            input_number(input, inner).map_err(|fault| (field.to_owned(), fault))?;
            inner += 1;
        }
    }
    same_count("diff", inner, outer)?;
    Ok(1)
}

fn check_passthrough(op: &pb::PassthroughOp, inputs: usize) -> Result<usize, Invalid> {
    present(!op.id.is_empty(), "passthrough.id")?;
    present(!op.outputs.is_empty(), "passthrough.outputs")?;
    for (number, &output) in op.outputs.iter().enumerate() {
        // BuildKit lets a passthrough without inputs name any, which then stand for scratch.
        let count = if inputs == 0 {
            op.outputs.len()
        } else {
            inputs
        };
        position(output, count, || format!("passthrough.outputs[{number}]"))?;
    }
    Ok(op.outputs.len())
}

fn present(is: bool, field: &str) -> Result<(), Invalid> {
    if is {
        Ok(())
    } else {
        Err((field.to_owned(), Fault::Missing))
    }
}

fn known<E: TryFrom<i32>>(
    value: i32,
    name: &'static str,
    field: impl FnOnce() -> String,
) -> Result<E, Invalid> {
    E::try_from(value).map_err(|_| (field(), Fault::UnknownEnum { value, name }))
}

fn position(value: i64, count: usize, field: impl FnOnce() -> String) -> Result<(), Invalid> {
    if usize::try_from(value).is_ok_and(|value| value < count) {
        return Ok(());
    }
    Err((field(), Fault::Position { value, count }))
}

fn position_or_empty(
    value: i64,
    count: usize,
    field: impl FnOnce() -> String,
) -> Result<(), Invalid> {
    if value == pb::EMPTY {
        Ok(())
    } else {
        position(value, count, field)
    }
}

fn input_number(value: i64, expected: usize) -> Result<(), Fault> {
    if usize::try_from(value).is_ok_and(|value| value == expected) {
        return Ok(());
    }
    Err(Fault::InputNumber { value, expected })
}

fn same_count(field: &str, inner: usize, outer: usize) -> Result<(), Invalid> {
    if inner == outer {
        return Ok(());
    }
    Err((field.to_owned(), Fault::InputCount { inner, outer }))
}

fn output_number(value: i64, expected: usize) -> Result<(), Fault> {
    if usize::try_from(value).is_ok_and(|value| value == expected) {
        return Ok(());
    }
    Err(Fault::OutputNumber { value, expected })
}
