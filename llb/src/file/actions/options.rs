//! The options of each kind of file action, as methods of a chain that ends with one.

use std::time::SystemTime;

use super::{
    CopyMode, CopyPath, MakeDirectory, MakeFile, MakeSymlink, Remove, Step, unix_nanoseconds,
};
use crate::{Mode, Owner};

macro_rules! attributes {
    ($($type:ident)*) => {$(
        impl Step<$type> {
            /// Sets the owner: numbers or `"user:group"`.
            #[must_use]
            pub fn owner(mut self, owner: impl Into<Owner>) -> Self {
                self.action.attributes.set_owner(owner.into());
                self
            }

            /// Sets the modification time, to the nanosecond; times more than 292 years from
            /// 1970 become the nearest that is not.
            #[must_use]
            pub fn created(mut self, time: SystemTime) -> Self {
                self.action.attributes.set_created(unix_nanoseconds(time));
                self
            }

            /// Sets the modification time as it is written: nanoseconds since 1970. -1 means
            /// the time at which the step runs.
            #[must_use]
            pub fn created_nanoseconds(mut self, nanoseconds: i64) -> Self {
                self.action.attributes.set_created(nanoseconds);
                self
            }
        }
    )*};
}

attributes!(MakeDirectory MakeFile MakeSymlink CopyPath);

impl Step<MakeDirectory> {
    /// Sets the permission bits. The marshal fails with other bits, which BuildKit would drop.
    #[must_use]
    pub fn mode(mut self, mode: impl Into<Mode>) -> Self {
        self.action.mode = mode.into();
        self
    }

    /// Makes parent directories too, and is content if the directory is there.
    #[must_use]
    pub fn parents(mut self) -> Self {
        self.action.parents = true;
        self
    }
}

impl Step<MakeFile> {
    /// Sets the permission bits. The marshal fails with other bits, which BuildKit would drop.
    #[must_use]
    pub fn mode(mut self, mode: impl Into<Mode>) -> Self {
        self.action.mode = mode.into();
        self
    }
}

impl Step<Remove> {
    /// Is content if there is nothing to remove.
    #[must_use]
    pub fn allow_not_found(mut self) -> Self {
        self.action.allow_not_found = true;
        self
    }

    /// Takes the path for a pattern (`*`, `?`, `[...]`).
    #[must_use]
    pub fn wildcard(mut self) -> Self {
        self.action.wildcard = true;
        self
    }
}

impl Step<CopyPath> {
    /// Sets the mode of all copies: permission bits and the three above them.
    #[must_use]
    pub fn mode(mut self, mode: impl Into<Mode>) -> Self {
        self.action.mode = Some(CopyMode::Bits(mode.into()));
        self
    }

    /// Changes the mode of all copies as chmod would, such as `u=rwX,go=rX`.
    #[must_use]
    pub fn symbolic_mode(mut self, mode: impl AsRef<str>) -> Self {
        self.action.mode = Some(CopyMode::Symbolic(mode.as_ref().into()));
        self
    }

    /// Copies what a symbolic link at the source leads to.
    #[must_use]
    pub fn follow_symlinks(mut self) -> Self {
        self.action.follow_symlinks = true;
        self
    }

    /// Copies what is in the source directory, not the directory itself.
    #[must_use]
    pub fn contents_only(mut self) -> Self {
        self.action.contents_only = true;
        self
    }

    /// Unpacks the source if it is an archive, as Dockerfile's ADD does.
    #[must_use]
    pub fn unpack(mut self) -> Self {
        self.action.unpack = true;
        self
    }

    /// Makes the parent directories of the destination.
    #[must_use]
    pub fn create_dest_path(mut self) -> Self {
        self.action.create_dest_path = true;
        self
    }

    /// Takes the source for a pattern (`*`, `?`, `[...]`).
    #[must_use]
    pub fn wildcard(mut self) -> Self {
        self.action.wildcard = true;
        self
    }

    /// Is content if a pattern matches nothing.
    #[must_use]
    pub fn allow_empty_wildcard(mut self) -> Self {
        self.action.allow_empty_wildcard = true;
        self
    }

    /// Puts copies in the place of what is there, even a directory in that of a file.
    #[must_use]
    pub fn replace_existing(mut self) -> Self {
        self.action.replace_existing = true;
        self
    }

    /// Copies only what matches one of these patterns. Repeated calls add up.
    #[must_use]
    pub fn include<T: Into<String>>(mut self, patterns: impl IntoIterator<Item = T>) -> Self {
        let patterns = patterns.into_iter().map(Into::into);
        self.action.more_mut().include.extend(patterns);
        self
    }

    /// Leaves out what matches one of these patterns. Repeated calls add up.
    #[must_use]
    pub fn exclude<T: Into<String>>(mut self, patterns: impl IntoIterator<Item = T>) -> Self {
        let patterns = patterns.into_iter().map(Into::into);
        self.action.more_mut().exclude.extend(patterns);
        self
    }

    /// Fails if one of these paths of the source is missing. Repeated calls add up.
    #[must_use]
    pub fn required_paths<T: Into<String>>(mut self, paths: impl IntoIterator<Item = T>) -> Self {
        let paths = paths.into_iter().map(Into::into);
        self.action.more_mut().required_paths.extend(paths);
        self
    }
}
