//! Says why steps run: builds the same thing again after each of a few changes.
//!
//! ```text
//! cargo run --example explain_cache_miss [DIR]
//! ```
//!
//! Keeps its state in DIR, or in a directory of its own that is removed at the end. Works offline, as
//! any user: the steps only copy files.

use std::error::Error;
use std::fs;
use std::path::Path;

use ashlar_llb::{self as llb, Constraints, Platform, State, copy, mkfile};
use ashlar_solver::cache::MissReason;
use ashlar_solver::scheduler::VertexStatus;
use ashlar_solver::solver::{SolveRequest, Solver};

/// Sources copied beside a version file, and a list of both.
fn state(version: &str) -> State {
    let context = llb::local("context");
    let version = mkfile("/version", version.to_owned()).custom_name("write the version");
    let sources = copy(&context, "/src", "/src").custom_name("copy the sources");
    let base = llb::scratch().file(version);
    let built = base.file(sources);
    llb::scratch().file(
        copy(&built, "/", "/all")
            .contents_only()
            .custom_name("pack"),
    )
}

async fn build(
    what: &str,
    solver: &Solver,
    context: &Path,
    state: &State,
    no_cache: bool,
) -> Result<(), Box<dyn Error>> {
    let definition = state.marshal(&Constraints::new(Platform::of_target()))?;
    let request = SolveRequest::new(definition)
        .local("context", context)
        .no_cache(no_cache);
    let solved = solver.solve(request).result().await?;
    println!("{what}:");
    for (at, vertex) in solved.vertices.iter().enumerate() {
        match &vertex.status {
            VertexStatus::Ran(_) => {
                println!("  {}", solved.explain(at).unwrap_or_default());
            }
            VertexStatus::Looked => {}
            _ => println!("  {} was cached", vertex.name),
        }
        // The same as a value, for programs.
        if let VertexStatus::Ran(MissReason::ContentChanged {
            changes: Some(changes),
            ..
        }) = &vertex.status
        {
            let count = changes.paths.len() + changes.more;
            let paths = if count == 1 {
                "path differs"
            } else {
                "paths differ"
            };
            println!("    {count} {paths}");
        }
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let own = tempfile::tempdir()?;
    let root = std::env::args_os().nth(1);
    let root = root.map_or_else(|| own.path().join("state"), Into::into);
    let context = own.path().join("context");
    fs::create_dir_all(context.join("src"))?;
    for name in ["main.c", "util.c", "old.c"] {
        fs::write(context.join("src").join(name), format!("// {name}\n"))?;
    }
    let solver = Solver::builder().root(&root).build()?;
    let run = async |what, version, no_cache| {
        build(what, &solver, &context, &state(version), no_cache).await
    };
    run("the first build", "1", false).await?;
    run("nothing changed", "1", false).await?;
    fs::write(context.join("src/main.c"), "// another main\n")?;
    fs::remove_file(context.join("src/old.c"))?;
    fs::write(context.join("src/new.c"), "// new.c\n")?;
    run("sources changed", "1", false).await?;
    run("another version", "2", false).await?;
    run("without the cache", "2", true).await?;
    // What a user might do to save space.
    for layer in fs::read_dir(Path::new(&root).join("layers"))? {
        fs::remove_dir_all(layer?.path())?;
    }
    run("the layers are gone", "2", false).await?;
    Ok(())
}
