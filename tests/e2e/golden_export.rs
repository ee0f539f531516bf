//! Exports recorded from BuildKit: manifests, indexes, configs, attestations and layers byte for
//! byte, directories and archives entry for entry.
//!
//! Where a recording has provenance or cache records that the original engine made of its own run,
//! the same bytes are given with the result, so that all around them is compared.

mod blobs;
mod compare;
mod listing;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use ashlar_exporters::{Epoch, Exported, Output};
use ashlar_llb::{Definition, Platform, Reference};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::oci::Descriptor;
use ashlar_solver::refs::Ref;
use ashlar_solver::result::{
    Attestation, AttestationContent, AttestationKind, BuildResult, PlatformRef,
};
use ashlar_solver::solver::{SolveRequest, Solver};
use ashlar_solver::source::image::ResolveMode;
use base64::Engine as _;
use serde_json::Value;
use serde_json::value::RawValue;

use super::support::{self, chain, is_root, temp};

/// Where the golden files are: `ASHLAR_GOLDEN`, or those of this repository.
fn golden() -> PathBuf {
    let chosen = std::env::var_os("ASHLAR_GOLDEN");
    chosen.map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"),
        PathBuf::from,
    )
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Groups of cases; each is a test, so that none takes long.
macro_rules! groups {
    ($($test:ident: $group:literal,)*) => {
        const GROUPS: &[&str] = &[$($group),*];
        $(
            #[test]
            fn $test() {
                run(stringify!($test), "export", |_, group| group == $group);
            }
        )*
    };
}

groups! {
    golden_export_oci: "oci",
    golden_export_layers: "layers",
    golden_export_compression: "compression",
    golden_export_platforms: "platforms",
    golden_export_annotations: "annotations",
    golden_export_attestations: "attest",
    golden_export_inline_cache: "inline",
    golden_export_compatibility: "compat",
    golden_export_image: "image",
    golden_export_files: "fs",
}

#[test]
fn golden_export_of_other_groups() {
    let test = "golden_export_of_other_groups";
    run(test, "export", |_, group| !GROUPS.contains(&group));
}

/// Merges and diffs, each exported in three ways at once.
macro_rules! merges {
    ($($test:ident: $part:literal,)*) => {
        const PARTS: usize = [$($part),*].len();
        $(
            #[test]
            fn $test() {
                run(stringify!($test), "mergediff", |at, _| at % PARTS == $part);
            }
        )*
    };
}

merges! {
    golden_mergediff_first: 0,
    golden_mergediff_second: 1,
    golden_mergediff_third: 2,
    golden_mergediff_fourth: 3,
    golden_mergediff_fifth: 4,
}

fn run(test: &str, folder: &str, wanted: impl Fn(usize, &str) -> bool) {
    let folder = golden().join(folder);
    let catalogue = folder.join("catalogue.json");
    let Ok(catalogue) = fs::read(&catalogue) else {
        println!("SKIPPED: {test}: no {}", catalogue.display());
        return;
    };
    let catalogue: Value = serde_json::from_slice(&catalogue).unwrap();
    let (mut wrong, mut passed) = (Vec::new(), 0);
    for (at, case) in list(&catalogue["cases"]).iter().enumerate() {
        let name = text(&case["name"]);
        let path = folder.join(text(&case["json"]));
        let Ok(case) = fs::read(&path) else {
            println!("SKIPPED: {test}: no {}", path.display());
            continue;
        };
        let value: Value = serde_json::from_slice(&case).unwrap();
        if !wanted(at, text(&value["group"])) {
            continue;
        }
        let steps = value["recipe_steps"].to_string();
        if steps.contains("\"run\"") && !is_root() {
            println!("SKIPPED: {test}: {name} needs root");
            continue;
        }
        let case = Case {
            folder: folder.clone(),
            value,
        };
        match check(&case) {
            Ok(()) => passed += 1,
            Err(reason) => wrong.push(format!("{name}: {reason}")),
        }
    }
    println!("{passed} of the recorded exports are the same here");
    let count = wrong.len();
    assert!(wrong.is_empty(), "{count} wrong:\n{}", wrong.join("\n"));
}

/// A recorded case.
struct Case {
    /// Where its files are.
    folder: PathBuf,
    value: Value,
}

impl std::ops::Deref for Case {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.value
    }
}

/// Runs a case and compares.
fn check(case: &Case) -> Result<(), String> {
    let folder = temp();
    let exported = support::runtime().block_on(export(case, folder.path()));
    match (exported, text(&case["expect"])) {
        (Err(_), "error") => Ok(()),
        (Err(error), _) => Err(error),
        (Ok(_), "error") => Err(format!("no error, should be: {}", case["error"])),
        (Ok(made), _) => compare::outputs(case, &made),
    }
}

/// An output that was made.
struct Made {
    /// Where it is.
    path: PathBuf,
    exported: Exported,
    /// The store, for images that are there.
    result: BuildResult,
}

async fn export(case: &Case, folder: &Path) -> Result<Vec<Made>, String> {
    let builder = Solver::builder().root(folder.join("state"));
    let solver = builder.build().map_err(|error| chain(&error))?;
    let result = result(case, &solver, folder).await?;
    let mut outputs = Vec::new();
    let request = &case["request"];
    for (at, exporter) in list(&request["exporters"]).iter().enumerate() {
        let path = folder.join(format!("output-{at}"));
        let mut attributes: BTreeMap<String, String> = BTreeMap::new();
        for (key, value) in exporter["attrs"].as_object().into_iter().flatten() {
            attributes.insert(key.clone(), text(value).to_owned());
        }
        let kind = text(&exporter["type"]);
        if kind != "image" {
            attributes.insert("dest".to_owned(), path.display().to_string());
        }
        // What a registry gets is what is stored.
        attributes.remove("push");
        if let Some(version) = request["compatibility_version"].as_u64() {
            attributes.insert("compatibility-version".to_owned(), version.to_string());
        }
        let mut output = Output::from_attributes(kind, attributes).map_err(|e| e.to_string())?;
        let argument = &request["frontend_attrs"]["build-arg:SOURCE_DATE_EPOCH"];
        match text(argument).parse() {
            Ok(seconds) => output = output.with_default_epoch(Epoch::At(seconds)),
            Err(_) if argument == "" => output = output.with_default_epoch(Epoch::None),
            Err(_) => {}
        }
        outputs.push((path, output));
    }
    let exporters: Vec<_> = outputs
        .iter()
        .map(|(_, output)| output.exporter())
        .collect();
    let cancel = Cancel::new();
    let exported = ashlar_exporters::export_all(&exporters, &result, &cancel);
    let exported = exported.await.map_err(|error| chain(&error))?;
    let made = outputs
        .into_iter()
        .zip(exported)
        .map(|((path, _), exported)| Made {
            path,
            exported,
            result: result.clone(),
        });
    Ok(made.collect())
}

/// Builds the steps of a case and puts the trees together as its frontend did.
async fn result(case: &Case, solver: &Solver, folder: &Path) -> Result<BuildResult, String> {
    put_base(solver);
    let mut refs = Vec::new();
    let request = &case["request"];
    for tree in list(&request["results"]) {
        let id = text(&tree["platform_id"]);
        let reference = match &tree["result"] {
            Value::Null => Ref::scratch(),
            step => solve(case, solver, folder, text(step), id).await?,
        };
        let platform = match &tree["platform"] {
            Value::Null => Platform::of_target(),
            told => Platform::new(text(&told["os"]), text(&told["arch"]))
                .with_variant(text(&told["variant"])),
        };
        refs.push((PlatformRef::new(platform, reference).with_id(id), tree));
    }
    let store = solver.store().clone();
    let is_map = request["map_form"].as_bool().unwrap_or(refs.len() > 1);
    let mut result = if is_map {
        let refs = refs.iter().map(|(tree, _)| tree.clone());
        BuildResult::of_platforms(refs, store).map_err(|error| chain(&error))?
    } else {
        let tree = &refs[0].0;
        BuildResult::new(tree.reference.clone(), tree.platform.clone(), store)
    };
    for (tree, told) in &refs {
        if let Some(config) = told["image_config"].as_str() {
            result = match is_map {
                true => result.with_image_config_of(&tree.id, config),
                false => result.with_image_config(config),
            };
        }
    }
    for (key, value) in request["result_metadata"].as_object().into_iter().flatten() {
        result.metadata.insert(key.clone(), text(value).into());
    }
    for told in list(&request["attestations"]) {
        let id = text(&told["platform_id"]);
        let tree = solve(case, solver, folder, text(&told["result"]), "").await?;
        let attestation = Attestation::new(
            AttestationKind::InToto,
            text(&told["predicate_type"]),
            text(&told["path"]),
            AttestationContent::File(tree),
        );
        result = result.with_attestation(id, attestation);
    }
    Ok(with_recorded(case, result))
}

async fn solve(
    case: &Case,
    solver: &Solver,
    folder: &Path,
    step: &str,
    id: &str,
) -> Result<Ref, String> {
    let files = &case["pb"];
    let with_id = format!("{step}.{}", id.replace('/', "-"));
    let file = files.get(&with_id).unwrap_or(&files[step]);
    let bytes = fs::read(case.folder.join(text(file))).map_err(|e| e.to_string())?;
    let definition = Definition::decode(bytes).map_err(|error| chain(&error))?;
    let mut request = SolveRequest::new(definition).resolve(ResolveMode::Offline);
    if let Some(inputs) = case["inputs_tar"].as_str() {
        let inputs = case.folder.join(inputs);
        let unpack = ["-x", "-p", "-C"];
        support::run(
            Command::new("tar")
                .args(unpack)
                .arg(folder)
                .arg("-f")
                .arg(inputs),
        );
        for local in list(&case["locals"]) {
            let local = text(local);
            request = request.local(local, folder.join(local));
        }
    }
    let solved = solver.solve(request).result().await;
    let solved = solved.map_err(|error| chain(&error))?;
    Ok(solved.result.reference().clone())
}

/// Puts the base image into the store under the name that the recordings have for it.
fn put_base(solver: &Solver) {
    let store = solver.store();
    let layout = golden().join("base/layout");
    for blob in fs::read_dir(layout.join("blobs/sha256")).unwrap() {
        let bytes = fs::read(blob.unwrap().path()).unwrap();
        store.blobs().put(&bytes).unwrap();
    }
    let index = fs::read(layout.join("index.json")).unwrap();
    let index: ashlar_solver::oci::Index = serde_json::from_slice(&index).unwrap();
    for manifest in index.manifests {
        let tag = &manifest.annotations["org.opencontainers.image.ref.name"];
        let name = Reference::parse(&format!("127.0.0.1:5003/golden/base:{tag}")).unwrap();
        let described = Descriptor::new(&manifest.media_type, manifest.digest, manifest.size);
        store.images().set(&name, &described).unwrap();
    }
}

/// Gives what the original engine made of its own run with the result: provenance, and records of
/// the cache.
fn with_recorded(case: &Value, mut result: BuildResult) -> BuildResult {
    let output = &case["outputs"][0];
    let asks = |key: &str| case["request"]["frontend_attrs"].get(key).is_some();
    if asks("attest:provenance") {
        let recorded = statements(output, &result);
        // Where the original engine refused, any will do.
        let any = r#"{"predicateType":"https://slsa.dev/provenance/v1","predicate":{}}"#;
        let any = recorded
            .is_empty()
            .then(|| (result.platform().to_string(), any.to_owned()));
        for (id, statement) in recorded.into_iter().chain(any) {
            let attestation = provenance(&statement);
            result = result.with_attestation(id, attestation);
        }
    }
    if text(&case["request"]["cache_export"]) == "inline" {
        let recorded = blobs::recorded(output);
        for image in recorded.images() {
            let config: Value = serde_json::from_str(&image.config).unwrap();
            let Some(records) = config["moby.buildkit.cache.v0"].as_str() else {
                continue;
            };
            let records = base64::engine::general_purpose::STANDARD.decode(records);
            let key = match result.is_map() {
                true => format!("containerimage.inlinecache/{}", image.platform),
                false => "containerimage.inlinecache".to_owned(),
            };
            result.metadata.insert(key, records.unwrap());
        }
    }
    result
}

/// The statements of a recorded output, by the id of their platform.
fn statements(output: &Value, result: &BuildResult) -> Vec<(String, String)> {
    if let Some(files) = output["json_files"].as_object() {
        let of = |path: &str| match path.split_once('/') {
            Some((directory, _)) => directory.replace('_', "/"),
            None => result.platform().to_string(),
        };
        let files = files.iter();
        return files
            .map(|(path, json)| (of(path), text(json).to_owned()))
            .collect();
    }
    let recorded = blobs::recorded(output);
    let attested = recorded.images().into_iter().flat_map(|image| {
        let id = image.platform;
        let statements = image.statements.into_iter();
        statements.map(move |statement| (id.clone(), statement))
    });
    attested.collect()
}

/// A statement taken apart, as the engine would hand it to exporters.
fn provenance(statement: &str) -> Attestation {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Statement<'a> {
        predicate_type: String,
        #[serde(borrow)]
        predicate: &'a RawValue,
    }
    let parsed: Statement<'_> = serde_json::from_str(statement).unwrap();
    let predicate = Arc::from(parsed.predicate.get().as_bytes());
    Attestation::new(
        AttestationKind::InToto,
        parsed.predicate_type,
        "provenance.json",
        AttestationContent::Bytes(predicate),
    )
}
