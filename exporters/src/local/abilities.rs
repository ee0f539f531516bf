//! What the file system of a destination can do, found out in the directory where an export is
//! prepared.

use std::cell::OnceCell;

use rustix::fs::{
    AtFlags, Mode, OFlags, Timespec, Timestamps, linkat, openat, statat, symlinkat, utimensat,
};
use rustix::io::Result;

use super::stage::Stage;

#[derive(Debug, Default)]
pub(super) struct Abilities {
    hard_links: OnceCell<bool>,
    link_times: OnceCell<bool>,
}

impl Abilities {
    /// Whether a file can have two names.
    pub(super) fn hard_links(&self, stage: &Stage) -> bool {
        *self.hard_links.get_or_init(|| {
            let directory = &stage.directory;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
            let made = openat(directory, "one", flags, Mode::RUSR | Mode::WUSR);
            let linked =
                made.and_then(|_| linkat(directory, "one", directory, "two", AtFlags::empty()));
            linked.is_ok()
        })
    }

    /// Whether a symbolic link has a time of its own. sshfs sets that of the file that it leads to,
    /// which may be any on the server; so this is tried on one that leads nowhere.
    pub(super) fn link_times(&self, stage: &Stage) -> bool {
        const SECONDS: i64 = 1_000_000_000;
        let try_it = || -> Result<bool> {
            let directory = &stage.directory;
            symlinkat("nowhere", directory, "link")?;
            let time = Timespec {
                tv_sec: SECONDS,
                tv_nsec: 0,
            };
            let times = Timestamps {
                last_access: time,
                last_modification: time,
            };
            utimensat(directory, "link", &times, AtFlags::SYMLINK_NOFOLLOW)?;
            let stat = statat(directory, "link", AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(stat.st_mtime == SECONDS)
        };
        *self.link_times.get_or_init(|| try_it().unwrap_or(false))
    }
}
