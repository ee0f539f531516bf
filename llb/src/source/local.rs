//! Directories of the client.
//!
//! Owns the builder of `local://` sources. Which files match a pattern is for the engine; the
//! patterns are written as they are given.

use crate::caps::Cap;
use crate::source::{source_builder, source_state};
use crate::{SessionId, State, go_json};

/// How an engine finds out which files of a directory changed since it last got them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Differ {
    /// Not at all: everything is sent again.
    None,
    /// By size, times, mode, owner, device and link target.
    Metadata,
}

/// A directory of the client; a [`State`] whose source op still takes options.
#[derive(Clone, Debug)]
pub struct Local {
    state: State,
}

/// Starts from a directory that the client lends under `name`.
///
/// ```
/// use ashlar_llb as llb;
///
/// let sources = llb::local("context").include(["src/**", "Makefile"]).exclude(["**/*.o"]);
/// let built = llb::image("gcc").run(["make"]).dir("/src").mount("/src", &sources).root();
/// # let _ = built;
/// ```
#[must_use]
pub fn local(name: impl AsRef<str>) -> Local {
    let identifier = format!("local://{}", name.as_ref());
    Local {
        state: source_state(identifier, Some(Cap::SourceLocal)),
    }
}

source_builder!(Local);

impl Local {
    /// Sets or, with an empty list, removes a list of patterns.
    fn list<T: Into<String>>(
        mut self,
        key: &str,
        values: impl IntoIterator<Item = T>,
        cap: Cap,
    ) -> Self {
        let values: Vec<String> = values.into_iter().map(Into::into).collect();
        if values.is_empty() {
            self.source_mut().attrs.remove(key);
            self.options_mut().need_not(cap);
            return self;
        }
        self.attr(key, go_json::string_array(&values), Some(cap))
    }

    /// Takes only files that match one of these patterns. An empty list means all files.
    #[must_use]
    pub fn include<T: Into<String>>(self, patterns: impl IntoIterator<Item = T>) -> Self {
        let cap = Cap::SourceLocalIncludepatterns;
        self.list("local.includepattern", patterns, cap)
    }

    /// Leaves out files that match one of these patterns; `!` in front takes them in again.
    #[must_use]
    pub fn exclude<T: Into<String>>(self, patterns: impl IntoIterator<Item = T>) -> Self {
        let cap = Cap::SourceLocalExcludepatterns;
        self.list("local.excludepatterns", patterns, cap)
    }

    /// Takes only these paths, and what symbolic links in them lead to.
    #[must_use]
    pub fn follow_paths<T: Into<String>>(self, paths: impl IntoIterator<Item = T>) -> Self {
        self.list("local.followpaths", paths, Cap::SourceLocalFollowpaths)
    }

    /// Names the session of the client that lends the directory. Any session of the build by
    /// default.
    #[must_use]
    pub fn session(self, session_id: impl Into<SessionId>) -> Self {
        self.text(
            "local.session",
            session_id.into(),
            Some(Cap::SourceLocalSessionid),
        )
    }

    /// Lets engines reuse what they were sent for directories with the same hint.
    #[must_use]
    pub fn shared_key_hint(self, hint: impl Into<String>) -> Self {
        let cap = Some(Cap::SourceLocalSharedkeyhint);
        self.text("local.sharedkeyhint", hint, cap)
    }

    /// Chooses how changed files are found; engines that cannot do so may ignore it.
    #[must_use]
    pub fn differ(self, differ: Differ) -> Self {
        let value = match differ {
            Differ::None => "none",
            Differ::Metadata => "metadata",
        };
        self.attr("local.differ", value, None)
    }

    /// Like [`Local::differ`], but engines that cannot do so have to refuse.
    #[must_use]
    pub fn require_differ(self, differ: Differ) -> Self {
        let mut local = self.differ(differ);
        local.options_mut().need(Cap::SourceLocalDiffer);
        local
    }

    /// Sends only metadata of files, with the content of those that match `exceptions`.
    #[must_use]
    pub fn metadata_only<T: Into<String>>(self, exceptions: impl IntoIterator<Item = T>) -> Self {
        let cap = Cap::SourceLocalMetadatatransfer;
        let local = self.list("local.metadatatransferexclude", exceptions, cap);
        local.attr("local.metadatatransfer", "true", Some(cap))
    }

    /// Marks this directory with `id` instead of the marshal's unique id.
    #[must_use]
    pub fn unique_id(mut self, id: impl Into<String>) -> Self {
        self.options_mut().more_mut().local_unique_id = Some(id.into());
        self
    }
}
