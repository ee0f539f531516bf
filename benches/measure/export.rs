//! Images as archives.

use std::path::Path;
use std::time::Instant;

use ashlar_exporters::{Compression, Exporter as _, Oci};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::solver::SolveRequest;

use crate::child::copy_of_files;
use crate::sample::{Times, definition, has, runtime, shell, solve, solver};
use crate::space::Space;
use crate::table::Row;
use crate::{Outcome, Size, trees};

pub(crate) fn measure(size: Size) -> Outcome {
    let (samples, count) = (size.pick(3, 1), size.pick(50_000, 5_000));
    let gigabytes = size.pick(4, 1);
    let runtime = runtime()?;
    let source = Space::new(gigabytes)?;
    source.announce();
    let files = source.path().join("files");
    trees::small_files(&files, count)?;
    let request = SolveRequest::new(definition(&copy_of_files())?).local("files", &files);
    let mut kinds = vec![
        ("gzip 5", Compression::default(), "gzip -6", "| gzip -6"),
        (
            "gzip 6",
            Compression::Gzip { level: 6 },
            "gzip -6",
            "| gzip -6",
        ),
        ("uncompressed", Compression::Uncompressed, "tar", ""),
    ];
    if has("pigz") {
        for kind in &mut kinds[..2] {
            (kind.2, kind.3) = ("pigz -6", "| pigz -6");
        }
    }
    for (name, compression, peer, filter) in kinds {
        let (mut ours, mut again, mut theirs) =
            (Times::default(), Times::default(), Times::default());
        let mut sizes = (0.0, 0.0);
        for _ in 0..samples {
            let space = Space::new(gigabytes)?;
            let path = |name: &str| space.path().join(name);
            let solver = solver(&runtime, &path("state"))?;
            let solved = solve(&runtime, &solver, request.clone())?.1;
            shell(&format!("sync -f {}", space.path().display()))?;
            for (times, name) in [(&mut ours, "first.tar"), (&mut again, "again.tar")] {
                let export = Oci::archive(path(name)).compression(compression);
                let start = Instant::now();
                runtime.block_on(export.export(&solved.result, &Cancel::new()))?;
                times.add(start.elapsed());
            }
            theirs.add(shell(&format!(
                "tar -C {} -cf - . {filter} > {}",
                files.display(),
                path("peer.tar").display()
            ))?);
            sizes = (length(&path("first.tar"))?, length(&path("peer.tar"))?);
        }
        let what = format!("OCI archive of {count} files, {name}");
        Row::times(&what, &ours).peer(peer, &ours, &theirs).print();
        let what = format!("the same again, {name}");
        Row::times(&what, &again)
            .peer(peer, &again, &theirs)
            .print();
        Row::value(&format!("size, {name}"), format!("{:.1} MB", sizes.0))
            .peer_value(format!("{peer}: {:.1} MB", sizes.1))
            .print();
    }
    Ok(())
}

/// Length of a file in MB.
pub(crate) fn length(path: &Path) -> Outcome<f64> {
    let kibibytes = u32::try_from(std::fs::metadata(path)?.len() / 1024)?;
    Ok(f64::from(kibibytes) * 1.024e-3)
}
