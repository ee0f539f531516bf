//! What a registry says when it wants to know who we are (`WWW-Authenticate`).

use reqwest::Url;

/// The challenge that is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User and password with each request.
    Basic,
    /// A token of a token server.
    Bearer {
        /// The token server.
        realm: Url,
        /// What the registry is called there.
        service: String,
        /// What the token must be good for.
        scope: Option<String>,
    },
}

impl Challenge {
    /// The best challenge of the headers' values: a token before a password. `None` if none can be
    /// answered.
    pub(super) fn best<'a>(values: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut basic = None;
        for value in values {
            for (scheme, parameters) in parse(value) {
                let get = |name: &str| {
                    let found = parameters.iter().find(|(key, _)| key == name);
                    found.map(|(_, value)| value.clone())
                };
                if scheme == "bearer" {
                    let Some(Ok(realm)) = get("realm").map(|realm| Url::parse(&realm)) else {
                        continue;
                    };
                    return Some(Self::Bearer {
                        realm,
                        service: get("service").unwrap_or_default(),
                        scope: get("scope").filter(|scope| !scope.is_empty()),
                    });
                }
                if scheme == "basic" {
                    basic = Some(Self::Basic);
                }
            }
        }
        basic
    }
}

type Parameters = Vec<(String, String)>;

/// The challenges in one header: schemes and names in lower case.
fn parse(value: &str) -> Vec<(String, Parameters)> {
    let mut found: Vec<(String, Parameters)> = Vec::new();
    let mut rest = value;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let length = rest.find([' ', '\t', ',', '=', '"']).unwrap_or(rest.len());
        if length == 0 {
            return found;
        }
        let word = rest[..length].to_ascii_lowercase();
        rest = rest[length..].trim_start_matches([' ', '\t']);
        match (rest.strip_prefix('='), found.last_mut()) {
            (Some(after), Some((_, parameters))) => {
                let (text, left) = parameter(after.trim_start_matches([' ', '\t']));
                parameters.push((word, text));
                rest = left;
            }
            (Some(_), None) => return found,
            (None, _) => found.push((word, Vec::new())),
        }
    }
}

/// A quoted string or a word, and what follows.
fn parameter(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let length = text.find([' ', '\t', ',']).unwrap_or(text.len());
        return (text[..length].to_owned(), &text[length..]);
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(letters.next().map(|(_, escaped)| escaped)),
            _ => value.push(letter),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_before_a_password() {
        let best = |values: &[&str]| Challenge::best(values.iter().copied());
        let bearer = |service: &str, scope: Option<&str>| Challenge::Bearer {
            realm: Url::parse("https://auth.example.com/token?x=1").unwrap(),
            service: service.to_owned(),
            scope: scope.map(str::to_owned),
        };
        let full = r#"Bearer realm="https://auth.example.com/token?x=1",service="a \"b\"",scope="repository:a/b:pull,push repository:c:pull""#;
        let scope = Some("repository:a/b:pull,push repository:c:pull");
        assert_eq!(best(&[full]), Some(bearer("a \"b\"", scope)));
        let short = "bearer Realm = https://auth.example.com/token?x=1";
        assert_eq!(best(&[short]), Some(bearer("", None)));
        assert_eq!(best(&["Basic realm=\"x\""]), Some(Challenge::Basic));
        assert_eq!(best(&["Basic realm=x", short]), Some(bearer("", None)));
        let both = format!("Basic realm=\"x, y\", {short}");
        assert_eq!(best(&[&both]), Some(bearer("", None)));
        assert_eq!(
            best(&["Negotiate", "Bearer realm=\"not an address\""]),
            None
        );
        assert_eq!(best(&["", "=", "Bearer realm=\"unclosed"]), None);
    }

    proptest! {
        #[test]
        fn class_12_no_header_is_a_problem(value in ".{0,300}") {
            let _some = Challenge::best([value.as_str()].into_iter());
        }
    }
}
