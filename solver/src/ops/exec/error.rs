//! Why an exec op fails.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

use super::FailedStep;
use crate::error::{Blame, Fault};
use crate::executor::{AccountError, ExecutorError, ExitStatus};
use crate::session::SecretError;

/// An exec op cannot be run, or its process failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecError {
    /// The process ended with a code that does not count as success. The text is BuildKit's.
    #[error(
        "process {} did not complete successfully: {}",
        quoted(command),
        ended(*status, *out_of_memory)
    )]
    Exit {
        /// Program and arguments, separated by spaces.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// Whether the kernel killed processes of it because its memory ran out.
        out_of_memory: bool,
        /// What it left behind, for a look into it; `None` if that could not be kept.
        step: Option<FailedStep>,
    },
    /// The process could not be run.
    #[error("process {} did not complete successfully", quoted(command))]
    Run {
        /// Program and arguments, separated by spaces.
        command: String,
        /// Why.
        #[source]
        source: ExecutorError,
        /// What it would have run in; `None` if that could not be kept.
        step: Option<FailedStep>,
    },
    /// The program is one for another machine, and nothing here emulates that.
    #[error(
        "process {} did not complete successfully: programs for {platform} cannot be executed on \
         this machine",
        quoted(command)
    )]
    ForeignProgram {
        /// Program and arguments, separated by spaces.
        command: String,
        /// The platform of the step.
        platform: String,
        /// What it would have run in; `None` if that could not be kept.
        step: Option<FailedStep>,
    },
    /// A part of the op is missing or contradicts itself.
    #[error("invalid exec op: {reason}")]
    Invalid {
        /// What is wrong.
        reason: String,
    },
    /// A mount names an input that the op does not have.
    #[error("the mount at {destination} uses input {input}, but the op has {count}")]
    MountInput {
        /// Where it is mounted.
        destination: String,
        /// The number it gives.
        input: i64,
        /// Inputs of the op.
        count: usize,
    },
    /// The op asks for something that this build may not have.
    #[error("{what} is not allowed")]
    NotAllowed {
        /// BuildKit's name of the entitlement.
        what: &'static str,
    },
    /// The op asks for something that cannot be done yet.
    #[error("{what} is not supported yet")]
    NotSupported {
        /// What it asks for, with its name.
        what: String,
    },
    /// The op asks for a device that this build may not have.
    #[error("device {name} is requested by the build but not allowed")]
    DeviceNotAllowed {
        /// Its full name.
        name: String,
    },
    /// No specification describes a device that the op needs.
    #[error("required device {name:?} is not registered{}", listed(problems))]
    DeviceNotFound {
        /// The name that the op gives.
        name: String,
        /// Specifications that could not be used, and why.
        problems: Vec<String>,
    },
    /// A specification needs a device node of the host that cannot be used.
    #[error("cannot use the device node {}", path.display())]
    DeviceNode {
        /// The node.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: io::Error,
    },
    /// A secret that the op needs was not lent. The text is BuildKit's.
    #[error("secret {id}: not found")]
    SecretNotFound {
        /// Its id.
        id: String,
    },
    /// A secret was lent and cannot be had.
    #[error("cannot lend a secret")]
    Secret {
        /// Why; it names the secret.
        #[source]
        source: SecretError,
    },
    /// An ssh agent that the op needs was not lent. The text is BuildKit's.
    #[error("no SSH key {id:?} forwarded from the client")]
    AgentNotFound {
        /// Its id.
        id: String,
    },
    /// An ssh agent was lent and does not answer.
    #[error("cannot reach the ssh agent {id:?}")]
    AgentUnreachable {
        /// Its id.
        id: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The socket for an ssh agent cannot be made.
    #[error("cannot make a socket for the ssh agent {id:?}")]
    AgentSocket {
        /// Its id.
        id: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The user of the process cannot be told.
    #[error("cannot tell the user {user:?}")]
    User {
        /// The user as the op gives it.
        user: String,
        /// Why.
        #[source]
        source: AccountError,
    },
    /// A cache mount cannot be made.
    #[error("cannot {action} the cache mount {id:?}")]
    CacheMount {
        /// What was tried.
        action: &'static str,
        /// Its id.
        id: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl ExecError {
    /// What the failed process left behind, if it came so far.
    pub fn failed_step(&self) -> Option<&FailedStep> {
        match self {
            Self::Exit { step, .. }
            | Self::Run { step, .. }
            | Self::ForeignProgram { step, .. } => step.as_ref(),
            _ => None,
        }
    }
}

impl Blame for ExecError {
    fn fault(&self) -> Fault {
        match self {
            Self::Run { source, .. } => source.fault(),
            Self::DeviceNotFound { .. } | Self::DeviceNode { .. } | Self::ForeignProgram { .. } => {
                Fault::Environment
            }
            Self::Secret { source } => source.fault(),
            Self::CacheMount { .. } | Self::AgentUnreachable { .. } | Self::AgentSocket { .. } => {
                Fault::Environment
            }
            _ => Fault::Input,
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::NotAllowed { what } => {
                Some(format!("allow the entitlement {what} for this build"))
            }
            Self::Run { source, .. } => source.remedy(),
            Self::Exit {
                out_of_memory: true,
                ..
            } => Some("give the step more memory, or fewer parallel jobs".to_owned()),
            Self::ForeignProgram { platform, .. } => Some(format!(
                "register an emulator for {platform} with binfmt_misc (on Debian: qemu-user-static), \
                 or build for this machine"
            )),
            Self::DeviceNotAllowed { name } => {
                Some(format!("allow the entitlement device={name} for this build"))
            }
            Self::DeviceNotFound { .. } => Some(
                "describe the device in a JSON or YAML file in a directory of SolverBuilder::cdi_directories"
                    .to_owned(),
            ),
            Self::SecretNotFound { id } => Some(format!(
                "lend the secret {id:?} with the request (SolveRequest::secret)"
            )),
            Self::AgentNotFound { id } => Some(format!(
                "lend the ssh agent {id:?} with the request (SolveRequest::ssh)"
            )),
            Self::AgentUnreachable { .. } => {
                Some("start the agent, or lend the socket that it listens on".to_owned())
            }
            _ => None,
        }
    }
}

/// How a process ended, in BuildKit's words.
fn ended(status: ExitStatus, out_of_memory: bool) -> String {
    match out_of_memory {
        true => "cannot allocate memory".to_owned(),
        false => format!("exit code: {}", status.code()),
    }
}

fn listed(problems: &[String]) -> String {
    if problems.is_empty() {
        return String::new();
    }
    format!("; not used: {}", problems.join("; "))
}

/// A string as Go's `%q` writes it.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\0'..='\u{1f}' | '\u{7f}' => {
                write!(out, "\\x{:02x}", u32::from(character)).expect("BUG: strings take all");
            }
            // Rust escapes what cannot be printed, by nearly the same tables.
            _ if character != '\'' && character.escape_debug().len() > 1 => {
                let code = u32::from(character);
                let written = if code > 0xffff {
                    write!(out, "\\U{code:08x}")
                } else {
                    write!(out, "\\u{code:04x}")
                };
                written.expect("BUG: strings take all");
            }
            _ => out.push(character),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn quotes_as_go_does() {
        for (text, expected) in [
            (
                "/bin/sh -c echo \"a\" 'b'",
                r#""/bin/sh -c echo \"a\" 'b'""#,
            ),
            ("a\nb\\\t\u{1}\u{7f}", r#""a\nb\\\t\x01\x7f""#),
            ("é 世 \u{200b}", r#""é 世 \u200b""#),
        ] {
            assert_eq!(super::quoted(text), expected);
        }
    }
}
