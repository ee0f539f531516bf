//! The DOT of `buildctl debug dump-llb --dot`.

use std::fmt::{self, Write as _};

use super::Dump;
use crate::pb;
use crate::pb::file_action::Action;
use crate::pb::op::Op;

pub(super) fn write(dump: &Dump, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("digraph {\n")?;
    for (digest, op) in &dump.ops {
        let (label, shape) = match label_and_shape(op.op.as_ref()) {
            Some(found) => found,
            None => (digest.to_string(), "plaintext"),
        };
        write!(f, "  \"{digest}\" [label=")?;
        write_quoted(f, &label)?;
        writeln!(f, " shape=\"{shape}\"];")?;
    }
    for (digest, op) in &dump.ops {
        for (position, input) in op.inputs.iter().enumerate() {
            f.write_str("  ")?;
            write_quoted(f, &input.digest)?;
            write!(f, " -> \"{digest}\" [label=")?;
            write_quoted(f, mounted_at(op.op.as_ref(), position))?;
            f.write_str("];\n")?;
        }
    }
    f.write_str("}\n")
}

/// Where an exec mounts an input, if that is not its root.
fn mounted_at(op: Option<&Op>, position: usize) -> &str {
    let Some(Op::Exec(exec)) = op else {
        return "";
    };
    let mount =
        exec.mounts.iter().rev().find(|mount| {
            usize::try_from(mount.input) == Ok(position) && mount.dest != pb::ROOT_MOUNT
        });
    mount.map_or("", |mount| &mount.dest)
}

fn label_and_shape(op: Option<&Op>) -> Option<(String, &'static str)> {
    Some(match op? {
        Op::Source(source) => (source.identifier.clone(), "ellipse"),
        Op::Exec(exec) => {
            let args = exec.meta.as_ref().map(|meta| meta.args.join(" "));
            (args.unwrap_or_default(), "box")
        }
        Op::Build(_) => ("build".to_owned(), "box3d"),
        Op::Merge(_) => ("merge".to_owned(), "invtriangle"),
        Op::Diff(_) => ("diff".to_owned(), "doublecircle"),
        Op::File(file) => {
            let actions = file.actions.iter().map(|action| match &action.action {
                Some(Action::Copy(copy)) => {
                    format!("copy{{src={}, dest={}}}", copy.src, copy.dest)
                }
                Some(Action::Mkfile(mkfile)) => format!("mkfile{{path={}}}", mkfile.path),
                Some(Action::Mkdir(mkdir)) => format!("mkdir{{path={}}}", mkdir.path),
                Some(Action::Rm(rm)) => format!("rm{{path={}}}", rm.path),
                Some(Action::Symlink(link)) => {
                    format!(
                        "symlink{{oldpath={}, newpath={}}}",
                        link.oldpath, link.newpath
                    )
                }
                None => String::new(),
            });
            (actions.collect::<Vec<_>>().join(","), "note")
        }
        Op::Passthrough(_) => return None,
    })
}

/// Writes text as Go's `%q` does, which DOT reads as a quoted string.
fn write_quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for character in text.chars() {
        match character {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\u{7}' => f.write_str("\\a")?,
            '\u{8}' => f.write_str("\\b")?,
            '\u{c}' => f.write_str("\\f")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            '\u{b}' => f.write_str("\\v")?,
            '\u{0}'..' ' | '\u{7f}' => write!(f, "\\x{:02x}", u32::from(character))?,
            _ if is_printable(character) => f.write_char(character)?,
            '\u{80}'..='\u{ffff}' => write!(f, "\\u{:04x}", u32::from(character))?,
            _ => write!(f, "\\U{:08x}", u32::from(character))?,
        }
    }
    f.write_char('"')
}

/// Whether a character is a letter, mark, number, symbol or punctuation, by what Rust escapes.
fn is_printable(character: char) -> bool {
    if character.is_ascii() {
        return !character.is_ascii_control();
    }
    // A mark is escaped only at the beginning of a text.
    let mut buffer = [b'a'; 5];
    let length = character.encode_utf8(&mut buffer[1..]).len();
    let text = std::str::from_utf8(&buffer[..=length]).unwrap_or_default();
    text.escape_debug().nth(1) == Some(character)
}
