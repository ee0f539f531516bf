//! Paths, ids and modes: what they are taken from, and what the marshal refuses.

use ashlar_llb as llb;
use llb::{
    Cache, Constraints, FileActions, GuestPath, InvalidSource, MarshalError, Mode, Mount, Platform,
    Run, Secret, Ssh, State, pb,
};

fn marshal(state: &State) -> Result<llb::Definition, MarshalError> {
    state.marshal(&Constraints::new(Platform::linux_amd64()))
}

fn run() -> Run {
    llb::image("alpine").run(["true"]).custom_name("the step")
}

#[test]
fn paths_with_a_zero_byte_are_refused_by_step() {
    let file = |actions: FileActions| llb::scratch().file(actions.custom_name("the step"));
    let start = FileActions::new;
    let tree = llb::scratch();
    for state in [
        run().mount("/a\0", &tree).root(),
        run()
            .mount("/a", Mount::bind(&tree).source_path("\0"))
            .root(),
        run().dir("/a\0").root(),
        run().secret(Secret::file("/a\0")).root(),
        run().ssh(Ssh::new().target("/a\0")).root(),
        file(start().mkdir("/a\0").into()),
        file(start().mkfile("/a\0", "").into()),
        file(start().rm("/a\0").into()),
        file(start().symlink("/a\0", "/b").into()),
        file(start().symlink("/a", "/b\0").into()),
        file(start().copy(&tree, "/a\0", "/b").into()),
        file(start().copy(&tree, "/a", "/b\0").into()),
    ] {
        let error = marshal(&state).expect_err("refused");
        assert!(matches!(&error, MarshalError::Path { path, .. } if path.as_str().contains('\0')));
        assert_eq!(error.step(), "the step");
    }
}

#[test]
fn modes_that_no_file_has_are_refused_by_step() {
    let file = |actions: FileActions| llb::scratch().file(actions.custom_name("the step"));
    let start = FileActions::new;
    let tree = llb::scratch();
    for (state, bits) in [
        // Numbers that were meant to be octal.
        (file(start().mkdir("/a").mode(755).into()), 755),
        (file(start().mkfile("/a", "").mode(644).into()), 644),
        (file(start().mkfile("/a", "").mode(0o4755).into()), 0o4755),
        (
            file(start().copy(&tree, "/", "/").mode(0o10_000).into()),
            0o10_000,
        ),
        (
            run()
                .secret(Secret::file("/a").owner_and_mode(0, 0, 600))
                .root(),
            600,
        ),
        (run().ssh(Ssh::new().owner_and_mode(0, 0, 600)).root(), 600),
    ] {
        let error = marshal(&state).expect_err("refused");
        let mode = Mode::from(bits);
        let step = "the step".to_owned();
        assert_eq!(error, MarshalError::Mode { step, mode });
        assert!(error.to_string().starts_with(&format!("mode {mode} of")));
    }
    for source in [
        State::from(
            llb::http("https://example.com/a")
                .mode(644)
                .custom_name("the step"),
        ),
        llb::http("https://example.com/a")
            .mode(0o644)
            .mode(0o4755)
            .into(),
    ] {
        let error = marshal(&source).expect_err("refused");
        assert!(matches!(
            error,
            MarshalError::InvalidSource {
                source: InvalidSource::Mode { .. },
                ..
            }
        ));
    }
    let mended = llb::http("https://example.com/a").mode(644).mode(0o644);
    assert!(marshal(&mended).is_ok(), "the last mode counts");
    // Copies have the three upper bits too, and whoever wants bits dropped says so.
    let copy = file(start().copy(&tree, "/", "/").mode(0o4755).into());
    assert!(marshal(&copy).is_ok());
    let dropped = marshal(&file(
        start().mkdir("/a").mode(Mode::truncated(0o1777)).into(),
    ));
    let plain = marshal(&file(start().mkdir("/a").mode(0o777).into()));
    assert_eq!(dropped, plain);
}

#[test]
fn names_are_written_as_they_are() {
    let target = GuestPath::from("/cache");
    let state = run()
        .mount(&target, Cache::locked(format!("of {}", "cargo")))
        .secret(Secret::new("token").target(target.clone()))
        .ssh(Ssh::new().id("github"))
        .root();
    let definition = marshal(&state).expect("marshals");
    let execs = definition.ops().iter().filter_map(|op| {
        let op = <pb::Op as prost::Message>::decode(op.clone()).expect("decodes");
        match op.op {
            Some(pb::op::Op::Exec(exec)) => Some(exec),
            _ => None,
        }
    });
    let exec = execs.into_iter().next().expect("an exec");
    let found = exec
        .mounts
        .iter()
        .find_map(|mount| mount.cache_opt.as_ref());
    assert_eq!(found.expect("a cache").id, "of cargo");
    let found = exec
        .mounts
        .iter()
        .find_map(|mount| mount.secret_opt.as_ref());
    assert_eq!(found.map(|secret| secret.id.as_str()), Some("token"));
    let found = exec.mounts.iter().find_map(|mount| mount.ssh_opt.as_ref());
    assert_eq!(found.map(|ssh| ssh.id.as_str()), Some("github"));
    let at_target = exec.mounts.iter().filter(|mount| mount.dest == "/cache");
    assert_eq!(at_target.count(), 2);
}
