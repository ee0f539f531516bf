//! Modes as chmod(1) reads them: octal, or symbolic as `u=rwX,go=rX`.
//!
//! The rules are those of BSD's setmode(3), which BuildKit uses: no umask, and `X` looks at the
//! mode before any change.

/// All bits but the sticky bit, which only `t` and numbers touch.
const STANDARD: u32 = 0o6777;

/// Changes to a mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModeChange(Vec<Command>);

/// The text is not a mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a mode: octal digits or clauses like u=rwX,go=rX")]
pub struct ModeError {
    /// The text that was given.
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Clear(u32),
    Set(u32),
    /// Set for directories and what anyone could execute before.
    SetExecutable(u32),
    /// Take the three bits of one class and set, clear or assign them in others.
    Copy {
        from: u32,
        to: u32,
        operator: u8,
    },
}

/// The classes of users as the lowest bit of each.
const USER: u32 = 0o100;
const GROUP: u32 = 0o010;
const OTHER: u32 = 0o001;

impl ModeChange {
    /// Reads a mode.
    pub(crate) fn parse(text: &str) -> Result<Self, ModeError> {
        let error = || ModeError {
            text: text.to_owned(),
        };
        if text.as_bytes().first().is_some_and(u8::is_ascii_digit) {
            let mode = u32::from_str_radix(text, 8)
                .ok()
                .filter(|mode| *mode <= 0o7777);
            let mode = mode.ok_or_else(error)?;
            return Ok(Self(vec![Command::Clear(0o7777), Command::Set(mode)]));
        }
        let mut commands = Vec::new();
        for clause in text.split(',') {
            parse_clause(clause.as_bytes(), &mut commands).ok_or_else(error)?;
        }
        Ok(Self(commands))
    }

    /// The mode after the changes.
    pub(crate) fn apply(&self, old: u32, is_directory: bool) -> u32 {
        self.0
            .iter()
            .fold(old & 0o7777, |mode, &command| match command {
                Command::Clear(bits) => mode & !bits,
                Command::Set(bits) => mode | bits,
                Command::SetExecutable(bits) if is_directory || old & 0o111 != 0 => mode | bits,
                Command::SetExecutable(_) => mode,
                Command::Copy { from, to, operator } => {
                    let bits = (mode / from) & 7;
                    match operator {
                        b'+' => mode | (bits * to),
                        b'-' => mode & !(bits * to),
                        _ => (mode & !(7 * to)) | (bits * to),
                    }
                }
            })
    }
}

/// One clause: classes, then one or more operators with what they apply.
fn parse_clause(clause: &[u8], commands: &mut Vec<Command>) -> Option<()> {
    let mut rest = clause;
    let mut who = 0;
    while let [first, after @ ..] = rest {
        who |= match first {
            b'a' => STANDARD,
            b'u' => 0o4700,
            b'g' => 0o2070,
            b'o' => 0o0007,
            _ => break,
        };
        rest = after;
    }
    let mut any = false;
    while let [operator @ (b'+' | b'-' | b'='), after @ ..] = rest {
        rest = parse_permissions(after, *operator, &mut who, commands);
        any = true;
    }
    (any && rest.is_empty()).then_some(())
}

/// What stands behind one operator; gives what follows it.
fn parse_permissions<'a>(
    mut rest: &'a [u8],
    operator: u8,
    who: &mut u32,
    commands: &mut Vec<Command>,
) -> &'a [u8] {
    let (mut bits, mut executable) = (0, 0);
    let mut assigned = false;
    *who &= !0o1000;
    let special = |who: u32| who == 0 || who & !0o007 != 0;
    while let [first, after @ ..] = rest {
        match first {
            b'r' => bits |= 0o444,
            b'w' => bits |= 0o222,
            b'x' => bits |= 0o111,
            b'X' if operator == b'-' => bits |= 0o111,
            b'X' => executable = 0o111,
            b's' if special(*who) => bits |= 0o6000,
            b't' if special(*who) => {
                *who |= 0o1000;
                bits |= 0o1000;
            }
            b's' | b't' => {}
            b'u' | b'g' | b'o' => {
                flush(operator, *who, &mut bits, &mut executable, commands);
                assigned = true;
                let from = match first {
                    b'u' => USER,
                    b'g' => GROUP,
                    _ => OTHER,
                };
                let to = if *who == 0 {
                    0o111
                } else {
                    (*who & 0o444) >> 2
                };
                commands.push(Command::Copy { from, to, operator });
            }
            _ => break,
        }
        rest = after;
    }
    if operator == b'=' && !assigned && bits == 0 {
        commands.push(Command::Clear(if *who == 0 { STANDARD } else { *who }));
    }
    flush(operator, *who, &mut bits, &mut executable, commands);
    rest
}

/// Adds the commands for the bits gathered so far.
fn flush(
    operator: u8,
    who: u32,
    bits: &mut u32,
    executable: &mut u32,
    commands: &mut Vec<Command>,
) {
    let within = |bits: u32| if who == 0 { bits } else { bits & who };
    if *bits != 0 {
        if operator == b'=' {
            commands.push(Command::Clear(if who == 0 { STANDARD } else { who }));
        }
        commands.push(match operator {
            b'-' => Command::Clear(within(*bits)),
            _ => Command::Set(within(*bits)),
        });
        *bits = 0;
    }
    if *executable != 0 {
        commands.push(Command::SetExecutable(within(*executable)));
        *executable = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_change_as_chmod_says() {
        for (text, old, directory, expected) in [
            ("755", 0o644, false, 0o755),
            ("0", 0o7777, false, 0),
            ("4755", 0o600, false, 0o4755),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("go-w", 0o666, false, 0o644),
            ("+x", 0o644, false, 0o755),
            ("a+X", 0o644, false, 0o644),
            ("=rw,+X", 0o711, false, 0o777),
            ("go=", 0o777, false, 0o700),
            ("go=u-w", 0o640, false, 0o644),
            ("g=u", 0o704, false, 0o774),
            ("u+s", 0o755, false, 0o4755),
            ("o+s", 0o755, false, 0o755),
            ("+t", 0o777, true, 0o1777),
            ("a-x,u+x", 0o777, false, 0o766),
            ("u+r,g+w", 0o000, false, 0o420),
        ] {
            let change = ModeChange::parse(text).unwrap();
            assert_eq!(change.apply(old, directory), expected, "{text} on {old:o}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            "", "8", "77777", "u", "rwx", "u=rwx,", "u?x", "u+q", "7x", "-1,",
        ] {
            assert!(ModeChange::parse(bad).is_err(), "{bad}");
        }
    }
}
