//! Cache records that are taken along, and solves that find everything by them.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use ashlar_exporters::{Compression, cache_blobs};
use ashlar_llb::{FileActions, State, scratch};
use ashlar_solver::cache::records::ConfigLayer;
use ashlar_solver::cache::{CacheMode, CacheRecords};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::solver::{CacheImport, SolveRequest};
use tempfile::TempDir;

use crate::no_op::chain;
use crate::sample::{Times, definition, runtime, solve, solver};
use crate::table::{Row, note};
use crate::{Outcome, Size};

/// Chains of file ops, and a copy of the last file of each.
fn graph(chains: usize, length: usize) -> State {
    let mut copies = FileActions::new();
    for at in 0..chains {
        let name = format!("chain-{at}");
        let file = format!("/{name}-{}", length - 1);
        copies = copies.copy(chain(&name, length), &file, &file).into();
    }
    scratch().file(copies)
}

pub(crate) fn measure(size: Size) -> Outcome {
    let runtime = runtime()?;
    let folder = TempDir::with_prefix("ashlar-bench-")?;
    let (chains, length) = size.pick((100, 100), (20, 20));
    let definition = definition(&graph(chains, length))?;
    let request = || SolveRequest::new(definition.clone());
    let first = solver(&runtime, &folder.path().join("first"))?;
    let (_, solved) = solve(&runtime, &first, request())?;
    let mut exported = Times::default();
    for _ in 0..size.pick(5, 2) {
        let start = Instant::now();
        runtime.block_on(solved.export_cache(CacheMode::Max))?;
        exported.add(start.elapsed());
    }
    let export = runtime.block_on(solved.export_cache(CacheMode::Max))?;
    let never = Cancel::new();
    let blobs = cache_blobs(&export, Compression::Uncompressed, &never);
    let records = runtime.block_on(blobs)?;
    let Ok(config) =
        records.map_layers(|layer| Ok::<_, Infallible>(Some(ConfigLayer::from(layer))));
    let json = config.to_json();
    let count = records.records().len();
    note(&format!(
        "{count} records, {} layers, {} KiB of JSON",
        records.layers().len(),
        json.len() / 1024
    ));
    let by_blob: std::collections::HashMap<_, _> = records
        .layers()
        .iter()
        .map(|layer| (layer.layer.blob.digest, Arc::new(layer.layer.clone())))
        .collect();
    let mut read = Times::default();
    let mut whole = Times::default();
    for _ in 0..size.pick(9, 3) {
        let fresh = TempDir::new_in(folder.path())?;
        let solver = solver(&runtime, fresh.path())?;
        let start = Instant::now();
        let config = CacheRecords::from_json(&json)?;
        let Ok(named) = config.map_layers(|layer| {
            let known = by_blob.get(&layer.blob).map(|layer| (**layer).clone());
            Ok::<_, Infallible>(known)
        });
        let import = CacheImport::new(named, export.blobs());
        read.add(start.elapsed());
        let (_, solved) = solve(&runtime, &solver, request().import_cache(import))?;
        whole.add(start.elapsed());
        assert_eq!(solved.ran(), 0, "everything is imported");
    }
    let what = format!("export of {count} records, mode=max");
    Row::times(&what, &exported).print();
    let what = format!("import of {count} records: read and index");
    Row::times(&what, &read).print();
    let what = format!("import of {count} records and a cached solve");
    Row::times(&what, &whole).target("200 ms").print();
    Ok(())
}
