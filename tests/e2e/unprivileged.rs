//! An ordinary user builds, without steps, the very image that root would build.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use ashlar_exporters::{Compression, Exporter as _, Oci};
use ashlar_llb::{self as llb, State, copy, mkdir, rm};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::error::{Blame as _, Fault};
use ashlar_solver::solver::{SolveError, SolveRequest, Solver};

use super::support::{self, Need, run, skipped, solve, temp, then};

/// An image with all that an ordinary user cannot have on disk, made by umoci.
fn make_base(folder: &Path) {
    let tree = folder.join("tree");
    support::write(tree.join("bin/su"), "su\n");
    support::write(tree.join("etc/shadow"), "secret\n");
    support::write(tree.join("private/key"), "key\n");
    support::write(tree.join("unreadable"), "unreadable\n");
    support::write(tree.join("owned"), "owned\n");
    support::write(tree.join("gone"), "gone\n");
    fs::create_dir(tree.join("spool")).unwrap();
    fs::hard_link(tree.join("owned"), tree.join("linked")).unwrap();
    symlink("etc/shadow", tree.join("link")).unwrap();
    run(Command::new("mknod")
        .arg(tree.join("null"))
        .args(["c", "1", "3"]));
    run(Command::new("mkfifo").arg(tree.join("fifo")));
    let modes = [
        ("bin/su", 0o4755),
        ("etc/shadow", 0o640),
        ("private/key", 0o600),
    ];
    let more = [
        ("private", 0o700),
        ("unreadable", 0),
        ("spool", 0o1777),
        ("owned", 0o2751),
    ];
    std::os::unix::fs::chown(tree.join("owned"), Some(1234), Some(5678)).unwrap();
    std::os::unix::fs::chown(tree.join("etc/shadow"), Some(0), Some(42)).unwrap();
    for (path, mode) in modes.into_iter().chain(more) {
        fs::set_permissions(tree.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    let layout = folder.join("layout");
    let image = format!("{}:base", layout.display());
    run(Command::new("umoci")
        .arg("init")
        .arg("--layout")
        .arg(&layout));
    run(Command::new("umoci").args(["new", "--image", &image]));
    run(Command::new("umoci")
        .args(["insert", "--image", &image])
        .arg(&tree)
        .arg("/"));
    run(Command::new("chmod").args(["-R", "a+rX"]).arg(&layout));
}

fn base() -> State {
    llb::oci_layout("base:base").store("base").into()
}

/// Everything that has a time has a fixed one.
fn graph() -> State {
    let (base, context) = (base(), llb::local("context"));
    let made = mkdir("/made").mode(0o700).owner((7, 8)).created(then());
    let made = made
        .mkfile("/run", "run\n")
        .mode(0o711)
        .owner("9:10")
        .created(then());
    let changed = base.file(made).file(rm("/gone"));
    let changed = changed.file(copy(&context, "/file", "/file").mode(0o200).created(then()));
    let copied = copy(&changed, "/private", "/private").created(then());
    let copied = copied
        .copy(&changed, "/unreadable", "/unreadable")
        .created(then());
    let copied = copied.copy(&changed, "/null", "/null").created(then());
    let copied = copied
        .copy(&changed, "/bin/su", "/su")
        .owner((11, 12))
        .created(then());
    llb::merge([changed, llb::scratch().file(copied)]).into()
}

fn lent(folder: &Path, state: &State) -> SolveRequest {
    let request = support::request(state).local("context", folder.join("context"));
    request
        .local("base", folder.join("base"))
        .oci_layout("base", folder.join("layout"))
}

/// Builds and exports to `out`, and returns the diff ids of the image.
async fn diff_ids(folder: &Path, out: &Path) -> Vec<String> {
    let solver = support::solver(out.join("state"));
    let solved = solve(&solver, lent(folder, &graph())).await;
    let again = solve(&solver, lent(folder, &graph())).await;
    assert_eq!(support::ran(&again), [""; 0]);
    let layout = out.join("image");
    let image = Oci::directory(&layout)
        .compression(Compression::Uncompressed)
        .name("app:v1");
    let exported = image.export(&solved.result, &Cancel::new()).await.unwrap();
    let config = &exported.response["containerimage.config.digest"];
    let config = layout.join("blobs").join(config.replace(':', "/"));
    let config: serde_json::Value = serde_json::from_slice(&fs::read(config).unwrap()).unwrap();
    let ids = config["rootfs"]["diff_ids"].as_array().unwrap();
    ids.iter()
        .map(|id| id.as_str().unwrap().to_owned())
        .collect()
}

/// Runs a step: it works, or the error tells that this machine does not let it.
async fn step(folder: &Path, out: &Path) -> String {
    let solver = support::solver(out.join("state"));
    // More than a mount can have as they are: some become one, by links.
    let mut state = support::busybox_state();
    for number in 0..130 {
        let script = "rm -rf /d /link; mkdir -p /d/sub; echo $0 > /d/sub/$0; echo $0 >> /log; \
                      ln -s $0 /link; chmod 700 /d; echo ran > /result";
        state = state.run(["sh", "-c", script, &number.to_string()]).root();
    }
    let script = "test $(wc -l < /log) = 130 && test \"$(ls /d/sub)\" = 129";
    let state = llb::merge([state, llb::scratch().file(mkdir("/other"))]);
    let step = State::from(state).run(["sh", "-c", script]);
    let state = llb::scratch().file(copy(step.root(), "/result", "/result"));
    match solver.solve(lent(folder, &state)).result().await {
        Ok(solved) => {
            let files = support::files(&solved).await;
            assert_eq!(files["result"], support::file(0o644, b"ran\n"));
            "ran".to_owned()
        }
        Err(SolveError::Vertex { failure, .. }) => {
            assert_eq!(failure.fault(), Fault::Environment, "{}", failure.chain());
            let remedy = failure.remedy().expect("it says what to do");
            format!("refused: {}; {remedy}", failure.chain())
        }
        Err(error) => panic!("{error}: {:?}", error.fault()),
    }
}

pub fn role(arguments: &[&str]) {
    let [folder, out] = arguments[..] else {
        panic!("{arguments:?}")
    };
    let (folder, out) = (Path::new(folder), Path::new(out));
    assert!(!support::is_root());
    support::runtime().block_on(async {
        let ids = diff_ids(folder, out).await;
        println!("\n@ {}", ids.join(" "));
        println!("step: {}", step(folder, out).await);
    });
    assert_eq!(support::leftovers(&out.join("state")), [""; 0]);
}

#[test]
fn a_user_builds_what_root_would() {
    let needs = [
        Need::Root,
        Need::Tool("umoci"),
        Need::Tool("setpriv"),
        Need::Tool("busybox"),
    ];
    if skipped("a_user_builds_what_root_would", &needs) {
        return;
    }
    let folder = temp();
    let folder = folder.path();
    make_base(folder);
    support::write(folder.join("context/file"), "file\n");
    support::busybox(folder);
    let (by_root, by_user) = (folder.join("root"), folder.join("user"));
    fs::create_dir(&by_user).unwrap();

    let ids = support::runtime().block_on(diff_ids(folder, &by_root));
    let arguments = [folder, by_user.as_path()].map(|path| path.to_str().unwrap());
    let mut command = support::as_user(folder, &by_user, "user", &arguments);
    let text = run(command.current_dir("/").env("HOME", &by_user));
    print!("{text}");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("@ "))
        .expect("it tells the ids");
    assert_eq!(line.split(' ').collect::<Vec<_>>(), ids);

    // What root finds in the user's image is what the definition asks for.
    let bundle = folder.join("bundle");
    let image = format!("{}:v1", by_user.join("image").display());
    run(Command::new("umoci")
        .args(["unpack", "--image", &image])
        .arg(&bundle));
    let expected = [
        ("bin/su", 0o10_4755, 0, 0),
        ("etc/shadow", 0o10_0640, 0, 42),
        ("file", 0o10_0200, 0, 0),
        ("made", 0o4_0700, 7, 8),
        ("null", 0o2_0644, 0, 0),
        ("owned", 0o10_2751, 1234, 5678),
        ("private", 0o4_0700, 0, 0),
        ("private/key", 0o10_0600, 0, 0),
        ("run", 0o10_0711, 9, 10),
        ("spool", 0o4_1777, 0, 0),
        ("su", 0o10_4755, 11, 12),
        ("unreadable", 0o10_0000, 0, 0),
    ];
    for (path, mode, uid, gid) in expected {
        let data = bundle.join("rootfs").join(path).symlink_metadata().unwrap();
        assert_eq!(
            (data.mode(), data.uid(), data.gid()),
            (mode, uid, gid),
            "{path}"
        );
    }
    let rootfs = bundle.join("rootfs");
    assert!(!rootfs.join("gone").exists());
    assert_eq!(
        rootfs.join("null").metadata().unwrap().rdev(),
        rustix::fs::makedev(1, 3)
    );
    let inode = |name: &str| rootfs.join(name).metadata().unwrap().ino();
    assert_eq!(inode("owned"), inode("linked"));

    // A state root belongs to the user that made it.
    support::runtime().block_on(async {
        let error = Solver::builder()
            .root(by_user.join("state"))
            .build()
            .unwrap_err();
        let text = support::chain(&error);
        assert!(text.contains("belongs to uid 1000"), "{text}");
        assert_eq!(
            error.remedy().as_deref(),
            Some("give each user a root of its own")
        );
    });
}
