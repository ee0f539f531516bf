//! Git repositories.
//!
//! Owns the builder of `git://` sources. Invariant: the identifier follows from address, ref
//! and directory alone, whatever the transport. Unlike the Go client, nothing is looked up:
//! the host keys of an ssh transport are those the caller gives.

use super::git_url::GitUrl;
use crate::caps::Cap;
use crate::source::{source_builder, source_state};
use crate::{SecretId, SessionId, SshId, State, StoreId, path};

/// Modification times of the files of a checkout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GitModifiedTime {
    /// When they were checked out.
    Checkout,
    /// The time of the commit.
    Commit,
}

/// A git repository; a [`State`] whose source op still takes options.
#[derive(Clone, Debug)]
pub struct Git {
    state: State,
    /// Host and path, or the whole address if it does not parse.
    address: String,
    parsed: bool,
    ssh: bool,
    reference: String,
    subdir: String,
}

/// Starts from a git repository, by an http(s), ssh or git address or `user@host:path`. An
/// address without transport is taken for https; a fragment in it is dropped.
///
/// ```
/// use ashlar_llb as llb;
///
/// let source = llb::git("https://example.com/project.git").reference("v1.2").subdir("cmd");
/// # let _ = source;
/// ```
#[must_use]
pub fn git(url: impl AsRef<str>) -> Git {
    let (address, remote, parsed, ssh) = match GitUrl::parse(url.as_ref()) {
        Ok(url) => (url.id, url.remote, true, url.ssh),
        Err(text) => (text.clone(), text, false, false),
    };
    let mut git = Git {
        state: source_state(String::new(), Some(Cap::SourceGit)),
        address,
        parsed,
        ssh,
        reference: String::new(),
        subdir: String::new(),
    };
    git.set_identifier();
    if !remote.is_empty() {
        git = git.attr("git.fullurl", remote, Some(Cap::SourceGitFullurl));
    }
    if ssh {
        git = git.attr(
            "git.mountsshsock",
            "default",
            Some(Cap::SourceGitMountsshsock),
        );
        git.options_mut().need(Cap::SourceGitKnownsshhosts);
    }
    git.attr("git.authheadersecret", "GIT_AUTH_HEADER", None)
        .attr("git.authtokensecret", "GIT_AUTH_TOKEN", None)
}

source_builder!(Git);

impl Git {
    fn set_identifier(&mut self) {
        let mut identifier = format!("git://{}", self.address);
        if self.parsed && !(self.reference.is_empty() && self.subdir.is_empty()) {
            identifier.push('#');
            identifier.push_str(&self.reference);
            if !self.subdir.is_empty() {
                identifier.push(':');
                identifier.push_str(&self.subdir);
            }
        }
        self.source_mut().identifier = identifier;
    }

    /// Sets branch, tag or commit; the default branch by default.
    #[must_use]
    pub fn reference(mut self, reference: impl Into<String>) -> Self {
        self.reference = reference.into();
        self.set_identifier();
        self
    }

    /// Takes only this directory of the repository. The path is used as it is written.
    #[must_use]
    pub fn subdir(mut self, subdir: impl Into<String>) -> Self {
        self.subdir = subdir.into();
        self.set_identifier();
        self
    }

    /// Sets ref and directory from the older form `ref:directory`, each if it is not empty.
    #[must_use]
    pub fn fragment(mut self, fragment: &str) -> Self {
        let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
        if !reference.is_empty() {
            reference.clone_into(&mut self.reference);
        }
        let subdir = path::join(&["/", subdir]);
        let subdir = subdir.trim_start_matches('/');
        if !subdir.is_empty() {
            subdir.clone_into(&mut self.subdir);
        }
        self.set_identifier();
        self
    }

    /// Keeps the `.git` directory.
    #[must_use]
    pub fn keep_git_dir(self) -> Self {
        self.attr("git.keepgitdir", "true", Some(Cap::SourceGitKeepgitdir))
    }

    /// Names one of the two secrets. Engines need the capability if either is left, for the
    /// names are no longer the usual ones.
    fn auth(self, key: &str, secret: SecretId) -> Self {
        const CAP: Cap = Cap::SourceGitHttpauth;
        let mut git = self.text(key, secret, None);
        let attrs = &git.source_mut().attrs;
        let keys = ["git.authtokensecret", "git.authheadersecret"];
        if keys.iter().any(|key| attrs.contains_key(*key)) {
            git.options_mut().need(CAP);
        } else {
            git.options_mut().need_not(CAP);
        }
        git
    }

    /// Names the secret that holds a token; none if it is empty. `GIT_AUTH_TOKEN` by default.
    #[must_use]
    pub fn auth_token_secret(self, secret: impl Into<SecretId>) -> Self {
        self.auth("git.authtokensecret", secret.into())
    }

    /// Names the secret that holds an `Authorization` header; none if it is empty.
    /// `GIT_AUTH_HEADER` by default.
    #[must_use]
    pub fn auth_header_secret(self, secret: impl Into<SecretId>) -> Self {
        self.auth("git.authheadersecret", secret.into())
    }

    /// Adds lines of a `known_hosts` file. Of use for ssh only.
    #[must_use]
    pub fn known_ssh_hosts(mut self, lines: impl AsRef<str>) -> Self {
        if self.ssh {
            let lines = lines.as_ref();
            let lines = lines.strip_suffix('\n').unwrap_or(lines);
            let attrs = &mut self.source_mut().attrs;
            let known = attrs.entry("git.knownsshhosts".to_owned()).or_default();
            known.push_str(lines);
            known.push('\n');
        }
        self
    }

    /// Names the ssh agent of the client; `default` by default. Of use for ssh only.
    #[must_use]
    pub fn ssh_agent(self, id: impl Into<SshId>) -> Self {
        if !self.ssh {
            return self;
        }
        let id = id.into();
        let id = if id.is_empty() {
            SshId::from("default")
        } else {
            id
        };
        self.attr("git.mountsshsock", id, Some(Cap::SourceGitMountsshsock))
    }

    /// Demands that the ref resolves to this commit.
    #[must_use]
    pub fn checksum(self, commit: impl Into<String>) -> Self {
        self.text("git.checksum", commit, Some(Cap::SourceGitChecksum))
    }

    /// Leaves submodules out.
    #[must_use]
    pub fn skip_submodules(self) -> Self {
        let cap = Some(Cap::SourceGitSkipsubmodules);
        self.attr("git.skipsubmodules", "true", cap)
    }

    /// Chooses the modification times of files.
    #[must_use]
    pub fn modified_time(self, time: GitModifiedTime) -> Self {
        let value = match time {
            GitModifiedTime::Checkout => "checkout",
            GitModifiedTime::Commit => "commit",
        };
        self.attr("git.mtime", value, Some(Cap::SourceGitMtime))
    }

    /// Fetches the commit given as checksum without asking the remote what the ref is.
    #[must_use]
    pub fn fetch_by_commit(self) -> Self {
        self.attr(
            "git.fetchbycommit",
            "true",
            Some(Cap::SourceGitFetchbycommit),
        )
    }

    /// Takes the history from a bundle, a blob named by `docker-image+blob://…` or
    /// `oci-layout+blob://…`, instead of from the remote. Needs a checksum.
    #[must_use]
    pub fn bundle(self, locator: impl Into<String>) -> Self {
        self.text("git.bundle", locator, Some(Cap::SourceGitBundle))
    }

    /// Names session and store of the bundle's OCI layout; empty ones are left out.
    #[must_use]
    pub fn bundle_store(
        self,
        session_id: impl Into<SessionId>,
        store_id: impl Into<StoreId>,
    ) -> Self {
        self.text("oci.session", session_id.into(), None)
            .text("oci.store", store_id.into(), None)
    }

    /// Yields a bundle of the commit, as the file `bundle`, instead of a checkout.
    #[must_use]
    pub fn checkout_bundle(self) -> Self {
        self.attr(
            "git.checkoutbundle",
            "true",
            Some(Cap::SourceGitCheckoutbundle),
        )
    }
}
