//! What the client lends a step: secrets and ssh agents.
//!
//! Owns their description. The values themselves never pass through here.

use crate::{GuestPath, Mode, SecretId, SshId, pb};

/// A secret of the client, as a file or an environment variable of one step.
///
/// ```
/// use ashlar_llb as llb;
/// use llb::Secret;
///
/// let run = llb::image("alpine")
///     .run(["deploy"])
///     .secret(Secret::file("/run/secrets/token").id("token").optional())
///     .secret(Secret::env("password", "PASSWORD"));
/// # let _ = run;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    id: SecretId,
    target: Option<GuestPath>,
    env: Option<String>,
    uid: u32,
    gid: u32,
    mode: Mode,
    optional: bool,
}

impl Secret {
    /// A secret that is neither file nor variable yet.
    #[must_use]
    pub fn new(id: impl Into<SecretId>) -> Self {
        Self {
            id: id.into(),
            target: None,
            env: None,
            uid: 0,
            gid: 0,
            mode: Mode::truncated(0o400),
            optional: false,
        }
    }

    /// A secret as the file `path`, which is its id too unless another is set. It belongs to
    /// root, who alone may read it.
    #[must_use]
    pub fn file(path: impl Into<GuestPath>) -> Self {
        let path = path.into();
        Self::new(path.as_str()).target(path)
    }

    /// A secret as the environment variable `name`.
    #[must_use]
    pub fn env(id: impl Into<SecretId>, name: impl Into<String>) -> Self {
        Self::new(id).env_name(name)
    }

    /// Sets the name by which the client knows the secret.
    #[must_use]
    pub fn id(mut self, id: impl Into<SecretId>) -> Self {
        self.id = id.into();
        self
    }

    /// Makes it the file `path`.
    #[must_use]
    pub fn target(mut self, path: impl Into<GuestPath>) -> Self {
        self.target = Some(path.into());
        self
    }

    /// Makes it the environment variable `name`, besides a file if there is one.
    #[must_use]
    pub fn env_name(mut self, name: impl Into<String>) -> Self {
        self.env = Some(name.into());
        self
    }

    /// Turns the file into an environment variable of that name, or drops the variable.
    /// Dropping it does not bring the file back.
    #[must_use]
    pub fn as_env(mut self, yes: bool) -> Self {
        if !yes {
            self.env = None;
        } else if let Some(target) = self.target.take() {
            self.env = Some(target.into());
        }
        self
    }

    /// Sets owner and permission bits of the file. The marshal fails with other bits.
    #[must_use]
    pub fn owner_and_mode(mut self, uid: u32, gid: u32, mode: impl Into<Mode>) -> Self {
        (self.uid, self.gid, self.mode) = (uid, gid, mode.into());
        self
    }

    /// Leaves the secret out if the client does not have it, instead of failing.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// The path of the file and its mode, if it is one.
    pub(super) fn file_facts(&self) -> Option<(&GuestPath, Mode)> {
        self.target.as_ref().map(|target| (target, self.mode))
    }

    pub(super) fn is_env(&self) -> bool {
        self.env.is_some()
    }

    pub(super) fn env_pb(&self) -> Option<pb::SecretEnv> {
        self.env.as_ref().map(|name| pb::SecretEnv {
            id: self.id.to_string(),
            name: name.clone(),
            optional: self.optional,
        })
    }

    pub(super) fn mount(&self) -> Option<pb::MountFields<'_>> {
        self.target.as_ref().map(|target| pb::MountFields {
            input: pb::EMPTY,
            dest: target.as_str(),
            mount_type: pb::MountType::Secret.into(),
            secret_opt: Some(pb::SecretFields {
                id: self.id.as_str(),
                uid: self.uid,
                gid: self.gid,
                mode: self.mode.bits(),
                optional: self.optional,
            }),
            ..pb::MountFields::default()
        })
    }
}

/// An ssh agent of the client, as a socket of one step.
///
/// ```
/// use ashlar_llb as llb;
/// use llb::Ssh;
///
/// let run = llb::image("alpine/git").run(["git", "fetch"]).ssh(Ssh::new());
/// # let _ = run;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ssh {
    id: SshId,
    target: GuestPath,
    uid: u32,
    gid: u32,
    mode: Mode,
    optional: bool,
}

impl Default for Ssh {
    fn default() -> Self {
        Self::new()
    }
}

impl Ssh {
    /// The client's default agent. Its socket belongs to root, who alone may use it, and its
    /// place is in `SSH_AUTH_SOCK` unless that is set already.
    #[must_use]
    pub fn new() -> Self {
        Self {
            id: SshId::default(),
            target: GuestPath::default(),
            uid: 0,
            gid: 0,
            mode: Mode::truncated(0o600),
            optional: false,
        }
    }

    /// Sets the name by which the client knows the agent.
    #[must_use]
    pub fn id(mut self, id: impl Into<SshId>) -> Self {
        self.id = id.into();
        self
    }

    /// Sets the path of the socket; `/run/buildkit/ssh_agent.<number>` by default.
    #[must_use]
    pub fn target(mut self, path: impl Into<GuestPath>) -> Self {
        self.target = path.into();
        self
    }

    /// Sets owner and permission bits of the socket. The marshal fails with other bits.
    #[must_use]
    pub fn owner_and_mode(mut self, uid: u32, gid: u32, mode: impl Into<Mode>) -> Self {
        (self.uid, self.gid, self.mode) = (uid, gid, mode.into());
        self
    }

    /// Leaves the socket out if the client has no such agent, instead of failing.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// The path and the mode of the socket.
    pub(super) fn file_facts(&self) -> (&GuestPath, Mode) {
        (&self.target, self.mode)
    }

    /// Path of the socket of the step's `number`th agent.
    pub(super) fn path(&self, number: usize) -> GuestPath {
        if self.target.is_empty() {
            format!("/run/buildkit/ssh_agent.{number}").into()
        } else {
            self.target.clone()
        }
    }

    /// The mount of the socket at `path`.
    pub(super) fn mount<'a>(&'a self, path: &'a GuestPath) -> pb::MountFields<'a> {
        pb::MountFields {
            input: pb::EMPTY,
            dest: path.as_str(),
            mount_type: pb::MountType::Ssh.into(),
            ssh_opt: Some(pb::SshFields {
                id: self.id.as_str(),
                uid: self.uid,
                gid: self.gid,
                mode: self.mode.bits(),
                optional: self.optional,
            }),
            ..pb::MountFields::default()
        }
    }
}
