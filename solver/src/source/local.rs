//! Directories that the caller lends to a solve, read in place.
//!
//! Owns [`LocalTree`], a scanned directory as a view, and [`LocalCache`], which remembers what was
//! read so that an unchanged directory costs one walk.
//!
//! Invariants:
//! - **The caller's files are only read**: never linked, never mounted, never written.
//! - **Nothing outside the directory is read**: no symbolic link is followed but the path of the
//!   directory itself, and those that follow paths resolve inside it.
//! - **No checksum outlives its bytes**: it is trusted only as long as inode, size, mode and both
//!   times are the same, and never if the file was so fresh that another change might not show.
//!   Where bytes are copied, the copy compares them with the checksum.
//! - What belongs to the source is what BuildKit's client would send; sockets are left out.
//!
//! Leaves to others: copying (`tree::writer`), checksums (`tree::checksum`), when a scan is made
//! and what its key is (`ops`).

mod cache;
mod files;
mod filter;
mod folder;
mod follow;
mod hint;
mod known;
mod metadata;
mod scan;

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ashlar_llb::patterns::BadPattern;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

pub use cache::LocalCache;

use self::cache::Shared;
use self::filter::Filter;
use self::folder::Folder;
use self::scan::Scan;
use crate::cancel::{Cancel, Cancelled};
use crate::clock::{Clock as _, SystemClock};
use crate::error::{Blame, Fault};
use crate::limits::Limits;
use crate::tree::{CopyItem, LayerWriter, Node, TreePath, View, WriteError};

/// Objects that are copied in one go.
const PORTION: usize = 2048;

/// What of a directory belongs to a source.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScanOptions {
    /// Only what these patterns of `.dockerignore` match, or a parent of which they match; empty
    /// means everything.
    pub include: Vec<String>,
    /// Not what these patterns of `.dockerignore` match, or a parent of which they match.
    pub exclude: Vec<String>,
    /// Paths that are included together with everything that symbolic links on the way lead to;
    /// components may be wildcards.
    pub follow_paths: Vec<String>,
    /// Keep owners instead of counting all as uid 0 and gid 0.
    pub keep_owners: bool,
    /// Count permissions as git does: 0755 for directories and for files that their owner may
    /// execute, 0644 for other files. So a checkout is the same whatever the umask it was made with.
    pub git_modes: bool,
    /// Only the names and attributes of files, in a file `.fsutil-metadata`, and the bytes of those
    /// that these patterns of `.dockerignore` match (`local.metadatatransfer` of BuildKit).
    pub metadata_only: Option<Vec<String>>,
    /// Directories that are lent under the same name with the same hint count as one for those who
    /// remember what they made of them ([`crate::tree::Files::lent`]). `None`: each path for itself.
    pub shared_key_hint: Option<String>,
    /// [`Limits::local_entries`] counts here.
    pub limits: Limits,
}

/// A local source cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalError {
    /// There is no such directory.
    #[error("the directory of local source `{name}` does not exist")]
    Missing {
        /// The name of the source.
        name: String,
    },
    /// What was lent is not a directory.
    #[error("what was lent as local source `{name}` is not a directory: {}", path.display())]
    NotADirectory {
        /// The name of the source.
        name: String,
        /// What was lent.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {action} {path} of local source `{name}`")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The name of the source.
        name: String,
        /// On which object.
        path: TreePath,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A pattern is malformed.
    #[error("a pattern of local source `{name}` is malformed")]
    Pattern {
        /// The name of the source.
        name: String,
        /// Which, and why.
        #[source]
        source: BadPattern,
    },
    /// There are more objects than the limit allows.
    #[error("local source `{name}` has more than {most} files")]
    TooMany {
        /// The name of the source.
        name: String,
        /// The limit.
        most: u64,
    },
    /// A path in it is longer than any layer may have.
    #[error("local source `{name}` has paths that are too long in {path}")]
    PathTooLong {
        /// The name of the source.
        name: String,
        /// The directory with the long names.
        path: TreePath,
    },
    /// A character device 0:0, which means a removed file to the overlay file system.
    #[error("{path} of local source `{name}` is a character device 0:0")]
    Whiteout {
        /// The name of the source.
        name: String,
        /// Which object.
        path: TreePath,
    },
    /// The work was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl Blame for LocalError {
    fn fault(&self) -> Fault {
        match self {
            Self::Io { .. } | Self::Cancelled(_) => Fault::Environment,
            _ => Fault::Input,
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Missing { name } => Some(format!("lend an existing directory as `{name}`")),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("make it readable, or leave it out with an exclude pattern".to_owned())
            }
            Self::TooMany { .. } => {
                Some("leave files out with exclude patterns, or raise the limit".to_owned())
            }
            Self::Whiteout { .. } => Some("leave it out with an exclude pattern".to_owned()),
            _ => None,
        }
    }
}

/// A lent directory as it was when it was scanned.
#[derive(Debug, Clone)]
pub struct LocalTree {
    name: String,
    view: View,
    folder: Arc<Folder>,
    shared: Arc<Shared>,
    /// Files and bytes that had been read before.
    before: (u64, u64),
}

impl LocalTree {
    /// Walks `directory`, which was lent under `name`, with two threads. No file is opened. Blocks.
    ///
    /// The files of the view are those of the directory, and may change: whoever copies them gets
    /// [`WriteError::InputChanged`] if they are not what their checksum says.
    ///
    /// # Errors
    /// [`LocalError`]. A relative path is relative to the working directory of the process.
    ///
    /// # Cancellation
    /// Looked for before each directory.
    pub fn scan(
        name: &str,
        directory: &Path,
        options: &ScanOptions,
        cache: &LocalCache,
        cancel: &Cancel,
    ) -> Result<Self, LocalError> {
        let failed = |action, source| {
            let (name, path) = (name.to_owned(), TreePath::root());
            LocalError::Io {
                action,
                name,
                path,
                source,
            }
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, directory, flags, Mode::empty()).map_err(|error| match error {
            Errno::NOENT => LocalError::Missing {
                name: name.to_owned(),
            },
            Errno::NOTDIR => LocalError::NotADirectory {
                name: name.to_owned(),
                path: directory.to_owned(),
            },
            error => failed("open", error.into()),
        })?;
        let include = follow::follow(root.as_fd(), &options.include, &options.follow_paths)
            .map_err(|source| failed("follow the paths", source))?;
        let filter =
            Filter::new(&include, &options.exclude).map_err(|source| LocalError::Pattern {
                name: name.to_owned(),
                source,
            })?;
        // The time before anything is looked at, by the clock that stamps files.
        let start = SystemClock.now().into();
        let shared = cache
            .shared(root, directory, [options.keep_owners, options.git_modes])
            .map_err(|source| failed("open", source))?;
        let filters = (include, options.exclude.clone());
        let before = shared.files.read();
        let scan = Scan {
            name,
            files: &shared.files,
            filter: &filter,
            keep_owners: options.keep_owners,
            git_modes: options.git_modes,
            most: options.limits.local_entries,
            start,
            cancel,
        };
        let folder = scan.run(shared.tree(&filters))?;
        shared.remember(filters, &folder);
        let mut view = View::new(folder.node.clone());
        if let Some(exceptions) = &options.metadata_only {
            view = metadata::only(&view, exceptions).map_err(|source| LocalError::Pattern {
                name: name.to_owned(),
                source,
            })?;
        }
        if let Some(hint) = &options.shared_key_hint {
            view = hint::hinted(&view, name, hint, options);
        }
        Ok(Self {
            name: name.to_owned(),
            view,
            folder,
            shared,
            before,
        })
    }

    /// The tree. Its root counts as a plain directory of root, whatever the mode of the directory
    /// is: it is not part of what BuildKit's client sends.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The name under which the directory was lent.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many files of the directory were opened to compute checksums since the scan; 0 if
    /// nothing changed since an earlier solve.
    pub fn files_read(&self) -> u64 {
        self.shared.files.read().0 - self.before.0
    }

    /// How many bytes these files have.
    pub fn bytes_read(&self) -> u64 {
        self.shared.files.read().1 - self.before.1
    }

    /// Writes down what was learnt of the files by reading them, for other processes and later
    /// times. Does nothing if nothing is new. Meant for after the solve. Blocks.
    ///
    /// # Errors
    /// As the operating system says; nothing is lost but time.
    pub fn store_stat_cache(&self, cache: &LocalCache) -> io::Result<()> {
        cache.store(&self.shared, || {
            let seen = scan::inodes(&self.folder);
            move |inode| seen.binary_search(&inode).is_ok()
        })
    }
}

/// Copies the whole tree, for those who need files that do not change.
///
/// # Errors
/// [`WriteError`]; [`WriteError::InputChanged`] if a file is not what it was when it was scanned.
///
/// # Cancellation
/// As [`LayerWriter::copy`].
pub fn materialize(
    tree: &LocalTree,
    writer: &mut LayerWriter,
    cancel: &Cancel,
) -> Result<(), WriteError> {
    let item = |path: &TreePath, node: &Arc<Node>| CopyItem {
        source: node.clone(),
        source_path: path.clone(),
        destination: path.clone(),
        attributes: node.entry().attributes.clone(),
        link_group: match node.entry().link_group {
            0 => None,
            group => Some(group.into()),
        },
    };
    let mut directories = Vec::new();
    let mut linked = Vec::new();
    for (path, node) in tree.view().walk() {
        if node.entry().is_directory() {
            directories.push(item(&path, node));
        } else if node.entry().link_group != 0 {
            linked.push(item(&path, node));
        }
    }
    writer.copy(directories.clone(), cancel)?;
    // In portions, for the sake of memory; names of one inode must be in the same.
    let plain = |node: &Node| !node.entry().is_directory() && node.entry().link_group == 0;
    let mut rest = tree
        .view()
        .walk()
        .filter(|(_, node)| plain(node))
        .peekable();
    while rest.peek().is_some() {
        let portion = rest
            .by_ref()
            .take(PORTION)
            .map(|(path, node)| item(&path, node));
        writer.copy(portion.collect(), cancel)?;
    }
    writer.copy(linked, cancel)?;
    // Their times again, which creating files in them has changed.
    writer.copy(directories, cancel)
}

#[cfg(test)]
mod tests;
