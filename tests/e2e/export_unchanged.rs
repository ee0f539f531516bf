//! Files that have what an export would write are left alone, and all others are not.

use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use ashlar_exporters::{
    Compression, Docker, Exporter, FileOptions, ImageOptions, Oci, Tar, export_all,
};
use ashlar_llb::{self as llb, State, mkfile};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::result::BuildResult;
use ashlar_solver::solver::Durability;
use tempfile::TempDir;

use super::support::{self, Need, runtime, skipped, solve, temp, then};

/// What is exported, and where.
struct Kit {
    folder: TempDir,
    result: BuildResult,
}

impl Kit {
    async fn new() -> Self {
        let folder = temp();
        let result = result(folder.path(), "text").await;
        Self { folder, result }
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out.tar")
    }

    async fn export(&self, exporter: &dyn Exporter) {
        export(exporter, &self.result).await;
    }

    /// Whether an export leaves the file alone; what it has is right in any case.
    async fn keeps(&self, exporter: &dyn Exporter, bytes: &[u8]) -> bool {
        // The inodes of files that are gone are used again.
        let before = File::open(self.out()).unwrap();
        self.export(exporter).await;
        assert!(fs::read(self.out()).unwrap() == bytes);
        let (before, after) = (
            before.metadata().unwrap(),
            fs::metadata(self.out()).unwrap(),
        );
        before.ino() == after.ino()
    }
}

fn state(text: &str) -> State {
    let text = text.repeat(200_000);
    llb::scratch().file(mkfile("/file", text).created(then()))
}

async fn result(folder: &Path, text: &str) -> BuildResult {
    let solver = support::solver(folder.join("state"));
    solve(&solver, support::request(&state(text))).await.result
}

async fn export(exporter: &dyn Exporter, result: &BuildResult) {
    exporter.export(result, &Cancel::new()).await.unwrap();
}

/// Every output of one file.
fn exporters(path: &Path) -> [Box<dyn Exporter>; 4] {
    let plain = Compression::Uncompressed;
    [
        Box::new(Oci::archive(path).name("app:v1").compression(plain)),
        Box::new(Oci::archive(path).name("app:v1")),
        Box::new(Docker::archive(path).name("app:v1").compression(plain)),
        Box::new(Tar::file(path)),
    ]
}

#[test]
fn a_file_that_nobody_changed_is_left_alone() {
    runtime().block_on(async {
        let kit = Kit::new().await;
        for exporter in exporters(&kit.out()) {
            kit.export(&*exporter).await;
            let bytes = fs::read(kit.out()).unwrap();
            assert!(kit.keeps(&*exporter, &bytes).await, "{exporter:?}");
            // Another process would have another solver too.
            let later = result(kit.folder.path(), "text").await;
            let before = fs::metadata(kit.out()).unwrap();
            export(&*exporter, &later).await;
            let after = fs::metadata(kit.out()).unwrap();
            assert_eq!(before.ino(), after.ino(), "{exporter:?}");
            let times = |file: &fs::Metadata| (file.modified().unwrap(), file.ctime_nsec());
            assert_eq!(times(&before), times(&after), "{exporter:?}");
            // Whoever waits for the disk gets what somebody else did not wait for.
            let all: [&dyn Exporter; 1] = [&*exporter];
            export_all(&all, &later, &Cancel::new()).await.unwrap();
            assert_eq!(before.ino(), fs::metadata(kit.out()).unwrap().ino());
        }
        let synced = Tar::file(kit.out()).durability(Durability::Synced);
        let bytes = fs::read(kit.out()).unwrap();
        assert!(kit.keeps(&synced, &bytes).await);
    });
}

#[test]
fn a_file_that_was_changed_in_any_way_is_written_anew() {
    runtime().block_on(async {
        let kit = Kit::new().await;
        let out = kit.out();
        let beside = kit.folder.path().join("beside");
        let opened = || File::options().write(true).open(&out).unwrap();
        let changes: [(&str, &dyn Fn()); 9] = [
            ("gone", &|| fs::remove_file(&out).unwrap()),
            ("other bytes", &|| {
                opened().write_all_at(b"other", 600).unwrap();
            }),
            ("other bytes under the old time", &|| {
                let time = fs::metadata(&out).unwrap().modified().unwrap();
                let file = opened();
                file.write_all_at(b"other", 600).unwrap();
                // The clock of files does not tick with each of their changes.
                let ctime = || fs::metadata(&out).unwrap().ctime_nsec();
                let old = ctime();
                while ctime() == old {
                    file.set_times(FileTimes::new().set_modified(time)).unwrap();
                }
            }),
            ("longer", &|| {
                let file = opened();
                let length = file.metadata().unwrap().len();
                file.write_all_at(b"more", length).unwrap();
            }),
            ("cut off", &|| opened().set_len(5).unwrap()),
            ("another mode", &|| {
                fs::set_permissions(&out, Permissions::from_mode(0o600)).unwrap();
            }),
            ("a copy", &|| {
                fs::copy(&out, &beside).unwrap();
                fs::rename(&beside, &out).unwrap();
            }),
            ("the same file under another name too", &|| {
                fs::hard_link(&out, &beside).unwrap();
            }),
            ("a link", &|| {
                fs::remove_file(&beside).unwrap();
                fs::rename(&out, &beside).unwrap();
                symlink("beside", &out).unwrap();
            }),
        ];
        for exporter in exporters(&out) {
            for left in ["out.tar", "beside"] {
                let _none = fs::remove_file(kit.folder.path().join(left));
            }
            kit.export(&*exporter).await;
            let bytes = fs::read(&out).unwrap();
            for (what, change) in &changes {
                // Whoever changes it right after the export may do so in the same tick of the clock.
                change();
                let changed = File::open(&out);
                kit.export(&*exporter).await;
                assert!(fs::read(&out).unwrap() == bytes, "{what}: {exporter:?}");
                if let Ok(changed) = changed {
                    let before = changed.metadata().unwrap().ino();
                    let after = fs::metadata(&out).unwrap().ino();
                    assert_ne!(before, after, "{what}: {exporter:?}");
                }
                assert!(kit.keeps(&*exporter, &bytes).await, "{what}: {exporter:?}");
            }
            assert!(fs::symlink_metadata(&out).unwrap().is_symlink());
        }
    });
}

#[test]
fn what_is_to_be_written_counts_in_all_its_parts() {
    runtime().block_on(async {
        let kit = Kit::new().await;
        let out = kit.out();
        let other = result(kit.folder.path(), "else").await;
        let epoch = |seconds| {
            let mut options = FileOptions::default();
            options.epoch = ashlar_exporters::Epoch::At(seconds);
            options
        };
        let plain = |name: &str| {
            let mut options = ImageOptions::default();
            options.compression = Compression::Uncompressed;
            options.names = vec![name.to_owned()];
            options
        };
        let steps: [(Box<dyn Exporter>, &BuildResult); 8] = [
            (Box::new(Tar::file(&out)), &kit.result),
            (Box::new(Tar::file(&out)), &other),
            (Box::new(Tar::file(&out).options(epoch(5))), &other),
            (Box::new(Tar::file(&out).options(epoch(6))), &other),
            (
                Box::new(Oci::archive(&out).options(plain("a:v1"))),
                &kit.result,
            ),
            (
                Box::new(Oci::archive(&out).options(plain("b:v1"))),
                &kit.result,
            ),
            (
                Box::new(Docker::archive(&out).options(plain("b:v1"))),
                &kit.result,
            ),
            (
                Box::new(Docker::archive(&out).options(plain("b:v1"))),
                &other,
            ),
        ];
        let mut all: Vec<Vec<u8>> = Vec::new();
        for (exporter, result) in &steps {
            export(&**exporter, result).await;
            let bytes = fs::read(&out).unwrap();
            assert!(!all.contains(&bytes), "{exporter:?}");
            all.push(bytes);
        }
    });
}

#[test]
fn who_has_it_checked_has_it_written() {
    runtime().block_on(async {
        let kit = Kit::new().await;
        kit.export(&Tar::file(kit.out())).await;
        let bytes = fs::read(kit.out()).unwrap();
        assert!(!kit.keeps(&Tar::file(kit.out()).verify(true), &bytes).await);
        assert!(kit.keeps(&Tar::file(kit.out()), &bytes).await);
    });
}

#[test]
fn a_change_while_other_outputs_are_made_is_seen() {
    runtime().block_on(async {
        let kit = Kit::new().await;
        for exporter in exporters(&kit.out()) {
            kit.export(&*exporter).await;
            let bytes = fs::read(kit.out()).unwrap();
            let cancel = Cancel::new();
            let prepared = exporter.prepare(&kit.result, &cancel).await.unwrap();
            fs::write(kit.out(), "somebody else").unwrap();
            prepared.finalize(&cancel).await.unwrap();
            assert!(fs::read(kit.out()).unwrap() == bytes);
            assert!(kit.keeps(&*exporter, &bytes).await);
        }
    });
}

#[test]
fn notes_that_are_lost_or_damaged_cost_time_alone() {
    runtime().block_on(async {
        let kit = Kit::new().await;
        let exporter = Tar::file(kit.out());
        kit.export(&exporter).await;
        let bytes = fs::read(kit.out()).unwrap();
        let notes = kit.folder.path().join("state/outputs/archives");
        assert_eq!(fs::metadata(&notes).unwrap().mode() & 0o777, 0o600);
        let length = fs::metadata(&notes).unwrap().len();
        assert!(length <= 4096 * 32, "{length}");
        let damages: [&dyn Fn(); 4] = [
            &|| fs::remove_file(&notes).unwrap(),
            &|| fs::write(&notes, "").unwrap(),
            &|| fs::write(&notes, vec![b'x'; 4096 * 32]).unwrap(),
            &|| {
                fs::remove_file(&notes).unwrap();
                symlink("elsewhere", &notes).unwrap();
            },
        ];
        for (number, damage) in damages.into_iter().enumerate() {
            damage();
            assert!(!kit.keeps(&exporter, &bytes).await, "{number}");
            // Nobody writes through a link.
            assert_eq!(kit.keeps(&exporter, &bytes).await, number != 3, "{number}");
        }
        assert!(!kit.folder.path().join("state/outputs/elsewhere").exists());
    });
}

#[test]
fn files_of_a_step_whose_checksums_nobody_needed_are_told_apart() {
    if skipped("files_of_a_step", &[Need::Tool("busybox")]) {
        return;
    }
    runtime().block_on(async {
        let folder = temp();
        support::busybox(folder.path());
        let solver = support::solver(folder.path().join("state"));
        let out = folder.path().join("out.tar");
        let exporter = Tar::file(&out);
        let inode = || fs::metadata(&out).unwrap().ino();
        let mut all = Vec::new();
        for text in ["one", "two"] {
            let line = format!("echo {text} >/tmp/file");
            let made = support::busybox_state().run(["sh", "-c", &line]).root();
            let solved = solve(&solver, support::lent(folder.path(), &made)).await;
            export(&exporter, &solved.result).await;
            let (_held, before) = (File::open(&out).unwrap(), inode());
            export(&exporter, &solved.result).await;
            assert_eq!(inode(), before);
            all.push(fs::read(&out).unwrap());
        }
        assert!(all[0] != all[1]);
    });
}
