//! Writes a marshalled definition to standard output, for `buildctl build` or the `solve` example.
//!
//! ```text
//! cargo run --example llb_stdout -- TEXT [--image REFERENCE] | cargo run --example solve -- --local context=. --output type=local,dest=out
//! ```
//!
//! The build copies the local directory `context` to `/context` and writes TEXT to `/text`. With
//! `--image` it does so on top of that image, which comes from its registry. With `--missing` it
//! also copies a file that is not there.

use std::error::Error;
use std::io::Write as _;

use ashlar_llb::{self as llb, Constraints, Platform, copy, mkfile};

fn main() -> Result<(), Box<dyn Error>> {
    let mut text = String::new();
    let (mut base, mut missing) = (llb::scratch(), false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--missing" => missing = true,
            "--image" => {
                let reference = arguments.next().ok_or("--image wants a reference")?;
                base = llb::image(reference).into();
            }
            _ => text = argument,
        }
    }
    let context = llb::local("context");
    let copied = copy(&context, "/", "/context")
        .contents_only()
        .create_dest_path();
    let mut state = base.file(copied).file(mkfile("/text", text));
    if missing {
        state = state.file(copy(&context, "/missing", "/missing"));
    }
    let definition = state.marshal(&Constraints::new(Platform::linux_amd64()))?;
    std::io::stdout().write_all(&definition.encode())?;
    Ok(())
}
