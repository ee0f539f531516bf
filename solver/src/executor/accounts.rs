//! Users and groups of a tree: its `/etc/passwd` and `/etc/group`.
//!
//! Invariant: an id is never the result of an overflow. A number that does not fit is an error,
//! not another user (CVE-2024-40635: a large uid that became root).

use std::io::Read as _;

use crate::tree::{Kind, View, view::ResolveError};

/// Bytes of `/etc/passwd` or `/etc/group` that are read at most, as in BuildKit.
const MAX_FILE: u64 = 10 << 20;

/// The largest id that a name or a single number may stand for, as in containerd.
const MAX_ID: u32 = i32::MAX as u32;

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary group ids, without `gid`.
    pub groups: Vec<u32>,
}

/// A user or group cannot be told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccountError {
    /// The name is not in the file.
    #[error("unable to find {kind} {name}: no matching entry in {file}")]
    NotFound {
        /// `user` or `group`.
        kind: &'static str,
        /// The name that was asked for.
        name: String,
        /// `/etc/passwd` or `/etc/group`.
        file: &'static str,
    },
    /// An id is out of range or not a number.
    #[error("{text:?} is not a valid id of {name}: ids are 0 to {MAX_ID}")]
    Id {
        /// The user or group.
        name: String,
        /// What stands where its id should be.
        text: String,
    },
    /// The file is too large to be read.
    #[error("{file} exceeds {MAX_FILE} bytes")]
    TooLarge {
        /// `/etc/passwd` or `/etc/group`.
        file: &'static str,
    },
    /// The file is something else than a regular file.
    #[error("{file} is not a regular file")]
    NotAFile {
        /// `/etc/passwd` or `/etc/group`.
        file: &'static str,
    },
    /// The file leads in circles.
    #[error("cannot find {file}")]
    Resolve {
        /// `/etc/passwd` or `/etc/group`.
        file: &'static str,
        /// Why.
        #[source]
        source: ResolveError,
    },
    /// The file cannot be read.
    #[error("cannot read {file}")]
    Read {
        /// `/etc/passwd` or `/etc/group`.
        file: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// The names of a tree, as text.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    text: Vec<u8>,
}

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

impl Accounts {
    /// The users of a tree; none if it has no `/etc/passwd`.
    pub(crate) fn users(view: &View) -> Result<Self, AccountError> {
        Self::read(view, PASSWD)
    }

    /// The groups of a tree; none if it has no `/etc/group`.
    pub(crate) fn groups(view: &View) -> Result<Self, AccountError> {
        Self::read(view, GROUP)
    }

    fn read(view: &View, file: &'static str) -> Result<Self, AccountError> {
        let (path, node) = match view.resolve(file.as_bytes(), true) {
            Ok(found) => found,
            Err(ResolveError::NotFound { .. } | ResolveError::NotADirectory { .. }) => {
                return Ok(Self::default());
            }
            Err(source) => return Err(AccountError::Resolve { file, source }),
        };
        let files = node.files().filter(|_| node.entry().kind == Kind::File);
        let files = files.ok_or(AccountError::NotAFile { file })?;
        let mut text = Vec::new();
        let read = files
            .open(&path)
            .and_then(|from| from.take(MAX_FILE + 1).read_to_end(&mut text));
        match read {
            Ok(length) if u64::try_from(length).is_ok_and(|length| length > MAX_FILE) => {
                Err(AccountError::TooLarge { file })
            }
            Ok(_) => Ok(Self { text }),
            Err(source) => Err(AccountError::Read { file, source }),
        }
    }

    /// The fields of each line.
    fn lines(&self) -> impl Iterator<Item = Vec<&[u8]>> {
        self.text
            .split(|&byte| byte == b'\n')
            .map(<[u8]>::trim_ascii)
            .filter(|line| !line.is_empty() && !line.starts_with(b"#"))
            .map(|line| line.split(|&byte| byte == b':').collect())
    }

    /// User and group id of the user of that name.
    pub(crate) fn user(&self, name: &str) -> Result<Option<(u32, u32)>, AccountError> {
        let line = self
            .lines()
            .find(|line| line.first() == Some(&name.as_bytes()));
        line.map(|line| Ok((line_id(&line, 2)?, line_id(&line, 3)?)))
            .transpose()
    }

    /// Group id of the group of that name.
    pub(crate) fn group(&self, name: &str) -> Result<Option<u32>, AccountError> {
        let line = self
            .lines()
            .find(|line| line.first() == Some(&name.as_bytes()));
        line.map(|line| line_id(&line, 2)).transpose()
    }

    /// Name and group id of the first user with that id. Damaged lines are passed over.
    fn user_of_id(&self, uid: u32) -> Option<(String, u32)> {
        self.lines().find_map(|line| {
            let name = String::from_utf8_lossy(line.first()?).into_owned();
            (line_id(&line, 2).ok()? == uid).then_some((name, line_id(&line, 3).ok()?))
        })
    }

    /// Where the first user with that id is at home.
    fn home_of_id(&self, uid: u32) -> Option<String> {
        self.lines().find_map(|line| {
            let is_it = line_id(&line, 2).ok()? == uid;
            let home = line.get(5).copied().unwrap_or_default();
            is_it.then(|| String::from_utf8_lossy(home).into_owned())
        })
    }

    /// The ids of the groups that list `name` as a member.
    fn memberships(&self, name: &str) -> Result<Vec<u32>, AccountError> {
        let is_member = |line: &Vec<&[u8]>| {
            let members = line.get(3).copied().unwrap_or_default();
            members
                .split(|&byte| byte == b',')
                .any(|member| member == name.as_bytes())
        };
        self.lines()
            .filter(is_member)
            .map(|line| line_id(&line, 2))
            .collect()
    }
}

fn line_id(line: &[&[u8]], field: usize) -> Result<u32, AccountError> {
    let text = String::from_utf8_lossy(line.get(field).copied().unwrap_or_default()).into_owned();
    let id = text.parse().ok().filter(|&id| id <= MAX_ID);
    id.ok_or_else(|| AccountError::Id {
        name: String::from_utf8_lossy(line.first().copied().unwrap_or_default()).into_owned(),
        text,
    })
}

/// A number as an id: `None` if it is no number at all.
fn numeric(text: &str) -> Result<Option<u32>, AccountError> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    let id = text.parse().ok().filter(|&id: &u32| id <= MAX_ID);
    id.map(Some).ok_or_else(|| AccountError::Id {
        name: text.to_owned(),
        text: text.to_owned(),
    })
}

/// Both ids given as numbers (or as `root`): no file is looked at.
fn numeric_pair(spec: &str) -> Option<User> {
    let id = |text: &str| {
        if text == "root" {
            Some(0)
        } else {
            plain_number(text)
        }
    };
    let (user, group) = spec.split_once(':')?;
    Some(User {
        uid: id(user)?,
        gid: id(group)?,
        groups: Vec::new(),
    })
}

/// Digits alone; the highest number is -1 to the kernel and means nobody.
fn plain_number(text: &str) -> Option<u32> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|&id| plain && id != u32::MAX)
}

/// Who `spec` (`user`, `uid`, `user:group`, ... or nothing) is in this tree. Nothing means root,
/// with root's groups. Blocks.
///
/// # Errors
/// [`AccountError`].
pub fn find_user(view: &View, spec: &str) -> Result<User, AccountError> {
    if let Some(user) = numeric_pair(spec) {
        return Ok(user);
    }
    if spec.is_empty() {
        // As the user 0, but a damaged file of a tree must not stop a build that asks for nobody.
        return Ok(named_user(view, "0", "").unwrap_or_default());
    }
    let mut parts = spec.split(':');
    let (user, group) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    named_user(view, user, group)
}

/// The directory in which the user `uid` of this tree is at home: `/` if the tree does not tell.
/// Blocks.
pub(crate) fn home(view: &View, uid: u32) -> String {
    let users = Accounts::users(view).ok();
    let home = users.and_then(|users| users.home_of_id(uid));
    home.filter(|home| !home.is_empty() && !home.contains('\0'))
        .unwrap_or_else(|| "/".to_owned())
}

fn named_user(view: &View, name: &str, group: &str) -> Result<User, AccountError> {
    let users = Accounts::users(view)?;
    let (uid, gid, known) = match numeric(if name.is_empty() { "0" } else { name })? {
        Some(uid) => match users.user_of_id(uid) {
            Some((name, gid)) => (uid, gid, Some(name)),
            None => (uid, 0, None),
        },
        None => {
            let (uid, gid) = users.user(name)?.ok_or_else(|| AccountError::NotFound {
                kind: "user",
                name: name.to_owned(),
                file: PASSWD,
            })?;
            (uid, gid, Some(name.to_owned()))
        }
    };
    let mut user = User {
        uid,
        gid,
        groups: Vec::new(),
    };
    if !group.is_empty() {
        user.gid = match numeric(group)? {
            Some(gid) => gid,
            None => {
                Accounts::groups(view)?
                    .group(group)?
                    .ok_or_else(|| AccountError::NotFound {
                        kind: "group",
                        name: group.to_owned(),
                        file: GROUP,
                    })?
            }
        };
    } else if let Some(known) = known {
        user.groups = Accounts::groups(view)?.memberships(&known)?;
        user.groups.retain(|&gid| gid != user.gid);
    }
    Ok(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts(text: &str) -> Accounts {
        Accounts {
            text: text.as_bytes().to_vec(),
        }
    }

    #[test]
    fn lines_give_ids() {
        let users = accounts("root:x:0:0:root:/root:/bin/sh\n# no\n\n bin:x:1:2:b:/:/bin/sh\n");
        assert_eq!(users.user("bin").unwrap(), Some((1, 2)));
        assert_eq!(users.user("# no").unwrap(), None);
        assert_eq!(users.user_of_id(1), Some(("bin".to_owned(), 2)));
        let groups = accounts("a:x:5:root,bin\nb:x:6:\nc:x:7:bin");
        assert_eq!(groups.group("b").unwrap(), Some(6));
        assert_eq!(groups.memberships("bin").unwrap(), [5, 7]);
    }

    #[test]
    fn ids_do_not_overflow() {
        for bad in ["4294967296", "-1", "2147483648", "", "x"] {
            let users = accounts(&format!("evil:x:{bad}:0"));
            assert!(
                matches!(users.user("evil"), Err(AccountError::Id { .. })),
                "{bad}"
            );
        }
        for bad in [
            "4294967296",
            "4294967295:0",
            "-1",
            "0:4294967296",
            "18446744073709551616",
        ] {
            assert!(find_user(&View::empty(), bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn users_without_files() {
        let ids = |spec| find_user(&View::empty(), spec).map(|user| (user.uid, user.gid));
        assert_eq!(ids("").unwrap(), (0, 0));
        assert_eq!(ids("7").unwrap(), (7, 0));
        assert_eq!(ids("7:8").unwrap(), (7, 8));
        assert_eq!(ids("root:root").unwrap(), (0, 0));
        assert!(matches!(
            ids("nobody"),
            Err(AccountError::NotFound { kind: "user", .. })
        ));
        assert!(matches!(
            ids("7:staff"),
            Err(AccountError::NotFound { kind: "group", .. })
        ));
    }
}
