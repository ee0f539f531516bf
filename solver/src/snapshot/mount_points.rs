//! Places for the mounts that every process gets.
//!
//! Most images have no `/etc/hosts`. A place for it that is made in the writable layer has to be
//! removed from there when the process has ended, and its directory with it. So there is a directory
//! with all such places, which is mounted below the layers: it shows only what they do not have.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, RenameFlags, chmodat, mkdirat, mknodat};

use super::{LayerStore, SnapshotError};
use crate::tree::TreePath;

/// The places: directories end with a slash.
const PLACES: [&str; 6] = [
    "etc/",
    "etc/hosts",
    "etc/resolv.conf",
    "dev/",
    "proc/",
    "sys/",
];

/// The paths of the places.
pub fn mount_points() -> Vec<TreePath> {
    let path = |place: &str| TreePath::new(place.trim_end_matches('/'));
    let paths: Result<_, _> = PLACES.into_iter().map(path).collect();
    paths.expect("BUG: the places are paths")
}

impl LayerStore {
    /// The directory to mount below the layers of a root; made when it is first needed. Blocks.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn mount_points(&self) -> Result<&Path, SnapshotError> {
        if let Some(path) = self.0.mount_points.get() {
            return Ok(path);
        }
        let path = make(self)?;
        Ok(self.0.mount_points.get_or_init(|| path))
    }
}

fn make(store: &LayerStore) -> Result<PathBuf, SnapshotError> {
    let path = store.root().path().join("flat/mount-points");
    if path.exists() {
        return Ok(path);
    }
    let error = |source: io::Error| SnapshotError::Io {
        action: "make the mount points",
        layer: "flat/mount-points".to_owned(),
        source,
    };
    let temporary = store.new_layer()?;
    let fs = temporary.fs();
    for place in PLACES {
        let (made, mode) = match place.ends_with('/') {
            true => (mkdirat(fs, place, Mode::RWXU), 0o755),
            false => (
                mknodat(fs, place, FileType::RegularFile, Mode::RUSR, 0),
                0o644,
            ),
        };
        // Whatever the caller's umask.
        made.and_then(|()| chmodat(fs, place, Mode::from(mode), AtFlags::empty()))
            .map_err(|errno| error(errno.into()))?;
    }
    let from = format!("{}/fs", temporary.id());
    let flags = RenameFlags::NOREPLACE;
    match rustix::fs::renameat_with(store.root().layers(), from, CWD, &path, flags) {
        // Another process was faster.
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(path),
        Err(errno) => Err(error(errno.into())),
    }
}
