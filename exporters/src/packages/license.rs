//! Licenses as SPDX expressions.
//!
//! Distributions write licenses in many ways. What is, or can be understood as, an expression of
//! the SPDX license list becomes one; everything else becomes a reference (`LicenseRef-…`) to the
//! name that was given, so that nothing is claimed that was not said.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};
use spdx::lexer::{Lexer, Token};
use spdx::{Expression, ParseMode};

/// Longest text that is taken for a license.
const LONGEST: usize = 1024;

/// Longest id of a reference that shows the text itself; longer ones end in a digest of it.
const LONGEST_ID: usize = 64;

/// A license: an expression, and the references in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct License {
    /// Empty if nothing is known.
    expression: String,
    /// `LicenseRef-…` and what it stands for.
    references: BTreeMap<String, String>,
}

impl License {
    /// Reads what a package says of its license.
    pub(crate) fn parse(text: &str) -> Self {
        let text = &crate::redact::text(text.trim())[..];
        if text.is_empty() || text.eq_ignore_ascii_case("unknown") {
            return Self::default();
        }
        if text.len() <= LONGEST {
            let attempts = [
                text.to_owned(),
                Expression::canonicalize(text)
                    .ok()
                    .flatten()
                    .unwrap_or_default(),
                translated(text),
            ];
            for attempt in attempts {
                if let Some(license) = Self::expression_of(&attempt) {
                    return license;
                }
            }
        }
        Self::reference(text)
    }

    /// Several licenses, all of which count.
    pub(crate) fn all(texts: impl IntoIterator<Item = String>) -> Self {
        let texts: BTreeSet<String> = texts.into_iter().collect();
        let mut parts = BTreeSet::new();
        let mut references = BTreeMap::new();
        for text in &texts {
            let license = Self::parse(text);
            if !license.is_unknown() {
                parts.insert(license.expression);
                references.extend(license.references);
            }
        }
        let alone = parts.len() == 1;
        let part = |part: &String| match part.contains(' ') && !alone {
            true => format!("({part})"),
            false => part.clone(),
        };
        let parts: Vec<String> = parts.iter().map(part).collect();
        Self {
            expression: parts.join(" AND "),
            references,
        }
    }

    pub(crate) fn is_unknown(&self) -> bool {
        self.expression.is_empty()
    }

    /// The expression; `NOASSERTION` if nothing is known.
    pub(crate) fn expression(&self) -> &str {
        match &self.expression[..] {
            "" => "NOASSERTION",
            expression => expression,
        }
    }

    pub(crate) fn references(&self) -> &BTreeMap<String, String> {
        &self.references
    }

    /// The text, if it is a valid expression.
    fn expression_of(text: &str) -> Option<Self> {
        if text.is_empty() {
            return None;
        }
        Expression::parse_mode(text, STRICT_BUT_OLD).ok()?;
        let mut out = String::new();
        let mut references = BTreeMap::new();
        let mut tokens = Lexer::new(text).peekable();
        while let Some(token) = tokens.next() {
            let token = token.ok()?.token;
            let space = !out.is_empty() && !out.ends_with('(');
            if space && !matches!(token, Token::CloseParen | Token::Plus) {
                out.push(' ');
            }
            match token {
                Token::Spdx(id) if id.is_gnu() && id.is_deprecated() => {
                    // `GPL-2.0`, with a plus behind it or in it, from before it had other names.
                    let is_plus = |token: &Token<'_>| matches!(token, Token::Plus);
                    let plus = tokens
                        .next_if(|next| next.as_ref().is_ok_and(|next| is_plus(&next.token)))
                        .is_some();
                    let base = id.name.trim_end_matches('+');
                    let id = spdx::gnu_license_id(base, plus || id.name.ends_with('+'));
                    out.push_str(id.filter(|id| !id.is_deprecated())?.name);
                }
                Token::Spdx(id) => out.push_str(id.name),
                Token::Exception(id) => out.push_str(id.name),
                Token::LicenseRef {
                    doc_ref: None,
                    lic_ref,
                } => {
                    let id = format!("LicenseRef-{lic_ref}");
                    out.push_str(&id);
                    references.insert(id, lic_ref.to_owned());
                }
                Token::Plus => out.push('+'),
                Token::OpenParen => out.push('('),
                Token::CloseParen => out.push(')'),
                Token::With => out.push_str("WITH"),
                Token::And => out.push_str("AND"),
                Token::Or => out.push_str("OR"),
                // References into other documents, and what later versions may have.
                _ => return None,
            }
        }
        let expression = out;
        Some(Self {
            expression,
            references,
        })
    }

    /// A reference to a license of this name.
    fn reference(text: &str) -> Self {
        let mut end = text.len().min(LONGEST);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-');
        let id: String = text[..end]
            .chars()
            .map(|letter| if plain(letter) { letter } else { '-' })
            .collect();
        let exact = id == text && id.len() <= LONGEST_ID;
        let id = match exact {
            true => format!("LicenseRef-{id}"),
            // Other texts may look the same.
            false => {
                let digest = Sha256::digest(text.as_bytes());
                let digest: String = digest[..4]
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect();
                let shown = id[..id.len().min(LONGEST_ID)].trim_matches('-');
                format!("LicenseRef-{shown}-{digest}")
            }
        };
        Self {
            expression: id.clone(),
            references: BTreeMap::from([(id, text[..end].to_owned())]),
        }
    }
}

/// As the specification has it, and ids that it has withdrawn (`GPL-2.0`) but tools still know.
const STRICT_BUT_OLD: ParseMode = ParseMode {
    allow_deprecated: true,
    ..ParseMode::STRICT
};

/// Names of licenses that Debian, Python and older rpm packages use, and what SPDX calls them.
const NAMES: &[(&str, &str)] = &[
    ("apache", "Apache-2.0"),
    ("apache-2", "Apache-2.0"),
    ("apache2", "Apache-2.0"),
    ("asl2.0", "Apache-2.0"),
    ("boost-1.0", "BSL-1.0"),
    ("bsd-2-clause", "BSD-2-Clause"),
    ("bsd-3-clause", "BSD-3-Clause"),
    ("bsd-4-clause", "BSD-4-Clause"),
    ("cc0", "CC0-1.0"),
    ("expat", "MIT"),
    ("gfdl-niv-1.2", "GFDL-1.2-no-invariants-only"),
    ("gfdl-niv-1.2+", "GFDL-1.2-no-invariants-or-later"),
    ("gfdl-niv-1.3", "GFDL-1.3-no-invariants-only"),
    ("gfdl-niv-1.3+", "GFDL-1.3-no-invariants-or-later"),
    ("mit", "MIT"),
    ("isc", "ISC"),
    ("mpl-2", "MPL-2.0"),
    ("mplv2.0", "MPL-2.0"),
    ("psf", "PSF-2.0"),
    ("psf-2", "PSF-2.0"),
    ("python-2.0", "Python-2.0"),
    ("zlib", "Zlib"),
];

/// The text with the names of its licenses in SPDX's spelling.
fn translated(text: &str) -> String {
    let spaced = text
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace(',', " ");
    let words = spaced.split_whitespace().map(|word| match word {
        "and" | "AND" | "&" | "&&" => "AND".to_owned(),
        "or" | "OR" | "|" | "||" => "OR".to_owned(),
        "with" | "WITH" => "WITH".to_owned(),
        word => name(word),
    });
    words.collect::<Vec<_>>().join(" ")
}

fn name(word: &str) -> String {
    let lower = word.to_ascii_lowercase();
    if let Some((_, spdx)) = NAMES.iter().find(|(known, _)| *known == lower) {
        return (*spdx).to_owned();
    }
    gnu(&lower).unwrap_or_else(|| word.to_owned())
}

/// A license of GNU: `gpl-2+`, `gplv2`, `lgpl-2.1`.
fn gnu(lower: &str) -> Option<String> {
    let family = ["agpl", "lgpl", "gfdl", "gpl"]
        .into_iter()
        .find(|family| lower.starts_with(family))?;
    let rest = lower[family.len()..].trim_start_matches(['-', 'v']);
    let (version, later) = match rest.strip_suffix('+').or(rest.strip_suffix("-or-later")) {
        Some(version) => (version, "or-later"),
        None => (rest.strip_suffix("-only").unwrap_or(rest), "only"),
    };
    let version = match version {
        "1" | "2" | "3" => format!("{version}.0"),
        version => version.to_owned(),
    };
    let id = format!("{}-{version}-{later}", family.to_ascii_uppercase());
    spdx::license_id(&id).map(|id| id.name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_of_many_dialects() {
        for (text, expected) in [
            ("MIT", "MIT"),
            ("mit", "MIT"),
            ("Expat", "MIT"),
            ("MIT OR Apache-2.0", "MIT OR Apache-2.0"),
            ("MIT/Apache-2.0", "MIT OR Apache-2.0"),
            ("GPL-2+", "GPL-2.0-or-later"),
            ("GPLv3", "GPL-3.0-only"),
            (
                "GPLv2+ and LGPLv2+",
                "GPL-2.0-or-later AND LGPL-2.0-or-later",
            ),
            ("(GPL-2 or Expat)", "( GPL-2.0-only OR MIT )"),
            (
                "GPL-2.0-only WITH Classpath-exception-2.0",
                "GPL-2.0-only WITH Classpath-exception-2.0",
            ),
            ("BSD-3-clause", "BSD-3-Clause"),
            ("LicenseRef-Mine", "LicenseRef-Mine"),
            ("LGPL-2.1", "LGPL-2.1-only"),
            ("GPL-2.0+ OR MIT", "GPL-2.0-or-later OR MIT"),
            ("", "NOASSERTION"),
            ("UNKNOWN", "NOASSERTION"),
            ("public-domain", "LicenseRef-public-domain"),
        ] {
            let found = License::parse(text);
            assert_eq!(
                found.expression().replace("( ", "(").replace(" )", ")"),
                expected.replace("( ", "(").replace(" )", ")"),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_expression_is_referred_to() {
        let license = License::parse("Freely redistributable, see the file");
        let (id, name) = license.references().iter().next().unwrap();
        assert_eq!(license.expression(), id);
        assert!(id.starts_with("LicenseRef-Freely-redistributable"), "{id}");
        assert_eq!(name, "Freely redistributable, see the file");
        let other = License::parse("Freely redistributable; see the file");
        assert_ne!(license.expression(), other.expression());
        let long = License::parse(&"ä(".repeat(100_000));
        assert!(long.expression().len() < 100);
        for hostile in ["(((((", "AND", "MIT WITH", ")(", "\0", "LicenseRef-", "+"] {
            let license = License::parse(hostile);
            assert!(license.expression().starts_with("LicenseRef-"), "{hostile}");
        }
    }

    #[test]
    fn several_are_joined_in_order() {
        let license =
            License::all(["GPL-2+ or Expat", "Zlib", "Zlib", "odd one"].map(str::to_owned));
        let text = license.expression();
        assert!(
            text.starts_with("(GPL-2.0-or-later OR MIT) AND LicenseRef-odd-one-"),
            "{text}"
        );
        assert!(text.ends_with(" AND Zlib"), "{text}");
        assert!(License::all(Vec::new()).is_unknown());
    }
}
