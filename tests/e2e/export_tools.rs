//! What other tools make of what the exporters write.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ashlar_exporters::{Compression, Docker, ExportError, Exporter, Oci};
use ashlar_llb::{self as llb, Platform, State, copy};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::result::{Attestation, BuildResult, PlatformRef};
use ashlar_solver::solver::Solver;
use serde_json::Value;
use tempfile::TempDir;

use super::support::{self, Need, run, skipped, solve, temp};

const NAME: &str = "localhost/ashlar/app:v1";
/// What loads that are broken off call their image.
const BROKEN_OFF: &str = "localhost/ashlar/broken-off:v1";
const CONFIG: &str = r#"{"architecture":"amd64","os":"linux","config":{"Cmd":["/bin/hello"],
    "Env":["GREETING=hello"],"Labels":{"of":"ashlar"}}}"#;

/// What is made of the folder of a kit.
async fn built(folder: &Path, solver: &Solver) -> BuildResult {
    let base = llb::local("base");
    let state: State = llb::scratch()
        .file(copy(&base, "/", "/").contents_only())
        .file(llb::mkdir("/etc").mkfile("/etc/made", "ashlar\n"))
        .file(llb::mkfile("/gone", "").mkfile("/kept", ""))
        .file(llb::rm("/gone"));
    let request = support::request(&state).local("base", folder.join("base"));
    let solved = solve(solver, request).await;
    let config = CONFIG.replace("amd64", &Platform::of_target().architecture);
    solved.result.with_image_config(config)
}

/// The same files as another image.
fn renamed(result: &BuildResult) -> BuildResult {
    let config = CONFIG.replace("hello", "bye");
    result.clone().with_image_config(config)
}

/// An image whose `/bin/hello` greets.
struct Kit {
    folder: TempDir,
    solver: Solver,
    result: BuildResult,
}

impl Kit {
    async fn new() -> Self {
        let folder = temp();
        let path = folder.path();
        support::busybox(path);
        let script = "#!/bin/sh\necho \"$GREETING from $(cat /etc/made)\"\n";
        support::write(path.join("base/bin/hello"), script);
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(path.join("base/bin/hello"), mode).unwrap();
        let solver = support::solver(path.join("state"));
        let result = built(path, &solver).await;
        Self {
            folder,
            solver,
            result,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn export(&self, exporter: impl Exporter, result: &BuildResult) -> String {
        let exported = exporter.export(result, &Cancel::new()).await.unwrap();
        exported.digest.unwrap().to_string()
    }

    /// The image for two platforms, and something attested of it.
    fn several(&self) -> BuildResult {
        let tree = || self.result.reference().clone();
        let other = match Platform::of_target().architecture.as_str() {
            "arm64" => Platform::linux_amd64(),
            _ => Platform::linux_arm64(),
        };
        let refs = [
            PlatformRef::new(Platform::of_target(), tree()),
            PlatformRef::new(other, tree()),
        ];
        let mut result = BuildResult::of_platforms(refs, self.solver.store().clone()).unwrap();
        for tree in result.refs().to_vec() {
            let id = tree.id;
            let config = CONFIG.replace("amd64", &tree.platform.architecture);
            result = result.with_image_config_of(&id, config);
            let check = Attestation::in_toto("https://example.com/check", "check.json", "{}");
            result = result.with_attestation(id, check);
        }
        result
    }
}

/// Unpacks an image with umoci and runs it with runc.
fn says_hello(folder: &Path, layout: &str) {
    let bundle = folder.join("bundle");
    let image = format!("{}:{layout}", folder.join("unpacked").display());
    run(Command::new("umoci")
        .args(["unpack", "--image", &image])
        .arg(&bundle));
    let text = fs::read_to_string(bundle.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = serde_json::json!(["/bin/hello"]);
    fs::write(bundle.join("config.json"), config.to_string()).unwrap();
    let id = format!("ashlar-hello-{}", std::process::id());
    let root = folder.join("runc");
    let said = run(Command::new("runc")
        .arg("--root")
        .arg(&root)
        .args(["run", "--bundle"])
        .arg(&bundle)
        .arg(&id));
    assert_eq!(said.trim(), "hello from ashlar");
    assert!(bundle.join("rootfs/kept").exists() && !bundle.join("rootfs/gone").exists());
    fs::remove_dir_all(bundle).unwrap();
}

#[test]
fn skopeo_umoci_and_runc_take_every_form() {
    let needs = ["skopeo", "umoci", "runc", "busybox"].map(Need::Tool);
    let all = [&[Need::Root][..], &needs].concat();
    if skipped("skopeo_umoci_and_runc_take_every_form", &all) {
        return;
    }
    support::runtime().block_on(async {
        let kit = Kit::new().await;
        let archive = Oci::archive(kit.path("oci.tar")).name(NAME);
        let digest = kit.export(archive, &kit.result).await;
        let layout = Oci::directory(kit.path("layout")).name(NAME);
        assert_eq!(kit.export(layout, &kit.result).await, digest);
        kit.export(
            Docker::archive(kit.path("docker.tar")).name(NAME),
            &kit.result,
        )
        .await;
        let several = Oci::archive(kit.path("several.tar")).name(NAME);
        let index = kit.export(several, &kit.several()).await;

        let at = |name: &str| kit.path(name).display().to_string();
        let inspect = |image: &str| -> Value {
            let text = run(Command::new("skopeo").args(["inspect", image]));
            serde_json::from_str(&text).unwrap()
        };
        let oci = inspect(&format!("oci-archive:{}:v1", at("oci.tar")));
        assert_eq!(oci["Digest"], digest.as_str());
        assert_eq!(oci["Labels"]["of"], "ashlar");
        assert_eq!(oci["Layers"].as_array().unwrap().len(), 4);
        let raw = format!("oci-archive:{}:v1", at("several.tar"));
        let text = run(Command::new("skopeo").args(["inspect", "--raw", &raw]));
        assert_eq!(
            ashlar_llb::BlobDigest::of(text.as_bytes()).to_string(),
            index
        );

        for (from, tag) in [
            (format!("oci-archive:{}:v1", at("oci.tar")), "archive"),
            (format!("oci:{}:v1", at("layout")), "layout"),
            (
                format!("docker-archive:{}:{NAME}", at("docker.tar")),
                "docker",
            ),
            (format!("oci-archive:{}:v1", at("several.tar")), "several"),
        ] {
            let to = format!("oci:{}:{tag}", at("unpacked"));
            run(Command::new("skopeo").args(["copy", "--quiet", &from, &to]));
            says_hello(kit.folder.path(), tag);
        }
        // All of an index, attestations too.
        let copied = format!("oci:{}:v1", at("all"));
        run(Command::new("skopeo").args(["copy", "--quiet", "--all", &raw, &copied]));
        let found = super::oci_rules::check(&kit.path("all"));
        assert_eq!((found.images, found.attestations), (2, 2));
    });
}

#[test]
fn podman_and_buildah_take_archives() {
    let needs = [
        Need::Root,
        Need::Tool("podman"),
        Need::Tool("buildah"),
        Need::Tool("busybox"),
    ];
    if skipped("podman_and_buildah_take_archives", &needs) {
        return;
    }
    support::runtime().block_on(async {
        let kit = Kit::new().await;
        kit.export(Oci::archive(kit.path("oci.tar")).name(NAME), &kit.result)
            .await;
        kit.export(
            Docker::archive(kit.path("docker.tar")).name(NAME),
            &kit.result,
        )
        .await;
        let several = Oci::archive(kit.path("several.tar")).name(NAME);
        kit.export(several, &kit.several()).await;
        let tool = |name: &str, store: &str| {
            let mut command = Command::new(name);
            let (root, run) = (kit.path(store), kit.path(&format!("{store}-run")));
            command.arg("--root").arg(root).arg("--runroot").arg(run);
            command.args(["--storage-driver", "vfs"]);
            command
        };
        for (at, archive) in ["oci.tar", "docker.tar", "several.tar"].iter().enumerate() {
            let store = format!("podman-{at}");
            run(tool("podman", &store)
                .args(["load", "-q", "-i"])
                .arg(kit.path(archive)));
            let inspect = ["image", "inspect", NAME, "--format", "{{.Architecture}}"];
            let architecture = run(tool("podman", &store).args(inspect));
            assert_eq!(
                architecture.trim(),
                Platform::of_target().architecture,
                "{archive}"
            );
            let layers = [
                "image",
                "inspect",
                NAME,
                "--format",
                "{{len .RootFS.Layers}}",
            ];
            assert_eq!(
                run(tool("podman", &store).args(layers)).trim(),
                "4",
                "{archive}"
            );

            let store = format!("buildah-{at}");
            let transport = if *archive == "docker.tar" {
                "docker-archive"
            } else {
                "oci-archive"
            };
            let image = format!("{transport}:{}", kit.path(archive).display());
            run(tool("buildah", &store).args(["pull", "-q", &image]));
            let count = run(tool("buildah", &store).args(["images", "-q"]));
            assert_eq!(count.lines().count(), 1, "{archive}");
        }
    });
}

#[test]
fn containers_storage_takes_every_form_from_skopeo() {
    let needs = [
        Need::Root,
        Need::Tool("podman"),
        Need::Tool("skopeo"),
        Need::Tool("busybox"),
    ];
    if skipped("containers_storage_takes_every_form_from_skopeo", &needs) {
        return;
    }
    support::runtime().block_on(async {
        let kit = Kit::new().await;
        let at = |name: &str| kit.path(name);
        let all: [(&str, &str, Box<dyn Exporter>); 4] = [
            (
                "oci-archive",
                ":v1",
                Box::new(Oci::archive(at("oci.tar")).name(NAME)),
            ),
            (
                "docker-archive",
                "",
                Box::new(Docker::archive(at("docker.tar")).name(NAME)),
            ),
            (
                "oci",
                ":v1",
                Box::new(Oci::directory(at("layout")).name(NAME)),
            ),
            (
                "oci",
                ":v1",
                Box::new(Docker::directory(at("docker")).name(NAME)),
            ),
        ];
        let files = ["oci.tar", "docker.tar", "layout", "docker"];
        for ((transport, tag, exporter), file) in all.iter().zip(files) {
            exporter.export(&kit.result, &Cancel::new()).await.unwrap();
            let store = tempfile::tempdir_in(kit.folder.path()).unwrap();
            let [root, run_root] = ["root", "run"].map(|name| store.path().join(name));
            let from = format!("{transport}:{}{tag}", at(file).display());
            let place = format!("vfs@{}+{}", root.display(), run_root.display());
            run(Command::new("skopeo")
                .args(["--insecure-policy", "copy", "--quiet", &from])
                .arg(format!("containers-storage:[{place}]{NAME}")));
            let podman = |arguments: &[&str]| {
                let mut podman = Command::new("podman");
                podman
                    .arg("--root")
                    .arg(&root)
                    .arg("--runroot")
                    .arg(&run_root);
                run(podman.args(["--storage-driver", "vfs"]).args(arguments))
            };
            let mounted = podman(&["image", "mount", NAME]);
            let files = Path::new(mounted.trim());
            let made = fs::read_to_string(files.join("etc/made")).unwrap();
            assert_eq!(made, "ashlar\n", "{from}");
            assert!(files.join("kept").exists() && !files.join("gone").exists());
            let label = "{{index .Labels \"of\"}}";
            let said = podman(&["image", "inspect", NAME, "--format", label]);
            assert_eq!(said.trim(), "ashlar", "{from}");
            podman(&["image", "umount", NAME]);
        }
    });
}

/// A daemon that is killed at the end.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        let _gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        for _ in 0..100 {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn daemon(mut command: Command, log: &Path, is_ready: impl Fn() -> bool) -> Daemon {
    let log_file = fs::File::create(log).unwrap();
    command.stdin(Stdio::null());
    command
        .stdout(log_file.try_clone().unwrap())
        .stderr(log_file);
    let mut daemon = Daemon(command.spawn().unwrap());
    for _ in 0..300 {
        if is_ready() {
            return daemon;
        }
        let ended = daemon.0.try_wait().unwrap();
        assert!(
            ended.is_none(),
            "{command:?}: {}",
            fs::read_to_string(log).unwrap()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!(
        "{command:?} does not start: {}",
        fs::read_to_string(log).unwrap()
    );
}

#[test]
fn containerd_imports_archives() {
    let needs = [
        Need::Root,
        Need::Tool("containerd"),
        Need::Tool("ctr"),
        Need::Tool("busybox"),
    ];
    if skipped("containerd_imports_archives", &needs) {
        return;
    }
    support::runtime().block_on(async {
        let kit = Kit::new().await;
        let digest = kit
            .export(Oci::archive(kit.path("oci.tar")).name(NAME), &kit.result)
            .await;
        let docker = Docker::archive(kit.path("docker.tar")).name("localhost/ashlar/docker:v1");
        kit.export(docker, &kit.result).await;
        let several = Oci::archive(kit.path("several.tar")).name("localhost/ashlar/several:v1");
        let index = kit.export(several, &kit.several()).await;

        let config = kit.path("containerd.toml");
        let (root, state) = (kit.path("containerd"), kit.path("containerd-state"));
        let socket = kit.path("containerd.sock");
        let text = format!(
            "version = 2\nroot = {root:?}\nstate = {state:?}\ndisabled_plugins = \
             [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {socket:?}\n",
        );
        fs::write(&config, text).unwrap();
        let mut containerd = Command::new("containerd");
        containerd.arg("--config").arg(&config);
        let ctr = || {
            let mut ctr = Command::new("ctr");
            ctr.arg("--address").arg(&socket);
            ctr
        };
        let is_ready = || {
            let version = ctr().arg("version").output().unwrap();
            version.status.success()
        };
        let _daemon = daemon(containerd, &kit.path("containerd.log"), is_ready);
        let mut docker_types = ashlar_exporters::ImageOptions::default();
        docker_types.media_types = Some(ashlar_exporters::MediaTypes::Docker);
        docker_types.names = vec!["localhost/ashlar/old:v1".to_owned()];
        let old = Oci::archive(kit.path("old.tar")).options(docker_types.clone());
        let old = kit.export(old, &kit.result).await;
        // A list of manifests of Docker's, which cannot have attestations.
        docker_types.names = vec!["localhost/ashlar/old-several:v1".to_owned()];
        let mut several = kit.several();
        several.attestations.clear();
        let list = Oci::archive(kit.path("old-several.tar")).options(docker_types);
        let list = kit.export(list, &several).await;
        let mut archives = [
            "oci.tar",
            "docker.tar",
            "several.tar",
            "old.tar",
            "old-several.tar",
        ]
        .map(str::to_owned)
        .to_vec();
        for compression in Compression::ALL {
            let archive = format!("{}.tar", compression.name());
            let oci = Oci::archive(kit.path(&archive)).compression(compression);
            let oci = oci.name(format!("localhost/ashlar/in-{}:v1", compression.name()));
            kit.export(oci, &kit.result).await;
            archives.push(archive);
        }
        for archive in archives {
            let import = [
                "images",
                "import",
                "--all-platforms",
                "--snapshotter",
                "native",
            ];
            run(ctr().args(import).arg(kit.path(&archive)));
        }
        let images = run(ctr().args(["images", "ls"]));
        for (name, digest) in [
            (NAME, Some(&digest)),
            ("localhost/ashlar/docker:v1", None),
            ("localhost/ashlar/several:v1", Some(&index)),
            ("localhost/ashlar/old:v1", Some(&old)),
            ("localhost/ashlar/old-several:v1", Some(&list)),
        ] {
            let line = images.lines().find(|line| line.starts_with(name));
            let line = line.unwrap_or_else(|| panic!("no {name} in {images}"));
            assert!(
                digest.is_none_or(|digest| line.contains(digest.as_str())),
                "{line}"
            );
        }
        let check = run(ctr().args(["images", "check", "--snapshotter", "native"]));
        assert!(!check.contains("incomplete"), "{check}");
        for compression in Compression::ALL {
            let name = format!("localhost/ashlar/in-{}:v1", compression.name());
            let line = check.lines().find(|line| line.starts_with(&name));
            let line = line.unwrap_or_else(|| panic!("no {name} in {check}"));
            // The last column tells whether it is unpacked, which it was with its diff ids checked.
            assert!(line.trim_end().ends_with("true"), "{line}");
        }
    });
}

/// What an engine answers to a GET.
fn ask(socket: &Path, path: &str) -> Option<Value> {
    let mut curl = Command::new("curl");
    curl.args(["-s", "-f", "--unix-socket"]).arg(socket);
    let answer = curl.arg(format!("http://engine{path}")).output().unwrap();
    answer
        .status
        .success()
        .then(|| serde_json::from_slice(&answer.stdout).unwrap())
}

/// Loads an image into an engine in each way, and asks the engine about it.
async fn engine_takes(kit: &Kit, socket: &Path, takes_zstd: bool) {
    let inspect = |name: &str| {
        let image = ask(socket, &format!("/images/{name}/json"));
        let image = image.unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(image["RootFS"]["Layers"].as_array().unwrap().len(), 4);
        assert_eq!(image["Config"]["Labels"]["of"], "ashlar");
        image["Id"].as_str().unwrap().to_owned()
    };
    let old = "localhost/ashlar/old:v1";
    let mut options = ashlar_exporters::ImageOptions::default();
    options.media_types = Some(ashlar_exporters::MediaTypes::Docker);
    options.names = vec![old.to_owned()];
    kit.export(
        Docker::archive(kit.path("docker.tar")).name(NAME),
        &kit.result,
    )
    .await;
    kit.export(
        Docker::archive(kit.path("old.tar")).options(options),
        &kit.result,
    )
    .await;
    for (archive, name) in [("docker.tar", NAME), ("old.tar", old)] {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-f", "-X", "POST", "--unix-socket"])
            .arg(socket);
        curl.args(["-H", "Content-Type: application/x-tar", "-T"])
            .arg(kit.path(archive));
        run(curl.arg("http://engine/images/load"));
        inspect(name);
    }
    // Right from the result: under two names, then without one.
    let (one, two) = ("localhost/ashlar/loaded:v1", "localhost/ashlar/loaded:v2");
    let load = Docker::engine(socket).name(one).name(two).verify(true);
    let exported = load.export(&kit.result, &Cancel::new()).await.unwrap();
    assert_eq!(inspect(one), inspect(two));
    assert_eq!(
        inspect(one),
        exported.response["containerimage.config.digest"]
    );
    // It is moved, not kept, when another image takes the name.
    kit.export(
        Docker::engine(socket).name(one).verify(true),
        &renamed(&kit.result),
    )
    .await;
    assert_ne!(
        ask(socket, &format!("/images/{one}/json")).unwrap()["Id"],
        inspect(two)
    );
    kit.export(Docker::engine(socket).verify(true), &kit.result)
        .await;
    for compression in Compression::ALL {
        if matches!(compression, Compression::Zstd { .. }) && !takes_zstd {
            continue;
        }
        let name = format!("localhost/ashlar/in-{}:v1", compression.name());
        let load = Docker::engine(socket).name(&name).compression(compression);
        kit.export(load.verify(true), &kit.result).await;
        inspect(&name);
    }
    broken_off(kit, socket).await;
}

/// In a process of its own: loads two images under one name in turns, for ever.
pub fn role(arguments: &[&str]) {
    let [folder, socket] = arguments[..] else {
        panic!("{arguments:?}")
    };
    support::runtime().block_on(async {
        let solver = support::solver(Path::new(folder).join("state"));
        let one = built(Path::new(folder), &solver).await;
        let both = [renamed(&one), one];
        println!("@ open");
        for result in both.iter().cycle() {
            let load = Docker::engine(socket).name(BROKEN_OFF);
            load.export(result, &Cancel::new()).await.unwrap();
        }
    });
}

/// Kills and cancels loads at different points: the name leads to one image or the other.
async fn broken_off(kit: &Kit, socket: &Path) {
    let soak = std::env::var("ASHLAR_SOAK").is_ok_and(|value| value == "1");
    let rounds = if soak { 50 } else { 4 };
    let results = [renamed(&kit.result), kit.result.clone()];
    let load = Docker::engine(socket).name(BROKEN_OFF);
    let mut ids = Vec::new();
    for result in &results {
        let exported = load.export(result, &Cancel::new()).await.unwrap();
        ids.push(exported.response["containerimage.config.digest"].clone());
    }
    assert_ne!(ids[0], ids[1]);
    let is_whole = |round: u64| {
        let image = ask(socket, &format!("/images/{BROKEN_OFF}/json"));
        let image = image.unwrap_or_else(|| panic!("round {round}: the name is gone"));
        let id = image["Id"].as_str().unwrap().to_owned();
        assert!(ids.contains(&id), "round {round}: {id}");
        assert_eq!(image["RootFS"]["Layers"].as_array().unwrap().len(), 4);
    };
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let arguments = [text(kit.folder.path()), text(socket)];
    for round in 0..rounds {
        let mut command = support::child("loading", &arguments.each_ref().map(String::as_str));
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        while !lines.next().unwrap().unwrap().ends_with("@ open") {}
        std::thread::sleep(Duration::from_millis(10 + 37 * (round % 11)));
        assert_eq!(child.try_wait().unwrap(), None, "it ended by itself");
        child.kill().unwrap();
        child.wait().unwrap();
        is_whole(round);
    }
    for round in 0..rounds * 2 {
        let cancel = Cancel::new();
        let (later, after) = (cancel.clone(), Duration::from_millis(5 + 13 * (round % 11)));
        let timer = std::thread::spawn(move || {
            std::thread::sleep(after);
            later.cancel();
        });
        let exported = load
            .export(&results[usize::from(round % 2 == 1)], &cancel)
            .await;
        timer.join().unwrap();
        if let Err(error) = exported {
            assert!(matches!(error, ExportError::Cancelled), "{error:?}");
        }
        is_whole(round);
    }
    let again = load.verify(true).export(&results[0], &Cancel::new()).await;
    again.unwrap();
}

#[test]
fn docker_takes_archives_and_results() {
    let needs = ["dockerd", "curl", "busybox"].map(Need::Tool);
    let all = [&[Need::Root][..], &needs].concat();
    if skipped("docker_takes_archives_and_results", &all) {
        return;
    }
    support::runtime().block_on(async {
        let kit = Kit::new().await;
        let socket = kit.path("docker.sock");
        let mut dockerd = Command::new("dockerd");
        dockerd.args(["--bridge=none", "--iptables=false", "--storage-driver=vfs"]);
        dockerd.arg("--data-root").arg(kit.path("docker"));
        dockerd.arg("--exec-root").arg(kit.path("docker-exec"));
        dockerd.arg("--pidfile").arg(kit.path("docker.pid"));
        dockerd
            .arg("--host")
            .arg(format!("unix://{}", socket.display()));
        let is_ready = || ask(&socket, "/version").is_some();
        let _daemon = daemon(dockerd, &kit.path("dockerd.log"), is_ready);
        // The Docker that Debian has does not know zstd.
        engine_takes(&kit, &socket, false).await;
    });
}

#[test]
fn the_service_of_podman_takes_archives_and_results() {
    let needs = ["podman", "curl", "busybox"].map(Need::Tool);
    let all = [&[Need::Root][..], &needs].concat();
    if skipped("the_service_of_podman_takes_archives_and_results", &all) {
        return;
    }
    support::runtime().block_on(async {
        let kit = Kit::new().await;
        let socket = kit.path("podman.sock");
        let mut podman = Command::new("podman");
        podman.arg("--root").arg(kit.path("podman"));
        podman.arg("--runroot").arg(kit.path("podman-run"));
        podman.args([
            "--storage-driver",
            "vfs",
            "system",
            "service",
            "--time",
            "0",
        ]);
        podman.arg(format!("unix://{}", socket.display()));
        let is_ready = || ask(&socket, "/version").is_some();
        let _daemon = daemon(podman, &kit.path("podman.log"), is_ready);
        engine_takes(&kit, &socket, true).await;
    });
}
