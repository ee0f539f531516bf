//! An image from a registry on this machine.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ashlar_llb::{BlobDigest, State, copy, image, scratch};
use ashlar_solver::solver::{Durability, SolveRequest};

use crate::sample::{MOMENTS, Times, definition, has, runtime, shell, solve, solver};
use crate::space::Space;
use crate::table::{Row, note};
use crate::{Outcome, Size, trees};

/// A running docker-registry.
pub(crate) struct Registry(Child);

impl Drop for Registry {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Starts a registry whose files are below `folder`, and says where it is reached.
pub(crate) fn registry(folder: &Path) -> Outcome<(Registry, String)> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let config = folder.join("registry.yml");
    let text = format!(
        "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  \
         filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
        folder.join("store").display()
    );
    fs::write(&config, text)?;
    let child = Command::new("docker-registry")
        .arg("serve")
        .arg(config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let registry = Registry(child);
    for _ in 0..500 {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Ok((registry, format!("127.0.0.1:{port}")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err("docker-registry does not start".into())
}

/// Makes a layout with an image of three layers, of `count` small files and `megabytes` of large
/// ones each, and pushes it. Returns the digests of the layers.
fn push(folder: &Path, host: &str, count: usize, megabytes: u32) -> Outcome<Vec<BlobDigest>> {
    let layout = folder.join("layout");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let store = |bytes: &[u8]| -> Outcome<BlobDigest> {
        let digest = BlobDigest::of(bytes);
        fs::write(
            blobs.join(digest.to_string().trim_start_matches("sha256:")),
            bytes,
        )?;
        Ok(digest)
    };
    let (mut layers, mut diff_ids, mut described) = (Vec::new(), Vec::new(), Vec::new());
    for layer in 0..3 {
        let tree = folder.join(format!("layer{layer}"));
        let files = tree.join(format!("data{layer}"));
        fs::create_dir_all(&files)?;
        trees::small_files(&files, count)?;
        // Half of it compresses like text, half of it hardly.
        shell(&format!(
            "cd {files} && head -c {half}M /dev/urandom >noise && \
             (find . -name '*.rs' | sort | xargs cat; find . -name '*.rs' | sort -r | xargs cat) \
             >all && while [ $(stat -c %s all) -lt {bytes} ]; do cat all all >more; mv more all; \
             done; truncate -s {half}M all && tar -C {tree} -cf {tree}.tar . && \
             gzip -6 -n -k {tree}.tar",
            files = files.display(),
            tree = tree.display(),
            half = megabytes / 2,
            bytes = u64::from(megabytes / 2) << 20,
        ))?;
        diff_ids.push(BlobDigest::of(&fs::read(tree.with_extension("tar"))?));
        let blob = fs::read(format!("{}.tar.gz", tree.display()))?;
        let digest = store(&blob)?;
        described.push(format!(
            r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{digest}","size":{}}}"#,
            blob.len()
        ));
        layers.push(digest);
        fs::remove_dir_all(&tree)?;
    }
    let ids: Vec<String> = diff_ids.iter().map(|id| format!("\"{id}\"")).collect();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        ids.join(",")
    );
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{}]}}"#,
        store(config.as_bytes())?,
        config.len(),
        described.join(",")
    );
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":{}}}]}}"#,
        store(manifest.as_bytes())?,
        manifest.len()
    );
    fs::write(layout.join("index.json"), index)?;
    fs::write(
        layout.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )?;
    shell(&format!(
        "skopeo --insecure-policy copy --quiet --dest-tls-verify=false oci:{} docker://{host}/app:v1",
        layout.display()
    ))?;
    Ok(layers)
}

pub(crate) fn measure(size: Size) -> Outcome {
    if let Some(missing) = ["docker-registry", "skopeo", "curl"]
        .iter()
        .find(|p| !has(p))
    {
        note(&format!("pulling is left out: it needs {missing}"));
        return Ok(());
    }
    let (samples, count, megabytes) = (size.pick(5, 1), size.pick(4000, 400), size.pick(70, 7));
    let runtime = runtime()?;
    let source = Space::new(3)?;
    let (_registry, host) = registry(source.path())?;
    let layers = push(source.path(), &host, count, megabytes)?;
    source.announce();
    let base = State::from(image(format!("{host}/app:v1")));
    // One small file is read; it takes the whole image.
    let file = "/data0/group0/part0/file0.rs";
    let definition = definition(&scratch().file(copy(&base, file, "/x")))?;
    let request = || SolveRequest::new(definition.clone());
    let mut again = Times::default();
    for (moment, durability) in MOMENTS {
        let (mut ours, mut theirs) = (Times::default(), Times::default());
        for _ in 0..samples {
            let space = Space::new(2)?;
            let solver = solver(&runtime, space.path())?;
            ours.add(solve(&runtime, &solver, request().durability(durability))?.0);
            let (time, solved) = solve(&runtime, &solver, request())?;
            assert_eq!(solved.ran(), 0, "nothing has changed");
            again.add(time);
            // A result holds files of the store too.
            drop((solved, solver));
            drop(space);
            let space = Space::new(2)?;
            let mut command = String::new();
            for (at, layer) in layers.iter().enumerate() {
                let to = space.path().join(at.to_string());
                command.push_str(&format!(
                    "mkdir {to} && curl -sf http://{host}/v2/app/blobs/{layer} | gzip -d | \
                     tar -xC {to} && ",
                    to = to.display()
                ));
            }
            command.push_str(match durability {
                Durability::Synced => "sync -f .",
                _ => "true",
            });
            let path = space.path().display();
            theirs.add(shell(&format!("cd {path} && {command}"))?);
        }
        let entries = count * 3;
        let what = format!("pull and unpack 3 layers, {entries} files, {moment}");
        Row::times(&what, &ours)
            .target("0.6 of it")
            .peer("curl, gzip -d, tar", &ours, &theirs)
            .print();
    }
    Row::times("the same again, from the cache", &again).print();
    Ok(())
}
