//! Images for several platforms into docker-registry, and what verification finds there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use ashlar_exporters::{
    Compression, ExportError, Exporter as _, ImageOptions, MediaTypes, Output, Push,
};
use ashlar_llb::{self as llb, Platform, mkfile};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::registry::{HostConfig, RegistryConfig};
use ashlar_solver::result::{Attestation, BuildResult, PlatformRef};
use ashlar_solver::solver::Solver;
use serde_json::Value;

use super::gate::{Gate, Passage};
use super::oci_rules::{self, Found};
use super::push::{app, good, pushed};
use super::registries::{Yard, inspect, nobody};
use super::support::{self, run, solve, then};

/// A tree for each of three platforms, two of which share a layer.
async fn several(solver: &Solver) -> BuildResult {
    let common = llb::scratch().file(mkfile("/common", "common\n".repeat(10_000)).created(then()));
    let mut refs = Vec::new();
    for (platform, base) in [
        (Platform::linux_amd64(), &common),
        (Platform::linux_arm64(), &common),
        (Platform::linux_armhf(), &llb::scratch()),
    ] {
        let own = mkfile("/hello", platform.to_string()).created(then());
        let solved = solve(solver, support::request(&base.file(own))).await;
        refs.push(PlatformRef::new(
            platform,
            solved.result.reference().clone(),
        ));
    }
    BuildResult::of_platforms(refs, solver.store().clone()).unwrap()
}

fn attested(mut result: BuildResult) -> BuildResult {
    for tree in result.refs().to_vec() {
        let check = Attestation::in_toto("https://example.com/check", "check.json", "{}");
        result = result.with_attestation(tree.id, check);
    }
    result
}

/// skopeo takes all of an index, or the image of one architecture, into a layout.
fn taken(reference: &str, folder: &Path, what: &[&str]) -> PathBuf {
    let layout = tempfile::tempdir_in(folder).unwrap().keep();
    run(Command::new("skopeo")
        .args([
            "--insecure-policy",
            "copy",
            "--quiet",
            "--src-tls-verify=false",
        ])
        .args(what)
        .arg(format!("docker://{reference}"))
        .arg(format!("oci:{}:v1", layout.display())));
    layout
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_pushed_with_all_that_it_leads_to() {
    let Some(yard) = Yard::enter("an_index_is_pushed_with_all_that_it_leads_to") else {
        return;
    };
    let (registry, solver) = (yard.open(), yard.solver());
    let result = several(&solver).await;
    for compression in Compression::ALL {
        for (types, is_attested) in [
            (Some(MediaTypes::Oci), true),
            (None, false),
            (Some(MediaTypes::Docker), false),
        ] {
            // Documents do not depend on it, and not every tool knows each with Docker's types.
            if !is_attested && compression != Compression::default() {
                continue;
            }
            let mut options = ImageOptions::default();
            let tag = format!("{}-{types:?}", compression.name()).replace(['(', ')'], "");
            let reference = format!("{}/app:{tag}", registry.host());
            options.names = vec![reference.clone()];
            (options.compression, options.media_types) = (compression, types);
            let push = Push::new(solver.registry()).options(options).verify(true);
            let result = match is_attested {
                true => attested(result.clone()),
                false => result.clone(),
            };
            let exported = good(push.export(&result, &Cancel::new()).await);
            let raw = run(Command::new("skopeo")
                .args(["inspect", "--raw", "--tls-verify=false"])
                .arg(format!("docker://{reference}")));
            let digest = exported.digest.unwrap();
            assert_eq!(llb::BlobDigest::of(raw.as_bytes()), digest);
            let index: Value = serde_json::from_str(&raw).unwrap();
            let entries = index["manifests"].as_array().unwrap().iter();
            let digests = entries.map(|entry| entry["digest"].as_str().unwrap());
            let digests: Vec<&str> = digests.collect();
            assert_eq!(digests.len(), if is_attested { 6 } else { 3 });
            // All that it leads to was there before, and what is attested after its image.
            let put = registry.manifests(&tag);
            let at = |name: &str| put.iter().position(|put| put == name).unwrap();
            assert!(digests.iter().all(|child| at(child) < at(&tag)), "{put:?}");
            if is_attested {
                assert!((0..3).all(|image| at(digests[image]) < at(digests[image + 3])));
            }
            if types != Some(MediaTypes::Docker) {
                let as_it_is = ["--all", "--preserve-digests"];
                let all = oci_rules::check(&taken(&reference, yard.path(), &as_it_is));
                let attestations = if is_attested { 3 } else { 0 };
                let expected = Found {
                    indexes: 1,
                    images: 3,
                    attestations,
                    statements: attestations,
                };
                assert_eq!(all, expected, "{tag}");
            }
            for architecture in ["amd64", "arm64"] {
                let chosen = ["--override-arch", architecture];
                let layout = taken(&reference, yard.path(), &chosen);
                let read = |descriptor: &Value| -> Value {
                    let name = descriptor["digest"].as_str().unwrap().replace(':', "/");
                    let bytes = fs::read(layout.join("blobs").join(name)).unwrap();
                    serde_json::from_slice(&bytes).unwrap()
                };
                let index = fs::read(layout.join("index.json")).unwrap();
                let index: Value = serde_json::from_slice(&index).unwrap();
                let config = read(&read(&index["manifests"][0])["config"]);
                assert_eq!(config["architecture"], architecture, "{tag}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verification_finds_what_a_registry_lost_or_moved() {
    let Some(yard) = Yard::enter("verification_finds_what_a_registry_lost_or_moved") else {
        return;
    };
    // Some registries call it a failure of theirs, which would be tried again.
    let mut config = RegistryConfig::default();
    config.retry.tries = 1;
    let (registry, solver) = (yard.open(), yard.solver_of(config, nobody()));
    let app_name = format!("{}/app:v1", registry.host());
    let other = good(pushed(&solver, &app(&solver, "other").await, &app_name).await);
    let (other, repository) = (
        other.digest.unwrap().to_string(),
        yard.at("store/docker/registry/v2/repositories/app"),
    );
    let solved = app(&solver, "new").await;
    // Right before it is asked: the tag is moved, a manifest is gone, a layer is gone.
    let lost = |what: &str, links: &str| {
        let folder = repository.join(links);
        let what = what.replace(':', "/");
        move || fs::remove_dir_all(folder.join(&what)).unwrap()
    };
    let prepared = Push::new(solver.registry()).name(&app_name);
    let prepared = prepared
        .prepare(&solved.result, &Cancel::new())
        .await
        .unwrap();
    let manifest = prepared.exported().digest.unwrap().to_string();
    good(prepared.finalize(&Cancel::new()).await);
    let described = inspect(&app_name, &["--raw"]);
    let layer = described["layers"][0]["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    let moved = repository.join("_manifests/tags/v1/current/link");
    let told = other.clone();
    let troubles: [Box<dyn Fn() + Send + Sync>; 3] = [
        Box::new(move || fs::write(&moved, &told).unwrap()),
        Box::new(lost(&manifest, "_manifests/revisions")),
        Box::new(lost(&layer, "_layers")),
    ];
    for (number, trouble) in troubles.into_iter().enumerate() {
        let is_asked = AtomicBool::new(false);
        let gate = Gate::open(registry.port(), move |head| {
            // A push looks only at the head.
            let asked = head.is("GET", "/manifests/v1");
            if asked && !is_asked.swap(true, Ordering::SeqCst) {
                trouble();
            }
            Passage::Through
        });
        let name = format!("{}/app:v1", gate.host());
        let push = Output::parse(&format!("type=registry,name={name},verify=true"));
        let plain = HostConfig::plain_http();
        let plain = solver.registry().with_host(gate.host(), plain);
        let push = push.unwrap().with_registry(&plain);
        let exported = push.exporter().export(&solved.result, &Cancel::new()).await;
        let error = exported.expect_err(&number.to_string());
        let text = support::chain(&error);
        match (number, &error) {
            (0, ExportError::Verify { what, .. }) => assert_eq!(what, "tag v1"),
            (1, ExportError::Push { .. }) => assert!(text.contains("app"), "{text}"),
            (2, ExportError::Verify { what, .. }) => assert_eq!(*what, layer),
            _ => panic!("{number}: {text}"),
        }
        // Once more, and what was lost is there again.
        let again = Push::new(solver.registry()).name(&app_name).verify(true);
        good(again.export(&solved.result, &Cancel::new()).await);
    }
}
