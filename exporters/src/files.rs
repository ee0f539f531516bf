//! Results as files: what [`Local`](crate::Local) and [`Tar`](crate::Tar) write.
//!
//! Owns [`FileOptions`] and [`Part`]: for each platform a tree, the directory that it goes into,
//! and the statements beside it.
//!
//! Invariant: **a part has one directory and its statements one name each**, which are single
//! components. What is named from outside (ids of platforms, paths of attestations, prefixes) and
//! would be anything else is refused.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::sync::Arc;

use ashlar_llb::BlobDigest;
use ashlar_llb::path::join_bytes;
use ashlar_solver::cancel::Cancel;
use ashlar_solver::result::{BuildResult, MakeContext};
use ashlar_solver::tree::{Attributes, Entry, Kind, Node, Timestamp, TreePath, View};
use sha2::{Digest as _, Sha256};

use crate::platforms::{Target, targets};
use crate::statement::{StatementSubject, predicates};
use crate::{Epoch, ExportError};

/// What can be asked of an output of files.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct FileOptions {
    /// The time of every file and directory (`source-date-epoch`). Default: that of the result's
    /// metadata, else each has its own.
    pub epoch: Epoch,
    /// What the names of statements begin with (`attestation-prefix`). Default: nothing.
    pub attestation_prefix: String,
    /// Whether each platform has a directory of its own, such as `linux_arm64` (`platform-split`).
    /// Default: if the result is in map form. An archive always has them then. Without, names of
    /// statements tell the platform.
    pub platform_split: Option<bool>,
}

/// The methods of an exporter of files that fill its field `options`.
macro_rules! file_options {
    () => {
        /// Sets `SOURCE_DATE_EPOCH`: the time of every file and directory, in seconds since 1970.
        #[must_use]
        pub fn source_date_epoch(mut self, seconds: i64) -> Self {
            self.options.epoch = crate::Epoch::At(seconds);
            self
        }

        /// Sets everything that can be asked of the files.
        #[must_use]
        pub fn options(mut self, options: FileOptions) -> Self {
            self.options = options;
            self
        }
    };
}

pub(crate) use file_options;

/// The files of one platform.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// The directory that they go into; none for the top.
    pub(crate) directory: Option<TreePath>,
    pub(crate) view: View,
    /// The time of all of them.
    pub(crate) epoch: Option<Timestamp>,
    /// Statements at the top, by name.
    pub(crate) statements: BTreeMap<Vec<u8>, Arc<[u8]>>,
    /// The time of statements without an epoch.
    pub(crate) now: Timestamp,
}

impl Part {
    /// The time of something that has `own`.
    pub(crate) fn time(&self, own: Timestamp) -> Timestamp {
        self.epoch.unwrap_or(own)
    }

    /// What everything in it is below.
    pub(crate) fn prefix(&self) -> TreePath {
        self.directory.clone().unwrap_or_default()
    }

    /// Where a symbolic link leads to that has this target. As in BuildKit, one from the root leads
    /// from the directory that the files go into, if they go into one.
    pub(crate) fn link_target<'t>(&self, target: &'t [u8]) -> Cow<'t, [u8]> {
        match &self.directory {
            Some(directory) if target.starts_with(b"/") => {
                join_bytes(&[b"/", directory.as_bytes(), target]).into()
            }
            _ => target.into(),
        }
    }
}

/// Something that is written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Item<'a> {
    /// An object of the result.
    Node(&'a Arc<Node>),
    /// A statement.
    Statement(&'a Arc<[u8]>),
}

impl Part {
    /// All that is in it, each directory before what it has. A statement stands in place of an
    /// object of its name.
    pub(crate) fn items(&self) -> impl Iterator<Item = (TreePath, Item<'_>)> {
        let mut walk = self.view.walk().peekable();
        let mut statements = self.statements.iter().peekable();
        std::iter::from_fn(move || {
            loop {
                let top = walk.peek().and_then(|(path, _)| path.components().next());
                let order = match (statements.peek(), top) {
                    (None, _) => Ordering::Greater,
                    (Some(_), None) => Ordering::Less,
                    (Some((name, _)), Some(top)) => name.as_slice().cmp(top),
                };
                match order {
                    Ordering::Equal => drop(walk.next()),
                    Ordering::Greater => {
                        let (path, node) = walk.next()?;
                        return Some((path, Item::Node(node)));
                    }
                    Ordering::Less => {
                        let (name, text) = statements.next()?;
                        let path = TreePath::new(name.as_slice());
                        let path = path.expect("BUG: names of statements are checked");
                        return Some((path, Item::Statement(text)));
                    }
                }
            }
        })
    }
}

/// The entry of the directory of a platform.
pub(crate) fn directory_entry(part: &Part) -> Entry {
    let attributes = Attributes {
        mode: 0o755,
        mtime: part.epoch.unwrap_or_default(),
        ..Attributes::default()
    };
    Entry::new(Kind::Directory, attributes)
}

/// The entry of a statement.
pub(crate) fn statement_entry(part: &Part, text: &[u8]) -> Entry {
    let attributes = Attributes {
        mode: 0o600,
        mtime: part.time(part.now),
        ..Attributes::default()
    };
    let mut entry = Entry::new(Kind::File, attributes);
    entry.size = text.len() as u64;
    entry
}

/// Which hard-link group a node is of, if it is: its layer and number.
pub(crate) fn link_group(node: &Node) -> Option<(usize, u32)> {
    let files = node.files()?;
    let group = node.entry().link_group;
    (group != 0).then(|| (Arc::as_ptr(files).cast::<()>() as usize, group))
}

/// The parts of a result. With `split` each goes into a directory. Blocks.
pub(crate) fn parts(
    result: &BuildResult,
    options: &FileOptions,
    split: bool,
    cancel: &Cancel,
) -> Result<Vec<Part>, ExportError> {
    let now = Timestamp {
        nanoseconds: 0,
        ..Timestamp::from(result.store.clock().now())
    };
    let mut parts = Vec::new();
    for target in targets(result)? {
        let name = target.id.replace('/', "_");
        let directory = split.then(|| component(&name)).transpose()?;
        let view = target.reference.view_until(cancel)?;
        // As in BuildKit, what is asked for counts, whether there are directories or not.
        let is_split = options.platform_split.unwrap_or(result.is_map());
        let suffix = (result.is_map() && !is_split).then_some(name);
        let statements = statements(result, &target, &view, options, suffix, cancel)?;
        parts.push(Part {
            directory,
            view,
            epoch: options.epoch.moment(result, &target.id)?,
            statements,
            now,
        });
    }
    if !split {
        disjoint(&parts)?;
    }
    Ok(parts)
}

/// A name as one component of a path.
fn component(name: &str) -> Result<TreePath, ExportError> {
    let invalid = || ExportError::Option {
        reason: format!("`{}` is no name of a file", name.escape_debug()),
    };
    let path = TreePath::new(name).map_err(|_| invalid())?;
    match path.components().count() {
        1 => Ok(path),
        _ => Err(invalid()),
    }
}

/// What is attested of a tree, as files.
fn statements(
    result: &BuildResult,
    target: &Target<'_>,
    view: &View,
    options: &FileOptions,
    suffix: Option<String>,
    cancel: &Cancel,
) -> Result<BTreeMap<Vec<u8>, Arc<[u8]>>, ExportError> {
    let mut statements = BTreeMap::new();
    let attested = result.attestations.get(&target.id).into_iter().flatten();
    let predicates = predicates(
        attested.filter(|each| !each.is_inline_only()),
        &MakeContext::new(cancel),
    )?;
    if predicates.is_empty() {
        return Ok(statements);
    }
    let subjects = subjects(view, cancel)?;
    for predicate in predicates {
        let base = predicate.path.trim_end_matches('/').rsplit('/').next();
        let mut name = format!("{}{}", options.attestation_prefix, base.unwrap_or_default());
        if let Some(suffix) = &suffix {
            // Go's extension: all from the last point on.
            let (stem, extension) = name.split_at(name.rfind('.').unwrap_or(name.len()));
            name = format!("{stem}.{suffix}{extension}");
        }
        let path = component(&name)?;
        let text = predicate.indented(&subjects)?;
        let name = path.as_bytes().to_vec();
        if statements.insert(name, text.into()).is_some() {
            return Err(ExportError::Option {
                reason: format!("two attestations would be written to {path}"),
            });
        }
    }
    Ok(statements)
}

/// Every regular file and its digest.
fn subjects(view: &View, cancel: &Cancel) -> Result<Vec<StatementSubject>, ExportError> {
    let mut subjects = Vec::new();
    let mut buffer = vec![0; 128 << 10];
    for (path, node) in view.walk() {
        cancel.check()?;
        if node.entry().kind != Kind::File {
            continue;
        }
        let failed = |error| ExportError::io("read", path.as_relative())(error);
        let mut hasher = Sha256::new();
        if let Some(files) = node.files() {
            let mut file = files.open(&path).map_err(failed)?;
            loop {
                cancel.check()?;
                match file.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(length) => hasher.update(&buffer[..length]),
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(failed(error)),
                }
            }
        }
        let digest = BlobDigest::from_bytes(hasher.finalize().into());
        let name = String::from_utf8_lossy(path.as_bytes()).into_owned();
        subjects.push(StatementSubject::new(name, &digest));
    }
    Ok(subjects)
}

/// Parts that go into one directory must not have files of one name.
fn disjoint(parts: &[Part]) -> Result<(), ExportError> {
    if parts.len() < 2 {
        return Ok(());
    }
    let (mut files, mut directories) = (BTreeSet::new(), BTreeSet::new());
    for part in parts {
        let mut of_part = BTreeSet::new();
        for (path, item) in part.items() {
            let is_directory = match item {
                Item::Node(node) => node.entry().is_directory(),
                Item::Statement(_) => false,
            };
            let known = match is_directory {
                true => {
                    directories.insert(path.clone());
                    files.contains(&path)
                }
                false => {
                    of_part.insert(path.clone());
                    files.contains(&path) || directories.contains(&path)
                }
            };
            if known {
                return Err(ExportError::Option {
                    reason: format!("two platforms have {path}, and each no directory of its own"),
                });
            }
        }
        files.append(&mut of_part);
    }
    Ok(())
}
