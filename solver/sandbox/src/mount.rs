//! What is mounted where: the root of a process and the mounts below it.
//!
//! Owns: plain data only. Paths of sources are the host's, absolute and trusted; selectors and
//! targets come from a build definition and are resolved inside the mount they belong to.

use crate::Contents;
use std::path::PathBuf;

/// The root file system of a process.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Root {
    /// Where the tree comes from. Must be a directory tree, not a file or device.
    pub source: Source,
    /// Directory inside the source that becomes `/`; `None`: the source's own root.
    pub selector: Option<PathBuf>,
    /// Makes the root read-only just before the program starts. Mount points are still created
    /// if the source itself can be written, as in BuildKit.
    pub readonly: bool,
}

impl Root {
    /// A writable root without a selector.
    #[must_use]
    pub const fn new(source: Source) -> Self {
        Self {
            source,
            selector: None,
            readonly: false,
        }
    }

    /// Takes the directory `selector` inside the source as `/`. Symbolic links in it are resolved
    /// as if the source were `/`; one that is missing is [`SandboxError::SelectorNotFound`].
    ///
    /// [`SandboxError::SelectorNotFound`]: crate::SandboxError::SelectorNotFound
    #[must_use]
    pub fn selector(mut self, selector: impl Into<PathBuf>) -> Self {
        self.selector = Some(selector.into());
        self
    }

    /// Sets [`Root::readonly`].
    #[must_use]
    pub const fn readonly(mut self, readonly: bool) -> Self {
        self.readonly = readonly;
        self
    }
}

/// One mount below the root. Mounts are made in the order of [`Spec::mounts`], after `/proc`,
/// `/dev` and `/sys`.
///
/// [`Spec::mounts`]: crate::Spec::mounts
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Mount {
    /// Absolute path of the mount point, resolved inside the root (symbolic links included) and
    /// created if missing; see [`Stub`](crate::Stub).
    pub target: PathBuf,
    /// What is mounted.
    pub source: Source,
    /// File or directory inside the source to mount; `None`: the source itself. Not available for
    /// [`Source::Tmpfs`], [`Source::Cgroup`], [`Source::File`], [`Source::Device`] and
    /// [`Source::Node`].
    pub selector: Option<PathBuf>,
    /// Makes the mount, and whatever is mounted below its source, read-only.
    pub readonly: bool,
    /// Keeps set-user-id programs on it from giving privileges.
    pub nosuid: bool,
    /// Keeps programs on it from being executed.
    pub noexec: bool,
}

impl Mount {
    /// A writable mount of the whole of `source` at `target`.
    #[must_use]
    pub fn new(target: impl Into<PathBuf>, source: Source) -> Self {
        Self {
            target: target.into(),
            source,
            selector: None,
            readonly: false,
            nosuid: false,
            noexec: false,
        }
    }

    /// Mounts only `selector` of the source; see [`Root::selector`].
    #[must_use]
    pub fn selector(mut self, selector: impl Into<PathBuf>) -> Self {
        self.selector = Some(selector.into());
        self
    }

    /// Sets [`Mount::readonly`].
    #[must_use]
    pub const fn readonly(mut self, readonly: bool) -> Self {
        self.readonly = readonly;
        self
    }

    /// Sets [`Mount::nosuid`].
    #[must_use]
    pub const fn nosuid(mut self, nosuid: bool) -> Self {
        self.nosuid = nosuid;
        self
    }

    /// Sets [`Mount::noexec`].
    #[must_use]
    pub const fn noexec(mut self, noexec: bool) -> Self {
        self.noexec = noexec;
        self
    }
}

/// Where the content of a mount comes from. All paths are absolute host paths without `..`.
#[derive(Clone)]
#[non_exhaustive]
pub enum Source {
    /// An overlay of read-only layers with a writable one on top, mounted with
    /// `redirect_dir=nofollow,metacopy=off,index=off,xino=off,volatile`, and `userxattr` inside a
    /// user namespace. Without any lower layer `upper` is bind-mounted as it is.
    Overlay {
        /// Read-only layers, topmost first; at most 500.
        lower: Vec<PathBuf>,
        /// Existing directory that receives the changes.
        upper: PathBuf,
        /// Existing empty directory on the same file system as `upper`. A volatile overlay marks
        /// it: never use it for a second mount.
        work: PathBuf,
    },
    /// Layers without a writable one: an overlay of two or more, a read-only bind mount of one.
    ReadOnlyOverlay {
        /// Layers, topmost first; 1 to 500.
        lower: Vec<PathBuf>,
    },
    /// A file, directory or socket of the host, with everything mounted below it.
    Bind {
        /// What is bound. A symbolic link is followed on the host.
        path: PathBuf,
    },
    /// A device node of the host. With [`Source::Node`] the only source on which device nodes work.
    Device {
        /// The node, for example `/dev/fuse`.
        path: PathBuf,
    },
    /// A node that is made for the process alone, in memory. Not in a user namespace, where the
    /// kernel lets nobody make one.
    Node(Node),
    /// A fresh empty memory file system, `nosuid`, with the mode of the directory that it covers;
    /// 1777 if there was none, or for a root.
    Tmpfs {
        /// Limit in bytes; `None`: the kernel's default, half of the memory.
        size: Option<u64>,
    },
    /// The unified cgroup hierarchy as far as the process may see it, read-only and `nosuid`. For
    /// container runtimes, which want to find one.
    Cgroup,
    /// A regular file with the given content that exists in memory only and is gone with the
    /// process: `/etc/hosts`, `/etc/resolv.conf`, secrets. Mounted `nosuid`, and `noexec` unless
    /// `mode` lets somebody execute it.
    File {
        /// The whole content.
        contents: Contents,
        /// Permission bits, for example `0o400`.
        mode: u32,
        /// Owner as seen inside the sandbox.
        uid: u32,
        /// Group as seen inside the sandbox.
        gid: u32,
    },
}

/// A node to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "all that mknod takes")]
pub struct Node {
    /// What it is.
    pub kind: NodeKind,
    /// The number of its driver; means nothing for a pipe.
    pub major: u32,
    /// Its number among those of the driver.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner as seen inside the sandbox.
    pub uid: u32,
    /// Group as seen inside the sandbox.
    pub gid: u32,
}

/// A kind of node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "the kernel has no others")]
pub enum NodeKind {
    /// A device of bytes.
    Character,
    /// A device of blocks.
    Block,
    /// A named pipe.
    Fifo,
}

impl std::fmt::Debug for Source {
    /// Shows everything but the content of [`Source::File`], which may be a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Overlay { lower, upper, work } => f
                .debug_struct("Overlay")
                .field("lower", lower)
                .field("upper", upper)
                .field("work", work)
                .finish(),
            Self::ReadOnlyOverlay { lower } => f
                .debug_struct("ReadOnlyOverlay")
                .field("lower", lower)
                .finish(),
            Self::Bind { path } => f.debug_struct("Bind").field("path", path).finish(),
            Self::Device { path } => f.debug_struct("Device").field("path", path).finish(),
            Self::Node(node) => f.debug_tuple("Node").field(node).finish(),
            Self::Tmpfs { size } => f.debug_struct("Tmpfs").field("size", size).finish(),
            Self::Cgroup => f.write_str("Cgroup"),
            Self::File {
                contents,
                mode,
                uid,
                gid,
            } => f
                .debug_struct("File")
                .field("bytes", &contents.len())
                .field("mode", &format_args!("{mode:#o}"))
                .field("uid", uid)
                .field("gid", gid)
                .finish_non_exhaustive(),
        }
    }
}
