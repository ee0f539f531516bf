//! Attestations: asked for, exported in every form, taken by other tools, and without secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use ashlar_exporters::attest::{Attest, AttestError};
use ashlar_exporters::provenance::{ProvenanceMode, ProvenanceOptions, SlsaVersion};
use ashlar_exporters::sbom::PackageScanner;
use ashlar_exporters::{Compression, Exporter as _, Local, Oci, Output};
use ashlar_llb::{self as llb, BlobDigest, Constraints, Platform, SourceMap, State, copy, mkfile};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::result::{Attestation, AttestationContent, AttestationKind, BuildResult};
use ashlar_solver::session::MemorySecret;
use ashlar_solver::solver::{SolveRequest, Solver};
use base64::Engine as _;
use serde_json::Value;

use super::registries::Registry;
use super::support::{self, Need, run, runtime, skipped, solve, temp, then, write};

/// A tree with packages: some files, in two layers.
fn packages() -> State {
    let lock = "[[package]]\nname = \"libc\"\nversion = \"0.2.175\"\n";
    let installed = "P:busybox\nV:1.36.1-r5\nA:x86_64\nF:bin\nR:busybox\n\n";
    llb::scratch()
        .file(llb::mkdir("/lib/apk/db").parents().created(then()))
        .file(mkfile("/lib/apk/db/installed", installed).created(then()))
        .file(llb::mkdir("/bin").created(then()))
        .file(mkfile("/bin/busybox", "first").created(then()))
        .file(mkfile("/Cargo.lock", lock).created(then()))
        .file(mkfile("/bin/busybox", "second").created(then()))
}

async fn solved(solver: &Solver, state: &State) -> BuildResult {
    solve(solver, support::request(state)).await.result
}

async fn attested(result: &BuildResult, attest: Attest) -> BuildResult {
    attest.apply(result, &Cancel::new()).await.unwrap()
}

/// A layout on disk, of which every blob is what its name says.
struct Layout(BTreeMap<String, Vec<u8>>, Value);

impl Layout {
    fn read(folder: &Path) -> Self {
        let mut blobs = BTreeMap::new();
        for entry in fs::read_dir(folder.join("blobs/sha256")).unwrap() {
            let entry = entry.unwrap();
            let bytes = fs::read(entry.path()).unwrap();
            let digest = BlobDigest::of(&bytes).to_string();
            let name = entry.file_name().into_string().unwrap();
            assert_eq!(digest, format!("sha256:{name}"));
            blobs.insert(digest, bytes);
        }
        let index = fs::read(folder.join("index.json")).unwrap();
        Self(blobs, serde_json::from_slice(&index).unwrap())
    }

    fn json(&self, descriptor: &Value) -> Value {
        let digest = descriptor["digest"].as_str().unwrap();
        let bytes = &self.0[digest];
        assert_eq!(descriptor["size"].as_u64(), Some(bytes.len() as u64));
        serde_json::from_slice(bytes).unwrap()
    }

    /// The image manifest and the statements about it, after checking what leads to them.
    fn attested(&self) -> (Value, Vec<Value>) {
        let index = self.json(&self.1["manifests"][0]);
        let [image, attestation] = &index["manifests"].as_array().unwrap()[..] else {
            panic!("{index}");
        };
        assert_eq!(attestation["platform"]["architecture"], "unknown");
        let notes = &attestation["annotations"];
        assert_eq!(notes["vnd.docker.reference.type"], "attestation-manifest");
        assert_eq!(notes["vnd.docker.reference.digest"], image["digest"]);
        let (image, manifest) = (self.json(image), self.json(attestation));
        if manifest["artifactType"].is_string() {
            assert_eq!(
                manifest["subject"]["digest"],
                index["manifests"][0]["digest"]
            );
            assert_eq!(
                manifest["config"]["mediaType"],
                "application/vnd.oci.empty.v1+json"
            );
        } else {
            let config = self.json(&manifest["config"]);
            let layers = manifest["layers"].as_array().unwrap().iter();
            let digests: Vec<_> = layers.map(|layer| layer["digest"].clone()).collect();
            assert_eq!(config["rootfs"]["diff_ids"], Value::Array(digests));
        }
        let layers = manifest["layers"].as_array().unwrap().iter();
        let statements = layers.map(|layer| {
            let statement = self.json(layer);
            assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
            let kind = &layer["annotations"]["in-toto.io/predicate-type"];
            assert_eq!(&statement["predicateType"], kind);
            statement
        });
        (image, statements.collect())
    }
}

/// The names in a tar.
fn names(tar: &[u8]) -> BTreeSet<String> {
    let folder = temp();
    let path = folder.path().join("layer.tar");
    fs::write(&path, tar).unwrap();
    let listed = run(Command::new("tar").arg("-tf").arg(path));
    listed.lines().map(str::to_owned).collect()
}

#[test]
fn plain_unless_asked_and_three_kinds_in_both_forms_if_asked() {
    runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let result = solved(&solver, &packages()).await;
        assert!(result.attestations.is_empty());
        let plain = folder.path().join("plain");
        let exporter = Oci::directory(&plain).compression(Compression::Uncompressed);
        exporter.export(&result, &Cancel::new()).await.unwrap();
        let layout = Layout::read(&plain);
        assert!(layout.json(&layout.1["manifests"][0])["config"].is_object());

        let own = Attestation::in_toto("https://example.com/tested/v1", "tested.json", "{\"all\": true}");
        let asked = Attest::new()
            .statement(own)
            .provenance(ProvenanceOptions::new())
            .sbom(PackageScanner::new())
            .source_date_epoch(1_650_000_000);
        let result = attested(&result, asked).await;
        let mut exports = Vec::new();
        for form in ["true", "false", "true"] {
            let path = folder.path().join(format!("attested-{}", exports.len()));
            let output = format!(
                "type=oci,tar=false,dest={},name=example.com/app:v1,oci-artifact={form},compression=uncompressed",
                path.display()
            );
            let output = Output::parse(&output).unwrap();
            output.exporter().export(&result, &Cancel::new()).await.unwrap();
            let layout = Layout::read(&path);
            let (image, statements) = layout.attested();
            let kinds: Vec<_> = statements.iter().map(|s| s["predicateType"].as_str().unwrap()).collect();
            assert_eq!(
                kinds,
                ["https://spdx.dev/Document", "https://slsa.dev/provenance/v1", "https://example.com/tested/v1"]
            );
            for statement in &statements {
                let subject = &statement["subject"][0];
                assert_eq!(subject["name"], "pkg:docker/example.com/app@v1?platform=linux%2Famd64");
                let image = BlobDigest::of(&layout.0.values().find(|bytes| {
                    serde_json::from_slice::<Value>(bytes).is_ok_and(|json| json == image)
                }).unwrap()[..]).to_string();
                assert_eq!(format!("sha256:{}", subject["digest"]["sha256"].as_str().unwrap()), image);
            }
            check_layers(&layout, &image, &statements[0]["predicate"]);
            check_steps(&image, &statements[1]["predicate"]);
            assert_eq!(statements[2]["predicate"]["all"], true);
            exports.push(path);
        }
        // The same bytes again.
        assert_eq!(support::tree(&exports[0]), support::tree(&exports[2]));
    });
}

/// Files of an SBOM say which layer they are from: the topmost that has them.
fn check_layers(layout: &Layout, image: &Value, document: &Value) {
    let layers: Vec<&str> = image["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| layer["digest"].as_str().unwrap())
        .collect();
    let files = document["files"].as_array().unwrap();
    assert_eq!(files.len(), 3);
    for file in files {
        let name = file["fileName"].as_str().unwrap();
        let comment = file["comment"].as_str().unwrap();
        let layer = comment.strip_prefix("layerID: ").unwrap();
        let top = layers
            .iter()
            .rev()
            .find(|digest| names(&layout.0[**digest]).contains(name));
        assert_eq!(Some(&layer), top, "{name}");
    }
    assert_eq!(
        document["creationInfo"]["creators"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(document["creationInfo"]["created"], "2022-04-15T05:20:00Z");
}

/// The last step has the layers of the image.
fn check_steps(image: &Value, predicate: &Value) {
    let config = &predicate["buildDefinition"]["internalParameters"]["buildConfig"];
    let steps = config["llbDefinition"].as_array().unwrap();
    let last = format!("step{}:0", steps.len() - 2);
    assert_eq!(steps.last().unwrap()["inputs"][0], last);
    let layers = &predicate["runDetails"]["metadata"]["buildkit_metadata"]["layers"];
    let digests = |list: &Value| -> Vec<Value> {
        list.as_array()
            .unwrap()
            .iter()
            .map(|layer| layer["digest"].clone())
            .collect()
    };
    assert_eq!(digests(&layers[&last][0]), digests(&image["layers"]));
    assert_eq!(digests(&layers["step0:0"][0]).len(), 1);
    for digest in config["digestMapping"].as_object().unwrap().keys() {
        assert!(digest.starts_with("sha256:"));
    }
}

#[test]
fn a_part_of_the_layers_of_a_step_is_not_told_for_all() {
    runtime().block_on(async {
        let folder = temp();
        let base = folder.path().join("base");
        let first = support::solver(folder.path().join("first"));
        let image = solved(&first, &packages()).await;
        let exporter = Oci::directory(&base).name("example.com/base:v1");
        exporter.export(&image, &Cancel::new()).await.unwrap();

        // The step has layers of the base, which are blobs, and one that the result does not have.
        let solver = support::solver(folder.path().join("state"));
        let base_image = State::from(llb::oci_layout("example.com/base:v1").store("base"));
        let step = base_image.file(mkfile("/own", "own").created(then()));
        let state = llb::scratch().file(copy(&step, "/own", "/own").created(then()));
        let request = support::request(&state).oci_layout("base", &base);
        let result = solve(&solver, request).await.result;
        let options = ProvenanceOptions::new();
        let asked = Attest::new().provenance(options.mode(ProvenanceMode::Max));
        let out = folder.path().join("out");
        let told = async |result: &BuildResult| {
            let result = attested(result, asked.clone()).await;
            let exporter = Oci::directory(&out);
            exporter.export(&result, &Cancel::new()).await.unwrap();
            let (_, statements) = Layout::read(&out).attested();
            fs::remove_dir_all(&out).unwrap();
            let details = &statements[0]["predicate"]["runDetails"];
            let layers = &details["metadata"]["buildkit_metadata"]["layers"];
            let layers = layers.as_object().unwrap().iter();
            let counts = layers.map(|(step, lists)| {
                let list = lists[0].as_array().unwrap();
                (step.clone(), list.len())
            });
            counts.collect::<BTreeMap<String, usize>>()
        };
        let count = 6;
        let partly = [("step0:0".to_owned(), count), ("step2:0".to_owned(), 1)];
        assert_eq!(told(&result).await, BTreeMap::from(partly.clone()));
        // Once all of them are blobs, they are told.
        let request = support::request(&step).oci_layout("base", &base);
        let step = solve(&solver, request).await.result;
        Oci::directory(folder.path().join("step"))
            .export(&step, &Cancel::new())
            .await
            .unwrap();
        let whole = [&partly[..], &[("step1:0".to_owned(), count + 1)]].concat();
        assert_eq!(told(&result).await, whole.into_iter().collect());
    });
}

#[test]
fn a_base_that_is_converted_is_told_as_it_was() {
    runtime().block_on(async {
        let folder = temp();
        let (base, out) = (folder.path().join("base"), folder.path().join("out"));
        let solver = support::solver(folder.path().join("first"));
        let first = llb::scratch().file(mkfile("/base", "base").created(then()));
        let exporter = Oci::directory(&base).name("example.com/base:v1");
        let image = solved(&solver, &first).await;
        exporter.export(&image, &Cancel::new()).await.unwrap();
        let layout = Layout::read(&base);
        let original = layout.json(&layout.1["manifests"][0])["layers"][0].clone();

        let solver = support::solver(folder.path().join("state"));
        let image = State::from(llb::oci_layout("example.com/base:v1").store("base"));
        let built = image.file(mkfile("/own", "own").created(then()));
        let request = support::request(&built).oci_layout("base", &base);
        let result = solve(&solver, request).await.result;
        let options = ProvenanceOptions::new().mode(ProvenanceMode::Max);
        let result = attested(&result, Attest::new().provenance(options)).await;
        let exporter = Oci::directory(&out).compression(Compression::Zstd { level: 3 });
        let exporter = exporter.force_compression(true);
        exporter.export(&result, &Cancel::new()).await.unwrap();
        let (image, statements) = Layout::read(&out).attested();
        let details = &statements[0]["predicate"]["runDetails"];
        let told = &details["metadata"]["buildkit_metadata"]["layers"]["step1:0"][0];
        let layers = &image["layers"];
        assert_ne!(layers[0]["digest"], original["digest"]);
        assert_eq!(told[0]["digest"], original["digest"]);
        assert_eq!(told[1]["digest"], layers[1]["digest"]);
        assert_eq!(told.as_array().unwrap().len(), 2);
    });
}

#[test]
fn files_are_attested_beside_them() {
    runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let result = solved(&solver, &packages()).await;
        let options = ProvenanceOptions::new()
            .mode(ProvenanceMode::Min)
            .filename("how.json");
        let result = attested(
            &result,
            Attest::new()
                .provenance(options)
                .sbom(PackageScanner::new()),
        )
        .await;
        let out = folder.path().join("out");
        Local::new(&out)
            .export(&result, &Cancel::new())
            .await
            .unwrap();
        for (name, kind) in [
            ("how.json", "https://slsa.dev/provenance/v1"),
            ("sbom.spdx.json", "https://spdx.dev/Document"),
        ] {
            let statement: Value =
                serde_json::from_slice(&fs::read(out.join(name)).unwrap()).unwrap();
            assert_eq!(statement["predicateType"], kind);
            let subjects = statement["subject"].as_array().unwrap();
            let names: Vec<&str> = subjects
                .iter()
                .map(|subject| subject["name"].as_str().unwrap())
                .collect();
            assert_eq!(names, ["Cargo.lock", "bin/busybox", "lib/apk/db/installed"]);
        }
        // For images alone.
        let options = ProvenanceOptions::new().inline_only(true);
        let result = attested(
            &solved(&solver, &packages()).await,
            Attest::new().provenance(options),
        )
        .await;
        let out = folder.path().join("none");
        Local::new(&out)
            .export(&result, &Cancel::new())
            .await
            .unwrap();
        assert!(!out.join("provenance.json").exists());
    });
}

#[test]
fn a_registry_takes_attested_images_and_tools_read_them() {
    let name = "a_registry_takes_attested_images_and_tools_read_them";
    let tools = [
        Need::Tool("docker-registry"),
        Need::Tool("skopeo"),
        Need::Tool("umoci"),
    ];
    if skipped(name, &tools) {
        return;
    }
    runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let asked = Attest::new()
            .provenance(ProvenanceOptions::new())
            .sbom(PackageScanner::new());
        let result = attested(&solved(&solver, &packages()).await, asked).await;
        // It refuses manifests that name what it does not have.
        let registry = Registry::start(folder.path(), &folder.path().join("registry"), "");
        for form in ["true", "false"] {
            let image = format!("127.0.0.1:{}/app:{form}", registry.port());
            let output =
                format!("type=registry,name={image},oci-artifact={form},registry.insecure=true");
            let output = Output::parse(&output).unwrap();
            let output = output.with_registry(solver.registry());
            let exported = output
                .exporter()
                .export(&result, &Cancel::new())
                .await
                .unwrap();
            let skopeo = |arguments: &[&str]| {
                run(Command::new("skopeo")
                    .arg("--insecure-policy")
                    .args(arguments))
            };
            let source = format!("docker://{image}");
            let raw = skopeo(&["inspect", "--raw", "--tls-verify=false", &source]);
            assert_eq!(BlobDigest::of(raw.as_bytes()), exported.digest.unwrap());
            let index: Value = serde_json::from_str(&raw).unwrap();
            let [image_manifest, statements] = &index["manifests"].as_array().unwrap()[..] else {
                panic!("{raw}");
            };
            // The image, what is attested of it, and then what leads to both.
            let digests =
                [image_manifest, statements].map(|entry| entry["digest"].as_str().unwrap());
            let put = registry.manifests(form);
            let at = |name: &str| put.iter().position(|put| put == name).unwrap();
            assert!(
                at(digests[0]) < at(digests[1]) && at(digests[1]) < at(form),
                "{put:?}"
            );
            // Everything there is, and the image for this platform.
            let all = folder.path().join(format!("all-{form}"));
            let to = format!("oci:{}:app", all.display());
            skopeo(&["copy", "--all", "--src-tls-verify=false", &source, &to]);
            Layout::read(&all).attested();
            let one = folder.path().join(format!("one-{form}"));
            let to = format!("oci:{}:app", one.display());
            skopeo(&[
                "copy",
                "--override-arch=amd64",
                "--src-tls-verify=false",
                &source,
                &to,
            ]);
            if support::is_root() {
                let bundle = folder.path().join(format!("bundle-{form}"));
                run(Command::new("umoci")
                    .args(["unpack", "--image"])
                    .arg(format!("{}:app", one.display()))
                    .arg(&bundle));
                assert_eq!(
                    fs::read_to_string(bundle.join("rootfs/bin/busybox")).unwrap(),
                    "second"
                );
            }
        }
    });
}

#[test]
fn materials_are_what_sources_led_to() {
    runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        write(folder.path().join("context/file"), "content");
        let layout = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/base/layout");
        let base = llb::oci_layout("v1").store("base");
        let state = State::from(base).file(copy(llb::local("context"), "/file", "/file"));
        let request = support::request(&state)
            .local("context", folder.path().join("context"))
            .oci_layout("base", layout);
        let result = solve(&solver, request).await.result;
        let predicate = |version, mode| {
            let options = ProvenanceOptions::new().version(version).mode(mode).builder_id("https://b.example/1").reproducible(true);
            let (result, folder) = (result.clone(), folder.path().to_owned());
            async move {
                let result = attested(&result, Attest::new().provenance(options)).await;
                let out = tempfile::tempdir_in(&folder).unwrap();
                Local::new(out.path()).export(&result, &Cancel::new()).await.unwrap();
                let statement = fs::read(out.path().join("provenance.json")).unwrap();
                let statement: Value = serde_json::from_slice(&statement).unwrap();
                statement["predicate"].clone()
            }
        };
        let digest = "aa985877b3c8692850b3dd19c502ca768229bb80bda3b80a096d5ca927a6c284";
        let material = serde_json::json!([{"uri": "pkg:oci/v1@latest?platform=linux%2Famd64", "digest": {"sha256": digest}}]);
        let v1 = predicate(SlsaVersion::V1, ProvenanceMode::Min).await;
        assert_eq!(v1["buildDefinition"]["resolvedDependencies"], material);
        let request = &v1["buildDefinition"]["externalParameters"]["request"];
        assert_eq!(request["locals"], serde_json::json!([{"name": "context"}]));
        let metadata = &v1["runDetails"]["metadata"];
        // What a local directory held is not known to who reads this.
        assert_eq!(metadata["buildkit_completeness"]["resolvedDependencies"], false);
        assert!(metadata["buildkit_hermetic"].is_null());
        assert_eq!(metadata["buildkit_reproducible"], true);
        assert_eq!(v1["runDetails"]["builder"]["id"], "https://b.example/1");
        assert!(v1["buildDefinition"]["internalParameters"]["buildConfig"].is_null());
        let v02 = predicate(SlsaVersion::V02, ProvenanceMode::Max).await;
        assert_eq!(v02["materials"], material);
        assert_eq!(v02["metadata"]["completeness"]["materials"], false);
        assert_eq!(v02["buildConfig"]["llbDefinition"].as_array().unwrap().len(), 4);
        let layers = &v02["metadata"]["https://mobyproject.org/buildkit@v1#metadata"]["layers"];
        assert_eq!(layers["step0:0"][0].as_array().unwrap().len(), 3);

        let options = ProvenanceOptions::new().complete_materials(true);
        let error = Attest::new().provenance(options).apply(&result, &Cancel::new()).await;
        let Err(AttestError::Incomplete(error)) = error else {
            panic!("{error:?}");
        };
        assert_eq!(error.reasons, ["local directory `context` has no digest"]);
    });
}

/// What must be in no output, by what it is part of.
const CANARIES: [&str; 8] = [
    "canary-secret",
    "canary-variable",
    "canary-url",
    "canary-proxy",
    "canary-comment",
    "canary-argument",
    "canary-file",
    "canary-latin",
];

#[test]
fn class_8_no_secret_and_no_credential_gets_into_attestations() {
    let name = "class_8_no_secret_and_no_credential_gets_into_attestations";
    if skipped(name, &[Need::Root, Need::Tool("busybox")]) {
        return;
    }
    runtime().block_on(async {
        let folder = temp();
        support::busybox(folder.path());
        let solver = support::solver(folder.path().join("state"));
        let file = "FROM base\n# https://user:canary-comment@host/x\nRUN true\n";
        let map = SourceMap::new("Dockerfile", "Dockerfile", file);
        // One that is no UTF-8.
        let latin = b"# \xe9 https://user:canary-latin@host/x\n".to_vec();
        let latin = SourceMap::new("Dockerfile.latin", "Dockerfile", latin);
        let proxy = llb::pb::ProxyEnv {
            http_proxy: "http://user:canary-proxy@proxy:3128".to_owned(),
            ..Default::default()
        };
        let step = support::busybox_state()
            .env("INDEX", "https://user:canary-url&more'@host/simple")
            .run(["true", "git+https://canary-argument@host/repo"])
            .proxy(proxy)
            .secret(llb::Secret::new("file"))
            .secret(llb::Secret::env("variable", "TOKEN"))
            .location(&map, [llb::SourceRange::new((3, 0), (4, 0))])
            .location(&latin, [llb::SourceRange::new((1, 0), (2, 0))]);
        let written = step.root().file(mkfile(
            "/pip.conf",
            "index-url = https://user:canary-file@host/",
        ));
        let request = support::request(&written)
            .local("base", folder.path().join("base"))
            .secret(MemorySecret::new("file", "canary-secret"))
            .secret(MemorySecret::new("variable", "canary-variable"));
        let result = solve(&solver, request).await.result;
        let mut texts = Vec::new();
        for version in [SlsaVersion::V1, SlsaVersion::V02] {
            let options = ProvenanceOptions::new()
                .version(version)
                .capture_usage(true);
            let asked = Attest::new()
                .provenance(options)
                .sbom(PackageScanner::new());
            let result = attested(&result, asked).await;
            let out = folder.path().join(format!("out-{version}"));
            Local::new(&out)
                .export(&result, &Cancel::new())
                .await
                .unwrap();
            for name in ["provenance.json", "sbom.spdx.json"] {
                texts.push(fs::read_to_string(out.join(name)).unwrap());
            }
        }
        for text in &texts {
            let json: Value = serde_json::from_str(text).unwrap();
            let mut all = vec![text.clone()];
            decoded(&json, &mut all);
            for canary in CANARIES {
                assert!(
                    !all.iter().any(|text| text.contains(canary)),
                    "{canary} is in {text}"
                );
            }
        }
        // It is the right document: what is not secret is there.
        let provenance = &texts[0];
        for part in [
            "https://xxxxx:xxxxx@host/simple",
            "\"id\": \"variable\"",
            "\"usageNanos\"",
            "\"Dockerfile\"",
            "\"Dockerfile.latin\"",
        ] {
            assert!(provenance.contains(part), "{part} is not in {provenance}");
        }
    });
}

/// All texts that a JSON value holds in base64.
fn decoded(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::String(text) => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(text);
            out.extend(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()));
        }
        Value::Array(values) => values.iter().for_each(|value| decoded(value, out)),
        Value::Object(members) => members.values().for_each(|value| decoded(value, out)),
        _ => {}
    }
}

#[test]
fn each_platform_has_attestations_of_its_own() {
    runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let mut refs = Vec::new();
        for (platform, text) in [
            (Platform::linux_amd64(), "amd"),
            (Platform::linux_arm64(), "arm"),
        ] {
            let state = llb::scratch().file(mkfile("/which", text).created(then()));
            let definition = state.marshal(&Constraints::new(platform.clone())).unwrap();
            let mut request = SolveRequest::new(definition);
            request.platform = Some(platform);
            let solved = solve(&solver, request).await;
            refs.push(solved.result.refs()[0].clone().named());
        }
        let result = BuildResult::of_platforms(refs, solver.store().clone()).unwrap();
        let options = ProvenanceOptions::new().mode(ProvenanceMode::Min);
        let result = attested(&result, Attest::new().provenance(options)).await;
        let out = folder.path().join("layout");
        Oci::directory(&out)
            .name("app:v1")
            .export(&result, &Cancel::new())
            .await
            .unwrap();
        let layout = Layout::read(&out);
        let index = layout.json(&layout.1["manifests"][0]);
        let manifests = index["manifests"].as_array().unwrap();
        let architectures: Vec<&Value> = manifests
            .iter()
            .map(|manifest| &manifest["platform"]["architecture"])
            .collect();
        assert_eq!(architectures, ["amd64", "arm64", "unknown", "unknown"]);
        for (image, attestation) in [(0, 2), (1, 3)] {
            let about = &manifests[attestation]["annotations"]["vnd.docker.reference.digest"];
            assert_eq!(about, &manifests[image]["digest"]);
        }
    });
}

#[test]
fn frontends_attest_no_provenance_in_bundles_and_sboms_are_made_once() {
    runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let result = solved(&solver, &packages()).await;
        let id = result.platform().to_string();
        for (kind, is_taken) in [
            ("https://example.com/review", true),
            ("https://slsa.dev/provenance/v1", false),
        ] {
            let statement = format!(r#"{{"predicateType":"{kind}","predicate":{{}}}}"#);
            let bundle = llb::scratch()
                .file(llb::mkdir("/bundle"))
                .file(mkfile("/bundle/one.json", statement));
            let tree = solved(&solver, &bundle).await.reference().clone();
            let content = AttestationContent::File(tree);
            let bundle = Attestation::new(AttestationKind::Bundle, "", "/bundle", content);
            let result = result.clone().with_attestation(&id, bundle);
            let out = folder.path().join("image.tar");
            let exported = Oci::archive(&out).export(&result, &Cancel::new()).await;
            match exported {
                Ok(_) => assert!(is_taken, "{kind}"),
                Err(error) => {
                    assert!(
                        !is_taken && error.to_string().contains("only the engine"),
                        "{error}"
                    );
                }
            }
        }
        let scanned = || Attest::new().sbom(PackageScanner::new());
        let once = attested(&result, scanned()).await;
        let twice = attested(&once, scanned()).await;
        assert_eq!(once.attestations[&id].len(), 1);
        assert_eq!(twice.attestations[&id].len(), 1);
    });
}
