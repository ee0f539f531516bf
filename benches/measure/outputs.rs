//! Results as files and archives: a root of 503 MB, as a step of a build would leave it. Two fifths
//! are files of the machine's own system, the rest is data that hardly compresses.

use std::path::Path;
use std::time::{Duration, Instant};

use ashlar_exporters::{Compression, Exporter, Local, Oci, Tar};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::solver::{Durability, SolveRequest};

use crate::child::copy_of_files;
use crate::export::length;
use crate::sample::{MOMENTS, Times, definition, has, runtime, shell, solve, solver};
use crate::space::Space;
use crate::table::Row;
use crate::{Outcome, Size, trees};

/// Times until the result returns, and until it is on disk.
#[derive(Default)]
struct Both {
    returned: Times,
    durable: Times,
}

impl Both {
    /// Of a tool that does not sync: the sync was taken apart.
    fn add(&mut self, returned: Duration, synced: Duration) {
        self.returned.add(returned);
        self.durable.add(returned + synced);
    }

    /// Of an export that returned at this moment.
    fn take(&mut self, moment: Durability, time: Duration) {
        match moment {
            Durability::Synced => self.durable.add(time),
            _ => self.returned.add(time),
        }
    }

    fn print(&self, what: &str, target: &str, peer: &str, theirs: &Self) {
        for (moment, ours, theirs) in [
            ("until it returns", &self.returned, &theirs.returned),
            ("until durable", &self.durable, &theirs.durable),
        ] {
            Row::times(&format!("{what}, {moment}"), ours)
                .target(target)
                .peer(peer, ours, theirs)
                .print();
        }
    }
}

/// A file that is exported again: where it is already, and where nothing is.
#[derive(Default)]
struct Again {
    there: Times,
    elsewhere: Times,
    /// A copy of it.
    copy: Times,
}

impl Again {
    fn print(&self, what: &str) {
        Row::times(&format!("{what}, unchanged"), &self.there)
            .target("one copy")
            .peer("cp of it", &self.there, &self.copy)
            .print();
        Row::times(&format!("{what}, to another place"), &self.elsewhere)
            .peer("cp of it", &self.elsewhere, &self.copy)
            .print();
    }
}

/// Images whose layer is compressed anew, and the tool beside them.
struct Images {
    name: &'static str,
    compression: Compression,
    target: &'static str,
    peer: &'static str,
    ours: Both,
    theirs: Both,
    /// In MB, ours and the peer's.
    sizes: (f64, f64),
}

fn images() -> Vec<Images> {
    let image = |name, compression, target, peer| Images {
        name,
        compression,
        target,
        peer,
        ours: Both::default(),
        theirs: Both::default(),
        sizes: (0.0, 0.0),
    };
    let gzip = if has("pigz") { "pigz -6" } else { "gzip -6" };
    let mut all = vec![
        image("gzip", Compression::default(), "2.8 s", gzip),
        image("uncompressed", Compression::Uncompressed, "0.9 s", "cat"),
    ];
    if has("zstd") {
        let zstd = Compression::Zstd { level: 3 };
        all.push(image("zstd", zstd, "1.2 s", "zstd -3 -T2"));
    }
    all
}

fn remove(what: &str) -> Outcome {
    shell(&format!("rm -r {what}")).map(drop)
}

pub(crate) fn measure(size: Size) -> Outcome {
    let samples = size.pick(3, 1);
    let megabytes = size.pick(503, 60);
    let gigabytes = size.pick(4, 1);
    let mut images = images();
    let runtime = runtime()?;
    let source = Space::new(gigabytes)?;
    source.announce();
    let files = source.path().join("files");
    trees::system(&files, megabytes)?;
    let request = SolveRequest::new(definition(&copy_of_files())?).local("files", &files);

    let [mut local, mut copy, mut tar, mut tar_peer] = [(); 4].map(|()| Both::default());
    let [mut layout, mut unchanged] = [(); 2].map(|()| Times::default());
    let [mut tar_again, mut archive_again] = [(); 2].map(|()| Again::default());
    for _ in 0..samples {
        for (_, moment) in MOMENTS {
            let space = Space::new(gigabytes)?;
            let at = |name: &str| space.path().join(name);
            let solver = solver(&runtime, &at("state"))?;
            let result = solve(&runtime, &solver, request.clone())?.1.result;
            let export = |exporter: &dyn Exporter| -> Outcome<Duration> {
                space.sync()?;
                let start = Instant::now();
                runtime.block_on(exporter.export(&result, &Cancel::new()))?;
                Ok(start.elapsed())
            };
            let copy_of = |file: &str| -> Outcome<Duration> {
                space.sync()?;
                let file = at(file).display().to_string();
                let copied = shell(&format!("cp {file} {file}.copy"))?;
                remove(&format!("{file} {file}.copy"))?;
                Ok(copied)
            };
            let again = moment == Durability::Background;
            let files = Local::new(at("local")).durability(moment);
            local.take(moment, export(&files)?);
            if again {
                unchanged.add(export(&files)?);
            }
            remove(&at("local").display().to_string())?;
            let files = Tar::file(at("files.tar")).durability(moment);
            tar.take(moment, export(&files)?);
            if again {
                tar_again.there.add(export(&files)?);
            }
            remove(&at("files.tar").display().to_string())?;
            if again {
                tar_again.elsewhere.add(export(&files)?);
                tar_again.copy.add(copy_of("files.tar")?);
            }
            for image in &mut images {
                let archive = Oci::archive(at("new.tar")).compression(image.compression);
                let exported = export(&archive.durability(moment))?;
                image.ours.take(moment, exported);
                image.sizes.0 = length(&at("new.tar"))?;
                remove(&at("new.tar").display().to_string())?;
            }
            if again {
                let image = |oci: Oci| oci.name("app:v1").compression(Compression::Uncompressed);
                export(&image(Oci::directory(at("layout"))))?;
                layout.add(export(&image(Oci::directory(at("layout"))))?);
                let archive = image(Oci::archive(at("image.tar")));
                archive_again.elsewhere.add(export(&archive)?);
                archive_again.there.add(export(&archive)?);
                archive_again.copy.add(copy_of("image.tar")?);
            }
            drop(result);
            drop(solver);
            drop(space);
        }

        // The peers have their source on the file system that they write to, as we do.
        let space = Space::new(gigabytes)?;
        let at = |name: &str| space.path().join(name).display().to_string();
        let peer = |both: &mut Both, command: &str| -> Outcome {
            space.sync()?;
            let returned = shell(command)?;
            both.add(returned, space.sync()?);
            Ok(())
        };
        shell(&format!("cp -a {} {}", files.display(), at("files")))?;
        let copying = format!("cp -a {} {}", at("files"), at("copy"));
        peer(&mut copy, &copying)?;
        remove(&at("copy"))?;
        let packing = format!("tar -C {} -cf {} .", at("files"), at("peer.tar"));
        peer(&mut tar_peer, &packing)?;
        remove(&at("peer.tar"))?;
        for image in &mut images {
            let (files, to) = (at("files"), at("peer.tar"));
            let pipe = format!("tar -C {files} -cf - . | {} > {to}", image.peer);
            peer(&mut image.theirs, &pipe)?;
            image.sizes.1 = length(Path::new(&to))?;
            remove(&to)?;
        }
    }
    let what = |what: &str| format!("{what}, {megabytes} MB");
    local.print(&what("local"), "1.1 cp", "cp -a", &copy);
    Row::times(&what("local again, unchanged"), &unchanged)
        .peer("cp -a", &unchanged, &copy.returned)
        .print();
    tar.print(&what("tar"), "0.9 s", "tar", &tar_peer);
    tar_again.print(&what("tar again"));
    for image in &images {
        let name = format!("image archive, {}, {megabytes} MB", image.name);
        let peer = format!("tar, {}", image.peer);
        image.ours.print(&name, image.target, &peer, &image.theirs);
        Row::value(
            &format!("its size, {}", image.name),
            format!("{:.1} MB", image.sizes.0),
        )
        .peer_value(format!("{peer}: {:.1} MB", image.sizes.1))
        .print();
    }
    Row::times(&what("image layout again, unchanged"), &layout)
        .target("20 ms")
        .print();
    archive_again.print(&what("image archive again"));
    Ok(())
}
