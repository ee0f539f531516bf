//! Provenance of solves that happen here, next to what BuildKit wrote of its solves of the same
//! definitions.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use ashlar_exporters::attest::Attest;
use ashlar_exporters::provenance::{ProvenanceMode, ProvenanceOptions, SlsaVersion};
use ashlar_exporters::{Compression, Exporter as _, Oci};
use ashlar_llb::Definition;
use ashlar_solver::cancel::Cancel;
use ashlar_solver::registry::{HostConfig, Mirror, RegistryConfig};
use ashlar_solver::session::MemorySecret;
use ashlar_solver::solver::{SolveRequest, Solver};
use serde_json::Value;
use serde_json::value::RawValue;
use tempfile::TempDir;

use super::registries::{Registry, TOOLS, push};
use super::support::{self, chain, is_root, skipped, temp};

/// Where the golden files are: `ASHLAR_GOLDEN`, or those of this repository.
fn golden() -> PathBuf {
    let chosen = std::env::var_os("ASHLAR_GOLDEN");
    chosen.map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"),
        PathBuf::from,
    )
}

/// What differs between any two solves, and who builds.
const OWN: [&str; 8] = [
    "/runDetails/builder/id",
    "/runDetails/metadata/invocationId",
    "/runDetails/metadata/startedOn",
    "/runDetails/metadata/finishedOn",
    "/builder/id",
    "/metadata/buildInvocationID",
    "/metadata/buildStartedOn",
    "/metadata/buildFinishedOn",
];

/// The text of a predicate, with `-` for what is each solve's own.
fn normal(predicate: &str) -> String {
    let value: Value = serde_json::from_str(predicate).unwrap();
    let mut text = predicate.to_owned();
    for member in OWN {
        let Some(own) = value.pointer(member) else {
            continue;
        };
        let name = member.rsplit('/').next().unwrap();
        let found = format!("\"{name}\":{own}");
        assert_eq!(text.matches(&found).count(), 1, "{member}");
        text = text.replace(&found, &format!("\"{name}\":\"-\""));
    }
    text
}

/// What differs: where two texts part, and what follows there.
fn parted(ours: &str, theirs: &str) -> String {
    let same = ours.bytes().zip(theirs.bytes()).take_while(|(a, b)| a == b);
    let at = same.count();
    let from = at.saturating_sub(100);
    let part = |text: &str| {
        let end = text.len().min(at + 300);
        String::from_utf8_lossy(&text.as_bytes()[from..end]).into_owned()
    };
    format!("at {at}:\n{}\nnot\n{}", part(ours), part(theirs))
}

/// The predicate of a statement, byte for byte.
fn predicate_of(statement: &str) -> String {
    #[derive(serde::Deserialize)]
    struct Statement<'a> {
        #[serde(borrow)]
        predicate: &'a RawValue,
    }
    let statement: Statement<'_> = serde_json::from_str(statement).unwrap();
    statement.predicate.get().to_owned()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Registries with the images that cases want, by what is wanted: pushing takes longer than solving.
#[derive(Default)]
struct Mirrors(HashMap<String, (TempDir, Registry)>);

impl Mirrors {
    /// Settings by which a registry stands in for those that a case names.
    fn of(&mut self, folder: &Path, case: &Value) -> RegistryConfig {
        let mut config = RegistryConfig::default();
        let wanted = &case["registry"];
        if wanted.is_null() {
            return config;
        }
        let (_, registry) = self.0.entry(wanted.to_string()).or_insert_with(|| {
            let work = temp();
            let registry = Registry::start(work.path(), &work.path().join("store"), "");
            for (name, image) in wanted["images"].as_object().into_iter().flatten() {
                let (layout, tag) = text(image).rsplit_once(':').unwrap();
                let layout = folder.join(layout);
                push(&format!("oci:{}:{tag}", layout.display()), &registry, name);
            }
            (work, registry)
        });
        for host in wanted["mirrored"].as_array().into_iter().flatten() {
            let mirror = HostConfig::default().mirror(Mirror::new(registry.host()));
            config = config.host(text(host), mirror);
        }
        config
    }
}

/// Solves the definition of a case, and gives its predicates in all forms.
async fn predicates(
    folder: &Path,
    case: &Value,
    config: RegistryConfig,
) -> Result<BTreeMap<String, String>, String> {
    let work = temp();
    let builder = Solver::builder().root(work.path().join("state"));
    let solver = builder.registry(config).build();
    let solver = solver.map_err(|error| chain(&error))?;
    let bytes = fs::read(folder.join(text(&case["pb"]))).map_err(|e| e.to_string())?;
    let definition = Definition::decode(bytes).map_err(|error| chain(&error))?;
    let mut request = SolveRequest::new(definition);
    let pairs = |key: &str| {
        let pairs = case[key].as_object().into_iter().flatten();
        pairs.map(|(key, value)| (key.clone(), text(value).to_owned()))
    };
    for (name, path) in pairs("locals") {
        request = request.local(name, folder.join(path));
    }
    for (name, path) in pairs("oci_layouts") {
        request = request.oci_layout(name, folder.join(path));
    }
    for (id, secret) in pairs("secrets") {
        request = request.secret(MemorySecret::new(id, secret));
    }
    let solved = solver.solve(request).result().await;
    let result = solved.map_err(|error| chain(&error))?.result;
    let mut predicates = BTreeMap::new();
    for version in [SlsaVersion::V02, SlsaVersion::V1] {
        for (name, mode) in [("min", ProvenanceMode::Min), ("max", ProvenanceMode::Max)] {
            let options = ProvenanceOptions::new().version(version).mode(mode);
            let attest = Attest::new().provenance(options);
            let result = attest.apply(&result, &Cancel::new()).await;
            let result = result.map_err(|error| chain(&error))?;
            let name = format!("{version}-{name}");
            let layout = work.path().join(&name);
            let exporter = Oci::directory(&layout).compression(Compression::Uncompressed);
            let exported = exporter.export(&result, &Cancel::new()).await;
            exported.map_err(|error| chain(&error))?;
            let statement = fs::read_dir(layout.join("blobs/sha256")).unwrap();
            let statement = statement
                .map(|blob| fs::read_to_string(blob.unwrap().path()).unwrap_or_default())
                .find(|blob| blob.starts_with("{\"_type\":"));
            let statement = statement.ok_or("nothing is attested")?;
            predicates.insert(name, predicate_of(&statement));
        }
    }
    Ok(predicates)
}

#[test]
fn golden_provenance_of_own_solves_is_that_of_buildkit() {
    let test = "golden_provenance_of_own_solves_is_that_of_buildkit";
    let folder = golden().join("provenance");
    let Ok(files) = fs::read_dir(&folder) else {
        println!("SKIPPED: {test}: no {}", folder.display());
        return;
    };
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|kind| kind == "json"));
    files.sort();
    let (mut wrong, mut passed, mut mirrors) = (Vec::new(), 0, Mirrors::default());
    for file in files {
        let name = file.file_stem().unwrap().display().to_string();
        let case: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        if case["needs_root"] == true && !is_root() {
            println!("SKIPPED: {test}: {name} needs root");
            continue;
        }
        if case.get("registry").is_some() && skipped(test, &TOOLS) {
            continue;
        }
        let config = mirrors.of(&folder, &case);
        let made = support::runtime().block_on(predicates(&folder, &case, config));
        match made {
            Err(error) => wrong.push(format!("{name}: {error}")),
            Ok(made) => {
                let recorded = case["predicates"].as_object().unwrap();
                assert!(recorded.keys().all(|form| made.contains_key(form)));
                for (form, theirs) in recorded {
                    let (ours, theirs) = (&made[form], normal(text(theirs)));
                    match normal(ours) {
                        ours if ours == theirs => passed += 1,
                        ours => wrong.push(format!("{name} {form} {}", parted(&ours, &theirs))),
                    }
                }
            }
        }
    }
    println!("{passed} predicates are the same here");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
