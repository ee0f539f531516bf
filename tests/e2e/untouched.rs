//! What a solve that finds everything does not touch, as the kernel counts it.

use std::collections::BTreeMap;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use ashlar_llb::{self as llb, State, copy, mkfile};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::support::{self, files, ran, solve, solver, temp, write};

/// Counts what is opened, read or written in some directories.
struct Watch {
    inotify: OwnedFd,
    folders: BTreeMap<i32, PathBuf>,
}

impl Watch {
    /// Watches directories with all that is below them.
    fn new(tops: &[PathBuf]) -> Self {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
        let mut watch = Self {
            inotify,
            folders: BTreeMap::new(),
        };
        let mut todo = tops.to_vec();
        while let Some(folder) = todo.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    todo.push(entry.path());
                }
            }
            let all = WatchFlags::OPEN
                | WatchFlags::ACCESS
                | WatchFlags::MODIFY
                | WatchFlags::ATTRIB
                | WatchFlags::CREATE
                | WatchFlags::DELETE
                | WatchFlags::MOVE;
            let number = inotify::add_watch(&watch.inotify, &folder, all).unwrap();
            watch.folders.insert(number, folder);
        }
        watch.take();
        watch
    }

    /// What was touched since it was asked last: directories themselves, and what is in them.
    fn take(&mut self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        let (mut folders, mut entries) = (Vec::new(), Vec::new());
        while let Ok(event) = reader.next() {
            let folder = &self.folders[&event.wd()];
            match event.file_name() {
                Some(name) => entries.push(folder.join(name.to_str().unwrap())),
                None => folders.push(folder.clone()),
            }
        }
        folders.sort();
        folders.dedup();
        (folders, entries)
    }
}

/// A copy of a local directory, a copy out of a layer, a merge and a difference.
fn graph() -> State {
    let context = llb::local("context");
    let one = llb::scratch().file(copy(&context, "/", "/").contents_only());
    let two = one.file(mkfile("/two", "two"));
    let picked = llb::scratch().file(copy(&two, "/sub", "/picked"));
    let changes = llb::diff(&one, &two);
    llb::merge([picked, State::from(changes)]).file(mkfile("/end", "end"))
}

/// At most the top layer of the result is opened, to be held, and nothing in any layer or blob.
#[tokio::test(flavor = "multi_thread")]
async fn a_solve_that_finds_everything_touches_no_layer() {
    let folder = temp();
    let (root, context) = (folder.path().join("state"), folder.path().join("context"));
    for name in ["a", "sub/b", "sub/c/d"] {
        write(context.join(name), name);
    }
    let request = || support::request(&graph()).local("context", &context);
    let first = solver(&root);
    let solved = solve(&first, request()).await;
    assert_eq!(ran(&solved).len(), 6);
    drop(solved);
    let layers = root.join("layers");
    let mut watch = Watch::new(&[layers.clone(), root.join("blobs")]);
    let is_layer = |path: &PathBuf| path.parent() == Some(Path::new(&layers));
    for solver in [&first, &solver(&root)] {
        watch.take();
        let solved = solve(solver, request()).await;
        assert_eq!(ran(&solved), [""; 0]);
        let (folders, entries) = watch.take();
        // The directory of all layers tells of the same.
        let below = entries.iter().filter(|path| !is_layer(path));
        assert_eq!(below.count(), 0, "{entries:?}");
        let opened = folders.iter().filter(|path| **path != layers);
        assert!(opened.count() <= 1, "{folders:?}");
        // It would be seen if something was read.
        files(&solved).await;
        let (_, entries) = watch.take();
        assert!(
            entries.iter().any(|path| path.ends_with("picked/b")),
            "{entries:?}"
        );
    }
}
