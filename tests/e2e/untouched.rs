//! What solves and exports that find everything do not touch, as the kernel counts it.

use std::collections::BTreeMap;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use ashlar_exporters::{Compression, Exporter, Local, LocalMode, Oci, Tar};
use ashlar_llb::{self as llb, State, copy, mkfile};
use ashlar_solver::cancel::Cancel;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

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

/// Neither what is there is read, nor what would be written.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_finds_everything_reads_no_file() {
    let folder = temp();
    let at = |name: &str| folder.path().join(name);
    let (root, context, out) = (at("state"), at("context"), at("out"));
    for name in ["a", "sub/b", "sub/c/d"] {
        write(context.join(name), name);
    }
    let plain = |oci: Oci| oci.compression(Compression::Uncompressed);
    let exporters: [(&str, Box<dyn Exporter>); 6] = [
        ("local", Box::new(Local::new(out.join("local")))),
        (
            "mirror",
            Box::new(Local::new(out.join("mirror")).mode(LocalMode::Delete)),
        ),
        ("tar", Box::new(Tar::file(out.join("tar")))),
        ("archive", Box::new(Oci::archive(out.join("archive")))),
        (
            "plain archive",
            Box::new(plain(Oci::archive(out.join("plain")))),
        ),
        (
            "plain layout",
            Box::new(plain(Oci::directory(out.join("layout")))),
        ),
    ];
    std::fs::create_dir(&out).unwrap();
    for (name, exporter) in exporters {
        let mut watch = None;
        // Another solver knows what this one noted.
        for round in 0..3 {
            let request = support::request(&graph()).local("context", &context);
            let result = solve(&solver(&root), request).await.result;
            let watch = watch.get_or_insert_with(|| Watch::new(&[root.join("layers")]));
            let mut outputs = Watch::new(std::slice::from_ref(&out));
            watch.take();
            exporter.export(&result, &Cancel::new()).await.unwrap();
            let of_files = |entries: Vec<PathBuf>| -> Vec<PathBuf> {
                let files = entries.into_iter().filter(|path| path.is_file());
                files.collect()
            };
            let mut touched = of_files(watch.take().1);
            touched.retain(|path| path.components().any(|part| part.as_os_str() == "fs"));
            if round == 0 {
                assert!(!touched.is_empty(), "{name}: it would be seen");
                continue;
            }
            if ["local", "mirror"].contains(&name) {
                let (_, entries) = outputs.take();
                let mut made = entries.iter().filter(|path| !path.exists());
                let is_stage = |path: &PathBuf| path.to_str().unwrap().contains("/.ashlar-");
                assert!(made.all(is_stage), "{entries:?}");
                touched.extend(of_files(entries));
            }
            assert!(touched.is_empty(), "{name}: {touched:?}");
        }
    }
}

/// Sets the time of a symbolic link.
fn set_time(link: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    utimensat(CWD, link, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// A change is seen by the next export, and what a later change brings by the one after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_known_file_that_is_changed_is_written_again() {
    let folder = temp();
    let at = |name: &str| folder.path().join(name);
    let context = at("context");
    for name in ["a", "sub/b", "sub/deep/c"] {
        write(context.join(name), name);
    }
    fs::create_dir(context.join("empty")).unwrap();
    for (link, target) in [("link", "a"), ("retargeted", "a"), ("sub/dated", "../a")] {
        symlink(target, context.join(link)).unwrap();
    }
    let local = llb::local("context");
    let state = llb::scratch().file(copy(&local, "/", "/").contents_only());
    let request = support::request(&state).local("context", &context);
    let result = solve(&solver(at("state")), request).await.result;
    let exporter = Local::new(at("out"));
    let file = at("out/sub/b");
    let expected = support::tree(&context);
    let inode = |link: &str| fs::symlink_metadata(at(link)).unwrap().ino();
    let mut links = Vec::new();
    for round in 0..4 {
        exporter.export(&result, &Cancel::new()).await.unwrap();
        assert_eq!(support::tree(&at("out")), expected, "{round}");
        links.push(inode("out/link"));
        // Links show what they are without being read.
        fs::remove_file(at("out/retargeted")).unwrap();
        symlink("b", at("out/retargeted")).unwrap();
        let old = fs::symlink_metadata(context.join("retargeted")).unwrap();
        set_time(&at("out/retargeted"), old.mtime(), old.mtime_nsec());
        let link = at("out/sub/dated");
        let time = |link: &Path| fs::symlink_metadata(link).unwrap().mtime();
        assert_eq!(time(&link), time(&context.join("sub/dated")));
        fs::remove_file(&link).unwrap();
        symlink("../a", &link).unwrap();
        set_time(&link, 5, 0);
        let modified = fs::metadata(&file).unwrap().modified().unwrap();
        let opened = fs::File::options().write(true).open(&file).unwrap();
        opened.write_all_at(b"X", 0).unwrap();
        // Directories in which nothing is written get what the result has too.
        for folder in ["out/empty", "out/sub/deep"] {
            let changed = fs::Permissions::from_mode([0o700, 0o500][round % 2]);
            fs::set_permissions(at(folder), changed).unwrap();
        }
        fs::remove_file(at("out/sub/deep/c")).unwrap();
        // Who puts back the time of the last change cannot put back when it was done.
        if round % 2 == 0 {
            let changed = || fs::metadata(&file).unwrap().ctime_nsec();
            let before = changed();
            while changed() == before {
                let times = fs::FileTimes::new().set_modified(modified);
                opened.set_times(times).unwrap();
            }
        }
    }
    links.dedup();
    assert_eq!(links.len(), 1, "it was made once");
    // A link of the file is another way to it.
    exporter.export(&result, &Cancel::new()).await.unwrap();
    fs::hard_link(&file, at("out/hard")).unwrap();
    exporter.export(&result, &Cancel::new()).await.unwrap();
    fs::write(at("out/hard"), "elsewhere").unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"sub/b");
    // Notes that were damaged or lost.
    let notes = fs::read_dir(at("state/outputs")).unwrap().next().unwrap();
    let notes = notes.unwrap().path();
    for damage in ["", "notes", "0123456789abcdef0123456789abcdef"] {
        fs::write(&notes, damage).unwrap();
        fs::write(&file, "xub/b").unwrap();
        exporter.export(&result, &Cancel::new()).await.unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"sub/b");
    }
}
