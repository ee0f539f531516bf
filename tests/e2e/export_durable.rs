//! Outputs that are waited for survive a power cut.
//!
//! The disk is a file with an ext4 in it. A copy of that file, made when the export has returned,
//! has what had been sent to the disk until then: what a power cut would leave.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ashlar_exporters::{Compression, Docker, ExportError, Exporter, Image, Local, Oci, Tar};
use ashlar_llb::{self as llb, BlobDigest, copy, mkfile};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::error::{Blame as _, Fault};
use ashlar_solver::solver::{Durability, SolveRequest};
use ashlar_solver::source::image::ResolveMode;
use tempfile::TempDir;

use super::support::{self, Need, run, skipped, solve, temp, tree};

const NAME: &str = "example.com/durable:v1";

/// An ext4 in a file, mounted until dropped.
struct Disk {
    image: PathBuf,
    mounted: PathBuf,
    folder: TempDir,
}

impl Disk {
    fn new() -> Self {
        let folder = temp();
        let image = folder.path().join("image");
        let file = fs::File::create(&image).unwrap();
        file.set_len(200 << 20).unwrap();
        run(Command::new("mkfs.ext4").arg("-q").arg(&image));
        Self::mount(folder)
    }

    /// One that promises 200 MB and takes some 16: what is written beyond that is lost when it is
    /// sent there, and not before.
    fn lying() -> Self {
        let folder = temp();
        let backing = folder.path().join("backing");
        fs::create_dir(&backing).unwrap();
        let mut mount = Command::new("mount");
        run(mount
            .args(["-t", "tmpfs", "-o", "size=16m", "none"])
            .arg(&backing));
        let image = backing.join("image");
        let file = fs::File::create(&image).unwrap();
        file.set_len(200 << 20).unwrap();
        let mut make = Command::new("mkfs.ext4");
        run(make.args(["-q", "-O", "^has_journal"]).arg(&image));
        std::os::unix::fs::symlink("backing/image", folder.path().join("image")).unwrap();
        Self::mount(folder)
    }

    fn mount(folder: TempDir) -> Self {
        let (image, mounted) = (folder.path().join("image"), folder.path().join("mounted"));
        fs::create_dir(&mounted).unwrap();
        let mut mount = Command::new("mount");
        run(mount.args(["-o", "loop"]).arg(&image).arg(&mounted));
        Self {
            image,
            mounted,
            folder,
        }
    }

    /// What the disk would be after a power cut now.
    fn cut(&self) -> Self {
        let folder = temp();
        let mut copied = Command::new("cp");
        run(copied
            .arg("--sparse=always")
            .arg(&self.image)
            .arg(folder.path().join("image")));
        Self::mount(folder)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.mounted.join(name)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _left = Command::new("umount").arg(&self.mounted).status();
        let backing = self.folder.path().join("backing");
        if backing.exists() {
            let _left = Command::new("umount").arg("-l").arg(backing).status();
        }
    }
}

/// A file that is sent to disk while it is written, and some small ones.
fn request(folder: &Path) -> SolveRequest {
    let context = folder.join("context");
    let mut big = Vec::with_capacity(40 << 20);
    let mut hash = BlobDigest::of(b"big");
    while big.len() < 40 << 20 {
        hash = BlobDigest::of(hash.as_bytes());
        big.extend_from_slice(&hash.as_bytes().repeat(64));
    }
    support::write(context.join("big"), big);
    for number in 0..50 {
        let text = format!("{number}\n").repeat(number * 100);
        support::write(context.join(format!("folder/file{number}")), text);
    }
    let state = llb::scratch().file(copy(llb::local("context"), "/", "/"));
    support::request(&state).local("context", context)
}

type Make = fn(&Disk) -> Box<dyn Exporter>;

/// Every kind of output on a disk, waited for, and none smaller than what is in it.
fn kinds() -> [Make; 5] {
    const SYNCED: Durability = Durability::Synced;
    const PLAIN: Compression = Compression::Uncompressed;
    [
        |disk| Box::new(Tar::file(disk.at("files.tar")).durability(SYNCED)),
        |disk| {
            let archive = Oci::archive(disk.at("oci.tar"));
            Box::new(archive.durability(SYNCED).compression(PLAIN))
        },
        |disk| {
            let archive = Docker::archive(disk.at("docker.tar"));
            Box::new(archive.durability(SYNCED).compression(PLAIN))
        },
        |disk| {
            let layout = Oci::directory(disk.at("new/layout"));
            Box::new(layout.durability(SYNCED).compression(PLAIN))
        },
        |disk| Box::new(Local::new(disk.at("files")).durability(SYNCED)),
    ]
}

#[test]
fn outputs_that_do_not_get_to_the_disk_are_errors_and_change_nothing() {
    let name = "outputs_that_do_not_get_to_the_disk_are_errors_and_change_nothing";
    if skipped(name, &[Need::Root, Need::Tool("mkfs.ext4")]) {
        return;
    }
    support::runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let small = support::request(&llb::scratch().file(mkfile("/file", "small\n")));
        let small = solve(&solver, small).await.result;
        let large = solve(&solver, request(folder.path())).await.result;
        for make in kinds() {
            let disk = Disk::lying();
            let exporter = make(&disk);
            exporter.export(&small, &Cancel::new()).await.unwrap();
            let before = tree(&disk.mounted);
            let error = exporter.export(&large, &Cancel::new()).await.unwrap_err();
            assert!(
                matches!(error, ExportError::Io { action: "sync", .. }),
                "{error:?}"
            );
            assert_eq!(error.fault(), Fault::Environment);
            let mut after = tree(&disk.mounted);
            // Blobs of a layout that were complete before.
            after.retain(|path, _| {
                before.contains_key(path) || !path.starts_with("new/layout/blobs")
            });
            assert!(
                after == before,
                "{exporter:?} left {:?}",
                tree(&disk.mounted)
            );
        }
    });
}

#[test]
fn outputs_that_are_waited_for_survive_a_power_cut() {
    let name = "outputs_that_are_waited_for_survive_a_power_cut";
    if skipped(name, &[Need::Root, Need::Tool("mkfs.ext4")]) {
        return;
    }
    support::runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let result = solve(&solver, request(folder.path())).await.result;
        for make in kinds() {
            let disk = Disk::new();
            let exporter = make(&disk);
            exporter.export(&result, &Cancel::new()).await.unwrap();
            let after = disk.cut();
            assert!(
                tree(&disk.mounted) == tree(&after.mounted),
                "{exporter:?} left {:?}",
                tree(&after.mounted)
            );
        }
        // Again, over a layout whose blobs nobody waited for.
        let disk = Disk::new();
        let layout = Oci::directory(disk.at("layout")).name(NAME);
        layout.export(&result, &Cancel::new()).await.unwrap();
        let layout = layout.durability(Durability::Synced);
        layout.export(&result, &Cancel::new()).await.unwrap();
        let after = disk.cut();
        assert!(tree(&disk.mounted) == tree(&after.mounted));
    });
}

#[test]
fn an_image_in_the_store_that_is_waited_for_survives_a_power_cut() {
    let name = "an_image_in_the_store_that_is_waited_for_survives_a_power_cut";
    if skipped(name, &[Need::Root, Need::Tool("mkfs.ext4")]) {
        return;
    }
    support::runtime().block_on(async {
        let folder = temp();
        let disk = Disk::new();
        let solver = support::solver(disk.at("state"));
        let result = solve(&solver, request(folder.path())).await.result;
        let image = Image::new().name(NAME).durability(Durability::Synced);
        image.export(&result, &Cancel::new()).await.unwrap();
        let after = disk.cut();
        drop(result);
        drop(solver);
        // Without the layer, so that the blob is what counts.
        let other = temp();
        let solver = support::solver(after.at("state"));
        let request = support::request(&llb::image(NAME).into()).resolve(ResolveMode::Offline);
        let found = solve(&solver, request).await.result;
        let files = Oci::archive(other.path().join("image.tar")).verify(true);
        files.export(&found, &Cancel::new()).await.unwrap();
        let files = Local::new(other.path().join("files"));
        files.export(&found, &Cancel::new()).await.unwrap();
        let context = folder.path().join("context");
        assert!(tree(&context) == tree(&other.path().join("files")));
    });
}
