//! Prints a definition, from a file or standard input, in one of several forms.
//!
//! ```text
//! cargo run --example llb_stdout -- hello | cargo run --example llb_dump
//! cargo run --example llb_dump -- --json FILE          as `buildctl debug dump-llb` does
//! cargo run --example llb_dump -- --dot FILE           for Graphviz
//! cargo run --example llb_dump -- --stats FILE
//! cargo run --example llb_dump -- --diff FILE FILE     what differs between two
//! ```

use std::error::Error;
use std::io::Read as _;

use ashlar_llb::{Comparison, Definition, Dump, Graph};

/// Reads a definition from a file; `-` is standard input.
fn read(file: &str) -> Result<Definition, Box<dyn Error>> {
    let mut bytes = Vec::new();
    match file {
        "-" => std::io::stdin().lock().read_to_end(&mut bytes)?,
        _ => std::fs::File::open(file)?.read_to_end(&mut bytes)?,
    };
    Ok(Definition::decode(bytes)?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (forms, files): (Vec<&str>, Vec<&str>) = arguments
        .iter()
        .map(String::as_str)
        .partition(|argument| argument.starts_with("--"));
    let form = forms.first().copied().unwrap_or("--text");
    let first = files.first().copied().unwrap_or("-");
    let definition = read(first)?;
    match (form, files.get(1)) {
        ("--text", None) => print!("{}", Dump::of(&definition)?.text()),
        ("--json", None) => print!("{}", Dump::of(&definition)?.json()),
        ("--dot", None) => print!("{}", Dump::of(&definition)?.dot()),
        ("--stats", None) => println!("{:#?}", Graph::load(&definition)?.statistics()),
        ("--diff", Some(second)) => print!("{}", Comparison::of(&definition, &read(second)?)?),
        _ => return Err("use --text, --json, --dot, --stats or --diff FILE FILE".into()),
    }
    Ok(())
}
