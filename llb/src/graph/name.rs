//! Display names of vertices, in BuildKit's words.

use crate::pb::file_action::Action;
use crate::pb::op::Op;

/// Where names made of other names are cut, in bytes. Nested merges would otherwise double
/// their names' length at every level.
const COMPOSED_LIMIT: usize = 512;

/// Room for the name of most file actions, in bytes.
const NAME: usize = 48;

/// Returns the name of an op that takes no names of its inputs.
pub(crate) fn own(op: &Op) -> String {
    match op {
        Op::Source(source) => source.identifier.clone(),
        Op::Exec(exec) => exec
            .meta
            .as_ref()
            .map(|meta| meta.args.join(" "))
            .unwrap_or_default(),
        Op::File(file) => {
            let mut name = String::with_capacity(NAME * file.actions.len());
            for action in &file.actions {
                if !name.is_empty() {
                    name.push_str(", ");
                }
                push_action(&mut name, action.action.as_ref());
            }
            name
        }
        Op::Build(_) => "build".to_owned(),
        Op::Merge(_) => "merge".to_owned(),
        Op::Diff(_) => "diff".to_owned(),
        Op::Passthrough(passthrough) => format!("passthrough {}", passthrough.id),
    }
}

/// Returns the name of an op that takes the names of its inputs; `input` gives the name of one.
pub(super) fn composed<'a>(
    op: &Op,
    inputs: usize,
    input: impl Fn(usize) -> &'a str,
) -> Option<String> {
    let name = match op {
        Op::Merge(_) => {
            let mut name = "merge (".to_owned();
            for number in 0..inputs {
                if number > 0 {
                    name.push_str(", ");
                }
                name.push_str(input(number));
                if name.len() > COMPOSED_LIMIT {
                    break;
                }
            }
            name.push(')');
            name
        }
        Op::Diff(diff) => {
            let side = |position: Option<i64>| {
                let position = position.and_then(|position| usize::try_from(position).ok());
                position.map_or_else(
                    || "scratch".to_owned(),
                    |position| cut(format!("({})", input(position))),
                )
            };
            let lower = side(diff.lower.map(|lower| lower.input));
            let upper = side(diff.upper.map(|upper| upper.input));
            format!("diff {lower} -> {upper}")
        }
        _ => return None,
    };
    Some(cut(name))
}

fn push_action(name: &mut String, action: Option<&Action>) {
    let words: [&str; 4] = match action {
        Some(Action::Mkdir(mkdir)) => ["mkdir ", &mkdir.path, "", ""],
        Some(Action::Mkfile(mkfile)) => ["mkfile ", &mkfile.path, "", ""],
        Some(Action::Rm(rm)) => ["rm ", &rm.path, "", ""],
        Some(Action::Copy(copy)) => ["copy ", &copy.src, " ", &copy.dest],
        Some(Action::Symlink(link)) => ["symlink ", &link.newpath, " -> ", &link.oldpath],
        None => [""; 4],
    };
    words.iter().for_each(|word| name.push_str(word));
}

fn cut(mut name: String) -> String {
    if name.len() > COMPOSED_LIMIT {
        let mut end = COMPOSED_LIMIT;
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        name.truncate(end);
        name.push('…');
    }
    name
}
