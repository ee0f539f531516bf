//! An ordinary user builds, with steps, the very image that root builds: the same bytes.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use ashlar_exporters::{Exporter as _, Oci};
use ashlar_llb::{self as llb, Cache, State, mkdir};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::executor::ExecTier;
use sha2::{Digest as _, Sha256};

use super::support::{self, Need, run, skipped, solve, temp, then};

/// Leaves everything that a step of an ordinary user can leave in a layer, with fixed times.
const ALL_SORTS: &str = r#"
set -e
mkdir -p /made/deep /made/closed /made/shared
echo text > /made/text; echo script > /made/deep/script; echo none > /made/none
echo su > /made/su; chmod 4755 /made/su; chmod 711 /made/deep/script; chmod 0 /made/none
chmod 700 /made/closed; chmod 1777 /made/shared
ln /made/text /made/linked; ln -s ../nowhere /made/link; mkfifo /made/fifo
dd if=/dev/zero of=/made/hole bs=1 count=1 seek=1000000 2>/dev/null
chown 0:0 /made/text
rm /had/gone; rm -r /had/folder; mkdir /had/folder; echo new > /had/folder/new
echo changed >> /had/changed; chmod 640 /had/kept
mkdir /made/sealed; echo sealed > /made/sealed/file; ln -s file /made/sealed/link
find /made /had -exec touch -h -d @1650000000 {} +
chmod 0 /made/sealed; chmod 500 /made/deep
"#;

fn all_sorts() -> State {
    let base = support::busybox_state();
    let step = |state: &State, script: &str| {
        let args = ["/bin/busybox", "sh", "-c", script];
        state.run(args).env("PATH", "/applets").root()
    };
    // Names for everything that busybox can do, in a layer too.
    let applets = "/bin/busybox mkdir /applets && /bin/busybox --install -s /applets && \
                   find /applets -exec touch -h -d @1650000000 {} +";
    let state = step(&step(&base, applets), ALL_SORTS);
    // On top of what the step made: files that only the index gives their modes.
    let change = "set -e; cat /made/none /made/sealed/file /made/text > /second
                  echo more >> /made/none; cp -p /made/text /text
                  touch /made/sealed/link -h -d @1650000000; rm -r /made/deep; chmod 2750 /made
                  touch -d @1650000000 /second /made /made/none /made/sealed";
    let args = ["/bin/busybox", "sh", "-c", change];
    // A mount point in a directory that nobody may write to.
    let run = state.run(args).env("PATH", "/applets");
    let run = run.mount("/made/sealed/mount", llb::Tmpfs::new());
    let state = run.root();
    // As somebody else.
    let home = mkdir("/home").owner((1234, 1235)).created(then());
    let other = "set -e; mkdir /home/mine /home/team; echo mine > /home/mine/file; umask 077
                 echo > /home/mine/own; echo > /home/team/file; id -u > /home/mine/id
                 find /home -exec touch -d @1650000000 {} +";
    let args = ["/bin/busybox", "sh", "-c", other];
    let run = state.file(home).run(args).env("PATH", "/applets");
    run.user("1234:1235").root()
}

/// A program compiled into a layer above that of Debian.
fn compiled() -> State {
    let base: State = llb::oci_layout("base:base").store("base").into();
    let source = "#include <stdio.h>\nint main(void) { puts(\"hello\"); return 0; }\n";
    let source = llb::scratch().file(llb::mkfile("/main.c", source).created(then()));
    let script = "mkdir /opt/hello && gcc -static -O1 -o /opt/hello/hello /src/main.c && \
                  cp --preserve=mode,timestamps /etc/shadow /opt/hello/shadow && rm /usr/share/doc/gcc && \
                  touch -d @1650000000 /opt /opt/hello /opt/hello/* /usr/share/doc";
    base.env("PATH", support::PATH)
        .run(["sh", "-c", script])
        .mount("/src", llb::Mount::bind(source).readonly())
        .mount("/root/.cache", Cache::shared("compile"))
        .root()
}

/// Builds and exports both images, the large one to its digest alone. Returns that and the tier.
fn build(folder: &Path, out: &Path) -> (ExecTier, String) {
    support::runtime().block_on(async {
        let solver = support::solver(out.join("state"));
        let tier = solver.capabilities().unwrap().tier;
        let sum = Sum::default();
        let stream = sum.clone();
        let stream = Oci::writer(move || Ok(Box::new(stream.clone())));
        let archive = Oci::archive(out.join("sorts"));
        for (image, state) in [(archive, all_sorts()), (stream, compiled())] {
            let request = support::request(&state)
                .local("base", folder.join("base"))
                .oci_layout("base", folder.join("layout"));
            let solved = solve(&solver, request).await;
            let image = image.name("example.com/app:v1");
            let image = image.source_date_epoch(1_650_000_000);
            image.export(&solved.result, &Cancel::new()).await.unwrap();
        }
        (tier, sum.told())
    })
}

/// Takes an archive and keeps its length and its digest.
#[derive(Clone, Default)]
struct Sum(Arc<Mutex<(u64, Sha256)>>);

impl Sum {
    fn told(&self) -> String {
        let (length, digest) = &*self.0.lock().unwrap();
        let digest = digest.clone().finalize();
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{length} {digest}")
    }
}

impl Write for Sum {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        let (length, digest) = &mut *self.0.lock().unwrap();
        *length += data.len() as u64;
        digest.update(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Builds as an ordinary user.
pub fn role(arguments: &[&str]) {
    let [folder, out] = arguments[..] else {
        panic!("{arguments:?}")
    };
    assert!(!support::is_root());
    let (tier, sum) = build(Path::new(folder), Path::new(out));
    assert_eq!(tier, ExecTier::SingleId);
    println!("\n@ built {sum} @");
}

/// What is in an image: its layers as tar lists them, then its other documents.
fn contents(image: &Path) -> Vec<String> {
    let folder = temp();
    run(Command::new("tar")
        .arg("-C")
        .arg(folder.path())
        .arg("-xf")
        .arg(image));
    let blob = |digest: &str| folder.path().join("blobs").join(digest.replace(':', "/"));
    let document = |path: &Path| -> serde_json::Value {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    };
    let index = document(&folder.path().join("index.json"));
    let digest = |value: &serde_json::Value| value["digest"].as_str().unwrap().to_owned();
    let manifest = document(&blob(&digest(&index["manifests"][0])));
    let config = document(&blob(&digest(&manifest["config"])));
    let layers = manifest["layers"].as_array().unwrap().iter();
    let mut all: Vec<String> = layers
        .map(|layer| {
            let options = ["--full-time", "--numeric-owner", "-tvzf"];
            run(Command::new("tar").args(options).arg(blob(&digest(layer))))
        })
        .collect();
    all.extend([config.to_string(), manifest.to_string(), index.to_string()]);
    all
}

#[test]
fn a_user_builds_the_bytes_that_root_builds() {
    let tools = ["setpriv", "busybox", "tar"].map(Need::Tool);
    let needs: Vec<_> = [Need::Root, Need::Debian]
        .into_iter()
        .chain(tools)
        .collect();
    if skipped(
        "same_image::a_user_builds_the_bytes_that_root_builds",
        &needs,
    ) {
        return;
    }
    let folder = temp();
    let folder = folder.path();
    let base = support::busybox(folder);
    // Files that a step can change.
    let had =
        "mkdir -p had/folder; for f in gone folder/old changed kept; do echo $f > had/$f; done
               find had -exec touch -d @1650000000 {} +";
    run(Command::new("sh").args(["-c", had]).current_dir(base));
    let layout = folder.join("layout");
    run(Command::new("cp")
        .arg("-r")
        .arg(support::debian_layout().unwrap())
        .arg(&layout));
    run(Command::new("chmod").args(["-R", "a+rX"]).arg(&layout));
    let (by_root, by_user) = (folder.join("root"), folder.join("user"));
    fs::create_dir(&by_root).unwrap();
    fs::create_dir(&by_user).unwrap();
    let (tier, sum) = build(folder, &by_root);
    assert_eq!(tier, ExecTier::Root);
    let length: u64 = sum.split(' ').next().unwrap().parse().unwrap();
    assert!(length > 100_000_000, "{sum}");
    let arguments = [folder, by_user.as_path()].map(|path| path.to_str().unwrap());
    let mut command = support::as_user(folder, &by_user, "same-image", &arguments);
    let text = run(command.current_dir("/").env("HOME", &by_user));
    let (root, user) = (by_root.join("sorts"), by_user.join("sorts"));
    if fs::read(&root).unwrap() != fs::read(&user).unwrap() {
        for (root, user) in contents(&root).iter().zip(contents(&user)) {
            let differs = |(one, other): &(&str, &str)| one != other;
            let lines: Vec<_> = root.lines().zip(user.lines()).filter(differs).collect();
            assert_eq!(lines, [], "by root and by the user");
        }
        panic!("there are differences that no listing shows");
    }
    assert_eq!(contents(&root).len(), 6 + 3);
    // Of the base with the compiled program.
    assert!(text.contains(&format!("@ built {sum} @")), "{sum}: {text}");
}
