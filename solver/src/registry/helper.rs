//! Programs that know credentials: `docker-credential-*`.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{Credential, CredentialError, Password};

/// How long a helper may take: some ask a person.
const PATIENCE: Duration = Duration::from_secs(120);

/// Bytes of its answer that are read.
const ANSWER_BYTES: u64 = 1 << 20;

/// Letters of its complaint that are repeated.
const COMPLAINT_LETTERS: usize = 300;

/// What helpers write if they do not know the host.
const NOT_FOUND: &str = "credentials not found";

/// The user name that stands for an identity token.
const TOKEN_USER: &str = "<token>";

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Username", default)]
    username: String,
    #[serde(rename = "Secret")]
    secret: Password,
}

/// Kills a helper that nobody waits for any more.
struct Running(Arc<Mutex<Child>>);

impl Drop for Running {
    fn drop(&mut self) {
        let mut child = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // It has ended, or is ended here; it is reaped either way.
        let _ended = child.kill();
        let _reaped = child.wait();
    }
}

/// Asks the helper `name` for the credential of `server`; `None` if it does not know it. `folder`:
/// where the program is; the host program's `PATH` is searched if `None`.
///
/// # Cancellation
/// Dropping the future kills the helper.
pub(super) async fn ask(
    name: &str,
    folder: Option<&Path>,
    server: &str,
) -> Result<Option<Credential>, CredentialError> {
    let program = format!("docker-credential-{name}");
    let failed = |problem: String| CredentialError::Helper {
        program: program.clone(),
        problem,
    };
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || !name.chars().all(good) {
        return Err(failed("this is no name of a helper".to_owned()));
    }
    let path = folder.map_or_else(|| PathBuf::from(&program), |folder| folder.join(&program));
    let (child, output, errors) =
        start(&path, server).map_err(|error| failed(error.to_string()))?;
    let running = Running(Arc::new(Mutex::new(child)));
    // Reading blocks; it ends when the helper does.
    let reading = tokio::task::spawn_blocking(move || {
        let mut answer = Zeroizing::new(Vec::new());
        let mut complaint = Vec::new();
        let read = output.take(ANSWER_BYTES).read_to_end(&mut answer);
        let also = errors.take(ANSWER_BYTES).read_to_end(&mut complaint);
        read.and(also).map(|_| (answer, complaint))
    });
    let (answer, complaint) = match timeout(PATIENCE, reading).await {
        Ok(Ok(Ok(read))) => read,
        Ok(Ok(Err(error))) => return Err(failed(error.to_string())),
        Ok(Err(_)) => return Err(failed("it was interrupted".to_owned())),
        Err(_) => return Err(failed(format!("it took longer than {PATIENCE:?}"))),
    };
    let status = {
        let mut child = running.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Its output is closed: it is about to end.
        child.wait().map_err(|error| failed(error.to_string()))?
    };
    if !status.success() {
        // Helpers complain on standard output, and some on standard error.
        let text = [&answer[..], &complaint[..]].concat();
        let text = String::from_utf8_lossy(&text);
        if text.contains(NOT_FOUND) {
            return Ok(None);
        }
        let text: String = text.trim().escape_debug().take(COMPLAINT_LETTERS).collect();
        return Err(failed(format!("{status}: {text}")));
    }
    let answer: Answer = serde_json::from_slice(&answer)
        .map_err(|_| failed("its answer is malformed".to_owned()))?;
    if answer.secret.reveal().is_empty() {
        return Ok(None);
    }
    Ok(Some(match &answer.username[..] {
        TOKEN_USER => Credential::IdentityToken(answer.secret),
        username => Credential::Password {
            username: username.to_owned(),
            password: answer.secret,
        },
    }))
}

type Started = (Child, std::process::ChildStdout, std::process::ChildStderr);

#[expect(
    clippy::disallowed_methods,
    reason = "a helper is a program of the user, run where the user's credentials are"
)]
fn start(path: &Path, server: &str) -> std::io::Result<Started> {
    let mut child = Command::new(path)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut input), Some(output), Some(errors)) = pipes else {
        unreachable!("BUG: all three pipes were asked for");
    };
    // A few bytes, which the pipe takes whether or not the helper reads them. One that ends
    // without reading says so by its status.
    let _unread = input.write_all(server.as_bytes());
    drop(input);
    Ok((child, output, errors))
}
