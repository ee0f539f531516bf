//! Layers: archives from anywhere are unpacked into a directory, and nothing around it changes.
#![no_main]

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::Path;

use ashlar_solver::cancel::Cancel;
use ashlar_solver::limits::Limits;
use ashlar_solver::tree::apply::{ApplyOptions, apply};
use ashlar_solver::tree::{Index, View};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // In memory, where there is such a place: files are most of the work.
    let memory = Path::new("/dev/shm");
    let folder = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    let folder = folder.expect("a directory");
    let (layer, canary) = (folder.path().join("fs"), folder.path().join("canary"));
    fs::create_dir(&layer).expect("a directory in it");
    fs::write(&canary, "alive").expect("a file beside it");
    let mut limits = Limits::default();
    limits.layer_bytes = 1 << 20;
    limits.layer_entries = 500;
    let fs = File::open(&layer).expect("the directory opens");
    // As an ordinary user does it: devices and owners are no concern of the machine that fuzzes.
    let options = ApplyOptions { privileged: false };
    let unpacked = apply(data, fs.as_fd(), options, &limits, &Cancel::new());
    if let Ok(raw) = unpacked {
        assert!(raw.entries() <= limits.layer_entries);
        let normalized = raw.normalize(&View::empty(), fs.as_fd());
        let index = normalized.expect("what was unpacked is a layer").index;
        let again = Index::decode(&index.encode()).expect("what was written is read");
        assert_eq!(again, index);
    }
    assert_eq!(fs::read(&canary).expect("it is there"), b"alive");
    let around = fs::read_dir(folder.path()).expect("it lists");
    assert_eq!(around.count(), 2);
});
