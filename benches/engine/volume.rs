//! Where files are written: a fresh ext4 where that is possible.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A directory for one group of rows. Gone when dropped.
#[derive(Debug)]
pub struct Volume {
    folder: tempfile::TempDir,
    mounted: bool,
}

impl Volume {
    /// Makes and mounts an ext4 of that many MiB; without the right to, a plain directory.
    pub fn fresh(megabytes: usize) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory can be made");
        let image = folder.path().join("image");
        let mount = folder.path().join("mount");
        std::fs::create_dir(&mount).expect("a directory can be made");
        let size = (megabytes as u64) << 20;
        let mounted = std::fs::File::create(&image)
            .and_then(|file| file.set_len(size))
            .is_ok()
            && quiet(Command::new("mkfs.ext4").arg("-q").arg(&image))
            && quiet(
                Command::new("mount")
                    .arg("-o")
                    .arg("loop")
                    .arg(&image)
                    .arg(&mount),
            );
        if !mounted {
            println!(
                "(no loop mount here: files are written to {})",
                mount.display()
            );
        }
        Self { folder, mounted }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mount")
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.mounted {
            quiet(Command::new("umount").arg("-l").arg(self.path()));
        }
    }
}

/// Runs a command, and tells whether it succeeded.
pub fn quiet(command: &mut Command) -> bool {
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

/// Whether a program is installed.
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| Path::new(&folder).join(program).exists())
}
