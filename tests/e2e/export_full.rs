//! Exports onto a disk that is full before they are done: what was there stays, and nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ashlar_exporters::{
    Compression, Docker, ExportError, Exporter, Image, Local, LocalMode, Oci, Tar, export_all,
};
use ashlar_llb::{self as llb, Reference, mkfile};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::error::{Blame as _, Fault};
use ashlar_solver::result::BuildResult;
use ashlar_solver::solver::{Durability, Solver};
use tempfile::TempDir;

use super::export::fixed_context;
use super::support::{self, Need, run, skipped, solve, temp, tree};

const NAME: &str = "example.com/full:v1";

/// A file system of so many KiB, mounted until dropped.
struct Disk(TempDir);

impl Disk {
    fn new(kilobytes: usize) -> Self {
        let folder = temp();
        let size = format!("size={kilobytes}k,mode=755");
        let mut mount = Command::new("mount");
        run(mount
            .args(["-t", "tmpfs", "-o", &size, "none"])
            .arg(folder.path()));
        Self(folder)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file until nothing more fits.
    fn fill(&self, name: &str) {
        let mut file = fs::File::create(self.at(name)).unwrap();
        while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _left = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// Every kind of export into files and directories.
fn exporters(out: &Path, durability: Durability) -> Vec<(&'static str, Box<dyn Exporter>)> {
    let at = |name: &str| out.join(name);
    let oci = |oci: Oci| oci.name(NAME).durability(durability);
    let docker = Docker::archive(at("docker.tar")).name(NAME);
    let mirror = Local::new(at("mirror")).mode(LocalMode::Delete);
    let plain = oci(Oci::archive(at("plain.tar"))).compression(Compression::Uncompressed);
    vec![
        ("oci.tar", Box::new(oci(Oci::archive(at("oci.tar"))))),
        ("plain.tar", Box::new(plain)),
        ("layout", Box::new(oci(Oci::directory(at("layout"))))),
        ("docker.tar", Box::new(docker.durability(durability))),
        (
            "files.tar",
            Box::new(Tar::file(at("files.tar")).durability(durability)),
        ),
        (
            "files",
            Box::new(Local::new(at("files")).durability(durability)),
        ),
        ("mirror", Box::new(mirror.durability(durability))),
    ]
}

/// A small result and a large one.
async fn results(solver: &Solver, folder: &Path) -> [BuildResult; 2] {
    let small = support::request(&llb::scratch().file(mkfile("/small", "small\n")));
    let small = solve(solver, small).await.result;
    [small, solve(solver, fixed_context(folder)).await.result]
}

#[track_caller]
fn is_full(error: &ExportError, name: &str) {
    let text = support::chain(error);
    assert!(
        text.contains("storage space") || text.contains("space left"),
        "{name}: {text}"
    );
    assert_eq!(error.fault(), Fault::Environment, "{name}");
    assert!(
        error.remedy().unwrap().contains("free some space"),
        "{name}"
    );
}

#[test]
fn a_full_disk_leaves_the_old_output() {
    let test = "a_full_disk_leaves_the_old_output";
    if skipped(test, &[Need::Root, Need::Tool("mount")]) {
        return;
    }
    support::runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let [small, large] = results(&solver, folder.path()).await;
        for durability in [Durability::Background, Durability::Synced] {
            let disk = Disk::new(3000);
            let out = disk.0.path();
            for (_, exporter) in exporters(out, durability) {
                exporter.export(&small, &Cancel::new()).await.unwrap();
            }
            let before = tree(out);
            for (name, exporter) in exporters(out, durability) {
                let error = exporter.export(&large, &Cancel::new()).await.unwrap_err();
                is_full(&error, name);
                let mut after = tree(out);
                // A layout may have more blobs than before, and each of them whole.
                after.retain(|path, text| {
                    let blob = path.strip_prefix("layout/blobs/sha256/");
                    before.contains_key(path) || blob.is_none_or(|hex| !text.ends_with(hex))
                });
                assert_eq!(after, before, "{name}");
            }
            // Nor does anything appear of those that would have fitted beside one that does not.
            let (files, tar) = (Local::new(disk.at("new")), Tar::file(disk.at("large.tar")));
            let both: [&dyn Exporter; 2] = [&files, &tar];
            let error = export_all(&both, &large, &Cancel::new()).await.unwrap_err();
            is_full(&error, "both");
            assert!(!disk.at("new").exists() && !disk.at("large.tar").exists());
        }
    });
}

#[test]
fn a_full_store_keeps_its_names_and_takes_the_image_once_there_is_room() {
    let test = "a_full_store_keeps_its_names_and_takes_the_image_once_there_is_room";
    if skipped(test, &[Need::Root, Need::Tool("mount")]) {
        return;
    }
    support::runtime().block_on(async {
        let folder = temp();
        let disk = Disk::new(40_000);
        let root = disk.at("state");
        let solver = support::solver(&root);
        let [small, large] = results(&solver, folder.path()).await;
        let image = |verify| Image::new().name(NAME).verify(verify);
        let named = || {
            let name = Reference::parse(NAME).unwrap();
            solver.store().images().get(&name).unwrap().unwrap().digest
        };
        image(false).export(&small, &Cancel::new()).await.unwrap();
        let old = named();
        disk.fill("filler");
        let error = image(false)
            .export(&large, &Cancel::new())
            .await
            .unwrap_err();
        is_full(&error, "image");
        assert_eq!(named(), old);
        let partial = support::leftovers(&root);
        let partial = partial.iter().filter(|left| left.contains("blobs"));
        assert_eq!(partial.count(), 0);
        fs::remove_file(disk.at("filler")).unwrap();
        let exported = image(true).export(&large, &Cancel::new()).await.unwrap();
        assert_eq!(Some(named()), exported.digest);
    });
}
