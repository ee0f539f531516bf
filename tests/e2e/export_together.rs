//! All outputs of one solve at once.

use std::fs;
use std::path::Path;

use ashlar_exporters::{ExportError, Exporter, Output, export_all};
use ashlar_llb::{self as llb, BlobDigest, Reference, copy, mkfile};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::result::Attestation;

use super::oci_rules::{self, Found};
use super::registries::{Yard, inspect};
use super::support::{self, run, solve, then, tree};

/// An output of each type, and two forms of those that have two.
const OUTPUTS: [&str; 9] = [
    "type=image,name=app:v1",
    "type=registry,name=HOST/app:v1",
    "type=oci,dest=OUT/oci.tar,name=app:v1",
    "type=oci,dest=OUT/layout,tar=false,name=app:v1",
    "type=docker,dest=OUT/docker.tar,name=app:v1",
    "type=docker,dest=OUT/docker,tar=false,name=app:v1",
    "type=local,dest=OUT/files",
    "type=tar,dest=OUT/files.tar",
    "type=cacheonly",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_output_at_once_makes_each_layer_once() {
    let Some(yard) = Yard::enter("every_output_at_once_makes_each_layer_once") else {
        return;
    };
    let (registry, out) = (yard.open(), yard.at("out"));
    let solver = support::solver(yard.at("state"));
    let made = llb::scratch()
        .file(mkfile("/one", "one\n".repeat(100_000)).created(then()))
        .file(mkfile("/two", "two\n".repeat(100_000)).created(then()));
    let result = solve(&solver, support::request(&made)).await.result;
    fs::create_dir(&out).unwrap();
    let parse = |text: &str| {
        let text = text.replace("OUT", out.to_str().unwrap());
        let output = Output::parse(&text.replace("HOST", &registry.host()));
        output.unwrap().with_registry(solver.registry())
    };
    let outputs = OUTPUTS.map(parse);
    let exporters = outputs.each_ref().map(Output::exporter);
    let exported = export_all(&exporters, &result, &Cancel::new()).await;
    let exported = exported.unwrap_or_else(|error| panic!("{}", support::chain(&error)));

    // One image everywhere, and its layers once: two, a config and a manifest.
    let digests: Vec<Option<BlobDigest>> = exported.iter().map(|each| each.digest).collect();
    let digest = digests[0].unwrap();
    assert_eq!(digests[..6], [Some(digest); 6]);
    assert_eq!(digests[6..], [None; 3]);
    let blobs = fs::read_dir(yard.at("state/blobs/sha256")).unwrap().count();
    assert_eq!(blobs, 4);
    for layout in ["layout", "docker"] {
        let images = 1;
        let expected = Found {
            images,
            ..Found::default()
        };
        assert_eq!(oci_rules::check(&out.join(layout)), expected);
    }
    let names = |blobs: &Path| tree(blobs).into_keys().collect::<Vec<String>>();
    let layout = names(&out.join("layout/blobs"));
    for archive in ["oci.tar", "docker.tar"] {
        let unpacked = yard.at(&format!("unpacked-{archive}"));
        fs::create_dir(&unpacked).unwrap();
        let mut tar = std::process::Command::new("tar");
        run(tar
            .arg("-C")
            .arg(&unpacked)
            .arg("-xf")
            .arg(out.join(archive)));
        assert_eq!(names(&unpacked.join("blobs")), layout, "{archive}");
        assert_eq!(
            unpacked.join("manifest.json").exists(),
            archive == "docker.tar"
        );
    }
    let pushed = format!("{}/app:v1", registry.host());
    assert_eq!(
        exported[1].references[0].to_string(),
        format!("{pushed}@{digest}")
    );
    assert_eq!(inspect(&pushed, &[])["Digest"], digest.to_string());
    assert_eq!(registry.sent("app", "v1"), 3);
    let name = Reference::parse("app:v1").unwrap();
    let stored = solver.store().images().get(&name).unwrap().unwrap();
    assert_eq!(stored.digest, digest);
    let files = ["one", "two"].map(|name| fs::read(out.join("files").join(name)).unwrap());
    let mut archive = tar::Archive::new(fs::File::open(out.join("files.tar")).unwrap());
    for (entry, file) in archive.entries().unwrap().zip(&files) {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry.unwrap(), &mut bytes).unwrap();
        assert!(bytes == *file);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_output_fails_the_others_do_not_appear() {
    let Some(yard) = Yard::enter("whichever_output_fails_the_others_do_not_appear") else {
        return;
    };
    let (registry, out) = (yard.open(), yard.at("out"));
    let solver = support::solver(yard.at("state"));
    support::write(yard.at("context/file"), "file");
    let context = llb::local("context");
    let made = llb::scratch().file(copy(&context, "/file", "/file"));
    let request = support::request(&made).local("context", yard.at("context"));
    let result = solve(&solver, request).await.result;
    fs::create_dir(&out).unwrap();
    support::write(out.join("a-file"), "old");
    let before = tree(&out);
    let parse = |text: &str| {
        let text = text.replace("OUT", out.to_str().unwrap());
        let output = Output::parse(&text.replace("HOST", &registry.host()));
        output.unwrap().with_registry(solver.registry())
    };
    let good = OUTPUTS.map(parse);
    // What fails of each type, at a place where nothing can be or with what does not go together.
    let bad = [
        "type=image,name=Not-A-Name:",
        "type=registry,name=HOST/app:v1,push-by-digest=true",
        "type=oci,dest=OUT/a-file/x",
        "type=oci,dest=OUT/a-file,tar=false",
        "type=docker,dest=OUT/missing/x",
        "type=docker,dest=OUT/a-file/x,tar=false",
        "type=local,dest=OUT/a-file",
        "type=tar,dest=OUT/missing/x",
    ];
    for text in bad {
        let bad = parse(text);
        let outputs = good.iter().chain([&bad]);
        let exporters: Vec<&dyn Exporter> = outputs.map(Output::exporter).collect();
        let error = export_all(&exporters, &result, &Cancel::new()).await;
        let error = error.expect_err(text);
        assert!(!matches!(error, ExportError::Cancelled), "{text}");
        assert_eq!(tree(&out), before, "{text}");
        let name = Reference::parse("app:v1").unwrap();
        assert_eq!(solver.store().images().get(&name).unwrap(), None, "{text}");
        assert_eq!(registry.requests("PUT "), 0, "{text}");
    }
    // And what is attested of no platform of it fails for all of them.
    let check = Attestation::in_toto("https://example.com/x", "x.json", "{}");
    let other = result.clone().with_attestation("plan9/vax", check);
    for output in &good[..8] {
        let error = output.exporter().export(&other, &Cancel::new()).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("plan9/vax"), "{error}");
    }
    assert_eq!(tree(&out), before);
}
