//! `--secret` and `--ssh`, in buildctl's words.

use std::error::Error;
use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;

use ashlar_solver::session::{AgentSocket, EnvSecret, FileSecret, MAX_SECRET};
use ashlar_solver::solver::SolveRequest;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The fields of a line of comma-separated values. One that holds a comma stands in quotes.
fn fields(line: &str) -> Result<Vec<String>> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        let field = fields.last_mut().expect("BUG: there is always a field");
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                field.push('"');
            }
            '"' if quoted || field.is_empty() => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            letter => field.push(letter),
        }
    }
    if quoted {
        return Err(format!("a quote is not closed in {line:?}").into());
    }
    Ok(fields)
}

/// Lends a secret: `id=…[,src=FILE|,env=VARIABLE][,type=file|env]`.
pub fn secret(request: SolveRequest, text: &str) -> Result<SolveRequest> {
    let (mut id, mut file, mut variable, mut kind) = Default::default();
    for field in fields(text)? {
        let (key, value) = field
            .split_once('=')
            .ok_or_else(|| format!("invalid field '{field}' must be a key=value pair"))?;
        let value = value.to_owned();
        match key.to_lowercase().as_str() {
            "type" if value == "file" || value == "env" => kind = value,
            "type" => return Err(format!("unsupported secret type {value:?}").into()),
            "id" => id = value,
            "source" | "src" => file = value,
            "env" => variable = value,
            _ => return Err(format!("unexpected key '{key}' in '{field}'").into()),
        }
    }
    if kind == "env" && variable.is_empty() {
        variable = std::mem::take(&mut file);
    }
    if id.is_empty() {
        return Err("secret missing ID".into());
    }
    if variable.is_empty() && file.is_empty() {
        if std::env::var_os(&id).is_some() {
            variable.clone_from(&id);
        } else {
            file.clone_from(&id);
        }
    }
    if file.is_empty() {
        return Ok(request.secret(EnvSecret::new(id, variable)));
    }
    // A name that leads nowhere is told before anything runs.
    let data =
        std::fs::metadata(&file).map_err(|error| format!("failed to stat {file}: {error}"))?;
    if data.len() > MAX_SECRET as u64 {
        return Err(format!("secret {id} too big. max size 500KiB").into());
    }
    Ok(request.secret(FileSecret::new(id, std::path::absolute(file)?)))
}

/// Lends an agent: `default|ID[=SOCKET[,raw=false]]`.
pub fn ssh(request: SolveRequest, text: &str) -> Result<SolveRequest> {
    let (id, rest) = text.split_once('=').unwrap_or((text, ""));
    let id = if id.is_empty() { "default" } else { id };
    if request.session.ssh.contains_key(id) {
        return Err(format!("duplicate agent ID {id:?}").into());
    }
    let mut paths = Vec::new();
    let mut raw = false;
    for part in rest.split(',').filter(|part| !part.is_empty()) {
        match part.strip_prefix("raw=") {
            Some("1" | "t" | "T" | "TRUE" | "true" | "True") => raw = true,
            Some("0" | "f" | "F" | "FALSE" | "false" | "False") => raw = false,
            Some(_) => return Err(format!("invalid value for 'raw': {part}").into()),
            None => paths.push(PathBuf::from(part)),
        }
    }
    if raw && paths.len() != 1 {
        let problem = format!("raw mode must supply exactly one socket path for {id:?}");
        return Err(problem.into());
    }
    let path = match &paths[..] {
        [] => std::env::var_os("SSH_AUTH_SOCK")
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
            .ok_or("invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set")?,
        [path] => path.clone(),
        _ => return Err("only single socket allowed".into()),
    };
    let kind = std::fs::metadata(&path)
        .map_err(|error| format!("failed to stat {}: {error}", path.display()))?
        .file_type();
    if !kind.is_socket() {
        let path = path.display();
        let problem =
            format!("{path} is no socket; keys are lent through an agent (ssh-add {path})");
        return Err(problem.into());
    }
    let agent = AgentSocket::new(std::path::absolute(path)?);
    Ok(request.ssh(id, if raw { agent.raw() } else { agent }))
}
