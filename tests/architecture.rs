//! Reads the sources and fails on an import that the floor table of `ARCHITECTURE.md` forbids.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What one module may import: other modules of its crate, crates of ours, and outside crates
/// that are forbidden to it.
struct Floor {
    modules: &'static [&'static str],
    may_import: &'static [&'static str],
}

/// The words of the solver: floor 1. Everyone above may use them.
const WORDS: &[&str] = &[
    "id", "error", "progress", "cancel", "clock", "dir", "session", "limits", "oci", "task",
    "sync", "turns",
];

/// The floors of the solver above the words. A module may always import the words and itself.
const FLOORS: &[Floor] = &[
    Floor {
        modules: &["root", "content", "meta"],
        may_import: &["root"],
    },
    Floor {
        modules: &["tree"],
        may_import: &["content", "meta"],
    },
    Floor {
        modules: &["snapshot"],
        may_import: &["root", "content", "meta", "tree"],
    },
    Floor {
        modules: &["provenance"],
        may_import: &["meta"],
    },
    Floor {
        modules: &["refs", "registry", "images", "result"],
        may_import: &[
            "root",
            "content",
            "meta",
            "tree",
            "snapshot",
            "source",
            "refs",
            "images",
            "cache",
            "provenance",
        ],
    },
    Floor {
        modules: &["cache"],
        may_import: &["meta", "operation"],
    },
    Floor {
        modules: &["operation"],
        may_import: &["cache"],
    },
    Floor {
        modules: &["scheduler"],
        may_import: &["cache", "operation"],
    },
    Floor {
        modules: &["source"],
        may_import: &["root", "content", "meta", "tree", "snapshot", "refs"],
    },
    Floor {
        modules: &["executor"],
        may_import: &["root", "content", "meta", "tree", "snapshot", "refs"],
    },
    Floor {
        modules: &["ops"],
        may_import: &[
            "root",
            "content",
            "meta",
            "tree",
            "snapshot",
            "refs",
            "images",
            "result",
            "registry",
            "provenance",
            "cache",
            "operation",
            "source",
            "executor",
        ],
    },
    Floor {
        modules: &["terminal"],
        may_import: &[],
    },
    Floor {
        modules: &["solver"],
        may_import: &[
            "root",
            "content",
            "meta",
            "tree",
            "snapshot",
            "refs",
            "result",
            "registry",
            "provenance",
            "cache",
            "operation",
            "scheduler",
            "source",
            "executor",
            "ops",
        ],
    },
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![folder.to_path_buf()];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(&folder).expect("a source folder can be read") {
            let path = entry.expect("a source folder can be read").path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The text of a file without comments, strings left in, and without its inline tests.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("a source file can be read");
    let text = text
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or_default();
    text.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n")
}

/// The modules of the own crate that a file names as `crate::module`, also in braces.
fn crate_imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut word = String::new();
            for letter in group.chars() {
                match letter {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    _ => {}
                }
                if depth == 0 && (letter.is_alphanumeric() || letter == '_') {
                    word.push(letter);
                } else if !word.is_empty() {
                    found.push(std::mem::take(&mut word));
                }
            }
            found.extend((!word.is_empty()).then_some(word));
        } else {
            found.push(
                rest.chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect(),
            );
        }
    }
    found
}

fn module_of(file: &Path, folder: &Path) -> String {
    let relative = file
        .strip_prefix(folder)
        .expect("a source file is in its folder");
    let first = relative
        .components()
        .next()
        .expect("a file has a name")
        .as_os_str();
    first.to_string_lossy().trim_end_matches(".rs").to_owned()
}

#[test]
fn solver_modules_import_downwards_only() {
    let folder = root().join("solver/src");
    let mut table: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for word in WORDS {
        table.insert(word, WORDS.to_vec());
    }
    for floor in FLOORS {
        for module in floor.modules {
            let mut may = [WORDS, floor.may_import].concat();
            may.push(module);
            table.insert(module, may);
        }
    }
    let modules: Vec<String> = sources(&folder)
        .iter()
        .map(|file| module_of(file, &folder))
        .collect();
    let mut wrong = Vec::new();
    for file in sources(&folder) {
        let module = module_of(&file, &folder);
        if module == "lib" {
            continue;
        }
        let Some(may) = table.get(module.as_str()) else {
            wrong.push(format!(
                "{}: module `{module}` stands on no floor",
                file.display()
            ));
            continue;
        };
        for import in crate_imports(&code(&file)) {
            if modules.contains(&import) && !may.contains(&import.as_str()) {
                wrong.push(format!("{}: `{module}` imports `{import}`", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Texts that must not occur in the code below a folder.
fn forbid(folder: &str, words: &[&str]) -> Vec<String> {
    let mut wrong = Vec::new();
    for file in sources(&root().join(folder)) {
        let code = code(&file);
        for word in words {
            if code.contains(word) {
                wrong.push(format!("{}: `{word}`", file.display()));
            }
        }
    }
    wrong
}

#[test]
fn llb_holds_values_only() {
    let wrong = forbid(
        "llb/src",
        &[
            "tokio",
            "std::fs",
            // Addresses, the name of the target and times are values.
            "std::net::Tcp",
            "std::net::Udp",
            "std::env::var",
            "std::process",
            "SystemTime::now",
            "Instant::now",
            "ashlar_solver",
        ],
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_solver_knows_nothing_of_exporters() {
    let wrong = forbid("solver/src", &["ashlar_exporters"]);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_sandbox_stands_alone() {
    let wrong = forbid(
        "solver/sandbox/src",
        &["ashlar_llb", "ashlar_solver", "ashlar_exporters", "tokio"],
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn exporters_use_the_public_door_of_the_solver() {
    let wrong = forbid(
        "exporters/src",
        &[
            "ashlar_solver::scheduler",
            "ashlar_solver::ops",
            "ashlar_solver::operation",
        ],
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_lives_in_the_sandbox_alone() {
    for folder in ["llb/src", "solver/src", "exporters/src"] {
        let wrong = forbid(folder, &["unsafe {", "unsafe fn", "unsafe impl"]);
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

#[test]
fn the_reader_of_imports_sees_groups() {
    let code = "use crate::{cancel::Cancel, tree::{View, index}};\nlet x = crate::meta::open();";
    assert_eq!(crate_imports(code), ["cancel", "Cancel", "tree", "meta"]);
}
