//! The builder's promises: values are cheap and immutable, depth costs no stack, and the order
//! in which a graph is described does not matter.

use std::sync::Arc;

use crate as llb;
use crate::{
    Cache, Constraints, Definition, FileActions, Graph, MarshalError, Mount, Network, Passthrough,
    Platform, SourceMap, SourceRange, State, Tmpfs, Unusable,
};

fn constraints() -> Constraints {
    Constraints::new(Platform::linux_amd64()).local_unique_id("unique")
}

fn marshal(state: &State) -> Definition {
    state.marshal(&constraints()).expect("marshals")
}

/// Runs `test` on a thread with a stack far too small for recursion over a deep graph.
fn with_small_stack(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new()
        .stack_size(128 * 1024)
        .spawn(test);
    thread.expect("thread").join().expect("no overflow");
}

#[test]
fn states_are_shared_between_threads() {
    fn check<T: Clone + Send + Sync + 'static>() {}
    check::<State>();
    check::<llb::Run>();
    check::<llb::Local>();
    check::<FileActions>();
    check::<Mount>();
}

#[test]
fn copies_share_everything() {
    let state = llb::image("alpine").run(["a"]).root().env("A", "1");
    let copy = state.clone();
    assert!(state.values.shares(&copy.values));
    let vertex = |state: &State| Arc::as_ptr(&state.output.as_ref().expect("output").vertex);
    assert_eq!(vertex(&state), vertex(&copy));
    // Settings that a step only inherits are shared too.
    let next = state.run(["b"]).root();
    assert!(state.values.shares(&next.values));
}

#[test]
fn methods_leave_the_old_value_alone() {
    let base = llb::image("alpine");
    let before = marshal(&base);
    let plain = base.clone();
    let limited = base.clone().layer_limit(1).custom_name("limited");
    let _changed = base.env("A", "1").dir("/a").user("u").run(["x"]).root();
    assert_eq!(marshal(&plain), before);
    assert_ne!(marshal(&limited), before);

    let run = base.run(["x"]);
    let root = run.root();
    let with_mount = run.clone().mount("/m", llb::scratch());
    assert_ne!(marshal(&with_mount.root()), marshal(&root));
    assert_eq!(marshal(&run.root()), marshal(&root));
}

/// Grows a chain of one kind of step, writes it and drops it.
fn deep_chain(depth: usize, step: impl Fn(&State, usize) -> State + Send + 'static) {
    with_small_stack(move || {
        let mut state = State::from(llb::image("alpine"));
        for number in 0..depth {
            state = step(&state, number);
        }
        let definition = marshal(&state);
        // Base, steps, terminal.
        assert_eq!(definition.ops().len(), depth + 2);
        let debug = format!("{state:?}");
        assert!(debug.len() < 1000, "{debug}");
        let clone = state.clone();
        drop(state);
        drop(clone);
    });
}

#[test]
fn deep_chains_of_runs_need_no_stack() {
    deep_chain(100_000, |state, number| {
        state.run(["x", &number.to_string()]).root()
    });
}

#[test]
fn deep_chains_of_every_op_need_no_stack() {
    let base = State::from(llb::image("alpine"));
    let other = base.clone();
    deep_chain(10_000, |state, number| {
        state.file(llb::mkfile("/n", number.to_string()))
    });
    deep_chain(10_000, |state, _| {
        llb::scratch().file(llb::copy(state, "/", "/"))
    });
    deep_chain(10_000, |state, _| {
        llb::scratch().run(["x"]).mount("/m", state).output("/m")
    });
    deep_chain(10_000, move |state, _| llb::merge([state, &base]).into());
    deep_chain(10_000, move |state, _| llb::diff(state, &other).into());
    deep_chain(10_000, |state, _| state.build("f").into());
    deep_chain(10_000, |state, number| {
        Passthrough::new(number.to_string())
            .hands_on(state)
            .output(0)
    });
    deep_chain(10_000, |state, number| {
        let file = SourceMap::new(number.to_string(), "", "").read_from(llb::scratch());
        state.run([number.to_string()]).location(&file, []).root()
    });
}

#[test]
fn deep_imported_chains_need_no_stack() {
    let mut state = State::from(llb::image("alpine"));
    for number in 0..10_000 {
        state = state.run([number.to_string()]).root();
    }
    let definition = marshal(&state);
    with_small_stack(move || {
        let state = State::from_definition(&definition).expect("loads");
        assert_eq!(marshal(&state), definition);
        drop(state);
    });
}

#[test]
fn deep_copies_of_copies_need_no_stack() {
    with_small_stack(|| {
        const DEPTH: usize = 20_000;
        let mut tree = FileActions::from(llb::mkfile("/f", "")).on(llb::scratch());
        for _ in 0..DEPTH {
            tree = FileActions::from(llb::copy(&tree, "/f", "/f")).on(llb::scratch());
        }
        let state = llb::image("alpine").file(llb::copy(&tree, "/f", "/f"));
        assert_eq!(marshal(&state).ops().len(), 3);
        drop(state);
        drop(tree);
    });
}

#[test]
fn wide_sharing_is_written_once() {
    // Each state is used twice by the next: 2^64 paths, 66 ops.
    let mut state = State::from(llb::image("alpine"));
    for step in 0..64 {
        let run = state.run([step.to_string()]).mount("/again", &state);
        state = llb::merge([run.root(), run.output("/again")]).into();
    }
    assert_eq!(marshal(&state).ops().len(), 1 + 2 * 64 + 1);

    let mut tree = FileActions::from(llb::mkfile("/f", "")).on(llb::scratch());
    for _ in 0..64 {
        let twice = llb::copy(&tree, "/f", "/f").copy(&tree, "/f", "/g");
        tree = FileActions::from(twice).on(llb::scratch());
    }
    let state = llb::scratch().file(llb::copy(&tree, "/f", "/f"));
    let graph = Graph::load(&marshal(&state)).expect("loads");
    let llb::pb::op::Op::File(file) = graph.vertices()[0].op() else {
        panic!("no file op");
    };
    assert_eq!(file.actions.len(), 1 + 2 * 64 + 1);
}

#[test]
fn the_order_of_description_does_not_matter() {
    let base = || llb::image("alpine");
    let source = || llb::local("context").exclude(["b"]).include(["a"]);
    let reversed = || llb::local("context").include(["a"]).exclude(["b"]);
    let one = base()
        .run(["x"])
        .mount("/b", source())
        .mount("/a", Cache::shared("c"))
        .mount("/c", Tmpfs::sized(10))
        .network(Network::Host)
        .env("A", "1");
    let other = base()
        .run(["x"])
        .env("A", "1")
        .network(Network::Host)
        .mount("/c", Tmpfs::sized(10))
        .mount("/b", reversed())
        .mount("/a", Cache::shared("c"));
    assert_eq!(marshal(&one.root()), marshal(&other.root()));
    assert_eq!(marshal(&one.output("/b")), marshal(&other.output("/b")));
}

#[test]
fn outputs_are_numbered_by_target() {
    let run = llb::image("alpine")
        .run(["x"])
        .mount("/z", llb::scratch())
        .mount("", llb::scratch())
        .mount("/r", Mount::bind(llb::image("busybox")).readonly())
        .mount("/c", Cache::shared("c"))
        .mount("/a", llb::scratch());
    for (state, index) in [
        (run.output(""), 0),
        (run.output("/"), 1),
        (run.root(), 1),
        (run.output("/a"), 2),
        (run.output("/z"), 3),
    ] {
        let graph = Graph::load(&marshal(&state)).expect("loads");
        assert_eq!(graph.head().expect("head").output, index);
    }
    let readonly = marshal(&run.output("/r"));
    assert_eq!(readonly, marshal(&llb::image("busybox")));
}

#[test]
fn errors_name_the_step() {
    let error = |state: &State| state.marshal(&constraints()).expect_err("fails");
    let base = llb::image("alpine");
    let run = base
        .run(["build", "all"])
        .mount("/cache", Cache::shared("c"))
        .mount("/tmp", Tmpfs::new())
        .mount("/in", Mount::bind(llb::scratch()).no_output());
    for (target, reason) in [
        (
            "/cache",
            Unusable::Cache {
                target: "/cache".into(),
            },
        ),
        (
            "/tmp",
            Unusable::Tmpfs {
                target: "/tmp".into(),
            },
        ),
        (
            "/in",
            Unusable::NoOutput {
                target: "/in".into(),
            },
        ),
        (
            "/x",
            Unusable::NoMount {
                target: "/x".into(),
            },
        ),
    ] {
        let used = run
            .output(target)
            .run(["use"])
            .custom_name("the user")
            .root();
        let expected = MarshalError::Unusable {
            step: "the user".into(),
            maker: "build all".into(),
            source: reason,
        };
        assert_eq!(error(&used), expected);
        assert!(matches!(
            error(&run.output(target)),
            MarshalError::Unusable { .. }
        ));
    }
    let empty = base.run([""; 0]).custom_name("nothing").root();
    assert_eq!(
        error(&empty),
        MarshalError::NoArguments {
            step: "nothing".into()
        }
    );
    let empty = base.file(FileActions::new().custom_name("nothing"));
    assert_eq!(
        error(&empty),
        MarshalError::NoActions {
            step: "nothing".into()
        }
    );
    let none = FileActions::new().on(&*base);
    let empty = base.file(llb::copy(none, "/a", "/b"));
    assert_eq!(
        error(&empty),
        MarshalError::NoActions {
            step: "copy /a /b".into()
        }
    );
    let seeded = Mount::bind(&base).tmpfs(Tmpfs::new());
    let tmpfs = base.run(["x"]).mount("/t", seeded).root();
    let expected = MarshalError::TmpfsSource {
        step: "x".into(),
        target: "/t".into(),
    };
    assert_eq!(error(&tmpfs), expected);
    let bad = llb::image("Not A Reference");
    let MarshalError::InvalidSource { step, .. } = error(&bad) else {
        panic!("{:?}", error(&bad));
    };
    assert_eq!(step, "docker-image://Not A Reference");
    let build = State::from(llb::scratch().build(""));
    assert_eq!(
        error(&build),
        MarshalError::NoInput {
            step: "build".into()
        }
    );
    let unnamed = Passthrough::new("").hands_on(&base).output(0);
    assert!(matches!(
        error(&unnamed),
        MarshalError::NoPassthroughId { .. }
    ));
}

#[test]
fn a_pinned_image_keeps_its_digest() {
    let digest = |byte| llb::BlobDigest::from_bytes([byte; 32]);
    let once = llb::image("alpine:3").pin(digest(1));
    assert_eq!(marshal(&once), marshal(&once.clone().pin(digest(2))));
    let written = llb::image(format!("docker.io/library/alpine:3@{}", digest(1)));
    assert_eq!(marshal(&once), marshal(&written));
}

#[test]
fn options_of_a_merge_of_one_do_not_touch_it() {
    let base = State::from(llb::image("alpine"));
    let merged = llb::merge([llb::scratch(), base.clone()])
        .ignore_cache()
        .custom_name("m");
    assert_eq!(marshal(&merged), marshal(&base));
    assert!(llb::merge::<State>([]).is_scratch());
    let nothing = llb::diff(llb::scratch(), llb::scratch().dir("/x"));
    assert!(nothing.is_scratch());
    assert_eq!(nothing.working_dir(), "/");
}

#[test]
fn definitions_come_back_with_their_source_maps() {
    let origin = llb::local("dockerfile").follow_paths(["Dockerfile"]);
    let file = SourceMap::new("Dockerfile", "Dockerfile", "FROM alpine\nRUN x\n");
    let file = file.read_from(&origin);
    let base = llb::image("alpine").location(&file, [SourceRange::new((1, 0), (1, 11))]);
    let run = base
        .run(["x"])
        .location(&file, [SourceRange::new((2, 0), (2, 5))]);
    let definition = marshal(&run.root());
    let again = State::from_definition(&definition).expect("loads");
    let other = Constraints::new(Platform::linux_arm64()).custom_name("other");
    assert_eq!(again.marshal(&other).expect("marshals"), definition);
    let empty = State::from_definition(&Definition::default());
    assert!(matches!(empty, Err(llb::ImportError::Empty)));
}

#[test]
fn settings_belong_to_what_follows() {
    let state = llb::scratch()
        .env("A", "1")
        .env("B", "2")
        .env("A", "3")
        .dir("/x")
        .dir("y/../z");
    assert_eq!(
        state.env_values().collect::<Vec<_>>(),
        [("B", "2"), ("A", "3")]
    );
    assert_eq!(state.env_value("A"), Some("3"));
    assert_eq!(state.env_value("C"), None);
    assert_eq!(state.working_dir(), "/x/z");
    let other = llb::image("alpine").env("O", "1").dir("/other");
    let reset = state.reset(&other);
    assert_eq!(
        (reset.working_dir(), reset.env_value("O")),
        ("/", Some("1"))
    );
    assert_eq!(llb::scratch().with_tree_of(&state).working_dir(), "/");
}
