//! The general form of a pattern: a regular expression, run without backtracking.
//!
//! The meaning of patterns is defined by the regular expression that the original makes of
//! them, character by character, and that has corners: `[*]` is not a class with a star in it,
//! and `\d` is a digit. To have the same corners, a pattern is translated to the same expression
//! and that is read by a reader of just the syntax that can come out.

use super::first_char;

/// A regular expression as a sequence of steps.
#[derive(Clone, Debug)]
pub(super) struct Program {
    steps: Vec<Step>,
}

#[derive(Clone, Debug)]
enum Step {
    /// One character of the set.
    One(Set),
    /// Any number of characters of the set.
    Many(Set),
    /// Nothing, or anything that ends in a slash.
    Directories,
    /// Nothing, at the very start only.
    Start,
}

/// A set of characters.
#[derive(Clone, Debug)]
struct Set {
    negated: bool,
    ranges: Vec<(char, char)>,
}

impl Set {
    fn contains(&self, character: char) -> bool {
        let inside = self
            .ranges
            .iter()
            .any(|(low, high)| (*low..=*high).contains(&character));
        inside != self.negated
    }
}

impl Program {
    /// Translates a pattern; `None` if what comes out is not a regular expression.
    pub(super) fn new(pattern: &str) -> Option<Self> {
        let expression = translate(pattern);
        let mut steps = Vec::new();
        let mut rest = expression.as_str();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix("(.*/)?") {
                steps.push(Step::Directories);
                rest = after;
                continue;
            }
            let (set, after) = match rest.as_bytes()[0] {
                b'^' => {
                    steps.push(Step::Start);
                    rest = &rest[1..];
                    continue;
                }
                b'.' => (
                    Set {
                        negated: true,
                        ranges: vec![('\n', '\n')],
                    },
                    &rest[1..],
                ),
                b'[' => class(&rest[1..])?,
                // It takes away the meaning of the anchor that would follow.
                b'\\' if rest.len() == 1 => {
                    let anything = Set {
                        negated: true,
                        ranges: Vec::new(),
                    };
                    steps.extend([Step::One(single('$')), Step::Many(anything)]);
                    break;
                }
                b'\\' => escape(&rest[1..])?,
                b'*' => return None,
                _ => literal(rest)?,
            };
            let many = after.strip_prefix('*');
            steps.push(if many.is_some() {
                Step::Many(set)
            } else {
                Step::One(set)
            });
            rest = many.unwrap_or(after);
        }
        Some(Self { steps })
    }

    /// Tells whether the whole path matches.
    pub(super) fn matches(&self, path: &[u8]) -> bool {
        self.start(path, false)
    }

    /// Tells whether the path matches, whole or up to one of its slashes.
    pub(super) fn matches_prefix(&self, path: &[u8]) -> bool {
        self.start(path, true)
    }

    fn start(&self, path: &[u8], prefixes: bool) -> bool {
        // Two states per step: before it, and inside its `Directories`. One more for the end.
        let words = (2 * self.steps.len() + 1).div_ceil(64);
        if words <= 2 {
            self.run(path, prefixes, &mut [0; 2], &mut [0; 2])
        } else {
            self.run(path, prefixes, &mut vec![0; words], &mut vec![0; words])
        }
    }

    fn run(&self, path: &[u8], prefixes: bool, now: &mut [u64], next: &mut [u64]) -> bool {
        self.enter(now, 0, true);
        let end = 2 * self.steps.len();
        let mut rest = path;
        while let Some((character, length)) = first_char(rest) {
            if prefixes && character == '/' && is_set(now, end) {
                return true;
            }
            rest = &rest[length..];
            next.fill(0);
            let mut alive = false;
            for (word, &bits) in now.iter().enumerate() {
                let mut bits = bits;
                while bits != 0 {
                    let state = word * 64 + bits.trailing_zeros() as usize;
                    bits &= bits - 1;
                    alive |= self.step(next, state, character);
                }
            }
            if !alive {
                return false;
            }
            now.copy_from_slice(next);
        }
        is_set(now, end)
    }

    /// Takes one character in one state. Returns whether any state comes of it.
    fn step(&self, next: &mut [u64], state: usize, character: char) -> bool {
        let position = state / 2;
        match self.steps.get(position) {
            Some(Step::One(set)) if set.contains(character) => {
                self.enter(next, position + 1, false);
            }
            Some(Step::Many(set)) if set.contains(character) => self.enter(next, position, false),
            Some(Step::Directories) if character == '/' => {
                set_bit(next, 2 * position + 1);
                self.enter(next, position + 1, false);
            }
            Some(Step::Directories) if character != '\n' => set_bit(next, 2 * position + 1),
            _ => return false,
        }
        true
    }

    /// Adds the state before `position`, and those that need no character from there.
    fn enter(&self, states: &mut [u64], mut position: usize, start: bool) {
        // Where a state is set, those that follow from it are: without this look, a row of
        // wildcards would be walked once from each of them.
        while !is_set(states, 2 * position) {
            set_bit(states, 2 * position);
            match self.steps.get(position) {
                Some(Step::Many(_) | Step::Directories) => position += 1,
                Some(Step::Start) if start => position += 1,
                _ => return,
            }
        }
    }
}

fn is_set(states: &[u64], state: usize) -> bool {
    states[state / 64] & (1 << (state % 64)) != 0
}

fn set_bit(states: &mut [u64], state: usize) {
    states[state / 64] |= 1 << (state % 64);
}

/// Makes the regular expression of a pattern, without the anchors at its ends.
fn translate(pattern: &str) -> String {
    let mut expression = String::with_capacity(pattern.len() + 16);
    let pattern = pattern.strip_prefix('\u{feff}').unwrap_or(pattern);
    let mut rest = pattern.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            '*' if rest.next_if_eq(&'*').is_some() => {
                rest.next_if_eq(&'/');
                expression.push_str(if rest.peek().is_none() {
                    ".*"
                } else {
                    "(.*/)?"
                });
            }
            '*' => expression.push_str("[^/]*"),
            '?' => expression.push_str("[^/]"),
            '.' | '+' | '(' | ')' | '|' | '{' | '}' | '$' => expression.extend(['\\', character]),
            '\\' => expression.extend(['\\'].into_iter().chain(rest.next())),
            _ => expression.push(character),
        }
    }
    expression
}

fn single(character: char) -> Set {
    Set {
        negated: false,
        ranges: vec![(character, character)],
    }
}

fn literal(rest: &str) -> Option<(Set, &str)> {
    let character = rest.chars().next()?;
    Some((single(character), &rest[character.len_utf8()..]))
}

/// Reads what follows a backslash outside of a class.
fn escape(rest: &str) -> Option<(Set, &str)> {
    let character = rest.chars().next()?;
    let after = &rest[character.len_utf8()..];
    if let Some((negated, ranges)) = shorthand(character) {
        return Some((
            Set {
                negated,
                ranges: ranges.to_vec(),
            },
            after,
        ));
    }
    Some((single(escaped(character)?), after))
}

/// Reads one escaped character. Escapes that take arguments or match no character, which
/// nobody means in a path, are not understood.
fn escaped(character: char) -> Option<char> {
    match character {
        'a' => Some('\u{7}'),
        'f' => Some('\u{c}'),
        'n' => Some('\n'),
        'r' => Some('\r'),
        't' => Some('\t'),
        'v' => Some('\u{b}'),
        _ if character.is_ascii() && !character.is_ascii_alphanumeric() => Some(character),
        _ => None,
    }
}

const DIGIT: &[(char, char)] = &[('0', '9')];
const SPACE: &[(char, char)] = &[('\t', '\n'), ('\u{c}', '\r'), (' ', ' ')];
const WORD: &[(char, char)] = &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')];

/// Classes of one letter; upper case negates.
fn shorthand(letter: char) -> Option<(bool, &'static [(char, char)])> {
    let ranges = match letter.to_ascii_lowercase() {
        'd' => DIGIT,
        's' => SPACE,
        'w' => WORD,
        _ => return None,
    };
    Some((letter.is_ascii_uppercase(), ranges))
}

/// Classes by name, as in `[[:alpha:]]`.
fn named(name: &str) -> Option<&'static [(char, char)]> {
    Some(match name {
        "alnum" => &[('0', '9'), ('A', 'Z'), ('a', 'z')],
        "alpha" => &[('A', 'Z'), ('a', 'z')],
        "ascii" => &[('\0', '\u{7f}')],
        "blank" => &[('\t', '\t'), (' ', ' ')],
        "cntrl" => &[('\0', '\u{1f}'), ('\u{7f}', '\u{7f}')],
        "digit" => DIGIT,
        "graph" => &[('!', '~')],
        "lower" => &[('a', 'z')],
        "print" => &[(' ', '~')],
        "punct" => &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')],
        "space" => &[('\t', '\r'), (' ', ' ')],
        "upper" => &[('A', 'Z')],
        "word" => WORD,
        "xdigit" => &[('0', '9'), ('A', 'F'), ('a', 'f')],
        _ => return None,
    })
}

/// Adds ranges, or all characters outside of them.
fn add(into: &mut Vec<(char, char)>, negated: bool, ranges: &[(char, char)]) {
    if !negated {
        into.extend_from_slice(ranges);
        return;
    }
    let mut from = Some('\0');
    for &(low, high) in ranges {
        let below = (u32::from(low)).checked_sub(1).and_then(char::from_u32);
        if let (Some(from), Some(below)) = (from, below)
            && from <= below
        {
            into.push((from, below));
        }
        from = char::from_u32(u32::from(high) + 1);
    }
    into.extend(from.map(|from| (from, char::MAX)));
}

/// Reads a class after its opening bracket.
fn class(mut rest: &str) -> Option<(Set, &str)> {
    let mut set = Set {
        negated: false,
        ranges: Vec::new(),
    };
    if let Some(after) = rest.strip_prefix('^') {
        set.negated = true;
        rest = after;
    }
    let mut first = true;
    // Where no name ends, none ends later: to look again at each bracket would take the square.
    let mut names = true;
    loop {
        if let Some(after) = rest.strip_prefix(']').filter(|_| !first) {
            return Some((set, after));
        }
        first = false;
        let inner = rest.strip_prefix("[:").filter(|_| names).and_then(|inner| {
            let name = inner.split_once(":]");
            names = name.is_some();
            name
        });
        if let Some((name, after)) = inner {
            let negated = name.strip_prefix('^');
            add(
                &mut set.ranges,
                negated.is_some(),
                named(negated.unwrap_or(name))?,
            );
            rest = after;
            continue;
        }
        if let Some(after) = rest.strip_prefix('\\') {
            let letter = after.chars().next()?;
            if let Some((negated, ranges)) = shorthand(letter) {
                add(&mut set.ranges, negated, ranges);
                rest = &after[1..];
                continue;
            }
        }
        let (low, after) = class_char(rest)?;
        let mut high = low;
        rest = after;
        if rest.starts_with('-') && !rest.starts_with("-]") && rest.len() > 1 {
            (high, rest) = class_char(&rest[1..])?;
            if high < low {
                return None;
            }
        }
        set.ranges.push((low, high));
    }
}

fn class_char(rest: &str) -> Option<(char, &str)> {
    let character = rest.chars().next()?;
    let after = &rest[character.len_utf8()..];
    if character != '\\' {
        return Some((character, after));
    }
    let character = after.chars().next()?;
    Some((escaped(character)?, &after[character.len_utf8()..]))
}

#[cfg(test)]
mod tests {
    use super::Program;

    fn matches(pattern: &str, path: &str) -> Option<bool> {
        Program::new(pattern).map(|program| program.matches(path.as_bytes()))
    }

    #[test]
    fn corners_are_the_originals() {
        // `[*]` becomes the expression `[[^/]*]`: any number of `[`, `^` or `/`, then `]`.
        assert_eq!(matches("[*]", "*"), Some(false));
        assert_eq!(matches("[*]", "[^/]"), Some(true));
        assert_eq!(matches("[?]", "^]"), Some(true));
        assert_eq!(matches("a\\d", "a7"), Some(true));
        assert_eq!(matches("a\\d", "ad"), Some(false));
        assert_eq!(matches("a\\q*", "aq"), None);
        assert_eq!(matches("[z-a]", "b"), None);
        assert_eq!(matches("a*^", "a^"), Some(false), "a bare ^ is an anchor");
        assert_eq!(matches("[[:^alpha:]]", "1"), Some(true));
        assert_eq!(matches("[[:^alpha:]]", "a"), Some(false));
        assert_eq!(matches("[\\W]", "a"), Some(false));
        assert_eq!(matches("[\\W]", "é"), Some(true));
        assert_eq!(
            matches("**/a?", "x\n/ab"),
            Some(false),
            "a dot is no line end"
        );
        assert_eq!(matches("a?b", "a\nb"), Some(true));
    }

    #[test]
    fn many_wildcards_take_no_time() {
        let pattern = "**/*a".repeat(300);
        let path = "a/".repeat(2_000) + "b";
        assert_eq!(matches(&pattern, &path), Some(false));
        assert_eq!(matches("**/*a**/*a?", "x/aa/ba/ax"), Some(true));
    }
}
