//! Outputs of files that are not what was written: read again, and found.

use std::fs;
use std::io::{self, Seek as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ashlar_exporters::{ExportError, Exporter, Local, LocalMode, Tar};
use ashlar_llb::Platform;
use ashlar_solver::cancel::Cancel;
use ashlar_solver::error::OperationError;
use ashlar_solver::refs::{Lazy, Ref};
use ashlar_solver::result::BuildResult;
use ashlar_solver::snapshot::Stack;
use ashlar_solver::solver::Solver;
use ashlar_solver::tree::{Attributes, Entry, Files, Kind, Node, TreePath, View};

use super::support::{self, temp, tree};

/// A file whose bytes are others each time that they are read, of the same number.
#[derive(Debug, Default)]
struct Fickle(AtomicUsize);

impl Files for Fickle {
    fn open(&self, _: &TreePath) -> io::Result<fs::File> {
        let number = self.0.fetch_add(1, Ordering::SeqCst);
        let mut file = tempfile::tempfile()?;
        write!(file, "{number:05}")?;
        file.rewind()?;
        Ok(file)
    }

    fn immutable(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct Memory(View);

impl Lazy for Memory {
    fn view(&self) -> Result<Option<View>, OperationError> {
        Ok(Some(self.0.clone()))
    }

    fn materialize(&self, _: &Cancel) -> Result<Stack, OperationError> {
        Ok(Stack::scratch())
    }
}

fn fickle(solver: &Solver) -> BuildResult {
    let attributes = Attributes {
        mode: 0o644,
        ..Attributes::default()
    };
    let mut entry = Entry::new(Kind::File, attributes);
    entry.size = 5;
    let node = Node::leaf(entry, Some(Arc::new(Fickle::default())));
    let path = TreePath::new("file").unwrap();
    let tree = Ref::lazy(Arc::new(Memory(View::empty().with(&path, node))));
    BuildResult::new(tree, Platform::of_target(), solver.store().clone())
}

#[test]
fn files_that_are_not_what_was_written_are_found_and_change_nothing() {
    type Make = fn(&Path) -> Box<dyn Exporter>;
    let outputs: [(&str, Make); 4] = [
        ("files", |at| Box::new(Local::new(at).verify(true))),
        ("mirror", |at| {
            Box::new(Local::new(at).mode(LocalMode::Delete).verify(true))
        }),
        ("new", |at| Box::new(Local::new(at).verify(true))),
        ("tar", |at| Box::new(Tar::file(at).verify(true))),
    ];
    support::runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let out = folder.path().join("out");
        for name in ["files", "mirror"] {
            support::write(out.join(name).join("file"), "old");
        }
        support::write(out.join("tar"), "old");
        let before = tree(&out);
        for (name, exporter) in outputs {
            let path = out.join(name);
            let exported = exporter(&path)
                .export(&fickle(&solver), &Cancel::new())
                .await;
            let error = exported.expect_err(name);
            let ExportError::Verify { what, path: found } = &error else {
                panic!("{name}: {error:?}");
            };
            assert_eq!(*found, path, "{name}");
            assert_eq!(
                what,
                if name == "tar" {
                    "what begins at byte 512"
                } else {
                    "/file"
                }
            );
            assert_eq!(tree(&out), before, "{name}");
        }
        // Who does not look does not see it.
        Tar::file(out.join("tar"))
            .export(&fickle(&solver), &Cancel::new())
            .await
            .unwrap();
        assert_ne!(tree(&out), before);
    });
}
