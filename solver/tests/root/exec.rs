//! Exec ops with real processes.

use std::io::Read as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ashlar_llb::pb;
use ashlar_llb::pb::{CacheSharingOpt, MountType};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::error::{Fault, OperationError};
use ashlar_solver::executor::SandboxExecutor;
use ashlar_solver::operation::{Context, Operation as _};
use ashlar_solver::ops::exec::{ExecError, ExecOperation};
use ashlar_solver::progress::{Event, Sink, Stream};
use ashlar_solver::refs::Ref;
use ashlar_solver::snapshot::{LayerDescription, Stack};
use ashlar_solver::tree::{Attributes, LayerWriter, Timestamp, TreePath, View, WriterOptions};

use crate::ops_kit::Kit;

const PROGRAMS: &[&str] = &[
    "sh", "cat", "ls", "id", "echo", "env", "pwd", "hostname", "sleep", "rm", "mkdir", "touch",
];

#[derive(Debug, Default)]
pub(crate) struct Logs(Mutex<Vec<(Stream, String)>>);

#[async_trait::async_trait]
impl Sink for Logs {
    fn control(&self, _: Event) {}

    async fn log(&self, event: Event) {
        if let Event::Log { stream, data, .. } = event {
            let text = String::from_utf8_lossy(&data).into_owned();
            self.0.lock().unwrap().push((stream, text));
        }
    }
}

impl Logs {
    pub(crate) fn text(&self, wanted: Stream) -> String {
        let logs = self.0.lock().unwrap();
        logs.iter()
            .filter(|log| log.0 == wanted)
            .map(|log| log.1.as_str())
            .collect()
    }
}

/// A kit with one of the executors of the contract.
pub(crate) fn kit_of(executor: &str) -> Kit {
    Kit::with(crate::contract::executor(executor))
}

pub(crate) fn kit() -> Kit {
    assert!(
        rustix::process::geteuid().is_root(),
        "these tests make mounts and need root"
    );
    Kit::with(Arc::new(SandboxExecutor::new(true).unwrap()))
}

pub(crate) fn path(text: &str) -> TreePath {
    TreePath::new(text).unwrap()
}

/// A root file system of busybox.
pub(crate) fn base(kit: &Kit) -> Ref {
    let layer = kit.engine.layers.new_layer().unwrap();
    let options = WriterOptions {
        privileged: true,
        now: Timestamp::default(),
    };
    let mut writer = LayerWriter::new(
        layer.fs_handle().unwrap(),
        layer.files(),
        View::empty(),
        options,
    )
    .unwrap();
    let mode = |mode| Attributes {
        mode,
        ..Attributes::default()
    };
    for directory in ["bin", "etc", "tmp"] {
        writer
            .make_directory(&path(directory), mode(0o755))
            .unwrap();
    }
    let mut busybox = std::fs::File::open("/bin/busybox")
        .expect("these tests need a static /bin/busybox (package busybox-static)");
    writer
        .write_file(&path("bin/busybox"), mode(0o755), &mut busybox)
        .unwrap();
    for name in PROGRAMS {
        let link = path(&format!("bin/{name}"));
        writer.make_symlink(&link, b"busybox", mode(0o777)).unwrap();
    }
    let passwd = "root:x:0:0::/root:/bin/sh\nme:x:7:8::/home/me:/bin/sh\n";
    writer
        .write_file(&path("etc/passwd"), mode(0o644), &mut passwd.as_bytes())
        .unwrap();
    writer
        .write_file(&path("etc/group"), mode(0o644), &mut &b"more:x:9:me\n"[..])
        .unwrap();
    let index = writer.finish().unwrap();
    let layer = layer.commit(index, &LayerDescription::default()).unwrap();
    Ref::from(Stack::scratch().push(layer))
}

pub(crate) fn exec(script: &str) -> pb::ExecOp {
    let args = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    let root = pb::Mount {
        dest: "/".into(),
        ..pb::Mount::default()
    };
    pb::ExecOp {
        meta: Some(pb::Meta {
            args,
            cwd: "/".into(),
            ..pb::Meta::default()
        }),
        mounts: vec![root],
        ..pb::ExecOp::default()
    }
}

pub(crate) fn run_in(
    kit: &Kit,
    op: &pb::ExecOp,
    inputs: Vec<Ref>,
    context: &Context,
) -> Result<Vec<Ref>, OperationError> {
    run_for("amd64", kit, op, inputs, context)
}

fn run_for(
    architecture: &str,
    kit: &Kit,
    op: &pb::ExecOp,
    inputs: Vec<Ref>,
    context: &Context,
) -> Result<Vec<Ref>, OperationError> {
    let platform = pb::Platform {
        os: "linux".into(),
        architecture: architecture.into(),
        ..pb::Platform::default()
    };
    let operation = ExecOperation::new(op, &platform, inputs.len(), &kit.engine)?;
    kit.runtime.block_on(operation.run(inputs, context))
}

pub(crate) fn run(kit: &Kit, op: &pb::ExecOp, inputs: Vec<Ref>) -> (Vec<Ref>, Arc<Logs>) {
    let logs = Arc::new(Logs::default());
    let context = kit.context_of(logs.clone());
    let outputs = run_in(kit, op, inputs, &context);
    let outputs = outputs.unwrap_or_else(|error| match error {
        OperationError::Failed(failure) => panic!("{}\n{logs:?}", failure.chain()),
        OperationError::Cancelled => panic!("cancelled"),
    });
    (outputs, logs)
}

fn text(tree: &Ref, at: &str) -> String {
    let view = tree.view().unwrap();
    let node = view
        .lookup(&path(at))
        .unwrap_or_else(|| panic!("{at} is missing"));
    let mut text = String::new();
    node.files()
        .unwrap()
        .open(&path(at))
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    text
}

#[test]
fn what_a_process_writes_is_a_layer_and_nothing_else_is() {
    let kit = kit();
    let mut op = exec(
        "echo hi > /out; rm /etc/group; cat /etc/hosts; echo no >&2; pwd; id; hostname; env; \
         cat /etc/resolv.conf > /tmp/resolv",
    );
    let meta = op.meta.as_mut().unwrap();
    meta.cwd = "/work".into();
    meta.user = "0:0".into();
    meta.extra_hosts = vec![pb::HostIp {
        host: "db".into(),
        ip: "1.2.3.4".into(),
    }];
    let base = base(&kit);
    let (outputs, logs) = run(&kit, &op, vec![base.clone()]);
    assert_eq!(text(&outputs[0], "out"), "hi\n");
    let view = outputs[0].view().unwrap();
    assert!(view.lookup(&path("etc/group")).is_none());
    for stub in ["etc/hosts", "etc/resolv.conf", "proc", "dev", "sys"] {
        assert!(view.lookup(&path(stub)).is_none(), "{stub} was left behind");
    }
    let out = logs.text(Stream::Stdout);
    for part in [
        "1.2.3.4\tdb",
        "\n/work\n",
        "uid=0(root) gid=0",
        "\nbuildkitsandbox\n",
        "PATH=/usr/",
    ] {
        assert!(out.contains(part), "{part:?} is not in {out:?}");
    }
    assert_eq!(logs.text(Stream::Stderr), "no\n");
    // The step above is a base in turn.
    let (outputs, _) = run(&kit, &exec("cat /out /out > /twice"), outputs);
    assert_eq!(text(&outputs[0], "twice"), "hi\nhi\n");
    assert!(base.view().unwrap().lookup(&path("etc/group")).is_some());
}

#[test]
fn users_are_those_of_the_root() {
    let kit = kit();
    let mut op = exec("id; echo at $HOME");
    op.meta.as_mut().unwrap().user = "me".into();
    let (_, logs) = run(&kit, &op, vec![base(&kit)]);
    let out = logs.text(Stream::Stdout);
    assert!(
        out.contains("uid=7(me) gid=8") && out.contains("9(more)"),
        "{out}"
    );
    assert!(out.ends_with("at /home/me\n"), "{out}");
    // By its number too; somebody unknown, and somebody who says otherwise.
    for (user, env, expected) in [
        ("7:9", "", "at /home/me\n"),
        ("77", "", "at /\n"),
        ("", "", "at /root\n"),
        ("me", "HOME=/else", "at /else\n"),
    ] {
        let mut op = exec("echo at $HOME");
        op.meta.as_mut().unwrap().user = user.into();
        op.meta.as_mut().unwrap().env.push(env.into());
        op.meta.as_mut().unwrap().env.retain(|it| !it.is_empty());
        let (_, logs) = run(&kit, &op, vec![base(&kit)]);
        assert_eq!(logs.text(Stream::Stdout), expected, "{user} {env}");
    }
    let mut op = exec("id");
    op.meta.as_mut().unwrap().user = "nobody".into();
    let error = run_in(&kit, &op, vec![base(&kit)], &kit.context()).unwrap_err();
    let OperationError::Failed(failure) = error else {
        panic!("cancelled")
    };
    assert!(
        failure.chain().contains("unable to find user nobody"),
        "{}",
        failure.chain()
    );
}

#[test]
fn a_failure_has_buildkits_words_and_what_was_written() {
    let kit = kit();
    let mut op = exec("echo x > /x; exit 3");
    let error = run_in(&kit, &op, vec![base(&kit)], &kit.context()).unwrap_err();
    let OperationError::Failed(failure) = error else {
        panic!("cancelled")
    };
    let expected = "process \"/bin/sh -c echo x > /x; exit 3\" did not complete successfully: \
                    exit code: 3";
    assert_eq!(failure.chain(), expected);
    let error = failure.downcast_ref::<ExecError>().unwrap();
    let step = error.failed_step().unwrap();
    assert_eq!(text(&step.outputs()[0], "x"), "x\n");
    op.meta.as_mut().unwrap().valid_exit_codes = vec![3];
    let (outputs, _) = run(&kit, &op, vec![base(&kit)]);
    assert_eq!(text(&outputs[0], "x"), "x\n");
}

#[test]
fn mounts_show_inputs_scratch_and_caches() {
    let kit = kit();
    let base = base(&kit);
    let (other, _) = run(
        &kit,
        &exec("mkdir -p /d/e; echo y > /d/e/f"),
        vec![base.clone()],
    );
    let mount = |dest: &str, input, output, selector: &str| pb::Mount {
        input,
        output,
        dest: dest.into(),
        selector: selector.into(),
        ..pb::Mount::default()
    };
    let cache = pb::Mount {
        mount_type: MountType::Cache as i32,
        cache_opt: Some(pb::CacheOpt {
            id: "c".into(),
            sharing: CacheSharingOpt::Locked as i32,
        }),
        ..mount("/cache", -1, -1, "")
    };
    let memory = pb::Mount {
        mount_type: MountType::Tmpfs as i32,
        ..mount("/mem", -1, -1, "")
    };
    let mut op = exec(
        "cat /in/f; touch /in/f || echo readonly; echo z > /new/z; echo + >> /cache/n; \
         cat /cache/n; touch /mem/x; touch rel/r; touch /gone/g",
    );
    op.mounts.extend([
        pb::Mount {
            readonly: true,
            ..mount("/in", 1, -1, "/d/e")
        },
        mount("/new", -1, 1, ""),
        mount("rel", 1, 2, ""),
        mount("/gone", 1, -1, ""),
        cache,
        memory,
    ]);
    let inputs = vec![base, other.into_iter().next().unwrap()];
    let (outputs, logs) = run(&kit, &op, inputs.clone());
    assert_eq!(logs.text(Stream::Stdout), "y\nreadonly\n+\n");
    assert_eq!(outputs.len(), 3);
    assert_eq!(text(&outputs[1], "z"), "z\n");
    assert_eq!(text(&outputs[2], "r"), "");
    assert_eq!(text(&outputs[2], "d/e/f"), "y\n");
    let view = outputs[0].view().unwrap();
    for stub in ["in", "new", "rel", "gone", "cache", "mem"] {
        assert!(view.lookup(&path(stub)).is_none(), "{stub} was left behind");
    }
    let (_, logs) = run(&kit, &op, inputs);
    assert_eq!(logs.text(Stream::Stdout), "y\nreadonly\n+\n+\n");
}

/// What the kernel finds of a layer, below the directory of the layer.
fn on_disk(kit: &Kit, tree: &Ref) -> Vec<String> {
    let stack = tree.stack(&Cancel::new()).unwrap();
    let id = stack.top().unwrap().id().to_string();
    let layer = kit.engine.layers.root().path().join("layers").join(id);
    let names = |path: &std::path::Path| -> Vec<String> {
        let names = std::fs::read_dir(path).unwrap();
        names
            .map(|name| name.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    let mut all = names(&layer);
    all.extend(
        names(&layer.join("fs"))
            .iter()
            .map(|name| format!("fs/{name}")),
    );
    all.sort();
    all
}

#[test]
fn places_for_mounts_are_made_in_no_layer() {
    let kit = kit();
    let base = base(&kit);
    let script = "cat /etc/hosts /etc/resolv.conf > /dev/null; ls -d /proc/1 /sys/fs /dev/null";
    let (outputs, logs) = run(&kit, &exec(script), vec![base.clone()]);
    assert_eq!(logs.text(Stream::Stdout), "/dev/null\n/proc/1\n/sys/fs\n");
    assert_eq!(on_disk(&kit, &outputs[0]), ["fs", "index"]);
    let (outputs, _) = run(&kit, &exec("echo x > /out"), vec![base]);
    assert_eq!(on_disk(&kit, &outputs[0]), ["fs", "fs/out", "index"]);
}

/// A root that never had the directory, so that it shows that of the places.
#[test]
fn a_directory_of_places_is_a_part_of_no_layer_until_something_is_in_it() {
    let kit = kit();
    let layer = kit.engine.layers.new_layer().unwrap();
    let options = WriterOptions {
        privileged: true,
        now: Timestamp::default(),
    };
    let (fs, files) = (layer.fs_handle().unwrap(), layer.files());
    let mut writer = LayerWriter::new(fs, files, View::empty(), options).unwrap();
    let attributes = Attributes {
        mode: 0o755,
        ..Attributes::default()
    };
    let mut busybox = std::fs::File::open("/bin/busybox").unwrap();
    writer
        .write_file(&path("busybox"), attributes, &mut busybox)
        .unwrap();
    let index = writer.finish().unwrap();
    let layer = layer.commit(index, &LayerDescription::default()).unwrap();
    let base = Ref::from(Stack::scratch().push(layer));
    let with = |script: &str| {
        let mut op = exec("");
        let args = ["/busybox", "sh", "-c", script].map(str::to_owned);
        op.meta.as_mut().unwrap().args = args.to_vec();
        run(&kit, &op, vec![base.clone()]).0.remove(0)
    };
    let changed = with("/busybox chmod 700 /etc; /busybox stat -c %a /etc");
    assert!(changed.view().unwrap().lookup(&path("etc")).is_none());
    assert_eq!(on_disk(&kit, &changed), ["fs", "index"]);
    let filled = with("/busybox chmod 700 /etc; echo x > /etc/own");
    let view = filled.view().unwrap();
    assert_eq!(
        view.lookup(&path("etc")).unwrap().entry().attributes.mode,
        0o700
    );
    assert_eq!(text(&filled, "etc/own"), "x\n");
    assert_eq!(on_disk(&kit, &filled), ["fs", "fs/etc", "index"]);
}

#[test]
fn a_cancelled_process_is_gone_within_a_second() {
    let kit = kit();
    let context = kit.context();
    let cancel = context.cancel.clone();
    let clock = kit.engine.clock.clone();
    let killer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        let start = clock.monotonic();
        cancel.cancel();
        clock.monotonic() - start
    });
    let result = run_in(
        &kit,
        &exec("sleep 60 & sleep 60"),
        vec![base(&kit)],
        &context,
    );
    assert!(
        matches!(result, Err(OperationError::Cancelled)),
        "{result:?}"
    );
    let spent = killer.join().unwrap();
    assert!(spent < Duration::from_secs(1), "{spent:?}");
}

#[test]
fn what_is_not_allowed_is_refused() {
    let kit = kit();
    let refused = |op: &pb::ExecOp| {
        let error = run_in(&kit, op, vec![Ref::scratch()], &kit.context()).unwrap_err();
        let OperationError::Failed(failure) = error else {
            panic!("cancelled")
        };
        failure.chain()
    };
    let mut op = exec("true");
    op.network = pb::NetMode::Host as i32;
    assert_eq!(refused(&op), "network.host is not allowed");
    let mut op = exec("true");
    op.security = pb::SecurityMode::Insecure as i32;
    assert_eq!(refused(&op), "security.insecure is not allowed");
}

#[test]
fn a_program_for_another_machine_is_told_with_a_remedy() {
    let kit = kit();
    // The head of a program for a machine that nobody emulates.
    let head = "printf '\\177ELF\\002\\001\\001\\0\\0\\0\\0\\0\\0\\0\\0\\0\\002\\0\\377\\377' > /p";
    let mut op = exec(&format!("{head}; busybox chmod 755 /p"));
    op.meta.as_mut().unwrap().env = vec!["PATH=/bin".into()];
    let (outputs, _) = run(&kit, &op, vec![base(&kit)]);
    let mut op = exec("");
    op.meta.as_mut().unwrap().args = vec!["/p".into()];
    let failure = |architecture| {
        let context = kit.context();
        match run_for(architecture, &kit, &op, outputs.clone(), &context) {
            Err(OperationError::Failed(failure)) => failure,
            other => panic!("{other:?}"),
        }
    };
    let foreign = failure("riscv64");
    assert_eq!(foreign.fault(), Fault::Environment);
    let expected = "process \"/p\" did not complete successfully: programs for linux/riscv64 \
                    cannot be executed on this machine";
    assert_eq!(foreign.chain(), expected);
    assert!(foreign.remedy().unwrap().contains("binfmt_misc"));
    // One of this machine is only not a program.
    let here = ashlar_llb::Platform::of_target().architecture;
    let text = failure(&here).chain();
    assert!(text.contains("unknown executable format"), "{text}");
}
