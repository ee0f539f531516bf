//! What a runtime says when it cannot start a process, as the errors of the sandbox.
//!
//! A runtime tells what went wrong in English only. What a build can be at fault for has words
//! that runc and crun have kept since they exist; everything else is passed on as it is.

use std::ffi::OsString;

use ashlar_sandbox::SandboxError;
use serde::Deserialize;

use crate::executor::ExecutorError;

/// A message of a runtime.
#[derive(Debug, Deserialize)]
struct Message {
    level: String,
    msg: String,
}

/// The error behind the messages of a runtime that ended with a code other than 0; `None` if it
/// was the process that ended with it.
pub(super) fn failure(
    runtime: &'static str,
    program: &str,
    messages: &[u8],
) -> Option<ExecutorError> {
    let lines = messages.split(|&byte| byte == b'\n');
    let mut errors = lines
        .filter_map(|line| serde_json::from_slice::<Message>(line).ok())
        .filter(|message| message.level == "error")
        .map(|message| message.msg);
    let message = errors.next()?;
    Some(match about_program(program, &message) {
        Some(source) => ExecutorError::Start { source },
        None => ExecutorError::Runtime { runtime, message },
    })
}

/// The error of a program that a runtime executed in vain. It has no more than its standard error
/// to say so: `output` is all that came out.
pub(super) fn last_words(program: &str, output: &[u8]) -> Option<ExecutorError> {
    let line = std::str::from_utf8(output).ok()?.strip_suffix('\n')?;
    let crun = serde_json::from_str::<Message>(line).ok();
    let line = crun.as_ref().map_or(line, |message| &message.msg);
    let is_message = line.starts_with("exec ") && !line.contains('\n');
    let source = is_message.then(|| about_program(program, line)).flatten()?;
    Some(ExecutorError::Start { source })
}

/// What a message says about the program.
fn about_program(program: &str, message: &str) -> Option<SandboxError> {
    let name = OsString::from(program);
    let (text, program) = (message.to_ascii_lowercase(), program.to_ascii_lowercase());
    let found = |words: &str| text.contains(words);
    let is_about_it = found("open executable") || found("exec") && found(&program);
    if !is_about_it {
        return None;
    }
    if found("executable file not found") || found("not found in $path") {
        Some(SandboxError::ProgramNotFound { name })
    } else if found("no such file or directory") {
        // runc looks the program up before it executes it: after that only the interpreter can
        // be what is missing.
        let is_interpreter = text.starts_with("exec ") && !text.starts_with("exec \"");
        Some(if is_interpreter {
            SandboxError::InterpreterNotFound { name }
        } else {
            SandboxError::ProgramNotFound { name }
        })
    } else if found("permission denied") || found("not permitted") || found("is a directory") {
        Some(SandboxError::ProgramPermission { name })
    } else if found("exec format error") {
        Some(SandboxError::ProgramFormat { name })
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_runtimes_are_understood() {
        let runc =
            |text: &str| format!("runc run failed: unable to start container process: {text}");
        for (program, message, expected) in [
            (
                "x",
                runc("exec: \"x\": executable file not found in $PATH"),
                "ProgramNotFound",
            ),
            (
                "/x",
                runc("exec: \"/x\": stat /x: no such file or directory"),
                "ProgramNotFound",
            ),
            (
                "/x",
                runc("exec: \"/x\": permission denied"),
                "ProgramPermission",
            ),
            (
                "x",
                "executable file `x` not found in $PATH".to_owned(),
                "ProgramNotFound",
            ),
            (
                "/x",
                "open executable: Permission denied".to_owned(),
                "ProgramPermission",
            ),
            (
                "/x",
                "capset: Operation not permitted".to_owned(),
                "Runtime",
            ),
            (
                "/x",
                runc("error mounting \"proc\": permission denied"),
                "Runtime",
            ),
        ] {
            let line = serde_json::json!({ "level": "error", "msg": message, "time": "" });
            let messages = format!("{{\"level\":\"warning\",\"msg\":\"w\"}}\nnoise\n{line}\n");
            let error = failure("runc", program, messages.as_bytes()).unwrap();
            assert!(
                format!("{error:?}").contains(expected),
                "{message}: {error:?}"
            );
        }
        let quiet = b"{\"level\":\"warning\",\"msg\":\"exec: x: not found\"}\n";
        assert!(failure("runc", "x", quiet).is_none());
    }

    #[test]
    fn a_program_cannot_easily_be_taken_for_the_runtime() {
        let words = |output: &str| last_words("/bin/x", output.as_bytes());
        let format = words("exec /bin/x: exec format error\n");
        assert!(format!("{format:?}").contains("ProgramFormat"));
        let missing = words("exec /bin/x: no such file or directory\n");
        assert!(format!("{missing:?}").contains("InterpreterNotFound"));
        let crun = words(
            "{\"msg\":\"exec container process `/bin/x`: Exec format error\",\"level\":\"error\"}\n",
        );
        assert!(format!("{crun:?}").contains("ProgramFormat"));
        for output in [
            "",
            "exec /bin/x: exec format error",
            "more\nexec /bin/x: exec format error\n",
            "exec /bin/y: exec format error\n",
            "exec /bin/x: it went well\n",
        ] {
            assert!(words(output).is_none(), "{output}");
        }
    }
}
