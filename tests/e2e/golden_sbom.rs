//! Bills of materials in images, next to what BuildKit made of the same documents of a scanner.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ashlar_exporters::attest::Attest;
use ashlar_exporters::sbom::{ScanDocument, ScanError, ScanTarget, Scanner};
use ashlar_exporters::{Compression, Exporter as _, Oci};
use ashlar_llb::{self as llb, Definition, copy};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::result::{Attestation, AttestationContent, AttestationKind};
use ashlar_solver::solver::{SolveRequest, Solver};
use async_trait::async_trait;
use serde_json::Value;
use serde_json::value::RawValue;

use super::support::{self, solve, temp};

/// Where the golden files are: `ASHLAR_GOLDEN`, or those of this repository.
fn golden() -> PathBuf {
    let chosen = std::env::var_os("ASHLAR_GOLDEN");
    chosen.map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"),
        PathBuf::from,
    )
}

/// The strings of a list.
fn texts(list: &Value) -> Vec<String> {
    let texts = list.as_array().unwrap().iter();
    texts
        .map(|text| text.as_str().unwrap().to_owned())
        .collect()
}

/// A statement with numbers in place of layers, and without the version of who supplemented it.
fn normal(statement: &str, layers: &[String]) -> String {
    let mut text = statement.to_owned();
    for (at, layer) in layers.iter().enumerate() {
        text = text.replace(layer, &format!("layer {at}"));
    }
    for tool in ["\"Tool: buildkit-", "\"Tool: ashlar-"] {
        if let Some((before, after)) = text.split_once(tool) {
            let (_version, after) = after.split_once('"').unwrap();
            text = format!("{before}\"Tool: -\"{after}");
        }
    }
    text
}

/// The layers of the one image in a layout, and the statements beside it, in their order.
fn exported(layout: &Path) -> (Vec<String>, Vec<String>) {
    let read = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap();
        fs::read_to_string(layout.join("blobs").join(digest.replace(':', "/"))).unwrap()
    };
    let parse = |text: String| -> Value { serde_json::from_str(&text).unwrap() };
    let top = parse(fs::read_to_string(layout.join("index.json")).unwrap());
    let index = parse(read(&top["manifests"][0]));
    let [image, attested] = [0, 1].map(|at| parse(read(&index["manifests"][at])));
    let layers = image["layers"].as_array().unwrap().iter();
    let layers = layers.map(|layer| layer["digest"].as_str().unwrap().to_owned());
    let statements = attested["layers"].as_array().unwrap().iter();
    (layers.collect(), statements.map(read).collect())
}

/// A scanner that says what is in the statement of a file.
#[derive(Debug)]
struct Says(PathBuf);

#[async_trait]
impl Scanner for Says {
    async fn scan(&self, _: &ScanTarget, _: &Cancel) -> Result<Vec<ScanDocument>, ScanError> {
        #[derive(serde::Deserialize)]
        struct Statement<'a> {
            #[serde(borrow)]
            predicate: &'a RawValue,
        }
        let text = fs::read_to_string(&self.0).unwrap();
        let statement: Statement<'_> = serde_json::from_str(&text).unwrap();
        let document = statement.predicate.get().as_bytes();
        Ok(vec![ScanDocument::spdx("sbom", document)])
    }
}

/// The documents of a scanner in a tree.
async fn bundle(solver: &Solver, documents: &Path) -> Attestation {
    let copied = llb::scratch().file(copy(llb::local("documents"), "/", "/").contents_only());
    let request = support::request(&copied).local("documents", documents);
    let documents = solve(solver, request).await.result;
    let mut attestation = Attestation::new(
        AttestationKind::Bundle,
        "https://spdx.dev/Document",
        "",
        AttestationContent::File(documents.reference().clone()),
    );
    attestation.metadata = BTreeMap::from([
        ("reason".to_owned(), b"sbom".to_vec()),
        ("sbom-core".to_owned(), b"sbom".to_vec()),
    ]);
    attestation
}

/// The layers of an image of this case and the statements beside it, which are in a tree, or which
/// a scanner makes.
async fn made(folder: &Path, case: &Value, scanned: bool) -> (Vec<String>, Vec<String>) {
    let work = temp();
    let solver = support::solver(work.path().join("state"));
    let text = |key: &str| case[key].as_str().unwrap();
    let definition = Definition::decode(fs::read(folder.join(text("pb"))).unwrap()).unwrap();
    let solved = solve(&solver, SolveRequest::new(definition)).await;
    let documents = folder.join(text("documents"));
    let result = match scanned {
        true => {
            let attest = Attest::new().sbom(Says(documents.join("sbom.spdx.json")));
            let attested = attest.apply(&solved.result, &Cancel::new()).await;
            attested.unwrap()
        }
        false => {
            let attestation = bundle(&solver, &documents).await;
            let id = solved.result.platform().format();
            solved.result.with_attestation(id, attestation)
        }
    };
    let layout = work.path().join("layout");
    let exporter = Oci::directory(&layout).compression(Compression::Uncompressed);
    exporter.export(&result, &Cancel::new()).await.unwrap();
    exported(&layout)
}

#[test]
fn golden_sbom_documents_of_scanners_are_supplemented_as_by_buildkit() {
    let test = "golden_sbom_documents_of_scanners_are_supplemented_as_by_buildkit";
    let folder = golden().join("sbom");
    let Ok(files) = fs::read_dir(&folder) else {
        println!("SKIPPED: {test}: no {}", folder.display());
        return;
    };
    let files = files.map(|file| file.unwrap().path());
    for file in files.filter(|file| file.extension().is_some_and(|kind| kind == "json")) {
        let case: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let (layers, statements) = support::runtime().block_on(made(&folder, &case, false));
        let recorded = texts(&case["layers"]);
        assert_eq!(layers.len(), recorded.len(), "{}", file.display());
        let ours = statements.iter().map(|text| normal(text, &layers));
        let theirs = texts(&case["statements"]);
        let theirs = theirs.iter().map(|text| normal(text, &recorded));
        for (at, (ours, theirs)) in ours.zip(theirs).enumerate() {
            assert_eq!(ours, theirs, "statement {at} of {}", file.display());
        }
        assert_eq!(statements.len(), texts(&case["statements"]).len());
        // The same out of a scanner of ours; BuildKit has bundles only, and sorts what is no SPDX.
        let core = texts(&case["statements"]).swap_remove(0);
        if core.contains("\"spdxVersion\"") {
            let scanned = support::runtime().block_on(made(&folder, &case, true));
            let ours = normal(&scanned.1[0], &scanned.0);
            assert_eq!(ours, normal(&core, &recorded), "{}", file.display());
        }
    }
}
