//! Builds an image from a directory, in this process.
//!
//! ```text
//! cargo run --release --example build_image -- DIRECTORY [--base BASE] [--root DIR] [--output FILE]
//! ```
//!
//! The directory holds a script `build.sh`, which runs in the base with the directory mounted at
//! `/src` and leaves its results in `/app`. The base is an image of any registry (`debian:12`,
//! `localhost:5000/base@sha256:…`), pulled with the credentials of `docker login`, or an image of an
//! OCI layout directory (`oci:DIRECTORY:TAG`); by default one is made from this machine's own shell, a few tools and the libraries they need, so
//! that the example works offline. Run it twice: the second time everything comes from the cache.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use ashlar_exporters::{Exporter as _, Oci};
use ashlar_llb::{self as llb, Constraints, Mount, Platform, State, copy};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::progress::{Event, Outcome};
use ashlar_solver::registry::DockerConfig;
use ashlar_solver::solver::{SolveRequest, Solver};
use futures::StreamExt as _;

/// Programs of the default base.
const TOOLS: [&str; 8] = [
    "/bin/sh",
    "/bin/cat",
    "/bin/chmod",
    "/bin/cp",
    "/bin/ls",
    "/bin/mkdir",
    "/bin/rm",
    "/bin/true",
];

/// Where the base comes from.
enum Base {
    Registry(String),
    Layout(PathBuf, String),
}

struct Arguments {
    directory: PathBuf,
    base: Option<Base>,
    root: PathBuf,
    output: PathBuf,
}

fn arguments() -> Result<Arguments, Box<dyn Error>> {
    let usage = "usage: build_image DIRECTORY [--base REFERENCE | --base oci:LAYOUT:TAG] [--root DIR] [--output FILE]";
    let cache = std::env::home_dir()
        .unwrap_or_default()
        .join(".cache/ashlar");
    let mut directory = None;
    let mut base = None;
    let (mut root, mut output) = (cache, PathBuf::from("image.tar"));
    let mut rest = std::env::args().skip(1);
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or(usage);
        match argument.as_str() {
            "--base" => {
                let value = value()?;
                base = Some(match value.strip_prefix("oci:") {
                    Some(layout) => {
                        let (layout, tag) = layout.rsplit_once(':').ok_or(usage)?;
                        Base::Layout(layout.into(), tag.to_owned())
                    }
                    None => Base::Registry(value),
                });
            }
            "--root" => root = value()?.into(),
            "--output" => output = value()?.into(),
            _ if directory.is_none() && !argument.starts_with('-') => {
                directory = Some(argument.into());
            }
            _ => return Err(usage.into()),
        }
    }
    Ok(Arguments {
        directory: directory.ok_or(usage)?,
        base,
        root,
        output,
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "an example is a program of its own"
)]
/// The paths of the tools and of the shared libraries they are linked with.
fn host_files() -> Result<BTreeSet<String>, Box<dyn Error>> {
    let mut files = BTreeSet::new();
    for tool in TOOLS {
        files.insert(tool.to_owned());
        let output = std::process::Command::new("ldd").arg(tool).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        files.extend(
            text.split_whitespace()
                .filter(|w| w.starts_with('/'))
                .map(str::to_owned),
        );
    }
    Ok(files)
}

/// The base, and the request that lends it.
fn base(
    arguments: &Arguments,
    request: SolveRequest,
) -> Result<(State, SolveRequest), Box<dyn Error>> {
    match &arguments.base {
        Some(Base::Registry(reference)) => return Ok((llb::image(reference).into(), request)),
        Some(Base::Layout(layout, tag)) => {
            let state = llb::oci_layout(format!("base:{tag}")).store("base");
            return Ok((state.into(), request.oci_layout("base", layout)));
        }
        None => {}
    }
    // Only what is named is looked at; symbolic links on the way come along.
    let host = llb::local("host")
        .follow_paths(host_files()?)
        .custom_name("shell and libraries");
    let files = copy(&host, "/", "/").mkdir("/tmp").mode(0o777);
    let state = llb::scratch().file(files.custom_name("base from this machine"));
    Ok((state, request.local("host", "/")))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = arguments()?;
    let request = SolveRequest::new(llb::Definition::default());
    let (base, request) = base(&arguments, request)?;
    let source = llb::local("source");
    let built = base
        .dir("/src")
        .run(["/bin/sh", "/src/build.sh"])
        .mount("/src", Mount::bind(&source).readonly())
        .root();
    let mut request = request.local("source", &arguments.directory);
    request.definition = built.marshal(&Constraints::new(Platform::linux_amd64()))?;

    let solver = Solver::builder()
        .root(&arguments.root)
        .credentials(Arc::new(DockerConfig::from_environment()))
        .build()?;
    let (mut events, outcome) = solver.solve(request).split();
    let mut names = std::collections::HashMap::new();
    while let Some(event) = events.next().await {
        match event {
            Event::Vertex { digest, name, .. } => drop(names.insert(digest, name)),
            Event::Completed {
                digest, outcome, ..
            } => {
                let word = match outcome {
                    Outcome::Ran => "ran   ",
                    Outcome::Cached => "cached",
                    Outcome::Looked => "looked",
                    Outcome::Cancelled => "cancel",
                    _ => "failed",
                };
                println!("{word} {}", names[&digest]);
            }
            Event::Log { data, .. } => print!("       {}", String::from_utf8_lossy(&data)),
            _ => {}
        }
    }
    let solved = outcome.await?;

    let result = solved.result.with_image_config(
        r#"{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/usr/bin:/bin"],"Cmd":["/app/hello"]}}"#,
    );
    let exported = Oci::archive(&arguments.output)
        .name("ashlar/example:latest")
        .export(&result, &Cancel::new())
        .await?;
    let digest = exported.digest.ok_or("an image has a digest")?;
    println!("{} {digest}", arguments.output.display());
    Ok(())
}
