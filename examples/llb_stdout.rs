//! Writes a marshalled definition to standard output, for `buildctl build` or the `solve` example.
//!
//! ```text
//! cargo run --example llb_stdout -- TEXT | cargo run --example solve -- --local context=. --output type=local,dest=out
//! ```
//!
//! The build copies the local directory `context` to `/context` and writes TEXT to `/text`. With
//! `--missing` it also copies a file that is not there.

use std::error::Error;
use std::io::Write as _;

use ashlar_llb::{self as llb, Constraints, Platform, copy, mkfile};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let text = arguments.iter().find(|argument| *argument != "--missing");
    let context = llb::local("context");
    let mut state = llb::scratch()
        .file(
            copy(&context, "/", "/context")
                .contents_only()
                .create_dest_path(),
        )
        .file(mkfile("/text", text.cloned().unwrap_or_default()));
    if arguments.iter().any(|argument| argument == "--missing") {
        state = state.file(copy(&context, "/missing", "/missing"));
    }
    let definition = state.marshal(&Constraints::new(Platform::linux_amd64()))?;
    std::io::stdout().write_all(&definition.encode())?;
    Ok(())
}
