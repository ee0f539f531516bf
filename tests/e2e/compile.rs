//! The main job: a C program is compiled in a Debian image and becomes an image of its own, which
//! other tools take and run.

use std::fs;
use std::path::Path;
use std::process::Command;

use ashlar_exporters::{Exporter as _, Oci};
use ashlar_llb::{self as llb, Cache, Mount, State, copy};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::solver::{SolveRequest, Solved, Solver};

use super::support::{self, Need, PATH, ran, run, skipped, solve, temp};

const MAIN: &str =
    "#include <stdio.h>\n#include \"text.h\"\nint main(void) { puts(TEXT); return 0; }\n";
const CONFIG: &str = r#"{"architecture":"amd64","os":"linux","config":{"Entrypoint":["/hello"]}}"#;

fn definition() -> State {
    let base: State = llb::oci_layout("base:base")
        .store("base")
        .custom_name("debian")
        .into();
    let base = base.env("PATH", PATH);
    let context = llb::local("context")
        .include(["src/**"])
        .custom_name("context");
    let source = Mount::bind(&context).source_path("/src").readonly();
    let program = base
        .run([
            "sh",
            "-c",
            "mkdir -p /out && gcc -static -o /out/hello /src/main.c",
        ])
        .mount("/src", source)
        .mount("/root/.cache", Cache::shared("compile"))
        .custom_name("compile")
        .root();
    let documents = llb::local("documents").custom_name("documents");
    let manual = base
        .run([
            "sh",
            "-c",
            "mkdir -p /out && tr a-z A-Z </in/manual >/out/MANUAL",
        ])
        .mount("/in", Mount::bind(&documents).readonly())
        .custom_name("document")
        .root();
    llb::scratch()
        .file(copy(&program, "/out/hello", "/hello").custom_name("take program"))
        .file(copy(&manual, "/out/MANUAL", "/MANUAL").custom_name("take manual"))
}

struct Job {
    solver: Solver,
    request: SolveRequest,
}

impl Job {
    fn new(folder: &Path, layout: &Path) -> Self {
        support::write(folder.join("context/src/main.c"), MAIN);
        support::write(folder.join("context/src/text.h"), "#define TEXT \"one\"\n");
        support::write(folder.join("context/notes"), "not included\n");
        support::write(folder.join("documents/manual"), "read me\n");
        let request = support::request(&definition())
            .local("context", folder.join("context"))
            .local("documents", folder.join("documents"))
            .oci_layout("base", layout);
        Self {
            solver: support::solver(folder.join("state")),
            request,
        }
    }

    async fn solve(&self) -> Solved {
        let mut solved = solve(&self.solver, self.request.clone()).await;
        solved.result = solved.result.with_image_config(CONFIG);
        solved
    }

    async fn export(&self, solved: &Solved, exporter: Oci) -> String {
        let exporter = exporter.name("example.com/hello:v1");
        let exported = exporter
            .export(&solved.result, &Cancel::new())
            .await
            .unwrap();
        exported.digest.expect("an image has a digest").to_string()
    }
}

#[test]
fn build_c_program() {
    let needs = [
        Need::Root,
        Need::Tool("skopeo"),
        Need::Tool("umoci"),
        Need::Tool("runc"),
        Need::Debian,
    ];
    if skipped("build_c_program", &needs) {
        return;
    }
    let folder = temp();
    let folder = folder.path();
    support::runtime().block_on(async {
        let job = Job::new(folder, &support::debian_layout().unwrap());
        let solved = job.solve().await;
        let mut first = ran(&solved);
        first.sort();
        let all = [
            "compile",
            "debian",
            "document",
            "take manual",
            "take program",
        ];
        assert_eq!(first, all);
        let digest = job
            .export(&solved, Oci::archive(folder.join("image.tar")))
            .await;
        let in_directory = job
            .export(&solved, Oci::directory(folder.join("image")))
            .await;
        assert_eq!(in_directory, digest);
        others_accept(folder, &digest);
        assert_eq!(run_image(folder, "bundle"), "one\n");
        assert_eq!(
            fs::read_to_string(folder.join("bundle/rootfs/MANUAL")).unwrap(),
            "READ ME\n"
        );

        // Nothing changed: nothing runs, in this solver and in a new one.
        let again = job.solve().await;
        assert_eq!(ran(&again), [""; 0]);
        assert_eq!(again.ran(), 0);
        assert_eq!(
            job.export(&again, Oci::archive(folder.join("again.tar")))
                .await,
            digest
        );
        assert!(
            fs::read(folder.join("image.tar")).unwrap()
                == fs::read(folder.join("again.tar")).unwrap()
        );
        drop(job);
        let job = Job::new(folder, &support::debian_layout().unwrap());
        assert_eq!(ran(&job.solve().await), [""; 0]);

        // Touched, not changed.
        let header = folder.join("context/src/text.h");
        let touched = fs::File::options().write(true).open(&header).unwrap();
        touched.set_modified(std::time::SystemTime::now()).unwrap();
        // Not included in the build.
        fs::write(folder.join("context/notes"), "changed\n").unwrap();
        assert_eq!(ran(&job.solve().await), [""; 0]);

        // Changed: what depends on it runs, and nothing else.
        fs::write(&header, "#define TEXT \"two\"\n").unwrap();
        let changed = job.solve().await;
        let mut names = ran(&changed);
        names.sort();
        assert_eq!(names, ["compile", "take manual", "take program"]);
        assert_ne!(
            job.export(&changed, Oci::directory(folder.join("image")))
                .await,
            digest
        );
        assert_eq!(run_image(folder, "bundle2"), "two\n");

        // Changed back: all of it is still known.
        fs::write(&header, "#define TEXT \"one\"\n").unwrap();
        let back = job.solve().await;
        assert_eq!(ran(&back), [""; 0]);
        assert_eq!(
            job.export(&back, Oci::archive(folder.join("back.tar")))
                .await,
            digest
        );
    });
    assert_eq!(support::leftovers(&folder.join("state")), [""; 0]);
}

/// skopeo reads archive and directory, and copies the image with all digests checked.
fn others_accept(folder: &Path, digest: &str) {
    let archive = format!("oci-archive:{}", folder.join("image.tar").display());
    let directory = format!("oci:{}:v1", folder.join("image").display());
    for image in [&archive, &directory] {
        let text = run(Command::new("skopeo").args(["inspect", image]));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["Digest"], digest);
        assert_eq!(value["Os"], "linux");
        assert_eq!(value["Layers"].as_array().unwrap().len(), 2, "{text}");
        let config = run(Command::new("skopeo").args(["inspect", "--config", image]));
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        assert_eq!(
            config["config"]["Entrypoint"],
            serde_json::json!(["/hello"])
        );
        assert_eq!(
            config["rootfs"]["diff_ids"].as_array().unwrap().len(),
            2,
            "{config}"
        );
        assert_eq!(config["history"].as_array().unwrap().len(), 2, "{config}");
    }
    let copied = format!("dir:{}", folder.join("copied").display());
    run(Command::new("skopeo").args(["--insecure-policy", "copy", "-q", &archive, &copied]));
    assert!(folder.join("copied/manifest.json").exists());
}

/// Unpacks the exported image with umoci and runs it with runc; returns what it printed.
fn run_image(folder: &Path, bundle: &str) -> String {
    let image = format!("{}:v1", folder.join("image").display());
    let bundle = folder.join(bundle);
    run(Command::new("umoci")
        .args(["unpack", "--image", &image])
        .arg(&bundle));
    let config = bundle.join("config.json");
    let mut value: serde_json::Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    value["process"]["terminal"] = false.into();
    fs::write(&config, value.to_string()).unwrap();
    let name = format!(
        "ashlar-e2e-{}-{:x}",
        std::process::id(),
        bundle.as_os_str().len()
    );
    let state = folder.join("runc");
    run(Command::new("runc")
        .arg("--root")
        .arg(&state)
        .args(["run", "-b"])
        .arg(&bundle)
        .arg(name))
}
