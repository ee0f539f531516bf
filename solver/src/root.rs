//! The state root: the directory that holds everything the engine keeps, shared by processes.
//!
//! ```text
//! <root>/               0700, owned by one uid
//!   format              "ashlar-store 2", the uid and the tier; written last when a root is made
//!   meta.db             cache keys, stacks, blobs of layers (module `meta`)
//!   blobs/sha256/<hex>  compressed layers, manifests, configs (module `content`)
//!   layers/<id>/        fs/ and index; the index is written last and is the commit
//!   flat/<hex>/         runs of small layers as one directory, for deep overlay mounts
//!   flat/mount-points/  places for mounts, below the layers of every root
//!   cache-mounts/<hex>/ directories of `RUN --mount=type=cache`
//!   stat/<hex>          checksums of local files by stat, per directory (module `source::local`)
//!   outputs/            notes of the files that exports wrote (`notes` of `ashlar-exporters`)
//!   locks/<hex>         runs that a process is at, and layers that it unpacks: locked files
//!   sessions/<hex>      one locked file per open root: the prefix of the ids of its new layers
//!   trash/              what is being removed
//! ```
//!
//! Invariants: **a root belongs to one uid and one tier**; a layer directory without an index
//! whose session file nobody locks is left over from a killed process and goes to the trash.

mod locks;
mod remove;

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{
    AtFlags, CWD, Dir, FlockOperation, Mode, OFlags, fchmod, flock, fstat, mkdirat, openat,
    renameat, statat, unlinkat,
};

pub use locks::RootLock;
pub use remove::remove_tree;

use crate::error::{Blame, Fault};
use crate::id::LayerId;

/// The first line of `format`.
const FORMAT: &str = "ashlar-store 2";

/// Directories of a root.
const FOLDERS: [&str; 9] = [
    "blobs",
    "blobs/sha256",
    "layers",
    "flat",
    "cache-mounts",
    "stat",
    "locks",
    "sessions",
    "trash",
];

/// Whether the engine may set owners, make devices and mount as the machine's root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tier {
    /// Root of the machine: owners, devices and modes are real on disk.
    Root,
    /// An ordinary user: owners, devices, and modes and attributes that the user may not set,
    /// live in the index of a layer alone.
    User,
}

impl Tier {
    /// The tier of the current process: root if its effective uid is 0.
    pub fn current() -> Self {
        if rustix::process::geteuid().is_root() {
            Self::Root
        } else {
            Self::User
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::User => "user",
        }
    }
}

/// A state root cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootError {
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The directory is not empty and was not made by this engine, or by a newer one.
    #[error("{} is not a state root of this version (format `{found}`)", path.display())]
    Format {
        /// The root.
        path: PathBuf,
        /// The first line of its format file, or what stands in its place.
        found: String,
    },
    /// The root was made by another user or as another tier.
    #[error("{} belongs to {owner}, this process is {me}", path.display())]
    Owner {
        /// The root.
        path: PathBuf,
        /// Uid and tier that made it.
        owner: String,
        /// Uid and tier of this process.
        me: String,
    },
}

impl Blame for RootError {
    fn fault(&self) -> Fault {
        match self {
            Self::Io { .. } => Fault::Environment,
            Self::Format { .. } | Self::Owner { .. } => Fault::Input,
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Io { .. } => None,
            Self::Format { .. } => Some("choose an empty directory".to_owned()),
            Self::Owner { .. } => Some("give each user a root of its own".to_owned()),
        }
    }
}

/// An open state root. While it lives, layers it made count as in use.
#[derive(Debug)]
pub struct StateRoot {
    path: PathBuf,
    dir: OwnedFd,
    layers: OwnedFd,
    trash: OwnedFd,
    locks: Arc<OwnedFd>,
    tier: Tier,
    boot_id: String,
    session: Session,
    trash_names: AtomicU64,
}

/// The locked file that marks the layers of this process as in use.
#[derive(Debug)]
struct Session {
    prefix: u32,
    /// Held for its lock.
    _file: OwnedFd,
    next: AtomicU64,
}

impl StateRoot {
    /// Opens the root at `path`, making it if the directory is missing or empty, and clears what
    /// killed processes left.
    ///
    /// # Errors
    /// [`RootError`].
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, RootError> {
        let path = path.into();
        let io = |action: &'static str, path: &Path| {
            let path = path.to_path_buf();
            move |source: rustix::io::Errno| RootError::Io {
                action,
                path,
                source: source.into(),
            }
        };
        std::fs::create_dir_all(&path).map_err(|source| RootError::Io {
            action: "make directory",
            path: path.clone(),
            source,
        })?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(CWD, &path, flags, Mode::empty()).map_err(io("open", &path))?;
        let tier = Tier::current();
        check_owner(&path, &dir, tier)?;
        match read_small(dir.as_fd(), "format") {
            Ok(text) => {
                check_format(&path, &text, tier)?;
                close_to_others(&dir).map_err(io("set the mode of", &path))?;
            }
            Err(rustix::io::Errno::NOENT) => make(&path, dir.as_fd(), tier)?,
            Err(source) => return Err(io("read", &path.join("format"))(source)),
        }
        let open = |name: &str| {
            openat(&dir, name, flags, Mode::empty()).map_err(io("open", &path.join(name)))
        };
        let (layers, trash, sessions) = (open("layers")?, open("trash")?, open("sessions")?);
        let locks = Arc::new(open("locks")?);
        let session = Session::start(sessions.as_fd()).map_err(io("lock", &path))?;
        let boot_id = read_small(CWD, "/proc/sys/kernel/random/boot_id")
            .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned());
        let root = Self {
            path,
            dir,
            layers,
            trash,
            locks,
            tier,
            boot_id,
            session,
            trash_names: AtomicU64::new(0),
        };
        root.clear_stale(sessions.as_fd());
        root.clear_locks();
        Ok(root)
    }

    /// Where the root is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The root directory.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// The directory `layers/`.
    pub fn layers(&self) -> BorrowedFd<'_> {
        self.layers.as_fd()
    }

    /// Opens one of the directories of the root.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn folder(&self, name: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(openat(&self.dir, name, flags, Mode::empty())?)
    }

    /// Whether this process is root.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// Names the boot of the machine, so that records can tell whether it went down since.
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// A layer id that this process has not used before. The directory may still exist from an
    /// earlier session with the same prefix: make it exclusively and ask again if so.
    pub fn next_layer_id(&self) -> LayerId {
        let next = self.session.next.fetch_add(1, Ordering::Relaxed);
        LayerId::from_bits(u64::from(self.session.prefix) << 20 | next & 0xf_ffff)
    }

    /// Removes the directory or file `name` below the open directory `from`: first out of sight,
    /// by renaming it into the trash, then for good. What cannot be removed stays in the trash
    /// until the root is next opened.
    pub fn discard(&self, from: BorrowedFd<'_>, name: &str) {
        if let Ok(grave) = self.bury(from, name) {
            self.clear(&grave);
        }
    }

    /// The first half of [`StateRoot::discard`]: renames into the trash, and returns the name
    /// there.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn bury(&self, from: BorrowedFd<'_>, name: &str) -> io::Result<String> {
        let number = self.trash_names.fetch_add(1, Ordering::Relaxed);
        let grave = format!("{:05x}-{number}", self.session.prefix);
        renameat(from, name, &self.trash, &grave)?;
        Ok(grave)
    }

    /// The second half: removes what [`StateRoot::bury`] named, for good.
    pub fn clear(&self, grave: &str) {
        let _left = remove_tree(self.trash.as_fd(), grave);
    }

    /// Whether this process made the layer in this session.
    pub fn is_own(&self, id: LayerId) -> bool {
        id.bits() >> 20 == u64::from(self.session.prefix)
    }

    /// Whether the process that made the layer still has the root open, so that it may be about
    /// to use it.
    pub fn is_in_session(&self, id: LayerId) -> bool {
        let name = format!("sessions/{:05x}", id.bits() >> 20);
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        self.is_own(id)
            || openat(&self.dir, name, flags, Mode::empty())
                .is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_err())
    }

    /// Sends the whole file system of the root to disk. Blocks.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.dir)?)
    }

    /// Bytes that are taken on the file system of the root, by whomever, whether they are on disk
    /// yet or not; 0 if it does not tell.
    pub fn used_bytes(&self) -> u64 {
        rustix::fs::fstatvfs(&self.dir).map_or(0, |space| {
            space
                .f_blocks
                .saturating_sub(space.f_bfree)
                .saturating_mul(space.f_frsize)
        })
    }

    /// Clears the layers of sessions that nobody locks, and the trash of such sessions.
    fn clear_stale(&self, sessions: BorrowedFd<'_>) {
        let mut live = vec![format!("{:05x}", self.session.prefix)];
        let mut stale = Vec::new();
        for name in names(sessions) {
            if live.contains(&name) {
                continue;
            }
            match lock_existing(sessions, &name) {
                Some(file) => stale.push((name, file)),
                None => live.push(name),
            }
        }
        if !stale.is_empty() {
            let prefixes: Vec<u64> = stale
                .iter()
                .filter_map(|(name, _)| u64::from_str_radix(name, 16).ok())
                .collect();
            for name in names(self.layers.as_fd()) {
                let Ok(id) = name.parse::<LayerId>() else {
                    continue;
                };
                let index = format!("{name}/index");
                if prefixes.contains(&(id.bits() >> 20))
                    && statat(&self.layers, &index, AtFlags::SYMLINK_NOFOLLOW).is_err()
                {
                    self.discard(self.layers.as_fd(), &name);
                }
            }
        }
        for name in names(self.trash.as_fd()) {
            if !live.iter().any(|live| name.starts_with(live.as_str())) {
                let _left = remove_tree(self.trash.as_fd(), &name);
            }
        }
        for (name, file) in stale {
            let _gone = unlinkat(sessions, &name, AtFlags::empty());
            drop(file);
        }
    }
}

impl Drop for StateRoot {
    fn drop(&mut self) {
        let name = format!("sessions/{:05x}", self.session.prefix);
        let _gone = unlinkat(&self.dir, name, AtFlags::empty());
    }
}

impl Session {
    fn start(sessions: BorrowedFd<'_>) -> rustix::io::Result<Self> {
        loop {
            let mut random = [0; 4];
            rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
            let prefix = u32::from_le_bytes(random) & 0xf_ffff;
            let name = format!("{prefix:05x}");
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
            let file = match openat(sessions, &name, flags, Mode::from(0o600)) {
                Err(rustix::io::Errno::EXIST) => continue,
                file => file?,
            };
            flock(&file, FlockOperation::LockExclusive)?;
            // Another process may have taken it for stale before it was locked.
            if fstat(&file)?.st_nlink > 0 {
                return Ok(Self {
                    prefix,
                    _file: file,
                    next: AtomicU64::new(0),
                });
            }
        }
    }
}

/// Locks the session file `name` if nobody else does.
fn lock_existing(sessions: BorrowedFd<'_>, name: &str) -> Option<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = openat(sessions, name, flags, Mode::empty()).ok()?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    (fstat(&file).ok()?.st_nlink > 0).then_some(file)
}

fn names(dir: BorrowedFd<'_>) -> Vec<String> {
    let Ok(entries) = Dir::read_from(dir) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned))
        .filter(|name| name != "." && name != "..")
        .collect()
}

fn read_small(dir: BorrowedFd<'_>, name: &str) -> rustix::io::Result<String> {
    let file = openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = String::new();
    let read = std::fs::File::from(file)
        .take(4096)
        .read_to_string(&mut text);
    read.map_err(|error| {
        rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO)
    })?;
    Ok(text)
}

fn identity(tier: Tier) -> String {
    format!(
        "uid {}, tier {}",
        rustix::process::geteuid().as_raw(),
        tier.name()
    )
}

/// Another user's directory is no place for what this one trusts, whatever it says inside.
fn check_owner(path: &Path, dir: &OwnedFd, tier: Tier) -> Result<(), RootError> {
    let stat = fstat(dir).map_err(|source| RootError::Io {
        action: "look at",
        path: path.to_path_buf(),
        source: source.into(),
    })?;
    if stat.st_uid == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    Err(RootError::Owner {
        path: path.to_path_buf(),
        owner: format!("uid {}", stat.st_uid),
        me: identity(tier),
    })
}

/// Takes away what somebody may have allowed others since the root was made.
fn close_to_others(dir: &OwnedFd) -> rustix::io::Result<()> {
    let mode = Mode::from_raw_mode(fstat(dir)?.st_mode);
    if mode.intersects(Mode::RWXG | Mode::RWXO) {
        fchmod(dir, Mode::RWXU)?;
    }
    Ok(())
}

fn check_format(path: &Path, text: &str, tier: Tier) -> Result<(), RootError> {
    let mut lines = text.lines();
    let found = lines.next().unwrap_or_default();
    if found != FORMAT {
        return Err(RootError::Format {
            path: path.to_path_buf(),
            found: found.to_owned(),
        });
    }
    let (owner, me) = (lines.next().unwrap_or_default(), identity(tier));
    if owner != me {
        return Err(RootError::Owner {
            path: path.to_path_buf(),
            owner: owner.to_owned(),
            me,
        });
    }
    Ok(())
}

/// Makes a root in an empty directory. Two processes may do so at once.
fn make(path: &Path, dir: BorrowedFd<'_>, tier: Tier) -> Result<(), RootError> {
    let known = |name: &String| {
        FOLDERS.contains(&name.as_str())
            || name.starts_with("format")
            || name.starts_with("meta.db")
    };
    if let Some(found) = names(dir).into_iter().find(|name| !known(name)) {
        // Unless another process made the root since, and works in it by now.
        return match read_small(dir, "format") {
            Ok(text) => check_format(path, &text, tier),
            Err(_) => Err(RootError::Format {
                path: path.to_path_buf(),
                found,
            }),
        };
    }
    let io = |action: &'static str, name: &str| {
        let path = path.join(name);
        move |source: io::Error| RootError::Io {
            action,
            path,
            source,
        }
    };
    fchmod(dir, Mode::from(0o700)).map_err(|error| io("set the mode of", "")(error.into()))?;
    for name in FOLDERS {
        match mkdirat(dir, name, Mode::from(0o700)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(io("make directory", name)(error.into())),
        }
    }
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| io("make", "format")(error.into()))?;
    let temporary = format!("format.{:016x}", u64::from_le_bytes(random));
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(dir, &temporary, flags, Mode::from(0o600))
        .map_err(|error| io("make", "format")(error.into()))?;
    std::fs::File::from(file)
        .write_all(format!("{FORMAT}\n{}\n", identity(tier)).as_bytes())
        .map_err(io("write", "format"))?;
    renameat(dir, &temporary, dir, "format").map_err(|error| io("make", "format")(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_made_once_and_opened_by_many() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/root");
        let one = StateRoot::open(&path).unwrap();
        let two = StateRoot::open(&path).unwrap();
        assert_ne!(one.next_layer_id(), two.next_layer_id());
        let mode = statat(CWD, &path, AtFlags::empty()).unwrap().st_mode;
        assert_eq!(mode & 0o777, 0o700);
        drop((one, two));
        assert_eq!(std::fs::read_dir(path.join("sessions")).unwrap().count(), 0);
    }

    #[test]
    fn a_root_that_another_process_just_made_is_as_good() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root");
        let root = StateRoot::open(&path).unwrap();
        std::fs::write(path.join("meta.lock"), "").unwrap();
        make(&path, root.dir(), root.tier()).unwrap();
        std::fs::remove_file(path.join("format")).unwrap();
        let refused = make(&path, root.dir(), root.tier());
        assert!(
            matches!(&refused, Err(RootError::Format { found, .. }) if found == "meta.lock"),
            "{refused:?}"
        );
    }

    #[test]
    fn class_17_nobody_else_gets_in() {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root");
        let set = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        std::fs::create_dir(&path).unwrap();
        set(&path, 0o777);
        let root = StateRoot::open(&path).unwrap();
        let mode = |path: &Path| std::fs::symlink_metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        for name in FOLDERS {
            assert_eq!(mode(&path.join(name)), 0o700, "{name}");
        }
        let session = std::fs::read_dir(path.join("sessions"))
            .unwrap()
            .next()
            .unwrap();
        for file in [path.join("format"), session.unwrap().path()] {
            assert_eq!(mode(&file), 0o600, "{}", file.display());
        }
        drop(root);
        // What was opened up later is closed again.
        set(&path, 0o755);
        drop(StateRoot::open(&path).unwrap());
        assert_eq!(mode(&path), 0o700);
        // A directory that another user prepared says that it is ours.
        let theirs = folder.path().join("theirs");
        drop(StateRoot::open(&theirs).unwrap());
        let empty = folder.path().join("empty");
        std::fs::create_dir(&empty).unwrap();
        let mut foreign = vec![Path::new("/usr")];
        if Tier::current() == Tier::Root {
            foreign = vec![&theirs, &empty];
            for path in &foreign {
                std::os::unix::fs::chown(path, Some(1000), None).unwrap();
            }
        }
        for path in foreign {
            let error = StateRoot::open(path).unwrap_err();
            assert!(matches!(error, RootError::Owner { .. }), "{error}");
        }
        assert_eq!(std::fs::read_dir(&empty).unwrap().count(), 0);
    }

    #[test]
    fn a_foreign_directory_or_owner_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("letter"), "x").unwrap();
        assert!(matches!(
            StateRoot::open(folder.path()),
            Err(RootError::Format { .. })
        ));
        let folder = tempfile::tempdir().unwrap();
        drop(StateRoot::open(folder.path()).unwrap());
        std::fs::write(
            folder.path().join("format"),
            format!("{FORMAT}\nuid 4242, tier user\n"),
        )
        .unwrap();
        assert!(matches!(
            StateRoot::open(folder.path()),
            Err(RootError::Owner { .. })
        ));
        std::fs::write(folder.path().join("format"), "ashlar-store 99\n").unwrap();
        assert!(matches!(
            StateRoot::open(folder.path()),
            Err(RootError::Format { .. })
        ));
    }

    #[test]
    fn what_a_killed_process_left_is_cleared() {
        let folder = tempfile::tempdir().unwrap();
        drop(StateRoot::open(folder.path()).unwrap());
        let layers = folder.path().join("layers");
        let id = LayerId::from_bits(0x12345 << 20 | 7).to_string();
        let kept = LayerId::from_bits(0x12345 << 20 | 8).to_string();
        let other = LayerId::from_bits(0x54321 << 20 | 8).to_string();
        for name in [&id, &kept, &other] {
            std::fs::create_dir_all(layers.join(name).join("fs/sub")).unwrap();
        }
        std::fs::write(layers.join(&kept).join("index"), "").unwrap();
        std::fs::write(folder.path().join("sessions/12345"), "").unwrap();
        std::fs::create_dir_all(folder.path().join("trash/12345-0/x")).unwrap();
        let root = StateRoot::open(folder.path()).unwrap();
        assert!(!layers.join(&id).exists());
        assert!(layers.join(&kept).exists() && layers.join(&other).exists());
        assert!(!folder.path().join("trash/12345-0").exists());
        assert!(!folder.path().join("sessions/12345").exists());
        drop(root);
    }
}
