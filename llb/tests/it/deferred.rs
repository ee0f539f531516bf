//! States that are told what they are while they are marshalled.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ashlar_llb::{
    self as llb, Constraints, Definition, FileActions, MarshalError, Mount, Passthrough, Platform,
    State,
};

fn amd64() -> Constraints {
    Constraints::new(Platform::linux_amd64())
}

fn marshal(state: &State) -> Definition {
    state.marshal(&amd64()).expect("marshals")
}

/// A deferred state that turns out to be `state`.
fn later(state: impl Into<State>) -> State {
    let state = state.into();
    llb::scratch().defer(move |_, _| Ok::<_, MarshalError>(state.clone()))
}

fn fails(state: &State) -> MarshalError {
    state.marshal(&amd64()).expect_err("should fail")
}

#[test]
fn a_deferred_state_is_what_its_function_gives() {
    let direct = llb::image("alpine").dir("/foo").run(["first"]).root();
    let direct = direct.dir("sub").env("A", "1");
    let deferred = llb::image("alpine").dir("/foo").defer(|state, _| {
        assert_eq!(state.working_dir(), "/foo");
        Ok::<_, MarshalError>(state.run(["first"]).root().dir("sub"))
    });
    let deferred = deferred.env("A", "1");
    let use_it = |state: &State| {
        let made = state
            .run(["second"])
            .mount("/m", Mount::bind(state).readonly());
        let copied = made.root().file(llb::copy(state, "x", "y").mkdir("z"));
        llb::merge([copied, state.clone()])
    };
    assert_eq!(marshal(&use_it(&direct)), marshal(&use_it(&deferred)));
    let resolved = deferred.resolve(&amd64()).expect("resolves");
    assert_eq!(resolved.working_dir(), "/foo/sub");
    assert_eq!(resolved.env_value("A"), Some("1"));
    assert_eq!(deferred.working_dir(), "/");
}

#[test]
fn a_function_is_called_once_per_marshal_and_knows_its_platform() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    let state = llb::image("alpine").defer(move |state, constraints| {
        counter.fetch_add(1, Ordering::Relaxed);
        let name = constraints.platform().architecture.clone();
        Ok::<_, MarshalError>(state.run([name]).root())
    });
    let both = llb::merge([state.run(["a"]).root(), state.run(["b"]).root()]);
    assert_eq!(calls.load(Ordering::Relaxed), 0);
    let intel = marshal(&both);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    // image, the deferred run, two runs, merge, terminal op
    assert_eq!(intel.ops().len(), 6);
    let arm = Constraints::new(Platform::linux_arm64());
    let arm = both.marshal(&arm).expect("marshals");
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    let names = |definition: &Definition, name: &[u8]| {
        let mut ops = definition.ops().iter();
        ops.any(|op| op.windows(name.len()).any(|window| window == name))
    };
    assert!(names(&intel, b"amd64") && names(&arm, b"arm64"));
}

#[test]
fn scratch_is_scratch_even_if_it_is_only_found_out() {
    let image: State = llb::image("alpine").into();
    let nothing = later(llb::scratch());
    assert!(!nothing.is_scratch());
    let scratch = llb::scratch();
    type Use = fn(&State, &State) -> State;
    let uses: [(&str, Use); 9] = [
        ("itself", |nothing, _| nothing.clone()),
        ("merge to one", |nothing, image| {
            llb::merge([nothing, image]).into()
        }),
        ("merge of two", |nothing, image| {
            llb::merge([image, nothing, image]).into()
        }),
        ("merge to none", |nothing, _| {
            llb::merge([nothing, nothing]).into()
        }),
        ("difference to all", |nothing, image| {
            llb::diff(nothing, image).into()
        }),
        ("difference to none", |nothing, image| {
            llb::diff(image, nothing).into()
        }),
        ("copy", |nothing, image| {
            image.file(FileActions::from(llb::copy(nothing, "/", "/a")))
        }),
        ("file", |nothing, image| {
            nothing.file(llb::copy(image, "/", "/a"))
        }),
        ("mount", |nothing, image| {
            image.run(["x"]).mount("/m", nothing).output("/m")
        }),
    ];
    for (name, use_it) in uses {
        let known = marshal(&use_it(&scratch, &image));
        assert_eq!(marshal(&use_it(&nothing, &image)), known, "{name}");
        // An op on top sees the same.
        let on_top = |state: State| state.run(["top"]).root();
        let known = marshal(&on_top(use_it(&scratch, &image)));
        assert_eq!(marshal(&on_top(use_it(&nothing, &image))), known, "{name}");
    }
    let root = marshal(&nothing.run(["x"]).root());
    assert_eq!(root.ops().len(), 2);
    let build = fails(&nothing.build("").into());
    assert!(matches!(build, MarshalError::NoInput { .. }), "{build:?}");
    let gate = Passthrough::new("gate")
        .hands_on(&image)
        .waits_for(&nothing);
    let gate = fails(&gate.output(0));
    assert!(matches!(gate, MarshalError::NoInput { .. }), "{gate:?}");
}

#[test]
fn deferred_states_may_turn_out_to_be_deferred_but_not_for_ever() {
    let mut state: State = llb::image("alpine").into();
    for _ in 0..900 {
        state = later(state);
    }
    assert_eq!(marshal(&state), marshal(&llb::image("alpine")));
    fn again() -> State {
        llb::scratch().defer(|_, _| Ok::<_, MarshalError>(again()))
    }
    let error = fails(&again().run(["x"]).root());
    assert!(matches!(error, MarshalError::DeferredTooOften { .. }));
    let error = fails(&llb::scratch().reset(again()).run(["x"]).root());
    assert!(matches!(error, MarshalError::DeferredTooOften { .. }));
}

#[test]
fn a_long_chain_of_deferred_states_needs_no_deep_stack() {
    let mut state: State = llb::image("alpine").into();
    for number in 0..20_000 {
        state = state.env("N", number.to_string());
        state = state.defer(|state, _| Ok::<_, MarshalError>(state));
    }
    let error = fails(&state);
    // The output is found through all of them.
    assert!(matches!(error, MarshalError::DeferredTooOften { .. }));
    let mut state: State = llb::image("alpine").into();
    for _ in 0..20_000 {
        state = state.defer(|state, _| Ok::<_, MarshalError>(state.run(["x"]).root()));
    }
    assert_eq!(marshal(&state).ops().len(), 20_002);
}

#[test]
fn errors_keep_their_cause() {
    let state = llb::image("alpine").defer(|_, _| Err::<State, _>("nobody knows"));
    let error = fails(&state.run(["x"]).root());
    let MarshalError::Deferred { step, source } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(
        step,
        "deferred docker-image://docker.io/library/alpine:latest"
    );
    assert_eq!(source.to_string(), "nobody knows");
    assert_eq!(error, error.clone());
    assert_eq!(fails(&later(&state)), error);
}
