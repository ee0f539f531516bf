//! The order of the actions of a file op.

use ashlar_llb::pb;
use ashlar_llb::pb::file_action::Action;
use ashlar_llb::pb::user_opt::User;

use super::FileError;

/// How often the outcome of an input or action is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// At most once, and it is no output: the next action may go on with it.
    Once,
    /// More than once, or as an output: it must not change any more.
    Shared,
}

/// The actions, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Graph {
    /// Inputs of the op.
    pub(super) inputs: usize,
    /// The actions that some output needs, those that others need first.
    pub(super) order: Vec<usize>,
    /// The action behind each output.
    pub(super) outputs: Vec<usize>,
    /// By input number: the inputs of the op, then the actions.
    pub(super) uses: Vec<Use>,
}

/// The input numbers an action uses.
fn needs(action: &pb::FileAction) -> impl Iterator<Item = i64> {
    let owner = match &action.action {
        Some(Action::Mkdir(it)) => it.owner.as_ref(),
        Some(Action::Mkfile(it)) => it.owner.as_ref(),
        Some(Action::Symlink(it)) => it.owner.as_ref(),
        Some(Action::Copy(it)) => it.owner.as_ref(),
        Some(Action::Rm(_)) | None => None,
    };
    let users = owner
        .into_iter()
        .flat_map(|owner| [owner.user.as_ref(), owner.group.as_ref()]);
    let named = users.flatten().filter_map(|user| match &user.user {
        Some(User::ByName(named)) => Some(named.input),
        _ => None,
    });
    [action.input, action.secondary_input]
        .into_iter()
        .filter(|&input| input != -1)
        .chain(named)
}

impl Graph {
    /// Checks all input numbers and outputs, and orders the actions.
    pub(super) fn check(op: &pb::FileOp, inputs: usize) -> Result<Self, FileError> {
        let count = inputs + op.actions.len();
        let mut used = vec![0_usize; count];
        let mut outputs: Vec<(i64, usize)> = Vec::new();
        for (index, action) in op.actions.iter().enumerate() {
            for input in needs(action) {
                let at = usize::try_from(input).ok().filter(|&at| at < count);
                used[at.ok_or(FileError::Input {
                    index,
                    input,
                    count,
                })?] += 1;
            }
            if action.output != pb::SKIP_OUTPUT {
                outputs.push((action.output, index));
                used[inputs + index] += 2;
            }
        }
        outputs.sort_unstable();
        for (expected, window) in outputs.iter().enumerate() {
            if usize::try_from(window.0) != Ok(expected) {
                let twice = expected > 0 && outputs[expected - 1].0 == window.0;
                return Err(if twice {
                    FileError::DuplicateOutput { output: window.0 }
                } else {
                    FileError::MissingOutput { output: expected }
                });
            }
        }
        if outputs.is_empty() {
            return Err(FileError::MissingOutput { output: 0 });
        }
        let outputs: Vec<usize> = outputs.into_iter().map(|(_, index)| index).collect();
        let order = order(op, inputs, &outputs)?;
        let shared = |&count: &usize| if count > 1 { Use::Shared } else { Use::Once };
        Ok(Self {
            inputs,
            order,
            outputs,
            uses: used.iter().map(shared).collect(),
        })
    }
}

/// The actions below the outputs, each after those it needs.
fn order(op: &pb::FileOp, inputs: usize, outputs: &[usize]) -> Result<Vec<usize>, FileError> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Waiting,
        Done,
    }
    let mut marks = vec![Mark::New; op.actions.len()];
    let mut order = Vec::new();
    for &output in outputs {
        let mut todo = vec![output];
        while let Some(&index) = todo.last() {
            match marks[index] {
                Mark::Done => drop(todo.pop()),
                Mark::Waiting => {
                    marks[index] = Mark::Done;
                    order.push(index);
                    todo.pop();
                }
                Mark::New => {
                    marks[index] = Mark::Waiting;
                    let below = needs(&op.actions[index])
                        .filter_map(|input| usize::try_from(input).ok()?.checked_sub(inputs));
                    for below in below {
                        match marks[below] {
                            Mark::New => todo.push(below),
                            Mark::Waiting => return Err(FileError::Loop { index: below }),
                            Mark::Done => {}
                        }
                    }
                }
            }
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(actions: &[[i64; 3]]) -> pb::FileOp {
        let action = |&[input, secondary_input, output]: &[i64; 3]| pb::FileAction {
            input,
            secondary_input,
            output,
            action: Some(Action::Rm(pb::FileActionRm::default())),
        };
        pb::FileOp {
            actions: actions.iter().map(action).collect(),
        }
    }

    #[test]
    fn actions_run_after_what_they_need() {
        let chain = Graph::check(&op(&[[0, -1, -1], [1, -1, -1], [2, -1, 0]]), 1).unwrap();
        assert_eq!(chain.order, [0, 1, 2]);
        assert_eq!(chain.uses, [Use::Once, Use::Once, Use::Once, Use::Shared]);
        let both = Graph::check(&op(&[[0, -1, -1], [1, -1, 1], [1, 2, 0]]), 1).unwrap();
        assert_eq!(both.outputs, [2, 1]);
        assert_eq!(both.uses[1], Use::Shared);
        let backwards = Graph::check(&op(&[[2, -1, 0], [0, -1, -1]]), 1).unwrap();
        assert_eq!(backwards.order, [1, 0]);
        let unused = Graph::check(&op(&[[-1, -1, -1], [-1, -1, 0]]), 0).unwrap();
        assert_eq!(unused.order, [1]);
    }

    #[test]
    fn nonsense_is_refused() {
        let check = |actions: &[[i64; 3]]| Graph::check(&op(actions), 1);
        assert!(matches!(
            check(&[[5, -1, 0]]),
            Err(FileError::Input { input: 5, .. })
        ));
        assert!(matches!(
            check(&[[-2, -1, 0]]),
            Err(FileError::Input { input: -2, .. })
        ));
        assert!(matches!(
            check(&[[0, -1, -1]]),
            Err(FileError::MissingOutput { output: 0 })
        ));
        assert!(matches!(
            check(&[[0, -1, 1]]),
            Err(FileError::MissingOutput { output: 0 })
        ));
        assert!(matches!(
            check(&[[0, -1, 0], [0, -1, 0]]),
            Err(FileError::DuplicateOutput { output: 0 })
        ));
        assert!(matches!(check(&[[1, -1, 0]]), Err(FileError::Loop { .. })));
        assert!(matches!(
            check(&[[2, -1, 0], [1, -1, -1]]),
            Err(FileError::Loop { .. })
        ));
    }
}
