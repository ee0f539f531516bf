//! An image into a registry on this machine.

use std::time::{Duration, Instant};

use ashlar_exporters::{Compression, Exporter, Oci, Push};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::result::BuildResult;
use ashlar_solver::solver::SolveRequest;
use tokio::runtime::Runtime;

use crate::child::copy_of_files;
use crate::pull::registry;
use crate::sample::{Times, definition, has, runtime, shell, solve, solver};
use crate::space::Space;
use crate::table::{Row, note};
use crate::{Outcome, Size, trees};

/// How long an export takes.
fn export(runtime: &Runtime, exporter: &dyn Exporter, result: &BuildResult) -> Outcome<Duration> {
    let start = Instant::now();
    runtime.block_on(exporter.export(result, &Cancel::new()))?;
    Ok(start.elapsed())
}

pub(crate) fn measure(size: Size) -> Outcome {
    if let Some(missing) = ["docker-registry", "skopeo"].iter().find(|p| !has(p)) {
        note(&format!("pushing is left out: it needs {missing}"));
        return Ok(());
    }
    let (samples, megabytes) = (size.pick(5, 1), size.pick(503, 60));
    let runtime = runtime()?;
    let space = Space::new(size.pick(4, 1))?;
    space.announce();
    let root = space.path().display().to_string();
    let files = space.path().join("files");
    trees::root(&files, megabytes)?;
    let request = SolveRequest::new(definition(&copy_of_files())?).local("files", &files);
    let solver = solver(&runtime, &space.path().join("state"))?;
    let result = solve(&runtime, &solver, request)?.1.result;
    // Compressed beforehand: what is measured is the way into the registry.
    let compression = Compression::Zstd { level: 3 };
    let layout = Oci::directory(space.path().join("image"))
        .name("app:v1")
        .compression(compression);
    export(&runtime, &layout, &result)?;
    let (_registry, host) = registry(space.path())?;
    // Repositories share blobs on the disk: the registry gets them anew each time.
    let forget = || shell(&format!("rm -rf {root}/store/docker && sync -f {root}"));
    let [mut new, mut new_peer, mut same, mut same_peer] = <[Times; 4]>::default();
    for sample in 0..samples {
        forget()?;
        let push = Push::new(solver.registry())
            .name(format!("{host}/ours{sample}"))
            .compression(compression);
        new.add(export(&runtime, &push, &result)?);
        for _ in 0..size.pick(10, 1) {
            same.add(export(&runtime, &push, &result)?);
        }
        forget()?;
        let skopeo = || {
            shell(&format!(
                "skopeo --insecure-policy copy --quiet --dest-tls-verify=false --preserve-digests \
                 oci:{root}/image:v1 docker://{host}/theirs{sample}"
            ))
        };
        new_peer.add(skopeo()?);
        same_peer.add(skopeo()?);
    }
    let what = format!("push of a layer of {megabytes} MB, compressed before");
    Row::times(&what, &new)
        .peer("skopeo copy", &new, &new_peer)
        .print();
    Row::times("push again, unchanged", &same)
        .target("15 ms")
        .peer("skopeo copy", &same, &same_peer)
        .print();
    Ok(())
}
