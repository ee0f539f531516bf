//! Where files are written: a fresh ext4 on a loop device, or a plain directory.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::Outcome;
use crate::sample::shell;
use crate::table::note;

/// An empty file system of its own; unmounted and removed when dropped.
#[derive(Debug)]
pub(crate) struct Space {
    path: PathBuf,
    mounted: bool,
    /// Whether its bytes pass by the page cache of the file system below.
    direct: bool,
    _folder: TempDir,
}

impl Space {
    /// Makes a file system that can hold `gigabytes`.
    pub(crate) fn new(gigabytes: u32) -> Outcome<Self> {
        let folder = TempDir::with_prefix("ashlar-bench-")?;
        let image = folder.path().join("image");
        let path = folder.path().join("files");
        std::fs::create_dir(&path)?;
        // Nothing is left to be initialised behind the measurement's back.
        let mounted = shell(&format!(
            "exec 2>/dev/null; truncate -s {gigabytes}G {image} && \
             mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 {image} && \
             mount -o loop {image} {path} && rmdir {path}/lost+found && sync -f {path}",
            image = image.display(),
            path = path.display(),
        ))
        .is_ok();
        // Else each byte is in memory twice, and the copy below costs what the system is at just then.
        let direct = mounted
            && shell(&format!(
                "exec 2>/dev/null; losetup --direct-io=on $(findmnt -n -o SOURCE {})",
                path.display()
            ))
            .is_ok();
        Ok(Self {
            path,
            mounted,
            direct,
            _folder: folder,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until everything is on disk; says how long it took.
    pub(crate) fn sync(&self) -> Outcome<Duration> {
        shell(&format!("sync -f {}", self.path.display()))
    }

    /// Says in the table what the rows below were measured on.
    pub(crate) fn announce(&self) {
        note(match (self.mounted, self.direct) {
            (true, true) => {
                "below: on a fresh ext4 with a journal, on a loop device with direct I/O"
            }
            (true, false) => "below: on a fresh ext4 with a journal, on a loop device",
            (false, _) => {
                "below: in the directory for temporary files; no loop device can be mounted"
            }
        });
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        if self.mounted {
            let _left = Command::new("umount").arg(&self.path).status();
        }
    }
}
