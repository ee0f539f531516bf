//! Build ops: which definition they have solved, and what they refuse.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ashlar_llb::{self as llb, Constraints, Definition, Platform, mkfile, pb};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::error::OperationError;
use ashlar_solver::executor::ScriptedExecutor;
use ashlar_solver::operation::Operation as _;
use ashlar_solver::ops::NoSuchInput;
use ashlar_solver::ops::build::{BuildOperation, NestedError};
use ashlar_solver::refs::{Lazy, Ref};
use ashlar_solver::snapshot::Stack;
use ashlar_solver::tree::{Attributes, Entry, Files, Kind, Node, TreePath, View};

use crate::ops_kit::Kit;

fn kit() -> Kit {
    Kit::with(Arc::new(ScriptedExecutor::default()))
}

fn definition(text: &str) -> Definition {
    let state = llb::scratch().file(mkfile("/a", text.to_owned()));
    state
        .marshal(&Constraints::new(Platform::linux_amd64()))
        .unwrap()
}

fn op(filename: Option<&str>) -> pb::BuildOp {
    let name = filename.map(|name| ("llbbuild.filename".to_owned(), name.to_owned()));
    pb::BuildOp {
        builder: pb::LLB_BUILDER,
        inputs: BTreeMap::from([(
            pb::LLB_DEFINITION_INPUT.to_owned(),
            pb::BuildInput { input: 0 },
        )]),
        attrs: name.into_iter().collect(),
        ..pb::BuildOp::default()
    }
}

/// A tree whose files are those of a directory.
#[derive(Debug)]
struct Tree {
    view: View,
}

#[derive(Debug)]
struct Folder(PathBuf);

impl Files for Folder {
    fn open(&self, path: &TreePath) -> io::Result<File> {
        File::open(
            self.0
                .join(String::from_utf8_lossy(path.as_bytes()).as_ref()),
        )
    }

    fn immutable(&self) -> bool {
        true
    }
}

impl Lazy for Tree {
    fn view(&self) -> Result<Option<View>, OperationError> {
        Ok(Some(self.view.clone()))
    }

    fn materialize(&self, _: &Cancel) -> Result<Stack, OperationError> {
        panic!("a build op needs no layers");
    }
}

/// A tree with `definition` in `/dir/graph`, links to it, a directory, and a file that is none.
fn tree(folder: &std::path::Path, definition: &[u8]) -> Ref {
    std::fs::create_dir_all(folder.join("dir")).unwrap();
    std::fs::write(folder.join("dir/graph"), definition).unwrap();
    std::fs::write(folder.join("text"), "no definition").unwrap();
    let huge = File::create(folder.join("huge")).unwrap();
    huge.set_len((64 << 20) + 1).unwrap();
    let files: Arc<dyn Files> = Arc::new(Folder(folder.to_path_buf()));
    let entry = |kind| Entry::new(kind, Attributes::default());
    let file = || Node::leaf(entry(Kind::File), Some(files.clone()));
    let link = |target: &str| {
        let target = target.as_bytes().into();
        Node::leaf(
            Entry {
                target,
                ..entry(Kind::Symlink)
            },
            None,
        )
    };
    let name = |name: &str| Arc::from(name.as_bytes());
    let dir = Node::directory(entry(Kind::Directory), None, vec![(name("graph"), file())]);
    let root = vec![
        (
            name("buildkit.llb.definition"),
            link("/dir/../../dir/graph"),
        ),
        (name("dir"), dir),
        (name("huge"), file()),
        (name("loop"), link("loop")),
        (name("pipe"), Node::leaf(entry(Kind::Fifo), None)),
        (name("text"), file()),
    ];
    let view = View::new(Node::directory(entry(Kind::Directory), None, root));
    Ref::lazy(Arc::new(Tree { view }))
}

fn run(kit: &Kit, op: &pb::BuildOp, input: &Ref) -> Result<bool, OperationError> {
    let operation = BuildOperation::new(op, 1, "nested", &kit.engine)?;
    let context = kit.context();
    let values = kit
        .runtime
        .block_on(operation.run(vec![input.clone()], &context))?;
    assert_eq!(values.len(), 1);
    Ok(context.is_confined())
}

#[test]
fn the_definition_is_found_by_name_and_through_links() {
    let (kit, folder) = (kit(), tempfile::tempdir().unwrap());
    let wanted = definition("x");
    let input = tree(folder.path(), &wanted.encode());
    for name in [
        None,
        Some("dir/graph"),
        Some("/dir/graph"),
        Some("../dir/./graph"),
    ] {
        assert!(!run(&kit, &op(name), &input).unwrap(), "{name:?}");
        let asked = std::mem::take(&mut *kit.definitions.asked.lock().unwrap());
        assert_eq!(asked, std::slice::from_ref(&wanted), "{name:?}");
    }
    kit.definitions.changing.store(true, Ordering::Relaxed);
    let confined = run(&kit, &op(None), &input).unwrap();
    assert!(confined, "the result is good for one solve");
}

#[test]
fn what_holds_no_definition_is_refused() {
    let (kit, folder) = (kit(), tempfile::tempdir().unwrap());
    let input = tree(folder.path(), &definition("x").encode());
    let refused = |name: &str| match run(&kit, &op(Some(name)), &input) {
        Err(OperationError::Failed(failure)) => failure.downcast_ref::<NestedError>().cloned(),
        other => panic!("{name}: {other:?}"),
    };
    assert!(matches!(refused("none"), Some(NestedError::File(_))));
    assert!(matches!(refused("loop"), Some(NestedError::File(_))));
    assert!(matches!(refused("text/x"), Some(NestedError::File(_))));
    assert!(matches!(refused("a\0b"), Some(NestedError::Path { .. })));
    for name in ["", "dir", "pipe"] {
        assert!(
            matches!(refused(name), Some(NestedError::NotAFile { .. })),
            "{name}"
        );
    }
    assert!(matches!(refused("text"), Some(NestedError::Decode { .. })));
    assert!(matches!(
        refused("huge"),
        Some(NestedError::TooLarge { .. })
    ));
    assert!(kit.definitions.asked.lock().unwrap().is_empty());
}

#[test]
fn malformed_ops_are_refused() {
    let kit = kit();
    let refused = |op: &pb::BuildOp| match BuildOperation::new(op, 1, "nested", &kit.engine) {
        Err(OperationError::Failed(failure)) => failure,
        other => panic!("{other:?}"),
    };
    let mut foreign = op(None);
    foreign.builder = 0;
    let error = refused(&foreign);
    assert!(matches!(
        error.downcast_ref(),
        Some(NestedError::Builder { input: 0 })
    ));
    let mut none = op(None);
    none.inputs.clear();
    let error = refused(&none);
    assert!(matches!(
        error.downcast_ref(),
        Some(NestedError::NoDefinition)
    ));
    for input in [-1, 1, i64::MAX, i64::MIN] {
        let mut far = op(None);
        far.inputs.values_mut().next().unwrap().input = input;
        let error = refused(&far);
        assert!(error.downcast_ref::<NoSuchInput>().is_some(), "{input}");
    }
}
