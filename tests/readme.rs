//! The texts for readers say what the files say.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

fn text(name: &str) -> String {
    let path = root().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_example_is_the_file_it_is_said_to_be() {
    let program = text("examples/compile_in_image.rs");
    let start = program
        .find("use ashlar_exporters")
        .expect("it has imports");
    let quoted = format!("```rust\n{}```", &program[start..]);
    assert!(
        text("README.md").contains(&quoted),
        "README.md does not quote examples/compile_in_image.rs"
    );
}

#[test]
fn links_lead_to_files() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for name in [
        "README.md",
        "ARCHITECTURE.md",
        "COMPATIBILITY.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "SECURITY.md",
        "examples/README.md",
        "benches/README.md",
    ] {
        let text = text(name);
        for link in text.split("](").skip(1) {
            let link = link.split([')', '#']).next().unwrap_or_default();
            if link.is_empty() || link.contains("://") {
                continue;
            }
            seen += 1;
            let folder = root().join(name);
            if !folder
                .parent()
                .expect("a file has a folder")
                .join(link)
                .exists()
            {
                wrong.push(format!("{name}: {link}"));
            }
        }
    }
    assert!(seen > 20, "only {seen} links were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
