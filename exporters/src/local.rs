//! The files of a result in a directory.
//!
//! An export has two stages. First everything is written into a directory of its own beside or in
//! the destination (`write`); what the destination has already is left out. Then it is moved to
//! where it belongs, by renames alone (`place`).

mod abilities;
mod away;
mod beneath;
mod compare;
mod known;
mod moves;
mod place;
mod stage;
mod write;

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ashlar_solver::cancel::Cancel;
use ashlar_solver::result::BuildResult;
use ashlar_solver::solver::Durability;
use async_trait::async_trait;
use rustix::fs::syncfs;
use rustix::io::retry_on_intr;

use crate::ExportError;
use crate::durable::{WriteOut, durability_option, sync_name};
use crate::exporter::{self, Exported, Exporter, Prepared, blocking};
use crate::files::{FileOptions, file_options, parts};
use known::Known;
use stage::Stage;

/// What becomes of files that are at the destination and not in the result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LocalMode {
    /// They stay.
    #[default]
    Copy,
    /// They are removed: the destination becomes a mirror of the result.
    Delete,
}

/// Writes the files of a result into a directory.
///
/// As with BuildKit's client, files belong to the user that exports; modes, times and extended
/// attributes are kept as far as that user may set them, and the directory itself keeps its own.
/// Nothing is written outside of it: a symbolic link in the way is replaced, never followed. Files
/// that are there already with the same bytes and attributes are not written again, and those that nobody
/// changed since an export from the same state directory are not even read. Files with several names
/// are always written.
///
/// Everything is written beside its place first, which takes room for old and new files at the same
/// time, and then moved. A failure or a cancel leaves the destination as it was. So does a kill, but
/// for the milliseconds in which files are moved; each file is the old or the new one even then,
/// and a destination that was not there is either not there or complete.
///
/// File systems on FUSE (sshfs, bindfs) and NFS cannot exchange two files in one step. There a file
/// that takes the place of a directory or link, and a directory that takes that of a file, are missing
/// for a moment; where there are no hard links either, each file that is replaced. What a kill in that
/// moment leaves in a directory `.ashlar-….partial` of the destination, the next export into it puts
/// back. Modes, times, extended attributes and hard links are kept as far as a file system has them;
/// without locks nothing keeps two exports apart that go to one directory at the same time.
///
/// What cannot be put back after a failure stays in a directory `.ashlar-….kept`, which the error
/// names and no later export touches.
#[derive(Debug, Clone)]
pub struct Local {
    path: PathBuf,
    mode: LocalMode,
    verify: bool,
    durability: Durability,
    pub(crate) options: FileOptions,
}

impl Local {
    /// Exports into `path`, which is made if it is missing.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            mode: LocalMode::default(),
            verify: false,
            durability: Durability::default(),
            options: FileOptions::default(),
        }
    }

    /// Sets what becomes of files that are not in the result. Default: they stay.
    #[must_use]
    pub fn mode(mut self, mode: LocalMode) -> Self {
        self.mode = mode;
        self
    }

    /// Sets whether what was written is read again, and compared with the result, before it is
    /// moved to its place; and what is there already in any case. Default: no.
    #[must_use]
    pub fn verify(mut self, verify: bool) -> Self {
        self.verify = verify;
        self
    }

    durability_option!();

    file_options!();

    fn run(&self, result: &BuildResult, cancel: &Cancel) -> Result<Prepared, ExportError> {
        let split = self.options.platform_split.unwrap_or(result.is_map());
        let parts = parts(result, &self.options, split, cancel)?;
        let stage = Stage::new(&self.path)?;
        let failed = |error| ExportError::io("sync", &self.path)(error);
        let durability = self.durability;
        let out = WriteOut::of_files(stage.tree.as_fd(), durability).map_err(failed)?;
        let out = out.map(Mutex::new);
        // Whoever has it verified has all of it read.
        let known = (!self.verify).then(|| Known::of(&result.store, &self.path));
        let unchanged = write::write(&stage, &parts, known.as_ref(), out.as_ref(), cancel)?;
        if self.verify {
            compare::verify(&stage, &parts, &unchanged, cancel)?;
        }
        if let Some(out) = out {
            let out = out.into_inner().unwrap_or_else(PoisonError::into_inner);
            out.finish().map_err(failed)?;
        }
        let (mode, path) = (self.mode, self.path.clone());
        Ok(Prepared::new(Exported::default(), move |cancel| {
            blocking(move || {
                place::place(stage, &parts, &unchanged, mode, durability, &cancel)?;
                if let Some(known) = known {
                    known.learn_written(&parts, &unchanged, &path, &cancel);
                    known.keep();
                }
                if durability == Durability::Synced {
                    sync_files(&path)?;
                    sync_name(&path)?;
                }
                Ok(())
            })
        }))
    }
}

/// Brings everything on the file system of a directory to disk.
fn sync_files(directory: &Path) -> Result<(), ExportError> {
    let opened = std::fs::File::open(directory);
    let synced = opened.and_then(|opened| Ok(retry_on_intr(|| syncfs(&opened))?));
    synced.map_err(ExportError::io("sync", directory))
}

#[async_trait]
impl Exporter for Local {
    async fn prepare(
        &self,
        result: &BuildResult,
        cancel: &Cancel,
    ) -> Result<Prepared, ExportError> {
        exporter::prepare("local", self, result, cancel, Self::run).await
    }
}
