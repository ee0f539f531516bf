//! What an action does to a tree, decided from the tree alone: nothing is written here.

use bytes::Bytes;

use ashlar_llb::pb;

use super::FileProblem;
use super::resolve::{matches, nearest, root_path};
use crate::tree::writer::CopyItem;
use crate::tree::{Attributes, Kind, Timestamp, TreePath, View};

/// One thing to be written, in order.
#[derive(Debug)]
pub(super) enum Step {
    Remove(TreePath),
    MakeDirectory(TreePath, Attributes),
    WriteFile(TreePath, Attributes, Bytes),
    MakeSymlink(TreePath, Bytes, Attributes),
    SetAttributes(TreePath, Attributes),
    Copy(Vec<CopyItem>),
}

/// User and group that an action names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// What new objects get.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    /// Owner; `None`: root, or that of the source of a copy.
    pub(super) owner: Option<Owner>,
    /// Time; `None`: now, or that of the source of a copy.
    pub(super) time: Option<Timestamp>,
    /// Now.
    pub(super) now: Timestamp,
}

impl Settings {
    /// Attributes of something new in `parent`, which hands down its group if it is setgid.
    pub(super) fn created(&self, mode: u32, parent: Option<&Attributes>) -> Attributes {
        let inherited = parent
            .filter(|parent| parent.mode & 0o2000 != 0)
            .map(|parent| parent.gid);
        Attributes {
            mode,
            uid: self.owner.map_or(0, |owner| owner.uid),
            gid: self.owner.map_or(inherited.unwrap_or(0), |owner| owner.gid),
            mtime: self.time.unwrap_or(self.now),
            ..Attributes::default()
        }
    }

    /// Attributes of a new directory in `parent`, which hands down that it is setgid too, as the
    /// kernel does where nobody changes the mode afterwards.
    fn created_directory(&self, mode: u32, parent: &Attributes) -> Attributes {
        self.created(mode | parent.mode & 0o2000, Some(parent))
    }
}

/// A time of LLB: -1 is none.
pub(super) fn timestamp(nanoseconds: i64) -> Option<Timestamp> {
    (nanoseconds != -1).then(|| Timestamp::from_nanoseconds(nanoseconds))
}

/// Permission bits of a mode of LLB.
#[expect(clippy::cast_sign_loss, reason = "the mask leaves no sign")]
pub(super) fn permissions(mode: i32) -> u32 {
    (mode & 0o777) as u32
}

fn absolute(path: &str) -> Result<&[u8], FileProblem> {
    if path.contains('\0') {
        return Err(FileProblem::Path {
            path: path.to_owned(),
        });
    }
    Ok(path.as_bytes())
}

/// The attributes of the directory that holds `path`.
fn parent<'a>(view: &'a View, path: &TreePath) -> Result<&'a Attributes, FileProblem> {
    let parent = path.parent().unwrap_or_default();
    let node = view.lookup(&parent).ok_or_else(|| FileProblem::NotFound {
        nearest: nearest(view, &parent),
        path: parent.clone(),
    })?;
    if !node.entry().is_directory() {
        return Err(FileProblem::NotADirectory { path: parent });
    }
    Ok(&node.entry().attributes)
}

/// The directories that are missing on the way to `path` and itself, outermost first. `path` leads
/// through no links.
pub(super) fn missing_directories(
    view: &View,
    path: &TreePath,
    mode: u32,
    settings: &Settings,
) -> Result<Vec<(TreePath, Attributes)>, FileProblem> {
    let mut node = Some(view.root());
    let mut at = TreePath::root();
    let mut above = view.root().entry().attributes.clone();
    let mut made = Vec::new();
    for part in path.components() {
        at = at.join(part).map_err(|_| FileProblem::Path {
            path: path.to_string(),
        })?;
        node = node.and_then(|node| node.child(part));
        match node {
            Some(node) if node.entry().is_directory() => {
                above.clone_from(&node.entry().attributes);
            }
            Some(_) => return Err(FileProblem::NotADirectory { path: at }),
            None => {
                above = settings.created_directory(mode, &above);
                made.push((at.clone(), above.clone()));
            }
        }
    }
    Ok(made)
}

/// Steps that make directories, and those that give them their time once they are filled.
pub(super) fn make_directories(
    made: Vec<(TreePath, Attributes)>,
    settings: &Settings,
) -> (Vec<Step>, Vec<Step>) {
    let filled = made
        .iter()
        .rev()
        .skip(1)
        .filter(|_| settings.time.is_some());
    let last = filled
        .map(|(path, it)| Step::SetAttributes(path.clone(), it.clone()))
        .collect();
    let first = made
        .into_iter()
        .map(|(path, it)| Step::MakeDirectory(path, it))
        .collect();
    (first, last)
}

/// Makes a directory. One that exists is left as it is, whatever it is.
pub(super) fn mkdir(
    view: &View,
    action: &pb::FileActionMkDir,
    settings: &Settings,
) -> Result<Vec<Step>, FileProblem> {
    let path = root_path(view, absolute(&action.path)?, true)?;
    let mode = permissions(action.mode);
    if action.make_parents {
        let made = missing_directories(view, &path, mode, settings)?;
        let (mut steps, last) = make_directories(made, settings);
        steps.extend(last);
        return Ok(steps);
    }
    if view.lookup(&path).is_some() {
        return Ok(Vec::new());
    }
    let attributes = settings.created_directory(mode, parent(view, &path)?);
    Ok(vec![Step::MakeDirectory(path, attributes)])
}

/// Writes a file. One that exists keeps its mode, its extended attributes, and its owner unless
/// one is given, but not its capabilities, which the kernel takes from a file that is written to.
pub(super) fn mkfile(
    view: &View,
    action: &pb::FileActionMkFile,
    settings: &Settings,
) -> Result<Vec<Step>, FileProblem> {
    let path = root_path(view, absolute(&action.path)?, true)?;
    let mut kept = None;
    let attributes = match view.lookup(&path).map(|node| node.entry()) {
        None => settings.created(permissions(action.mode), Some(parent(view, &path)?)),
        Some(old) if old.kind == Kind::File => {
            let mut attributes = old.attributes.clone();
            attributes.mtime = settings.time.unwrap_or(settings.now);
            if let Some(owner) = settings.owner {
                (attributes.uid, attributes.gid) = (owner.uid, owner.gid);
                // The kernel takes these away when the owner changes. Setgid without a right to
                // execute means something else.
                attributes.mode &= !0o4000;
                if attributes.mode & 0o010 != 0 {
                    attributes.mode &= !0o2000;
                }
            }
            attributes.xattrs = attributes.xattrs.without(b"security.capability");
            // A file that gets other bytes changes nothing in its directory.
            let directory = path.parent().unwrap_or_default();
            let unchanged = parent(view, &path)?.clone();
            kept = Some(Step::SetAttributes(directory, unchanged));
            attributes
        }
        Some(_) => return Err(FileProblem::NotAFile { path }),
    };
    let write = Step::WriteFile(path, attributes, action.data.clone());
    Ok([write].into_iter().chain(kept).collect())
}

/// Makes a symbolic link where nothing is.
pub(super) fn symlink(
    view: &View,
    action: &pb::FileActionSymlink,
    settings: &Settings,
) -> Result<Vec<Step>, FileProblem> {
    let path = root_path(view, absolute(&action.newpath)?, true)?;
    let target = absolute(&action.oldpath)?;
    if target.is_empty() {
        return Err(FileProblem::Path {
            path: action.oldpath.clone(),
        });
    }
    if view.lookup(&path).is_some() {
        return Err(FileProblem::Exists { path });
    }
    let attributes = settings.created(0o777, Some(parent(view, &path)?));
    Ok(vec![Step::MakeSymlink(
        path,
        Bytes::copy_from_slice(target),
        attributes,
    )])
}

/// Removes a path, or all that match. What is not there is an error unless allowed; a wildcard
/// without a match never is.
pub(super) fn remove(view: &View, action: &pb::FileActionRm) -> Result<Vec<Step>, FileProblem> {
    let asked = absolute(&action.path)?;
    let paths = if action.allow_wildcard {
        matches(view, asked, false)?
    } else {
        vec![TreePath::clean(asked).unwrap_or_default()]
    };
    let mut steps = Vec::new();
    for path in paths {
        let Some(name) = path.name() else {
            return Err(FileProblem::RemovesRoot);
        };
        let above = root_path(view, path.parent().unwrap_or_default().as_bytes(), true)?;
        if view
            .lookup(&above)
            .is_some_and(|node| !node.entry().is_directory())
        {
            return Err(FileProblem::NotADirectory { path: above });
        }
        let place = above.join(name).map_err(|_| FileProblem::Path {
            path: path.to_string(),
        })?;
        // Links count by what they lead to: a dangling one is not there.
        let exists = !matches!(
            view.resolve(place.as_bytes(), true),
            Err(crate::tree::view::ResolveError::NotFound { .. })
        );
        if !exists && !action.allow_not_found {
            return Err(FileProblem::NotFound {
                nearest: nearest(view, &path),
                path,
            });
        }
        if view.lookup(&place).is_some() {
            steps.push(Step::Remove(place));
        }
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Entry, Node, Xattrs};

    #[test]
    fn a_file_that_is_written_anew_has_no_rights_of_the_old_one() {
        let mut attributes = Attributes {
            mode: 0o6755,
            ..Attributes::default()
        };
        let pair = |name: &[u8]| (Box::from(name), Box::from(&b"v"[..]));
        attributes.xattrs = Xattrs::new([pair(b"security.capability"), pair(b"user.a")]);
        let old = Node::leaf(Entry::new(Kind::File, attributes), None);
        let view = View::empty().with(&TreePath::new("f").unwrap(), old);
        let written = |owner, mode| {
            let mut view = view.clone();
            let path = TreePath::new("f").unwrap();
            let mut entry = view.lookup(&path).unwrap().entry().clone();
            entry.attributes.mode = mode;
            view = view.with_entry(&path, entry, None);
            let settings = Settings {
                owner,
                time: None,
                now: Timestamp::default(),
            };
            let action = pb::FileActionMkFile {
                path: "/f".into(),
                mode: 0o600,
                ..pb::FileActionMkFile::default()
            };
            let steps = mkfile(&view, &action, &settings).unwrap();
            let [
                Step::WriteFile(_, attributes, _),
                Step::SetAttributes(directory, _),
            ] = <[Step; 2]>::try_from(steps).unwrap()
            else {
                panic!("a file is written, and the time of its directory stays");
            };
            assert_eq!(directory, TreePath::root());
            attributes
        };
        let kept = written(None, 0o6755);
        assert_eq!((kept.mode, kept.xattrs.iter().count()), (0o6755, 1));
        assert_eq!(kept.xattrs.value(b"user.a"), Some(&b"v"[..]));
        let owner = Some(Owner { uid: 1, gid: 2 });
        assert_eq!(written(owner, 0o6755).mode, 0o755);
        // Not executable by its group: setgid means something else then, and stays.
        assert_eq!(written(owner, 0o6644).mode, 0o2644);
    }
}
