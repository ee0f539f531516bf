//! Command lines, split into words without a shell.
//!
//! Owns the rules of the Go library BuildKit uses for its client's `Shlex`: blanks separate
//! words; `'…'` is literal; `"…"` knows `\` for any character; `\` outside makes the next
//! character literal; `#` at the start of a word begins a comment. Nothing is expanded.

/// Splits a command line into words.
///
/// Like BuildKit's client this never fails: if a quote is not closed, or the line ends in a
/// backslash, the faulty last word is dropped.
///
/// ```
/// let words = ashlar_llb::shlex(r#"sh -c "echo \"hi\"" 'a b' # greet"#);
/// assert_eq!(words, ["sh", "-c", "echo \"hi\"", "a b"]);
/// ```
#[must_use]
pub fn shlex(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut characters = line.chars();
    while let Some(word) = next_word(&mut characters) {
        words.push(word);
    }
    words
}

/// Reads the next word; nothing at the end or if the rest is faulty.
fn next_word(characters: &mut std::str::Chars<'_>) -> Option<String> {
    let blank = |character| matches!(character, ' ' | '\t' | '\r' | '\n');
    let mut word: Option<String> = None;
    loop {
        let Some(character) = characters.next() else {
            return word;
        };
        match character {
            '#' if word.is_none() => {
                // A comment goes to the end of its line.
                characters.find(|character| *character == '\n')?;
            }
            _ if blank(character) => {
                if word.is_some() {
                    return word;
                }
            }
            '"' => double_quoted(characters, word.get_or_insert_default())?,
            '\'' => single_quoted(characters, word.get_or_insert_default())?,
            '\\' => word.get_or_insert_default().push(characters.next()?),
            _ => word.get_or_insert_default().push(character),
        }
    }
}

/// Reads up to the closing quote; nothing if there is none.
fn double_quoted(characters: &mut std::str::Chars<'_>, word: &mut String) -> Option<()> {
    loop {
        match characters.next()? {
            '"' => return Some(()),
            '\\' => word.push(characters.next()?),
            character => word.push(character),
        }
    }
}

/// Reads up to the closing quote; nothing if there is none.
fn single_quoted(characters: &mut std::str::Chars<'_>, word: &mut String) -> Option<()> {
    loop {
        match characters.next()? {
            '\'' => return Some(()),
            character => word.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::shlex;

    #[test]
    fn words_are_split_as_go_does() {
        for (line, words) in [
            ("", &[][..]),
            ("  a\tb\r\nc ", &["a", "b", "c"]),
            ("a'b'\"c\"\\d", &["abcd"]),
            ("x \"\" '' y", &["x", "", "", "y"]),
            ("a#b \\#c #d\ne", &["a#b", "#c", "e"]),
            (r#""a\n\"" 'a\n'"#, &["an\"", "a\\n"]),
            ("ok 'open", &["ok"]),
            ("ok \"open", &["ok"]),
            ("ok tail\\", &["ok"]),
            ("# only", &[]),
            ("a\u{a0}b", &["a\u{a0}b"]),
        ] {
            assert_eq!(shlex(line), words, "{line:?}");
        }
    }
}
