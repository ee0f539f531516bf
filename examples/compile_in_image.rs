//! Compiles a C program inside an image and makes an image of the outcome: the example of the
//! README.
//!
//! ```text
//! skopeo copy docker://gcc:14 oci:images:14
//! cargo run --release --example compile_in_image
//! ```
//!
//! Works in the current directory: it takes `main.c` and the OCI image layout `images`, writes
//! `app.tar`, and keeps its state in `.ashlar`.

use ashlar_exporters::{Exporter as _, Oci};
use ashlar_llb::{self as llb, Cache, Constraints, Platform, copy};
use ashlar_solver::{cancel::Cancel, solver::SolveRequest, solver::Solver};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = llb::local("source").include(["*.c", "*.h"]);
    let step = llb::oci_layout("gcc:14")
        .store("images")
        .run(["gcc", "-static", "-o", "/out/app", "/src/main.c"])
        .mount("/src", &files)
        .mount("/root/.cache", Cache::shared("cc"));
    let app = step.mount("/out", llb::scratch()).output("/out");
    let image = llb::scratch().file(copy(&app, "/app", "/app"));

    let definition = image.marshal(&Constraints::new(Platform::linux_amd64()))?;
    let request = SolveRequest::new(definition)
        .local("source", ".")
        .oci_layout("images", "images");
    let solver = Solver::builder().root(".ashlar").build()?;
    let solved = solver.solve(request).result().await?;
    let archive = Oci::archive("app.tar").name("example.com/app:v1");
    let exported = archive.export(&solved.result, &Cancel::new()).await?;
    println!("{} vertices ran, {:?}", solved.ran(), exported.digest);
    Ok(())
}
