//! Solves a marshalled definition, with the flags of `buildctl build` under the same names.
//!
//! ```text
//! some-generator | cargo run --release --example solve -- --local context=. --output type=oci,dest=image.tar
//! ```
//!
//! Like buildctl it reads the definition on standard input, shows progress on standard error,
//! writes an image or an archive without `dest` to standard output, and ends with status 1 and a line
//! `error: failed to solve: …` on failure. `--root` says where the state is kept. Images of
//! registries are pulled with the credentials of `docker login` or `podman login`, through the proxy
//! that `HTTPS_PROXY` names.

mod flags;
mod lent;
mod progress;

use std::error::Error;
use std::io::{self, Read as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use ashlar_exporters::{Exported, Output, export_all};
use ashlar_llb::Definition;
use ashlar_solver::cancel::Cancel;
use ashlar_solver::registry::{DockerConfig, HostConfig, Password, RegistryConfig};
use ashlar_solver::result::BuildResult;
use ashlar_solver::solver::{SolveRequest, Solver};
use futures::StreamExt as _;

use flags::Flags;
use progress::Progress;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let outcome = runtime
        .map_err(Into::into)
        .and_then(|runtime| runtime.block_on(run()));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

/// The message and those of its causes, without repeating one that a message contains already.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        cause = error.source();
    }
    text
}

async fn run() -> Result<(), Box<dyn Error>> {
    let Some(flags) = Flags::parse(std::env::args().skip(1))? else {
        print!("{}", flags::HELP);
        return Ok(());
    };
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes)?;
    let definition = Definition::decode(bytes)
        .map_err(|error| format!("failed to parse definition from standard input: {error}"))?;

    // The library reads no environment by itself; a program of the user's may.
    let solver = Solver::builder()
        .root(&flags.root)
        .credentials(Arc::new(DockerConfig::from_environment()))
        .registry(proxied())
        .entitlements(flags.entitlements.clone())
        .build()?;
    let mut request = SolveRequest::new(definition).no_cache(flags.no_cache);
    for (name, path) in &flags.locals {
        request = request.local(name, path);
    }
    for (name, path) in &flags.oci_layouts {
        request = request.oci_layout(name, path);
    }
    for text in &flags.secrets {
        request = lent::secret(request, text)?;
    }
    for text in &flags.agents {
        request = lent::ssh(request, text)?;
    }

    let (mut events, outcome) = solver.solve(request).split();
    let canceller = outcome.canceller();
    let interrupted = tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            canceller.cancel();
        }
    });
    let mut progress = Progress::new(flags.progress);
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(event) => progress.show(&event)?,
                None => break,
            },
            _ = ticks.tick() => progress.tick(),
        }
    }
    progress.clear()?;
    let solved = outcome.await;
    interrupted.abort();
    if solved.is_err() {
        progress.failed()?;
    }
    let result = flags.attest.apply(&solved?.result, &Cancel::new()).await?;
    let exported = export(&solver, &result, &flags).await?;
    if let Some(path) = &flags.metadata_file {
        write_metadata(path, &exported)?;
    }
    Ok(())
}

/// How registries are spoken to: through the proxy that the environment names, if it does.
#[expect(
    clippy::disallowed_methods,
    reason = "a program reads its own environment"
)]
fn proxied() -> RegistryConfig {
    let mut config = RegistryConfig::default();
    let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    config.proxy = variable("HTTPS_PROXY")
        .or_else(|| variable("https_proxy"))
        .map(Password::new);
    let direct = variable("NO_PROXY").or_else(|| variable("no_proxy"));
    for name in direct.unwrap_or_default().split(',').map(str::trim) {
        let mut host = HostConfig::default();
        host.no_proxy = true;
        config = config.host(name, host);
    }
    config
}

async fn export(
    solver: &Solver,
    result: &BuildResult,
    flags: &Flags,
) -> Result<Vec<Exported>, Box<dyn Error>> {
    let mut outputs = Vec::new();
    for output in &flags.outputs {
        let is_stream = ["oci", "docker", "tar"].iter().any(|kind| {
            output
                .split(',')
                .any(|field| field == format!("type={kind}"))
        });
        let output = match is_stream && !output.contains("dest=") {
            true => Output::parse(&format!("{output},dest=-"))?,
            false => Output::parse(output)?,
        };
        outputs.push(output.with_registry(solver.registry()));
    }
    let exporters: Vec<_> = outputs.iter().map(Output::exporter).collect();
    Ok(export_all(&exporters, result, &Cancel::new()).await?)
}

/// Writes what the exporters answered as JSON; values that are JSON themselves become part of it.
fn write_metadata(path: &Path, exported: &[Exported]) -> Result<(), Box<dyn Error>> {
    let mut all = serde_json::Map::new();
    for (key, value) in exported.iter().flat_map(|exported| &exported.response) {
        let decoded = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, value);
        let object = decoded
            .ok()
            .and_then(|json| serde_json::from_slice::<serde_json::Value>(&json).ok())
            .filter(serde_json::Value::is_object);
        all.insert(key.clone(), object.unwrap_or_else(|| value.clone().into()));
    }
    std::fs::write(path, serde_json::to_vec_pretty(&all)?)?;
    Ok(())
}
