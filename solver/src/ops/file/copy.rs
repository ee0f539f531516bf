//! What a copy does: which objects go where, with which attributes.
//!
//! Source and destination are walked together, so that what a copy meets at its destination is
//! known without a look at the file system.

use std::collections::HashMap;
use std::sync::Arc;

use ashlar_llb::patterns::{BadPattern, ParentMatches, PatternMatcher, PatternProblem};
use ashlar_llb::pb;

use super::FileProblem;
use super::error::Stop;
use super::mode::ModeChange;
use super::plan::{Settings, Step, make_directories, missing_directories};
use super::resolve::{matches, nearest, root_path};
use crate::cancel::Cancel;
use crate::tree::writer::CopyItem;
use crate::tree::{Attributes, Entry, Kind, Node, Timestamp, TreePath, View, Xattrs};

/// A copy action, its options read.
#[derive(Debug)]
pub(super) struct Copy<'a> {
    action: &'a pb::FileActionCopy,
    settings: Settings,
    mode: Mode,
    include: Option<PatternMatcher>,
    exclude: Option<PatternMatcher>,
}

#[derive(Debug)]
enum Mode {
    Keep,
    Fixed(u32),
    Change(ModeChange),
}

/// What one source of a copy does.
#[derive(Debug, Default)]
pub(super) struct CopyPlan {
    /// Directories that the destination lacks.
    pub(super) first: Vec<Step>,
    /// What is in the way.
    pub(super) removed: Vec<TreePath>,
    /// What is copied.
    pub(super) items: Vec<CopyItem>,
    /// Attributes of directories that exist.
    pub(super) last: Vec<Step>,
    /// Where the source itself goes.
    pub(super) target: TreePath,
}

impl CopyPlan {
    /// Takes in another plan that was made for the same tree. Gives it back if it could meet what
    /// this one does, so that it must be made again for the tree after this one.
    pub(super) fn join(&mut self, other: Self) -> Result<(), Self> {
        let apart = self.target.parent() == other.target.parent()
            && !self
                .items
                .iter()
                .any(|item| item.destination == other.target);
        if !apart || !self.first.is_empty() || !other.first.is_empty() {
            return Err(other);
        }
        self.removed.extend(other.removed);
        // Link groups are those of one source each.
        let base = self
            .items
            .iter()
            .filter_map(|item| item.link_group)
            .max()
            .map_or(0, |id| id + 1);
        self.items
            .extend(other.items.into_iter().map(|item| CopyItem {
                link_group: item.link_group.map(|id| id + base),
                ..item
            }));
        self.last.extend(other.last);
        self.target = other.target;
        Ok(())
    }

    pub(super) fn steps(self) -> Vec<Step> {
        let mut steps = self.first;
        steps.extend(self.removed.into_iter().map(Step::Remove));
        if !self.items.is_empty() {
            steps.push(Step::Copy(self.items));
        }
        steps.extend(self.last);
        steps
    }
}

fn matcher(patterns: &[String]) -> Result<Option<PatternMatcher>, FileProblem> {
    if patterns.is_empty() {
        return Ok(None);
    }
    PatternMatcher::new(patterns)
        .map(Some)
        .map_err(|error| bad_pattern(&error))
}

fn bad_pattern(error: &BadPattern) -> FileProblem {
    let reason = match error.problem() {
        PatternProblem::Syntax => "syntax error",
        PatternProblem::TooLong => "it has more than 64 KiB",
        _ => "it is one of too many, or of too costly ones",
    };
    FileProblem::Pattern {
        pattern: error.pattern().to_owned(),
        reason: reason.to_owned(),
    }
}

fn clean(path: &str) -> Result<TreePath, FileProblem> {
    TreePath::clean(path.as_bytes()).map_err(|_| FileProblem::Path {
        path: path.to_owned(),
    })
}

fn directory_node(attributes: Attributes) -> Arc<Node> {
    Node::directory(Entry::new(Kind::Directory, attributes), None, Vec::new())
}

impl<'a> Copy<'a> {
    pub(super) fn new(
        action: &'a pb::FileActionCopy,
        settings: Settings,
    ) -> Result<Self, FileProblem> {
        let mode = if !action.mode_str.is_empty() {
            Mode::Change(ModeChange::parse(&action.mode_str)?)
        } else {
            #[expect(clippy::cast_sign_loss, reason = "the mask leaves no sign")]
            let bits = (action.mode & 0o7777) as u32;
            if action.mode == -1 {
                Mode::Keep
            } else {
                Mode::Fixed(bits)
            }
        };
        let include = matcher(&action.include_patterns)?;
        let exclude = matcher(&action.exclude_patterns)?;
        Ok(Self {
            action,
            settings,
            mode,
            include,
            exclude,
        })
    }

    /// The sources: the path, or what matches it. Checks the destination's parent if it must
    /// exist.
    pub(super) fn sources(&self, source: &View, view: &View) -> Result<Vec<Source>, FileProblem> {
        if !self.action.create_dest_path {
            let path = root_path(view, clean(&self.action.dest)?.as_bytes(), true)?;
            let parent = path.parent().unwrap_or_default();
            if view.lookup(&parent).is_none() {
                return Err(FileProblem::NotFound {
                    nearest: nearest(view, &parent),
                    path: parent,
                });
            }
        }
        let path = clean(&self.action.src)?;
        if !self.action.allow_wildcard {
            let itself = self.action.src.ends_with("/.") || self.action.src == ".";
            return Ok(vec![Source {
                path,
                contents: itself,
            }]);
        }
        let found = matches(source, path.as_bytes(), self.action.follow_symlink)?;
        if found.is_empty() && !self.action.allow_empty_wildcard {
            return Err(FileProblem::NoMatch {
                pattern: path.to_string(),
                nearest: nearest(source, &path),
            });
        }
        Ok(found
            .into_iter()
            .map(|path| Source {
                path,
                contents: false,
            })
            .collect())
    }

    /// What copying one source onto `view` does.
    pub(super) fn plan(
        &self,
        source: &View,
        from: &Source,
        view: &View,
        cancel: &Cancel,
    ) -> Result<CopyPlan, Stop> {
        let mut plan = CopyPlan::default();
        let mut view = view.clone();
        let dest = clean(&self.action.dest)?;
        let names_directory = self.action.dest.ends_with('/') || self.action.dest.ends_with("/.");
        let holder = if names_directory {
            dest.clone()
        } else {
            dest.parent().unwrap_or_default()
        };
        let holder = root_path(&view, holder.as_bytes(), true)?;
        self.make_missing(&mut view, &holder, &mut plan)?;

        let path = root_path(source, from.path.as_bytes(), self.action.follow_symlink)?;
        let node = source.lookup(&path).ok_or_else(|| FileProblem::NotFound {
            nearest: nearest(source, &path),
            path: from.path.clone(),
        })?;
        let dest = root_path(&view, dest.as_bytes(), true)?;
        let existing = view.lookup(&dest).map(|node| node.entry().is_directory());
        let is_directory = node.entry().is_directory();
        let into = match existing {
            Some(_) if is_directory => !self.action.dir_copy_contents,
            Some(existing) => existing,
            None => false,
        };
        let name = from.path.name().filter(|_| into && !from.contents);
        plan.target = match name {
            Some(name) => dest.join(name).map_err(|_| FileProblem::Path {
                path: dest.to_string(),
            })?,
            None => dest,
        };
        let holder = if self.action.dir_copy_contents && is_directory && existing.is_none() {
            plan.target.clone()
        } else {
            plan.target.parent().unwrap_or_default()
        };
        self.make_missing(&mut view, &holder, &mut plan)?;

        let target = plan.target.clone();
        let mut walk = Walk {
            copy: self,
            cancel,
            plan: &mut plan,
            above: Vec::new(),
            links: HashMap::new(),
        };
        walk.all(Object {
            node,
            path,
            below: TreePath::root(),
            existing: view.lookup(&target),
            target,
            included: ParentMatches::default(),
            excluded: ParentMatches::default(),
        })?;
        Ok(plan)
    }

    /// Plans the directories missing on the way to `path`, and adds them to `view`.
    fn make_missing(
        &self,
        view: &mut View,
        path: &TreePath,
        plan: &mut CopyPlan,
    ) -> Result<(), FileProblem> {
        let mode = if let Mode::Fixed(mode) = self.mode {
            mode & 0o777
        } else {
            0o755
        };
        let made = missing_directories(view, path, mode, &self.settings)?;
        for (path, attributes) in &made {
            *view = view.with(path, directory_node(attributes.clone()));
        }
        if self.settings.time.is_some() {
            // What is copied into the last one would change its time too.
            let last = made.last().cloned();
            plan.last
                .extend(last.map(|(path, it)| Step::SetAttributes(path, it)));
        }
        let (first, last) = make_directories(made, &self.settings);
        plan.first.extend(first);
        plan.last.extend(last);
        Ok(())
    }

    /// The attributes of a copy of `source`.
    fn attributes(&self, source: &Entry, is_root: bool) -> Attributes {
        let old = &source.attributes;
        // The root of a tree that nobody gave a time counts as made now: BuildKit's is the
        // directory into which the tree was just written.
        let own = match old.mtime {
            time if is_root && time == Timestamp::default() => self.settings.now,
            time => time,
        };
        let mode = match &self.mode {
            _ if source.kind == Kind::Symlink => old.mode,
            Mode::Keep => old.mode,
            Mode::Fixed(mode) => *mode,
            Mode::Change(change) => change.apply(old.mode, source.is_directory()),
        };
        Attributes {
            mode,
            uid: self.settings.owner.map_or(old.uid, |owner| owner.uid),
            gid: self.settings.owner.map_or(old.gid, |owner| owner.gid),
            mtime: self.settings.time.unwrap_or(own),
            xattrs: old.xattrs.clone(),
        }
    }
}

/// A source of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    /// Its path, links not followed.
    pub(super) path: TreePath,
    /// Whether it was written with a `/.` behind it: it is copied onto the destination, not into.
    contents: bool,
}

/// One object on the way.
struct Object<'v> {
    node: &'v Arc<Node>,
    /// Where it is in its tree.
    path: TreePath,
    /// Where it is below the source; the root for the source itself.
    below: TreePath,
    /// Where it goes.
    target: TreePath,
    /// What is there.
    existing: Option<&'v Arc<Node>>,
    /// What the patterns said of the directory that holds it.
    included: ParentMatches,
    excluded: ParentMatches,
}

/// A directory on the way down.
struct Above<'v> {
    node: &'v Arc<Node>,
    path: TreePath,
    below: TreePath,
    target: TreePath,
    existing: Option<&'v Arc<Node>>,
    /// Whether it was copied. One that only holds something that matches waits for it.
    copied: bool,
    /// What is still to be looked at.
    children: std::slice::Iter<'v, (Arc<[u8]>, Arc<Node>)>,
    /// What the patterns said of it.
    included: ParentMatches,
    excluded: ParentMatches,
}

struct Walk<'p, 'v> {
    copy: &'p Copy<'p>,
    cancel: &'p Cancel,
    plan: &'p mut CopyPlan,
    above: Vec<Above<'v>>,
    /// Numbers of hard links, by the layer they are in and their number there.
    links: HashMap<(usize, u32), u64>,
}

/// What the patterns say.
struct Matched {
    include: bool,
    excluded: bool,
    included_matches: ParentMatches,
    excluded_matches: ParentMatches,
}

impl<'v> Walk<'_, 'v> {
    /// Goes through the source and all below it, without recursion: trees may be deep.
    fn all(&mut self, top: Object<'v>) -> Result<(), Stop> {
        self.object(top)?;
        while let Some(above) = self.above.last_mut() {
            let Some((name, node)) = above.children.next() else {
                self.above.pop();
                continue;
            };
            let join = |path: &TreePath| {
                path.join(name).map_err(|_| FileProblem::Path {
                    path: path.to_string(),
                })
            };
            let object = Object {
                node,
                path: join(&above.path)?,
                below: join(&above.below)?,
                target: join(&above.target)?,
                existing: above.existing.and_then(|existing| existing.child(name)),
                included: above.included.clone(),
                excluded: above.excluded.clone(),
            };
            self.object(object)?;
        }
        Ok(())
    }

    fn object(&mut self, object: Object<'v>) -> Result<(), Stop> {
        let matched = self.matched(&object)?;
        let is_directory = object.node.entry().is_directory();
        if !matched.include && !is_directory {
            return Ok(());
        }
        let mut existing = object.existing;
        if matched.include {
            let merges = is_directory && existing.is_some_and(|it| it.entry().is_directory());
            if self.copy.action.always_replace_existing_dest_paths && existing.is_some() && !merges
            {
                self.plan.removed.push(object.target.clone());
                existing = None;
            }
            self.copy_above()?;
        }
        if is_directory {
            return self.directory(Object { existing, ..object }, matched);
        }
        if existing.is_some_and(|it| it.entry().is_directory()) {
            return Err(FileProblem::ReplacesDirectory {
                path: object.target,
            }
            .into());
        }
        self.item(object.node, object.path, object.target);
        Ok(())
    }

    fn matched(&self, object: &Object<'v>) -> Result<Matched, FileProblem> {
        let mut matched = Matched {
            include: true,
            excluded: false,
            included_matches: ParentMatches::default(),
            excluded_matches: ParentMatches::default(),
        };
        if object.below.is_root() {
            return Ok(matched);
        }
        let below = object.below.as_bytes();
        if let Some(include) = &self.copy.include {
            (matched.include, matched.included_matches) = include
                .matches_with_parent(below, &object.included)
                .map_err(|error| bad_pattern(&error))?;
        }
        if let Some(exclude) = &self.copy.exclude {
            (matched.excluded, matched.excluded_matches) = exclude
                .matches_with_parent(below, &object.excluded)
                .map_err(|error| bad_pattern(&error))?;
            matched.include &= !matched.excluded;
        }
        Ok(matched)
    }

    fn directory(&mut self, object: Object<'v>, matched: Matched) -> Result<(), Stop> {
        let exceptions = self
            .copy
            .exclude
            .as_ref()
            .is_some_and(PatternMatcher::has_exclusions);
        if !matched.include && self.copy.include.is_none() && !exceptions {
            return Ok(());
        }
        self.cancel.check()?;
        if matched.include {
            self.make(&object)?;
        }
        if !matched.excluded || exceptions {
            self.above.push(Above {
                node: object.node,
                path: object.path,
                below: object.below,
                target: object.target,
                existing: object.existing,
                copied: matched.include,
                children: object.node.children().iter(),
                included: matched.included_matches,
                excluded: matched.excluded_matches,
            });
        }
        Ok(())
    }

    /// Makes a directory that is copied itself, or gives one that exists its attributes.
    fn make(&mut self, object: &Object<'v>) -> Result<(), FileProblem> {
        let Some(existing) = object.existing else {
            self.item(object.node, object.path.clone(), object.target.clone());
            return Ok(());
        };
        if !existing.entry().is_directory() {
            return Err(FileProblem::OntoFile {
                path: object.target.clone(),
            });
        }
        let mut attributes = self
            .copy
            .attributes(object.node.entry(), object.path.is_root());
        let old = &existing.entry().attributes;
        attributes = if object.below.is_root() {
            // The destination itself keeps all but its time.
            Attributes {
                mtime: attributes.mtime,
                ..old.clone()
            }
        } else {
            let xattrs = old.xattrs.iter().chain(attributes.xattrs.iter());
            let xattrs = Xattrs::new(xattrs.map(|(name, value)| (name.into(), value.into())));
            Attributes {
                xattrs,
                ..attributes
            }
        };
        self.plan
            .last
            .push(Step::SetAttributes(object.target.clone(), attributes));
        Ok(())
    }

    /// Makes the directories on the way that waited for a match. One that exists takes the mode of
    /// the source, as in BuildKit.
    fn copy_above(&mut self) -> Result<(), FileProblem> {
        for at in 0..self.above.len() {
            let above = &mut self.above[at];
            if std::mem::replace(&mut above.copied, true) {
                continue;
            }
            let (node, path, target) = (above.node, above.path.clone(), above.target.clone());
            match above.existing.map(|existing| existing.entry()) {
                None => self.item(node, path, target),
                Some(entry) if entry.is_directory() => {
                    let mode = node.entry().attributes.mode;
                    let attributes = Attributes {
                        mode,
                        mtime: self.copy.settings.now,
                        ..entry.attributes.clone()
                    };
                    self.plan.last.push(Step::SetAttributes(target, attributes));
                }
                Some(_) => return Err(FileProblem::OntoFile { path: target }),
            }
        }
        Ok(())
    }

    fn item(&mut self, node: &Arc<Node>, source_path: TreePath, destination: TreePath) {
        let entry = node.entry();
        let link_group = (entry.kind == Kind::File && entry.link_group != 0).then(|| {
            let layer = node
                .files()
                .map_or(0, |files| Arc::as_ptr(files).cast::<()>().addr());
            let next = u64::try_from(self.links.len()).unwrap_or(u64::MAX);
            *self.links.entry((layer, entry.link_group)).or_insert(next)
        });
        let is_root = source_path.is_root();
        let attributes = self.copy.attributes(entry, is_root);
        let source = node.clone();
        self.plan.items.push(CopyItem {
            source,
            source_path,
            destination,
            attributes,
            link_group,
        });
    }
}

#[cfg(test)]
mod tests;
