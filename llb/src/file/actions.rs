//! The file actions and their options.
//!
//! Owns one type per kind of action and [`Step`], which joins them to chains. How an action is
//! written is for `file/write.rs`.

mod options;

use std::time::SystemTime;

use super::{CopyInput, FileActions, Owner};
use crate::constraints::{OpConstraints, op_options};
use crate::{GuestPath, Mode};
use bytes::Bytes;

/// One file action.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    MakeDirectory(MakeDirectory),
    MakeFile(MakeFile),
    MakeSymlink(MakeSymlink),
    Remove(Remove),
    Copy(CopyPath),
}

impl Action {
    /// What the action does, for people.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::MakeDirectory(action) => format!("mkdir {}", action.path),
            Self::MakeFile(action) => format!("mkfile {}", action.path),
            Self::MakeSymlink(action) => format!("symlink {} -> {}", action.new, action.old),
            Self::Remove(action) => format!("rm {}", action.path),
            Self::Copy(action) => format!("copy {} {}", action.source, action.dest),
        }
    }
}

/// A chain of file actions whose last action still takes options.
///
/// `A` is the kind of that action and decides which options there are: see the methods of
/// `Step<CopyPath>` and so on. The methods that start the next action, and the options every
/// op takes, are there for all kinds. An option of another kind does not compile:
///
/// ```compile_fail
/// let actions = ashlar_llb::mkdir("/a").allow_not_found();
/// ```
///
/// ```
/// let actions = ashlar_llb::rm("/a").allow_not_found();
/// # let _ = actions;
/// ```
#[derive(Clone, Debug)]
pub struct Step<A> {
    before: FileActions,
    action: A,
}

/// Owner and time of what an action makes. Few actions have either.
#[derive(Clone, Debug, Default)]
pub(super) struct Attributes(Option<Box<OwnerAndTime>>);

#[derive(Clone, Debug, Default)]
struct OwnerAndTime {
    owner: Option<Owner>,
    /// Unix time in nanoseconds.
    created: Option<i64>,
}

impl Attributes {
    fn set_owner(&mut self, owner: Owner) {
        self.0.get_or_insert_default().owner = Some(owner);
    }

    fn set_created(&mut self, nanoseconds: i64) {
        self.0.get_or_insert_default().created = Some(nanoseconds);
    }

    pub(super) fn owner(&self) -> Option<&Owner> {
        self.0.as_ref()?.owner.as_ref()
    }

    /// Unix time in nanoseconds, -1 if it is not set.
    pub(super) fn created(&self) -> i64 {
        let created = self.0.as_ref().and_then(|both| both.created);
        created.unwrap_or(-1)
    }
}

/// Makes a directory; see [`mkdir`].
#[derive(Clone, Debug)]
pub struct MakeDirectory {
    pub(super) path: GuestPath,
    pub(super) mode: Mode,
    pub(super) parents: bool,
    pub(super) attributes: Attributes,
}

/// Writes a file; see [`mkfile`].
#[derive(Clone, Debug)]
pub struct MakeFile {
    pub(super) path: GuestPath,
    pub(super) mode: Mode,
    pub(super) data: Bytes,
    pub(super) attributes: Attributes,
}

/// Makes a symbolic link; see [`symlink`].
#[derive(Clone, Debug)]
pub struct MakeSymlink {
    pub(super) old: GuestPath,
    pub(super) new: GuestPath,
    pub(super) attributes: Attributes,
}

/// Removes a path; see [`rm`].
#[derive(Clone, Debug)]
pub struct Remove {
    pub(super) path: GuestPath,
    pub(super) allow_not_found: bool,
    pub(super) wildcard: bool,
}

/// Copies from another tree; see [`copy`].
#[derive(Clone, Debug)]
pub struct CopyPath {
    input: CopyInput,
    pub(super) source: GuestPath,
    pub(super) dest: GuestPath,
    pub(super) mode: Option<CopyMode>,
    pub(super) follow_symlinks: bool,
    pub(super) contents_only: bool,
    pub(super) unpack: bool,
    pub(super) create_dest_path: bool,
    pub(super) wildcard: bool,
    pub(super) allow_empty_wildcard: bool,
    pub(super) replace_existing: bool,
    pub(super) attributes: Attributes,
    more: Option<Box<MoreCopyOptions>>,
}

/// What few copies have.
#[derive(Clone, Debug, Default)]
pub(super) struct MoreCopyOptions {
    pub(super) include: Vec<String>,
    pub(super) exclude: Vec<String>,
    pub(super) required_paths: Vec<String>,
}

static NO_MORE: MoreCopyOptions = MoreCopyOptions {
    include: Vec::new(),
    exclude: Vec::new(),
    required_paths: Vec::new(),
};

/// Mode of the copies.
#[derive(Clone, Debug)]
pub(super) enum CopyMode {
    Bits(Mode),
    Symbolic(Box<str>),
}

impl CopyPath {
    pub(super) fn input(&self) -> &CopyInput {
        &self.input
    }

    fn more_mut(&mut self) -> &mut MoreCopyOptions {
        self.more.get_or_insert_default()
    }

    pub(super) fn more(&self) -> &MoreCopyOptions {
        self.more.as_deref().unwrap_or(&NO_MORE)
    }

    /// Takes the input out and leaves scratch.
    pub(super) fn take_input(&mut self) -> CopyInput {
        std::mem::replace(&mut self.input, crate::scratch().into())
    }
}

/// Makes a directory, by default with mode 0755.
///
/// A relative path starts at the state's working directory.
///
/// ```
/// use ashlar_llb as llb;
///
/// let state = llb::scratch().file(llb::mkdir("/srv/data").parents().mode(0o700));
/// # let _ = state;
/// ```
#[must_use]
pub fn mkdir(path: impl Into<GuestPath>) -> Step<MakeDirectory> {
    FileActions::new().mkdir(path)
}

/// Writes a file, by default with mode 0644.
///
/// A relative path starts at the state's working directory.
///
/// ```
/// use ashlar_llb as llb;
///
/// let state = llb::scratch().file(llb::mkfile("/hello", "Hello!\n").mode(0o600).owner((1, 1)));
/// # let _ = state;
/// ```
#[must_use]
pub fn mkfile(path: impl Into<GuestPath>, data: impl Into<Bytes>) -> Step<MakeFile> {
    FileActions::new().mkfile(path, data)
}

/// Makes a symbolic link `new` that leads to `old`. Both are used as they are written, whatever
/// the working directory.
///
/// ```
/// use ashlar_llb as llb;
///
/// let state = llb::image("alpine").file(llb::symlink("busybox", "/bin/vi"));
/// # let _ = state;
/// ```
#[must_use]
pub fn symlink(old: impl Into<GuestPath>, new: impl Into<GuestPath>) -> Step<MakeSymlink> {
    FileActions::new().symlink(old, new)
}

/// Removes a file or a directory with all that is in it.
///
/// A relative path starts at the state's working directory.
///
/// ```
/// use ashlar_llb as llb;
///
/// let state = llb::image("debian").file(llb::rm("/var/lib/apt/lists/*").wildcard());
/// # let _ = state;
/// ```
#[must_use]
pub fn rm(path: impl Into<GuestPath>) -> Step<Remove> {
    FileActions::new().rm(path)
}

/// Copies the path `source` of another tree to `dest`.
///
/// Relative paths start at the working directory of the state they belong to. If `dest` ends in
/// `/` it is a directory to copy into.
///
/// ```
/// use ashlar_llb as llb;
///
/// let built = llb::image("gcc").run(["make"]).root();
/// let state = llb::scratch().file(llb::copy(&built, "/src/app", "/app"));
/// # let _ = state;
/// ```
#[must_use]
pub fn copy(
    input: impl Into<CopyInput>,
    source: impl Into<GuestPath>,
    dest: impl Into<GuestPath>,
) -> Step<CopyPath> {
    FileActions::new().copy(input, source, dest)
}

impl FileActions {
    fn step<A>(self, action: A) -> Step<A> {
        Step {
            before: self,
            action,
        }
    }

    /// Then makes a directory; see [`mkdir`](crate::mkdir()).
    #[must_use]
    pub fn mkdir(self, path: impl Into<GuestPath>) -> Step<MakeDirectory> {
        self.step(MakeDirectory {
            path: path.into(),
            mode: Mode::truncated(0o755),
            parents: false,
            attributes: Attributes::default(),
        })
    }

    /// Then writes a file; see [`mkfile`](crate::mkfile()).
    #[must_use]
    pub fn mkfile(self, path: impl Into<GuestPath>, data: impl Into<Bytes>) -> Step<MakeFile> {
        self.step(MakeFile {
            path: path.into(),
            mode: Mode::truncated(0o644),
            data: data.into(),
            attributes: Attributes::default(),
        })
    }

    /// Then makes a symbolic link; see [`symlink`](crate::symlink()).
    #[must_use]
    pub fn symlink(
        self,
        old: impl Into<GuestPath>,
        new: impl Into<GuestPath>,
    ) -> Step<MakeSymlink> {
        self.step(MakeSymlink {
            old: old.into(),
            new: new.into(),
            attributes: Attributes::default(),
        })
    }

    /// Then removes a path; see [`rm`](crate::rm()).
    #[must_use]
    pub fn rm(self, path: impl Into<GuestPath>) -> Step<Remove> {
        self.step(Remove {
            path: path.into(),
            allow_not_found: false,
            wildcard: false,
        })
    }

    /// Then copies from another tree; see [`copy`](crate::copy()).
    #[must_use]
    pub fn copy(
        self,
        input: impl Into<CopyInput>,
        source: impl Into<GuestPath>,
        dest: impl Into<GuestPath>,
    ) -> Step<CopyPath> {
        self.step(CopyPath {
            input: input.into(),
            source: source.into(),
            dest: dest.into(),
            mode: None,
            follow_symlinks: false,
            contents_only: false,
            unpack: false,
            create_dest_path: false,
            wildcard: false,
            allow_empty_wildcard: false,
            replace_existing: false,
            attributes: Attributes::default(),
            more: None,
        })
    }
}

/// Writes what every kind of step has: the way to the next action, and the op's options.
macro_rules! step_kinds {
    ($($type:ident: $kind:ident;)*) => {$(
        impl From<Step<$type>> for FileActions {
            fn from(step: Step<$type>) -> Self {
                let mut actions = step.before;
                if actions.actions.is_empty() {
                    // Most chains have one.
                    actions.actions.reserve_exact(1);
                }
                actions.actions.push(Action::$kind(step.action));
                actions
            }
        }

        impl Step<$type> {
            fn options_mut(&mut self) -> &mut OpConstraints {
                self.before.options_mut()
            }

            /// Then makes a directory; see [`mkdir`](crate::mkdir()).
            #[must_use]
            pub fn mkdir(self, path: impl Into<GuestPath>) -> Step<MakeDirectory> {
                FileActions::from(self).mkdir(path)
            }

            /// Then writes a file; see [`mkfile`](crate::mkfile()).
            #[must_use]
            pub fn mkfile(self, path: impl Into<GuestPath>, data: impl Into<Bytes>) -> Step<MakeFile> {
                FileActions::from(self).mkfile(path, data)
            }

            /// Then makes a symbolic link; see [`symlink`](crate::symlink()).
            #[must_use]
            pub fn symlink(self, old: impl Into<GuestPath>, new: impl Into<GuestPath>) -> Step<MakeSymlink> {
                FileActions::from(self).symlink(old, new)
            }

            /// Then removes a path; see [`rm`](crate::rm()).
            #[must_use]
            pub fn rm(self, path: impl Into<GuestPath>) -> Step<Remove> {
                FileActions::from(self).rm(path)
            }

            /// Then copies from another tree; see [`copy`](crate::copy()).
            #[must_use]
            pub fn copy(
                self,
                input: impl Into<CopyInput>,
                source: impl Into<GuestPath>,
                dest: impl Into<GuestPath>,
            ) -> Step<CopyPath> {
                FileActions::from(self).copy(input, source, dest)
            }
        }

        op_options!(impl Step<$type>);
    )*};
}

step_kinds! {
    MakeDirectory: MakeDirectory;
    MakeFile: MakeFile;
    MakeSymlink: MakeSymlink;
    Remove: Remove;
    CopyPath: Copy;
}

/// Unix time in nanoseconds, at the nearest end if it is more than 292 years from 1970.
fn unix_nanoseconds(time: SystemTime) -> i64 {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => {
            let nanoseconds = i64::try_from(before.duration().as_nanos());
            nanoseconds.map_or(i64::MIN, |nanoseconds| -nanoseconds)
        }
    }
}
