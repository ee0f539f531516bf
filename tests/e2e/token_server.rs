//! A token server, as the Docker Hub has one, whose tokens docker-registry takes.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::registries::{authority, openssl, request_head};

/// How long docker-registry takes a token after it expired.
const LEEWAY: u64 = 60;

/// Who may do what there.
#[derive(Debug, Clone, Default)]
pub struct Grants {
    /// What `me`, with the password `hunter2`, may do: by repository, `pull` or `pull,push`.
    pub known: BTreeMap<&'static str, &'static str>,
    /// What everybody may do. Nothing: who shows no password is refused.
    pub anyone: BTreeMap<&'static str, &'static str>,
    /// Whether who asks for more than is granted gets nothing at all, rather than what is granted.
    pub strict: bool,
}

/// It runs until the process ends.
#[derive(Debug, Clone)]
pub struct TokenServer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    port: u16,
    grants: Mutex<Grants>,
    /// The scopes that were asked for, of each request.
    asked: Mutex<Vec<String>>,
    /// How many of the next tokens are short-lived.
    short: AtomicUsize,
}

impl TokenServer {
    /// Grants `me` this. Its key is that of the authority in `folder`.
    pub fn start(folder: &Path, known: &[(&'static str, &'static str)]) -> Self {
        authority(folder, "rsa:2048");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let grants = Grants {
            known: known.iter().copied().collect(),
            strict: true,
            ..Grants::default()
        };
        let server = Self(Arc::new(Inner {
            folder: folder.to_path_buf(),
            port: listener.local_addr().unwrap().port(),
            grants: Mutex::new(grants),
            asked: Mutex::default(),
            short: AtomicUsize::new(0),
        }));
        let own = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let answer = own.answer(&request_head(&mut stream));
                let status = if answer.is_some() { "200 OK" } else { "401 No" };
                let answer = answer.unwrap_or_default();
                let length = answer.len();
                let text = format!(
                    "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{answer}"
                );
                let _gone = stream.write_all(text.as_bytes());
            }
        });
        server
    }

    /// Settings of a registry that wants its tokens.
    pub fn settings(&self) -> String {
        let Inner { folder, port, .. } = &*self.0;
        let authority = folder.join("ca.pem");
        let authority = authority.display();
        format!(
            "auth:\n  token:\n    realm: http://127.0.0.1:{port}/token\n    service: here\n    \
             issuer: issuer\n    rootcertbundle: {authority}\n"
        )
    }

    pub fn change(&self, change: impl FnOnce(&mut Grants)) {
        change(&mut self.0.grants.lock().unwrap());
    }

    /// The scopes that it was asked for, of each request.
    pub fn asked(&self) -> Vec<String> {
        self.0.asked.lock().unwrap().clone()
    }

    /// Makes the next token one that soon expires, though it says that it does not.
    pub fn next_is_short(&self) {
        self.0.short.store(1, Ordering::SeqCst);
    }

    fn answer(&self, head: &str) -> Option<String> {
        let path = head.split(' ').nth(1)?;
        let path = path
            .replace("%3A", ":")
            .replace("%2C", ",")
            .replace("%2F", "/");
        let query = path.split_once('?')?.1.split('&');
        let pairs: Vec<(&str, &str)> = query.filter_map(|pair| pair.split_once('=')).collect();
        let scopes = pairs.iter().filter(|(key, _)| *key == "scope");
        let scopes: Vec<&str> = scopes.map(|(_, scope)| *scope).collect();
        self.0.asked.lock().unwrap().push(scopes.join(" "));
        let grants = self.0.grants.lock().unwrap().clone();
        let head = head.to_ascii_lowercase();
        let granted = match head.contains("authorization:") {
            // `me:hunter2`.
            true if head.contains("authorization: basic bwu6ahvudgvymg==") => &grants.known,
            false if !grants.anyone.is_empty() => &grants.anyone,
            _ => return None,
        };
        let mut access = Vec::new();
        for scope in scopes {
            let (name, wanted) = scope.strip_prefix("repository:")?.rsplit_once(':')?;
            let may = granted.get(name).copied().unwrap_or_default();
            let may: Vec<&str> = may.split(',').collect();
            let (given, refused): (Vec<&str>, Vec<&str>) =
                wanted.split(',').partition(|action| may.contains(action));
            if grants.strict && !refused.is_empty() {
                return None;
            }
            access.push(json!({"type": "repository", "name": name, "actions": given}));
        }
        let service = pairs.contains(&("service", "here"));
        let token = self.token(&access);
        service.then(|| json!({"token": token, "expires_in": 300}).to_string())
    }

    /// A token as docker-registry wants it: signed by a key whose certificate is in it.
    fn token(&self, access: &[Value]) -> String {
        let folder = &self.0.folder;
        let pem = fs::read_to_string(folder.join("ca.pem")).unwrap();
        let der: String = pem
            .lines()
            .filter(|line| !line.starts_with("---"))
            .collect();
        let now = now().as_secs();
        let short = self.0.short.swap(0, Ordering::SeqCst) > 0;
        // It counts whole seconds: this is good for one or two of them.
        let expires = if short { now + 2 - LEEWAY } else { now + 300 };
        let head = json!({"typ": "JWT", "alg": "RS256", "x5c": [der]});
        let claims = json!({"iss": "issuer", "sub": "me", "aud": "here", "jti": "1",
            "iat": now - 100, "nbf": now - 100, "exp": expires, "access": access});
        let [head, claims] = [head, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let text = format!("{head}.{claims}");
        fs::write(folder.join("claims"), &text).unwrap();
        openssl(folder, "dgst -sha256 -sign ca.key -out signature claims");
        let signature = fs::read(folder.join("signature")).unwrap();
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn now() -> Duration {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
}

/// How long docker-registry will still take a token.
pub fn left(token: &str) -> Duration {
    let claims = URL_SAFE_NO_PAD
        .decode(token.split('.').nth(1).unwrap())
        .unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    let end = Duration::from_secs(claims["exp"].as_u64().unwrap() + LEEWAY);
    end.saturating_sub(now())
}
