//! Go's `path.Match`.

use super::limits::check_length;
use super::{BadPattern, first_char};

/// Tells whether `name` matches a shell pattern, as Go's `path.Match` does.
///
/// `*` stands for any text without `/`, `?` for one character but `/`, `[a-z]` and `[^a-z]` for
/// a character of a class, and `\` takes away the meaning of what follows. The whole name has
/// to match. Unlike in a shell, a leading dot is nothing special and a class may match `/`.
///
/// # Errors
/// [`BadPattern`] if the pattern is malformed or longer than 64 KiB, whatever the name.
///
/// ```
/// use ashlar_llb::patterns::path_match;
///
/// assert!(path_match("a/*.rs", "a/b.rs")?);
/// assert!(!path_match("*", "a/b")?);
/// assert!(path_match("[a", "x").is_err());
/// # Ok::<(), ashlar_llb::patterns::BadPattern>(())
/// ```
pub fn path_match(pattern: &str, name: impl AsRef<[u8]>) -> Result<bool, BadPattern> {
    Ok(Glob::new(pattern)?.matches(name))
}

/// A checked pattern of [`path_match`], for use with many names.
#[derive(Clone, Debug)]
pub struct Glob {
    tokens: Vec<Token>,
}

#[derive(Clone, Debug)]
enum Token {
    /// Any text without a slash.
    Star,
    /// Any character but a slash.
    Any,
    /// These very bytes.
    Literal(u8),
    /// A character in, or if negated not in, one of the ranges.
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Glob {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`BadPattern`] if it is malformed or longer than 64 KiB.
    pub fn new(pattern: &str) -> Result<Self, BadPattern> {
        check_length(pattern)?;
        let mut tokens = Vec::new();
        let mut rest = pattern.chars();
        while let Some(character) = rest.next() {
            match character {
                '*' if matches!(tokens.last(), Some(Token::Star)) => {}
                '*' => tokens.push(Token::Star),
                '?' => tokens.push(Token::Any),
                '[' => tokens.push(class(&mut rest).ok_or_else(|| BadPattern::syntax(pattern))?),
                _ => {
                    let literal = if character == '\\' {
                        rest.next()
                    } else {
                        Some(character)
                    };
                    let literal = literal.ok_or_else(|| BadPattern::syntax(pattern))?;
                    let mut buffer = [0; 4];
                    let bytes = literal.encode_utf8(&mut buffer).bytes();
                    tokens.extend(bytes.map(Token::Literal));
                }
            }
        }
        Ok(Self { tokens })
    }

    /// Returns how many bytes a pattern without stars takes off the front of `name`.
    fn front(&self, name: &[u8]) -> Option<usize> {
        self.tokens
            .iter()
            .try_fold(0, |at, token| Some(at + token.step(&name[at..])?))
    }

    /// Tells whether `name` matches.
    #[must_use]
    pub fn matches(&self, name: impl AsRef<[u8]>) -> bool {
        let name = name.as_ref();
        let (mut token, mut at) = (0, 0);
        // Where to go on if what follows the last star does not match. Only the last star
        // matters: an earlier one that took more would leave the later ones less.
        let mut retry: Option<(usize, usize)> = None;
        loop {
            match self.tokens.get(token) {
                Some(Token::Star) => {
                    token += 1;
                    retry = Some((token, at));
                    continue;
                }
                None if at == name.len() => return true,
                Some(single) => {
                    if let Some(length) = single.step(&name[at..]) {
                        token += 1;
                        at += length;
                        continue;
                    }
                }
                None => {}
            }
            match retry {
                Some((after, from)) if from < name.len() && name[from] != b'/' => {
                    retry = Some((after, from + 1));
                    (token, at) = (after, from + 1);
                }
                _ => return false,
            }
        }
    }
}

/// Checks a pattern as Go's matcher of ignore patterns does: it asks whether `.` matches, by
/// `filepath.Match`, which reads a pattern only as far as the name gets. What is malformed behind
/// that shows when the pattern is tried, or never.
///
/// # Errors
/// [`BadPattern`] if the part that is read is malformed, or the pattern longer than 64 KiB.
pub(super) fn check_with_dot(pattern: &str) -> Result<(), BadPattern> {
    let mut name: &[u8] = b".";
    let mut rest = pattern;
    while !rest.is_empty() {
        let after_star = rest.trim_start_matches('*');
        let star = after_star.len() < rest.len();
        let (part, after) = after_star.split_at(part_length(after_star));
        let glob = Glob::new(part).map_err(|_| BadPattern::syntax(pattern))?;
        rest = after;
        // The last part has to take all that is left of the name.
        let take = |name: &[u8]| {
            let taken = glob.front(name)?;
            (taken == name.len() || !after.is_empty()).then_some(taken)
        };
        let starts = if star { name.len() } else { 0 };
        let Some((start, taken)) =
            (0..=starts).find_map(|start| Some((start, take(&name[start..])?)))
        else {
            return Ok(());
        };
        name = &name[start + taken..];
    }
    Ok(())
}

/// The length of what stands before the next star of a pattern. A star is none in a class, which
/// ends at the first closing bracket, wherever that stands.
fn part_length(pattern: &str) -> usize {
    let mut in_class = false;
    let mut bytes = pattern.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'[' => in_class = true,
            b']' => in_class = false,
            b'*' if !in_class => return at,
            _ => {}
        }
    }
    pattern.len()
}

impl Token {
    /// Returns how many bytes the token takes off the front of `name`, if it matches.
    fn step(&self, name: &[u8]) -> Option<usize> {
        match self {
            Self::Star => Some(0),
            Self::Literal(byte) => (name.first() == Some(byte)).then_some(1),
            Self::Any => first_char(name)
                .filter(|(found, _)| *found != '/')
                .map(|(_, len)| len),
            Self::Class { negated, ranges } => {
                let (found, length) = first_char(name)?;
                let inside = ranges
                    .iter()
                    .any(|(low, high)| (*low..=*high).contains(&found));
                (inside != *negated).then_some(length)
            }
        }
    }
}

/// Reads a class after its opening bracket.
fn class(rest: &mut std::str::Chars<'_>) -> Option<Token> {
    let negated = rest.as_str().starts_with('^');
    if negated {
        rest.next();
    }
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && rest.as_str().starts_with(']') {
            rest.next();
            return Some(Token::Class { negated, ranges });
        }
        let low = class_char(rest)?;
        let mut high = low;
        if rest.as_str().starts_with('-') {
            rest.next();
            high = class_char(rest)?;
        }
        ranges.push((low, high));
    }
}

/// Reads one end of a range.
fn class_char(rest: &mut std::str::Chars<'_>) -> Option<char> {
    match rest.next()? {
        '-' | ']' => None,
        '\\' => rest.next(),
        character => Some(character),
    }
}

#[cfg(test)]
mod tests {
    use super::{check_with_dot, path_match};

    // Cases of Go's own test table.
    #[test]
    fn matches_as_go_does() {
        for (pattern, name, expected) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "abc", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", false),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", false),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("a[^a][^a][^a]b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            ("*[a-ζ]", "A", false),
            ("a?b", "a/b", false),
            ("a*b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[\\-]", "-", true),
            ("[x\\-]", "x", true),
            ("[x\\-]", "z", false),
            ("[\\-x]", "a", false),
            ("*x", "xxx", true),
            ("[^a]", "/", true),
            ("", "", true),
            ("**", "ab", true),
            ("*a*", "b/a", false),
        ] {
            assert_eq!(path_match(pattern, name), Ok(expected), "{pattern} {name}");
        }
        for pattern in [
            "[]a]", "[-]", "[x-]", "[-x]", "\\", "[a-b-c]", "[", "[^", "[^bc", "a[",
        ] {
            assert!(path_match(pattern, "a").is_err(), "{pattern}");
        }
        assert_eq!(
            path_match("a?c", b"a\xffc"),
            Ok(true),
            "a stray byte is one character"
        );
    }

    #[test]
    fn patterns_are_checked_as_far_as_a_dot_gets() {
        for pattern in [
            "[a", "*[", "a[", "**/[/*", ".[", ".*[", "a\\", "?*[", "[.]*[",
        ] {
            assert!(check_with_dot(pattern).is_err(), "{pattern}");
        }
        for pattern in [
            "",
            "*",
            "/*[",
            "/**/{a,b}/[/*",
            "a*[",
            "*a*[",
            "..*[",
            "[^.]*[",
        ] {
            assert_eq!(check_with_dot(pattern), Ok(()), "{pattern}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        let (pattern, name) = ("*a".repeat(200), "a".repeat(5_000) + "b");
        assert_eq!(path_match(&pattern, name), Ok(false));
    }
}
