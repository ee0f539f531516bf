//! File ops: actions on a tree, run without a process.

use bytes::Bytes;

use crate::encode::{Encode, Writer};

/// A chain of actions on file trees.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct FileOp {
    /// Actions in the order they run; never empty in a valid op.
    #[prost(message, repeated, tag = "2")]
    pub actions: Vec<FileAction>,
}

impl FileOp {
    /// Field number of the actions.
    pub(crate) const ACTIONS: u32 = 2;
}

impl Encode for FileOp {
    fn write_fields(&self, out: &mut Writer) {
        out.messages(Self::ACTIONS, &self.actions);
    }
}

/// One action. Input numbers count the op's inputs first, then the actions before it.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct FileAction {
    /// Tree the action changes, or [`EMPTY`](super::EMPTY) for scratch.
    #[prost(int64, tag = "1")]
    pub input: i64,
    /// Tree a copy reads from, or [`EMPTY`](super::EMPTY).
    #[prost(int64, tag = "2")]
    pub secondary_input: i64,
    /// Output index of the op this action makes, or [`SKIP_OUTPUT`](super::SKIP_OUTPUT).
    #[prost(int64, tag = "3")]
    pub output: i64,
    /// What is done.
    #[prost(oneof = "file_action::Action", tags = "4, 5, 6, 7, 8")]
    pub action: Option<file_action::Action>,
}

impl Encode for FileAction {
    fn write_fields(&self, out: &mut Writer) {
        let fields = FileActionFields {
            input: self.input,
            secondary_input: self.secondary_input,
            output: self.output,
            action: self.action.as_ref(),
        };
        fields.write_fields(out);
    }
}

/// The fields of a [`FileAction`], wherever they are.
pub(crate) struct FileActionFields<A> {
    pub(crate) input: i64,
    pub(crate) secondary_input: i64,
    pub(crate) output: i64,
    pub(crate) action: Option<A>,
}

impl<A: Encode> Encode for FileActionFields<A> {
    fn write_fields(&self, out: &mut Writer) {
        out.int64(1, self.input);
        out.int64(2, self.secondary_input);
        out.int64(3, self.output);
        if let Some(action) = &self.action {
            action.write_fields(out);
        }
    }
}

/// What a file action does, wherever it is.
pub(crate) enum ActionFields<'a> {
    Copy(CopyFields<'a>),
    MkFile(MkFileFields<'a>),
    MkDir(MkDirFields<'a>),
    Rm(RmFields<'a>),
    Symlink(SymlinkFields<'a>),
}

impl Encode for ActionFields<'_> {
    fn write_fields(&self, out: &mut Writer) {
        match self {
            Self::Copy(action) => out.message(4, action),
            Self::MkFile(action) => out.message(5, action),
            Self::MkDir(action) => out.message(6, action),
            Self::Rm(action) => out.message(7, action),
            Self::Symlink(action) => out.message(8, action),
        }
    }
}

/// Copies from the secondary input onto the input.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct FileActionCopy {
    /// Path in the secondary input; may hold wildcards if `allow_wildcard`.
    #[prost(string, tag = "1")]
    pub src: String,
    /// Destination path in the input; a trailing slash names a directory.
    #[prost(string, tag = "2")]
    pub dest: String,
    /// Owner of the copies; absent keeps the source's.
    #[prost(message, optional, tag = "3")]
    pub owner: Option<ChownOpt>,
    /// Permission bits of the copies; -1 keeps the source's.
    #[prost(int32, tag = "4")]
    pub mode: i32,
    /// Whether symlinks in `src` are resolved.
    #[prost(bool, tag = "5")]
    pub follow_symlink: bool,
    /// Whether a directory's contents are copied rather than itself.
    #[prost(bool, tag = "6")]
    pub dir_copy_contents: bool,
    /// Whether a source that is an archive is unpacked.
    #[prost(bool, tag = "7")]
    pub attempt_unpack_docker_compatibility: bool,
    /// Whether missing parents of `dest` are made.
    #[prost(bool, tag = "8")]
    pub create_dest_path: bool,
    /// Whether `src` is a wildcard pattern.
    #[prost(bool, tag = "9")]
    pub allow_wildcard: bool,
    /// Whether a pattern without a match is no error.
    #[prost(bool, tag = "10")]
    pub allow_empty_wildcard: bool,
    /// Creation time of the copies in unix nanoseconds; -1 keeps the source's.
    #[prost(int64, tag = "11")]
    pub timestamp: i64,
    /// Only paths that match one of these are copied; empty means all.
    #[prost(string, repeated, tag = "12")]
    pub include_patterns: Vec<String>,
    /// Paths that match one of these are not copied.
    #[prost(string, repeated, tag = "13")]
    pub exclude_patterns: Vec<String>,
    /// Whether a destination of another type is replaced instead of an error.
    #[prost(bool, tag = "14")]
    pub always_replace_existing_dest_paths: bool,
    /// Mode in symbolic form, such as `u+rwX`; takes precedence over `mode`.
    #[prost(string, tag = "15")]
    pub mode_str: String,
    /// Patterns each of which has to match at least one path.
    #[prost(string, repeated, tag = "16")]
    pub required_paths: Vec<String>,
}

impl FileActionCopy {
    fn fields(&self) -> CopyFields<'_> {
        CopyFields {
            src: &self.src,
            dest: &self.dest,
            owner: self.owner.as_ref(),
            mode: self.mode,
            follow_symlink: self.follow_symlink,
            dir_copy_contents: self.dir_copy_contents,
            attempt_unpack_docker_compatibility: self.attempt_unpack_docker_compatibility,
            create_dest_path: self.create_dest_path,
            allow_wildcard: self.allow_wildcard,
            allow_empty_wildcard: self.allow_empty_wildcard,
            timestamp: self.timestamp,
            include_patterns: &self.include_patterns,
            exclude_patterns: &self.exclude_patterns,
            always_replace_existing_dest_paths: self.always_replace_existing_dest_paths,
            mode_str: &self.mode_str,
            required_paths: &self.required_paths,
        }
    }
}

impl Encode for FileActionCopy {
    fn write_fields(&self, out: &mut Writer) {
        self.fields().write_fields(out);
    }
}

/// The fields of a [`FileActionCopy`], wherever they are.
pub(crate) struct CopyFields<'a> {
    pub(crate) src: &'a str,
    pub(crate) dest: &'a str,
    pub(crate) owner: Option<&'a ChownOpt>,
    pub(crate) mode: i32,
    pub(crate) follow_symlink: bool,
    pub(crate) dir_copy_contents: bool,
    pub(crate) attempt_unpack_docker_compatibility: bool,
    pub(crate) create_dest_path: bool,
    pub(crate) allow_wildcard: bool,
    pub(crate) allow_empty_wildcard: bool,
    pub(crate) timestamp: i64,
    pub(crate) include_patterns: &'a [String],
    pub(crate) exclude_patterns: &'a [String],
    pub(crate) always_replace_existing_dest_paths: bool,
    pub(crate) mode_str: &'a str,
    pub(crate) required_paths: &'a [String],
}

impl Encode for CopyFields<'_> {
    fn write_fields(&self, out: &mut Writer) {
        out.string(1, self.src);
        out.string(2, self.dest);
        out.optional(3, self.owner);
        out.int32(4, self.mode);
        out.bool(5, self.follow_symlink);
        out.bool(6, self.dir_copy_contents);
        out.bool(7, self.attempt_unpack_docker_compatibility);
        out.bool(8, self.create_dest_path);
        out.bool(9, self.allow_wildcard);
        out.bool(10, self.allow_empty_wildcard);
        out.int64(11, self.timestamp);
        out.strings(12, self.include_patterns.iter());
        out.strings(13, self.exclude_patterns.iter());
        out.bool(14, self.always_replace_existing_dest_paths);
        out.string(15, self.mode_str);
        out.strings(16, self.required_paths.iter());
    }
}

/// Writes a file.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct FileActionMkFile {
    /// Path of the file.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Permission bits.
    #[prost(int32, tag = "2")]
    pub mode: i32,
    /// The file's content.
    #[prost(bytes = "bytes", tag = "3")]
    pub data: Bytes,
    /// Owner; absent means root.
    #[prost(message, optional, tag = "4")]
    pub owner: Option<ChownOpt>,
    /// Modification time in unix nanoseconds; -1 means unset.
    #[prost(int64, tag = "5")]
    pub timestamp: i64,
}

impl FileActionMkFile {
    fn fields(&self) -> MkFileFields<'_> {
        MkFileFields {
            path: &self.path,
            mode: self.mode,
            data: &self.data,
            owner: self.owner.as_ref(),
            timestamp: self.timestamp,
        }
    }
}

impl Encode for FileActionMkFile {
    fn write_fields(&self, out: &mut Writer) {
        self.fields().write_fields(out);
    }
}

/// The fields of a [`FileActionMkFile`], wherever they are.
pub(crate) struct MkFileFields<'a> {
    pub(crate) path: &'a str,
    pub(crate) mode: i32,
    pub(crate) data: &'a [u8],
    pub(crate) owner: Option<&'a ChownOpt>,
    pub(crate) timestamp: i64,
}

impl Encode for MkFileFields<'_> {
    fn write_fields(&self, out: &mut Writer) {
        out.string(1, self.path);
        out.int32(2, self.mode);
        out.bytes(3, self.data);
        out.optional(4, self.owner);
        out.int64(5, self.timestamp);
    }
}

/// Makes a directory.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct FileActionMkDir {
    /// Path of the directory.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Permission bits.
    #[prost(int32, tag = "2")]
    pub mode: i32,
    /// Whether missing parents are made too.
    #[prost(bool, tag = "3")]
    pub make_parents: bool,
    /// Owner; absent means root.
    #[prost(message, optional, tag = "4")]
    pub owner: Option<ChownOpt>,
    /// Modification time in unix nanoseconds; -1 means unset.
    #[prost(int64, tag = "5")]
    pub timestamp: i64,
}

impl FileActionMkDir {
    fn fields(&self) -> MkDirFields<'_> {
        MkDirFields {
            path: &self.path,
            mode: self.mode,
            make_parents: self.make_parents,
            owner: self.owner.as_ref(),
            timestamp: self.timestamp,
        }
    }
}

impl Encode for FileActionMkDir {
    fn write_fields(&self, out: &mut Writer) {
        self.fields().write_fields(out);
    }
}

/// The fields of a [`FileActionMkDir`], wherever they are.
pub(crate) struct MkDirFields<'a> {
    pub(crate) path: &'a str,
    pub(crate) mode: i32,
    pub(crate) make_parents: bool,
    pub(crate) owner: Option<&'a ChownOpt>,
    pub(crate) timestamp: i64,
}

impl Encode for MkDirFields<'_> {
    fn write_fields(&self, out: &mut Writer) {
        out.string(1, self.path);
        out.int32(2, self.mode);
        out.bool(3, self.make_parents);
        out.optional(4, self.owner);
        out.int64(5, self.timestamp);
    }
}

/// Removes a path and what is below it.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct FileActionRm {
    /// Path to remove.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Whether a path that is not there is no error.
    #[prost(bool, tag = "2")]
    pub allow_not_found: bool,
    /// Whether `path` is a wildcard pattern.
    #[prost(bool, tag = "3")]
    pub allow_wildcard: bool,
}

impl FileActionRm {
    fn fields(&self) -> RmFields<'_> {
        RmFields {
            path: &self.path,
            allow_not_found: self.allow_not_found,
            allow_wildcard: self.allow_wildcard,
        }
    }
}

impl Encode for FileActionRm {
    fn write_fields(&self, out: &mut Writer) {
        self.fields().write_fields(out);
    }
}

/// The fields of a [`FileActionRm`], wherever they are.
pub(crate) struct RmFields<'a> {
    pub(crate) path: &'a str,
    pub(crate) allow_not_found: bool,
    pub(crate) allow_wildcard: bool,
}

impl Encode for RmFields<'_> {
    fn write_fields(&self, out: &mut Writer) {
        out.string(1, self.path);
        out.bool(2, self.allow_not_found);
        out.bool(3, self.allow_wildcard);
    }
}

/// Makes a symbolic link.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct FileActionSymlink {
    /// What the link says, untouched.
    #[prost(string, tag = "1")]
    pub oldpath: String,
    /// Path of the link.
    #[prost(string, tag = "2")]
    pub newpath: String,
    /// Owner; absent means root.
    #[prost(message, optional, tag = "3")]
    pub owner: Option<ChownOpt>,
    /// Modification time in unix nanoseconds; -1 means unset.
    #[prost(int64, tag = "4")]
    pub timestamp: i64,
}

impl FileActionSymlink {
    fn fields(&self) -> SymlinkFields<'_> {
        SymlinkFields {
            oldpath: &self.oldpath,
            newpath: &self.newpath,
            owner: self.owner.as_ref(),
            timestamp: self.timestamp,
        }
    }
}

impl Encode for FileActionSymlink {
    fn write_fields(&self, out: &mut Writer) {
        self.fields().write_fields(out);
    }
}

/// The fields of a [`FileActionSymlink`], wherever they are.
pub(crate) struct SymlinkFields<'a> {
    pub(crate) oldpath: &'a str,
    pub(crate) newpath: &'a str,
    pub(crate) owner: Option<&'a ChownOpt>,
    pub(crate) timestamp: i64,
}

impl Encode for SymlinkFields<'_> {
    fn write_fields(&self, out: &mut Writer) {
        out.string(1, self.oldpath);
        out.string(2, self.newpath);
        out.optional(3, self.owner);
        out.int64(4, self.timestamp);
    }
}

/// A user and a group.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ChownOpt {
    /// The user; absent means 0.
    #[prost(message, optional, tag = "1")]
    pub user: Option<UserOpt>,
    /// The group; absent means 0.
    #[prost(message, optional, tag = "2")]
    pub group: Option<UserOpt>,
}

impl Encode for ChownOpt {
    fn write_fields(&self, out: &mut Writer) {
        out.optional(1, self.user.as_ref());
        out.optional(2, self.group.as_ref());
    }
}

/// A user or group, by name or by id.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct UserOpt {
    /// The way it is named.
    #[prost(oneof = "user_opt::User", tags = "1, 2")]
    pub user: Option<user_opt::User>,
}

impl Encode for UserOpt {
    fn write_fields(&self, out: &mut Writer) {
        if let Some(user) = &self.user {
            user.write_fields(out);
        }
    }
}

/// A user or group to look up in an image's files.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct NamedUserOpt {
    /// The name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Position of the input whose `/etc/passwd` or `/etc/group` is read.
    #[prost(int64, tag = "2")]
    pub input: i64,
}

impl Encode for NamedUserOpt {
    fn write_fields(&self, out: &mut Writer) {
        out.string(1, &self.name);
        out.int64(2, self.input);
    }
}

/// The kinds of file action.
pub mod file_action {
    use super::{
        ActionFields, FileActionCopy, FileActionMkDir, FileActionMkFile, FileActionRm,
        FileActionSymlink,
    };
    use crate::encode::{Encode, Writer};

    /// What a file action does.
    #[allow(
        clippy::exhaustive_enums,
        clippy::large_enum_variant,
        reason = "an engine has to handle every kind of action; actions are few and never moved in bulk"
    )]
    #[derive(Clone, PartialEq, Eq, Hash, prost::Oneof)]
    pub enum Action {
        /// Copies from the secondary input.
        #[prost(message, tag = "4")]
        Copy(FileActionCopy),
        /// Writes a file.
        #[prost(message, tag = "5")]
        Mkfile(FileActionMkFile),
        /// Makes a directory.
        #[prost(message, tag = "6")]
        Mkdir(FileActionMkDir),
        /// Removes a path.
        #[prost(message, tag = "7")]
        Rm(FileActionRm),
        /// Makes a symbolic link.
        #[prost(message, tag = "8")]
        Symlink(FileActionSymlink),
    }

    impl Encode for Action {
        fn write_fields(&self, out: &mut Writer) {
            let fields = match self {
                Self::Copy(action) => ActionFields::Copy(action.fields()),
                Self::Mkfile(action) => ActionFields::MkFile(action.fields()),
                Self::Mkdir(action) => ActionFields::MkDir(action.fields()),
                Self::Rm(action) => ActionFields::Rm(action.fields()),
                Self::Symlink(action) => ActionFields::Symlink(action.fields()),
            };
            fields.write_fields(out);
        }
    }
}

/// The ways to name a user or group.
pub mod user_opt {
    use super::NamedUserOpt;
    use crate::encode::{Encode, Writer};

    /// How a user or group is named.
    #[allow(
        clippy::exhaustive_enums,
        reason = "there is no third way to name a user"
    )]
    #[derive(Clone, PartialEq, Eq, Hash, prost::Oneof)]
    pub enum User {
        /// By a name that is looked up in an input.
        #[prost(message, tag = "1")]
        ByName(NamedUserOpt),
        /// By its number.
        #[prost(uint32, tag = "2")]
        ById(u32),
    }

    impl Encode for User {
        fn write_fields(&self, out: &mut Writer) {
            match self {
                Self::ByName(named) => out.message(1, named),
                Self::ById(id) => out.present_uint64(2, (*id).into()),
            }
        }
    }
}
