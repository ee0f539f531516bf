//! Outputs that are waited for survive a power cut.
//!
//! The disk is a file with an ext4 in it. A copy of that file, made when the export has returned,
//! has what had been sent to the disk until then: what a power cut would leave.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ashlar_exporters::{Compression, Docker, Exporter, Image, Local, Oci, Tar};
use ashlar_llb::{self as llb, BlobDigest, copy};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::solver::{Durability, SolveRequest};
use ashlar_solver::source::image::ResolveMode;
use tempfile::TempDir;

use super::support::{self, Need, run, skipped, solve, temp, tree};

const NAME: &str = "example.com/durable:v1";

/// An ext4 in a file, mounted until dropped.
struct Disk {
    image: PathBuf,
    mounted: PathBuf,
    _folder: TempDir,
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

    fn mount(folder: TempDir) -> Self {
        let (image, mounted) = (folder.path().join("image"), folder.path().join("mounted"));
        fs::create_dir(&mounted).unwrap();
        let mut mount = Command::new("mount");
        run(mount.args(["-o", "loop"]).arg(&image).arg(&mounted));
        Self {
            image,
            mounted,
            _folder: folder,
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
        type Make = fn(&Disk) -> Box<dyn Exporter>;
        let synced = Durability::Synced;
        let kinds: [Make; 5] = [
            |disk| Box::new(Tar::file(disk.at("files.tar")).durability(Durability::Synced)),
            |disk| {
                let archive = Oci::archive(disk.at("oci.tar")).durability(Durability::Synced);
                Box::new(archive.compression(Compression::Uncompressed))
            },
            |disk| Box::new(Docker::archive(disk.at("docker.tar")).durability(Durability::Synced)),
            |disk| Box::new(Oci::directory(disk.at("new/layout")).durability(Durability::Synced)),
            |disk| Box::new(Local::new(disk.at("files")).durability(Durability::Synced)),
        ];
        for make in kinds {
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
        let layout = layout.durability(synced);
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
