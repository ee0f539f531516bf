//! SBOMs: compared with what the package managers themselves say, and hostile databases.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ashlar_exporters::sbom::{
    PackageScanner, ScanDocument, ScanError, ScanLimits, ScanTarget, Scanner as _,
};
use ashlar_llb::{self as llb, Platform, copy};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::result::BuildResult;
use ashlar_solver::solver::Solver;
use ashlar_solver::tree::Timestamp;
use serde_json::Value;

use super::support::{self, Need, debian_layout, run, runtime, skipped, solve, temp, tool, write};

/// The time of all documents here.
const CREATED: Timestamp = Timestamp {
    seconds: 1_650_000_000,
    nanoseconds: 5,
};

async fn scan(result: &BuildResult, scanner: &PackageScanner) -> Result<ScanDocument, ScanError> {
    let target = ScanTarget::new(result.reference().clone(), Platform::linux_amd64(), CREATED);
    let mut documents = scanner.scan(&target, &Cancel::new()).await?;
    assert_eq!(documents.len(), 1);
    Ok(documents.remove(0))
}

/// The result of copying a directory.
async fn tree(solver: &Solver, folder: &Path) -> BuildResult {
    let local = llb::local("tree").custom_name("tree");
    let state = llb::scratch().file(copy(&local, "/", "/").contents_only());
    let request = support::request(&state).local("tree", folder);
    solve(solver, request).await.result
}

/// Scans a directory; the document is checked.
async fn document(folder: &Path) -> (Value, Vec<String>) {
    document_by(folder, &PackageScanner::new()).await
}

async fn document_by(folder: &Path, scanner: &PackageScanner) -> (Value, Vec<String>) {
    let state = temp();
    let solver = support::solver(state.path().join("state"));
    let result = tree(&solver, folder).await;
    let document = scan(&result, scanner).await.unwrap();
    let json = serde_json::from_slice(&document.predicate).unwrap();
    check(&json);
    (json, document.remarks)
}

/// What the SPDX specification demands of a document, as far as JSON can tell.
fn check(document: &Value) {
    assert_eq!(document["spdxVersion"], "SPDX-2.3");
    assert_eq!(document["dataLicense"], "CC0-1.0");
    assert_eq!(document["SPDXID"], "SPDXRef-DOCUMENT");
    assert_eq!(document["creationInfo"]["created"], "2022-04-15T05:20:00Z");
    let namespace = document["documentNamespace"].as_str().unwrap();
    assert!(
        namespace.starts_with("https://") && !namespace.contains('#'),
        "{namespace}"
    );
    let mut ids = BTreeSet::from(["SPDXRef-DOCUMENT"]);
    let mut sums = BTreeMap::new();
    let none = Vec::new();
    let files = document["files"].as_array().unwrap_or(&none);
    for file in files {
        let id = file["SPDXID"].as_str().unwrap();
        assert!(ids.insert(id), "{id} twice");
        let name = file["fileName"].as_str().unwrap();
        assert!(!name.starts_with('/') && !name.is_empty(), "{name}");
        let sha1 = &file["checksums"][0];
        assert_eq!(
            (
                &sha1["algorithm"],
                sha1["checksumValue"].as_str().unwrap().len()
            ),
            (&"SHA1".into(), 40)
        );
        sums.insert(id, sha1["checksumValue"].as_str().unwrap());
    }
    let references: BTreeSet<&str> = document["hasExtractedLicensingInfos"]
        .as_array()
        .unwrap_or(&none)
        .iter()
        .map(|license| license["licenseId"].as_str().unwrap())
        .collect();
    let packages = document["packages"].as_array().unwrap();
    for package in packages {
        let id = package["SPDXID"].as_str().unwrap();
        assert!(ids.insert(id), "{id} twice");
        assert!(package["downloadLocation"].is_string());
        let license = package["licenseDeclared"].as_str().unwrap();
        for word in license
            .split([' ', '(', ')'])
            .filter(|word| word.starts_with("LicenseRef-"))
        {
            assert!(references.contains(word), "{word} is not explained");
        }
        let analyzed = package["filesAnalyzed"].as_bool().unwrap();
        assert_eq!(analyzed, package["packageVerificationCode"].is_object());
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-".contains(&byte);
    for id in &ids {
        let rest = id.strip_prefix("SPDXRef-").expect("an id has a prefix");
        assert!(rest.bytes().all(plain), "{id}");
    }
    let mut contained: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for relationship in document["relationships"].as_array().unwrap() {
        let end = |name: &str| relationship[name].as_str().unwrap();
        for id in [end("spdxElementId"), end("relatedSpdxElement")] {
            assert!(ids.contains(id), "{id} is not in the document");
        }
        if end("relationshipType") == "CONTAINS"
            && let Some(sum) = sums.get(end("relatedSpdxElement"))
        {
            contained.entry(end("spdxElementId")).or_default().push(sum);
        }
    }
    for package in packages
        .iter()
        .filter(|package| package["filesAnalyzed"] == true)
    {
        assert!(contained.contains_key(package["SPDXID"].as_str().unwrap()));
    }
    let last = document["relationships"]
        .as_array()
        .unwrap()
        .last()
        .unwrap();
    assert_eq!(last["relationshipType"], "DESCRIBES");
}

/// Package URLs of a document, and the packages behind them.
fn by_url(document: &Value) -> BTreeMap<String, Value> {
    let packages = document["packages"].as_array().unwrap();
    packages
        .iter()
        .filter_map(|package| {
            let url = package["externalRefs"][0]["referenceLocator"].as_str()?;
            Some((url.to_owned(), package.clone()))
        })
        .collect()
}

fn urls(document: &Value) -> BTreeSet<String> {
    by_url(document).into_keys().collect()
}

#[test]
fn debian_packages_are_those_that_dpkg_lists() {
    if skipped(
        "debian_packages_are_those_that_dpkg_lists",
        &[Need::Root, Need::Debian],
    ) {
        return;
    }
    runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let layout = debian_layout().unwrap();
        let base = llb::oci_layout("base").store("images");
        let asked = "dpkg-query -W -f '${Package} ${Version} ${Architecture}\\n' >/out/packages; \
            sha1sum /usr/bin/dpkg >/out/sum; \
            for file in $(dpkg -L coreutils); do [ -f $file ] && [ ! -L $file ] && echo $file; done >/out/files; true";
        let step = base.run(["sh", "-c", asked]).env("PATH", support::PATH);
        let out = step.mount("/out", llb::scratch()).output("/out");
        let request = support::request(&out).oci_layout("images", &layout);
        let said = support::files_of(&solve(&solver, request).await).await;
        let request = support::request(&base).oci_layout("images", &layout);
        let result = solve(&solver, request).await.result;
        let scanned = scan(&result, &PackageScanner::new().files(false)).await.unwrap();
        assert_eq!(scanned.remarks, Vec::<String>::new());
        let json: Value = serde_json::from_slice(&scanned.predicate).unwrap();
        check(&json);

        let found: BTreeSet<String> = by_url(&json)
            .into_iter()
            .map(|(url, package)| {
                let text = |name: &str| package[name].as_str().unwrap().to_owned();
                assert!(url.starts_with("pkg:deb/debian/") && url.contains("distro=debian-12"), "{url}");
                let architecture = url.split(['?', '&']).find_map(|part| part.strip_prefix("arch="));
                format!("{} {} {}", text("name"), text("versionInfo"), architecture.unwrap())
            })
            .collect();
        let expected: BTreeSet<String> = said["packages"].lines().map(str::to_owned).collect();
        assert!(expected.len() > 80);
        assert_eq!(found, expected);
        let known = by_url(&json)
            .values()
            .filter(|package| package["licenseDeclared"] != "NOASSERTION")
            .count();
        assert!(known > expected.len() / 2, "{known} of {}", expected.len());

        // Files, of a part of the tree, since hashing all takes long without optimisation.
        let part = llb::scratch()
            .file(copy(&base, "/var/lib/dpkg", "/var/lib/").create_dest_path())
            .file(copy(&base, "/usr/bin", "/usr/").create_dest_path())
            .file(copy(&base, "/bin", "/"));
        let request = support::request(&part).oci_layout("images", &layout);
        let part = solve(&solver, request.clone()).await.result;
        let scanned = scan(&part, &PackageScanner::new()).await.unwrap();
        let json: Value = serde_json::from_slice(&scanned.predicate).unwrap();
        check(&json);
        let files = json["files"].as_array().unwrap();
        let dpkg = files.iter().find(|file| file["fileName"] == "usr/bin/dpkg").unwrap();
        assert_eq!(
            dpkg["checksums"][0]["checksumValue"].as_str().unwrap(),
            said["sum"].split(' ').next().unwrap()
        );
        let names: BTreeSet<&str> = files.iter().map(|file| file["fileName"].as_str().unwrap()).collect();
        let mut count = 0;
        for file in said["files"].lines().filter(|file| file.contains("/bin/")) {
            // dpkg has files of /usr/bin below /bin, which is a link.
            let real = file.trim_start_matches('/');
            let merged = format!("usr/{real}");
            assert!(names.contains(real) || names.contains(&merged[..]), "{file}");
            count += 1;
        }
        assert!(count > 80, "{count}");
    });
}

/// Some rpm packages, built and installed below `root`.
fn install_rpms(folder: &Path, root: &Path) {
    let sources = folder.join("rpmbuild");
    let many: Vec<String> = (0..600)
        .map(|at| format!("/usr/share/many/a-file-with-a-long-name-number-{at}"))
        .collect();
    let hello = ["/usr/bin/hello", "/etc/hello.conf"]
        .map(str::to_owned)
        .to_vec();
    let world = vec!["/usr/share/world/map".to_owned()];
    for (name, version, epoch, license, files) in [
        ("hello", "2.10", "", "GPLv3+", hello),
        ("world", "1.0", "Epoch: 3", "MIT and ASL 2.0", world),
        ("many", "0.1", "", "Public Domain", many),
    ] {
        let mut spec = format!(
            "Name: {name}\nVersion: {version}\nRelease: 4.el9\n{epoch}\nSummary: About {name}\n\
            License: {license}\nURL: https://user:hunter2@example.com/{name}\n\
            Vendor: Vendor & Sons\nBuildArch: noarch\n%description\nText.\n%install\n"
        );
        for file in &files {
            let at = format!("%{{buildroot}}{file}");
            spec += &format!("mkdir -p $(dirname {at}); echo {file} >{at}\n");
        }
        let path = sources.join(format!("{name}.spec"));
        write(&path, format!("{spec}%files\n{}\n", files.join("\n")));
        let top = format!("_topdir {}", sources.display());
        run(Command::new("rpmbuild")
            .args(["-bb", "--define", &top])
            .arg(path));
    }
    let packages = fs::read_dir(sources.join("RPMS/noarch")).unwrap();
    fs::create_dir_all(root).unwrap();
    run(rpm(root, "sqlite")
        .args(["--install", "--nodeps", "--noscripts"])
        .args(packages.map(|entry| entry.unwrap().path())));
    write(
        root.join("etc/os-release"),
        "ID=\"centos\"\nVERSION_ID=\"9\"\n",
    );
}

fn rpm(root: &Path, backend: &str) -> Command {
    let mut rpm = Command::new("rpm");
    let backend = format!("_db_backend {backend}");
    rpm.args(["--define", &backend, "--dbpath", "/var/lib/rpm", "--root"]);
    rpm.arg(root);
    rpm
}

/// What rpm says is installed: as in package URLs.
fn installed(root: &Path, backend: &str) -> BTreeSet<String> {
    let format = "pkg:rpm/centos/%{NAME}@%{VERSION}-%{RELEASE}?arch=%{ARCH}&distro=centos-9\
        %|EPOCH?{&epoch=%{EPOCH}}|&upstream=%{SOURCERPM}\\n";
    let said = run(rpm(root, backend).args(["-qa", "--qf", format]));
    said.lines().map(str::to_owned).collect()
}

/// A tree with nothing but a database.
fn database_alone(root: &Path, name: &str) -> PathBuf {
    write(
        root.join("etc/os-release"),
        "ID=\"centos\"\nVERSION_ID=\"9\"\n",
    );
    let database = root.join("var/lib/rpm").join(name);
    fs::create_dir_all(database.parent().unwrap()).unwrap();
    database
}

#[test]
fn rpm_packages_are_those_that_rpm_lists_in_each_format() {
    let name = "rpm_packages_are_those_that_rpm_lists_in_each_format";
    if skipped(
        name,
        &[Need::Root, Need::Tool("rpmbuild"), Need::Tool("db5.3_load")],
    ) {
        return;
    }
    runtime().block_on(async {
        let folder = temp();
        let sqlite = folder.path().join("sqlite");
        install_rpms(folder.path(), &sqlite);
        let database = sqlite.join("var/lib/rpm/rpmdb.sqlite");
        let (json, remarks) = document(&sqlite).await;
        assert_eq!(remarks, Vec::<String>::new());
        assert_eq!(urls(&json), installed(&sqlite, "sqlite"));
        assert_eq!(urls(&json).len(), 3);
        let packages = by_url(&json);
        let named = |name: &str| packages.values().find(|package| package["name"] == name);
        let hello = named("hello").unwrap();
        assert_eq!(hello["versionInfo"], "2.10-4.el9");
        assert_eq!(hello["licenseDeclared"], "GPL-3.0-or-later");
        assert_eq!(hello["supplier"], "Organization: Vendor & Sons");
        assert_eq!(hello["homepage"], "https://xxxxx:xxxxx@example.com/hello");
        assert_eq!(named("world").unwrap()["versionInfo"], "3:1.0-4.el9");
        let files = json["files"].as_array().unwrap().iter();
        let names = files.map(|file| file["fileName"].as_str().unwrap());
        let many = names.filter(|name| name.starts_with("usr/share/many/"));
        assert_eq!(many.count(), 600);
        let headers = headers(&database);

        // A real Berkeley DB with the same headers, since rpm only reads it by now.
        let berkeley = folder.path().join("bdb");
        let packages = database_alone(&berkeley, "Packages");
        let dump = folder.path().join("dump");
        for order in ["4321", "1234"] {
            write(&dump, berkeley_dump(&headers, order));
            let _absent = fs::remove_file(&packages);
            run(Command::new("db5.3_load")
                .arg("-f")
                .arg(&dump)
                .arg(&packages));
            let (alone, remarks) = document(&berkeley).await;
            assert_eq!(remarks, Vec::<String>::new());
            assert_eq!(urls(&alone), urls(&json), "{order}");
        }
        assert_eq!(urls(&json), installed(&berkeley, "bdb_ro"));

        // The format that Debian's rpm does not have.
        let ndb = folder.path().join("ndb");
        let packages = database_alone(&ndb, "Packages.db");
        write(&packages, ndb_database(&headers));
        let (alone, remarks) = document(&ndb).await;
        assert_eq!(remarks, Vec::<String>::new());
        assert_eq!(urls(&alone), urls(&json));

        hostile_databases(folder.path()).await;
    });
}

/// The headers in an SQLite database.
fn headers(database: &Path) -> Vec<(u32, Vec<u8>)> {
    let database = rusqlite::Connection::open(database).unwrap();
    let mut rows = database.prepare("SELECT hnum, blob FROM Packages").unwrap();
    let headers = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    headers.unwrap().map(Result::unwrap).collect()
}

/// Headers in the form that `db_load` reads.
fn berkeley_dump(headers: &[(u32, Vec<u8>)], order: &str) -> String {
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let mut dump = format!(
        "VERSION=3\nformat=bytevalue\ntype=hash\ndb_lorder={order}\ndb_pagesize=4096\nHEADER=END\n"
    );
    // The entry of key 0 holds the highest number.
    dump += " 00000000\n 07000000\n";
    for (number, header) in headers {
        dump += &format!(" {}\n {}\n", hex(&number.to_le_bytes()), hex(header));
    }
    dump + "DATA=END\n"
}

/// Headers in rpm's own format.
fn ndb_database(headers: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let word = |number: usize| u32::try_from(number).unwrap().to_le_bytes();
    let mut file = [
        b"RpmP".to_vec(),
        [
            word(0),
            word(1),
            word(1),
            word(9),
            word(0),
            word(0),
            word(0),
        ]
        .concat(),
    ]
    .concat();
    let mut blobs = Vec::new();
    for (number, header) in headers {
        let place = (4096 + blobs.len()) / 16;
        let mut blob = b"BlbS".to_vec();
        blob.extend([number.to_le_bytes(), word(1), word(header.len())].concat());
        blob.extend(header);
        let length = (blob.len() + 12).next_multiple_of(16);
        blob.resize(length - 12, 0);
        // The checksum, which is not looked at.
        blob.extend([word(0), word(header.len()), *b"BlbE"].concat());
        file.extend(
            [
                *b"Slot",
                number.to_le_bytes(),
                word(place),
                word(length / 16),
            ]
            .concat(),
        );
        blobs.extend(blob);
    }
    while file.len() < 4096 {
        file.extend([*b"Slot", word(0), word(0), word(0)].concat());
    }
    file.extend(blobs);
    file
}

/// Databases of which any byte may be anything: never a panic, and an end within the time that the
/// intact ones take many times over.
async fn hostile_databases(folder: &Path) {
    let state = temp();
    let solver = support::solver(state.path().join("state"));
    let mut word = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        usize::try_from(word >> 11).unwrap()
    };
    for (backend, database) in [
        ("sqlite", "rpmdb.sqlite"),
        ("ndb", "Packages.db"),
        ("bdb", "Packages"),
    ] {
        let intact = fs::read(folder.join(backend).join("var/lib/rpm").join(database)).unwrap();
        let started = Instant::now();
        for round in 0..40 {
            let mut bytes = intact.clone();
            match round % 4 {
                0 => bytes.truncate(random() % intact.len()),
                1 => bytes[..4096].fill_with(|| random().to_le_bytes()[0]),
                _ => {
                    for _ in 0..20 {
                        // Most of what leads elsewhere is at the beginning of pages.
                        let page = random() % (intact.len() / 4096) * 4096;
                        let at = page + random() % 64;
                        bytes[at] = random().to_le_bytes()[0];
                    }
                }
            }
            let tree_folder = temp();
            write(tree_folder.path().join("var/lib/rpm").join(database), bytes);
            let result = tree(&solver, tree_folder.path()).await;
            scan(&result, &PackageScanner::new()).await.unwrap();
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{backend}");
    }
}

#[test]
fn packages_written_to_a_log_that_was_not_merged_count() {
    let name = "packages_written_to_a_log_that_was_not_merged_count";
    if skipped(name, &[Need::Root, Need::Tool("rpmbuild")]) {
        return;
    }
    runtime().block_on(async {
        let folder = temp();
        let root = folder.path().join("root");
        install_rpms(folder.path(), &root);
        let path = root.join("var/lib/rpm/rpmdb.sqlite");
        // What a killed rpm leaves behind: changes that are in the log alone.
        let database = rusqlite::Connection::open(&path).unwrap();
        database
            .execute_batch("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; PRAGMA foreign_keys=OFF; DELETE FROM Packages WHERE hnum = 1;")
            .unwrap();
        let killed = folder.path().join("killed");
        for file in ["rpmdb.sqlite", "rpmdb.sqlite-wal"] {
            let bytes = fs::read(path.with_file_name(file)).unwrap();
            write(killed.join("var/lib/rpm").join(file), bytes);
        }
        let (json, remarks) = document(&killed).await;
        assert_eq!(remarks, Vec::<String>::new());
        assert_eq!(urls(&json).len(), 2);
        // A log of another database does not count.
        let mut log = fs::read(path.with_file_name("rpmdb.sqlite-wal")).unwrap();
        log[16] ^= 1;
        write(killed.join("var/lib/rpm/rpmdb.sqlite-wal"), log);
        assert_eq!(urls(&document(&killed).await.0).len(), 3);
    });
}

/// As apk writes it.
const ALPINE: &str = "C:Q1pQKQBQYJ1bVHCkS5bBd0y5p0RYc=\nP:musl\nV:1.2.4-r2\nA:x86_64\nS:400000\nI:700000\n\
T:the musl c library (libc) implementation\nU:https://musl.libc.org/\nL:MIT\no:musl\n\
m:Timo Teräs <timo.teras@iki.fi>\nt:1692117090\nc:c0ffee\np:so:libc.musl-x86_64.so.1=1\nF:lib\n\
R:ld-musl-x86_64.so.1\na:0:0:755\nZ:Q1aaaa=\nR:libc.musl-x86_64.so.1\na:0:0:777\nZ:Q17yJ3JFNypA4mxhJJr0ou6CzsJVI=\n\n\
P:ssl_client\nV:1.36.1-r5\nA:x86_64\nL:GPL-2.0-only\no:busybox\nF:usr/bin\nR:ssl_client\n\n";

#[test]
fn alpine_packages_and_their_files() {
    runtime().block_on(async {
        let folder = temp();
        let root = folder.path();
        write(root.join("lib/apk/db/installed"), ALPINE);
        write(
            root.join("etc/os-release"),
            "ID=alpine\nVERSION_ID=3.18.4\n",
        );
        write(root.join("lib/ld-musl-x86_64.so.1"), b"\x7fELF and so on");
        symlink(
            "ld-musl-x86_64.so.1",
            root.join("lib/libc.musl-x86_64.so.1"),
        )
        .unwrap();
        let (json, remarks) = document(root).await;
        assert_eq!(remarks, Vec::<String>::new());
        let packages = by_url(&json);
        let expected = [
            "pkg:apk/alpine/musl@1.2.4-r2?arch=x86_64&distro=alpine-3.18.4",
            "pkg:apk/alpine/ssl_client@1.36.1-r5?arch=x86_64&distro=alpine-3.18.4&upstream=busybox",
        ];
        assert_eq!(packages.keys().collect::<Vec<_>>(), expected);
        let musl = &packages[expected[0]];
        assert_eq!(musl["originator"], "Person: Timo Teräs (timo.teras@iki.fi)");
        assert_eq!(musl["licenseDeclared"], "MIT");
        assert_eq!(
            musl["sourceInfo"],
            "acquired package info from APK DB: /lib/apk/db/installed"
        );
        let files: Vec<&str> = json["files"]
            .as_array()
            .unwrap()
            .iter()
            .map(|file| file["fileName"].as_str().unwrap())
            .collect();
        assert_eq!(files, ["lib/apk/db/installed", "lib/ld-musl-x86_64.so.1"]);
        assert_eq!(json["files"][1]["fileTypes"][1], "BINARY");
        // The same bytes from another root.
        assert!(document(root).await.0 == json);
    });
}

#[test]
fn packages_of_images_without_dpkg() {
    runtime().block_on(async {
        let folder = temp();
        let root = folder.path();
        let status = root.join("var/lib/dpkg/status.d");
        write(status.join("tzdata"), "Package: tzdata\nVersion: 2024a-0+deb12u1\nArchitecture: all\nMaintainer: GNU <x@y.z>\n");
        write(status.join("tzdata.md5sums"), "d41d8cd98f00b204e9800998ecf8427e  usr/share/zone/UTC\n");
        write(root.join("usr/share/zone/UTC"), "");
        write(root.join("usr/lib/os-release"), "ID=debian\nVERSION_ID=\"12\"\n");
        symlink("../usr/lib/os-release", root.join("etc")).unwrap();
        let (json, _) = document(root).await;
        assert_eq!(
            urls(&json).first().map(String::as_str),
            Some("pkg:deb/debian/tzdata@2024a-0%2Bdeb12u1?arch=all&distro=debian-12")
        );
        let empty = &json["files"].as_array().unwrap()[0];
        assert_eq!(empty["fileName"], "usr/share/zone/UTC");
        assert_eq!(empty["checksums"][0]["checksumValue"], "da39a3ee5e6b4b0d3255bfef95601890afd80709");
    });
}

#[test]
fn lock_files_and_installed_packages_of_languages() {
    runtime().block_on(async {
        let folder = temp();
        let root = folder.path();
        write(
            root.join("src/Cargo.lock"),
            "version = 4\n\n[[package]]\nname = \"app\"\nversion = \"0.1.0\"\n\n[[package]]\nname = \"libc\"\nversion = \"0.2.175\"\n\
            source = \"registry+https://github.com/rust-lang/crates.io-index\"\nchecksum = \"6a82ae493e598baaea5209805c49bbf2ea7de956d50d7da0da1164f9c6d28543\"\n",
        );
        write(
            root.join("v1/package-lock.json"),
            r#"{"name":"v1","version":"1.0.0","lockfileVersion":1,"dependencies":{"a":{"version":"1.0.0","resolved":"https://user:hunter2@r.example/a.tgz","integrity":"sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk=","requires":{"b":"^2"},"dependencies":{"b":{"version":"2.0.0"}}},"g":{"version":"git+ssh://git@host/g.git#abc"}}}"#,
        );
        write(
            root.join("v3/package-lock.json"),
            r#"{"name":"v3","lockfileVersion":3,"packages":{"":{"name":"v3","version":"9.9.9"},"packages/w":{"name":"w","version":"1.0.0"},"node_modules/w":{"resolved":"packages/w","link":true},"node_modules/@s/c":{"version":"3.0.0","license":"MIT","dependencies":{"d":"^4.0.0"}},"node_modules/@s/c/node_modules/d":{"version":"4.0.0","license":["ISC"]}}}"#,
        );
        write(root.join("y/yarn.lock"), "# yarn lockfile v1\n\n\"@s/e@^5\":\n  version \"5.0.0\"\n");
        let module = root.join("app/node_modules/f");
        write(module.join("package.json"), r#"{"name":"f","version":"6.0.0","license":"(MIT OR Apache-2.0)","author":{"name":"N","email":"n@example.com"}}"#);
        write(module.join("lib/package.json"), r#"{"type":"module"}"#);
        write(root.join("p/poetry.lock"), "[[package]]\nname = \"Flask_Login\"\nversion = \"0.6.3\"\ndescription = \"x\"\n\n[metadata]\nlock-version = \"2.0\"\n");
        write(root.join("p/uv.lock"), "version = 1\n[[package]]\nname = \"me\"\nversion = \"0.0.1\"\nsource = { editable = \".\" }\n[[package]]\nname = \"uvicorn\"\nversion = \"0.30.0\"\nsource = { registry = \"https://pypi.example/simple\" }\n");
        write(root.join("p/Pipfile.lock"), r#"{"_meta":{},"default":{"requests":{"version":"==2.31.0"}},"develop":{"pytest":{"version":"==8.0.0"}}}"#);
        write(root.join("p/requirements.txt"), "django==4.2.1 --hash=sha256:00\nloose>=1\n-r other.txt\n");
        let site = root.join("usr/lib/python3/site-packages");
        write(site.join("six-1.16.0.dist-info/METADATA"), "Metadata-Version: 2.1\nName: six\nVersion: 1.16.0\nLicense: MIT\nAuthor: B P\nAuthor-email: b@example.com\n\nName: not-this\n");
        write(site.join("six-1.16.0.dist-info/RECORD"), "six.py,sha256=x,1\n\"a,b.py\",,\n../../../bin/six,,\n/etc/passwd,,\n");
        write(site.join("six.py"), "pass\n");
        write(site.join("a,b.py"), "pass\n");
        write(root.join("usr/bin/six"), "#!/bin/sh\n");
        // The same package, known from elsewhere as well.
        write(root.join("p/requirements-dev.txt"), "six==1.16.0\n");
        let (json, remarks) = document(root).await;
        assert_eq!(remarks, Vec::<String>::new());
        let packages = by_url(&json);
        let expected = [
            "pkg:cargo/app@0.1.0",
            "pkg:cargo/libc@0.2.175",
            "pkg:npm/%40s/c@3.0.0",
            "pkg:npm/%40s/e@5.0.0",
            "pkg:npm/a@1.0.0",
            "pkg:npm/b@2.0.0",
            "pkg:npm/d@4.0.0",
            "pkg:npm/f@6.0.0",
            "pkg:pypi/django@4.2.1",
            "pkg:pypi/flask-login@0.6.3",
            "pkg:pypi/pytest@8.0.0",
            "pkg:pypi/requests@2.31.0",
            "pkg:pypi/six@1.16.0",
            "pkg:pypi/uvicorn@0.30.0",
        ];
        assert_eq!(packages.keys().collect::<Vec<_>>(), expected);
        assert_eq!(packages["pkg:npm/a@1.0.0"]["downloadLocation"], "https://xxxxx:xxxxx@r.example/a.tgz");
        assert_eq!(packages["pkg:npm/a@1.0.0"]["checksums"][0]["algorithm"], "SHA1");
        assert_eq!(packages["pkg:cargo/libc@0.2.175"]["checksums"][0]["algorithm"], "SHA256");
        assert_eq!(packages["pkg:npm/f@6.0.0"]["licenseDeclared"], "(MIT OR Apache-2.0)");
        let six = &packages["pkg:pypi/six@1.16.0"];
        assert_eq!(
            six["sourceInfo"],
            "acquired package info from installed python package manifest file: /p/requirements-dev.txt, /usr/lib/python3/site-packages/six-1.16.0.dist-info/METADATA"
        );
        let id = six["SPDXID"].as_str().unwrap();
        let contained = json["relationships"].as_array().unwrap().iter().filter(|relationship| {
            relationship["spdxElementId"] == id && relationship["relationshipType"] == "CONTAINS"
        });
        assert_eq!(contained.count(), 3);
        assert!(!json.to_string().contains("hunter2"));
    });
}

#[test]
fn class_12_what_cannot_be_read_is_left_out_and_said() {
    runtime().block_on(async {
        let folder = temp();
        let root = folder.path();
        // Larger than it may be.
        write(root.join("var/lib/dpkg/status"), "");
        let status = fs::File::options()
            .write(true)
            .open(root.join("var/lib/dpkg/status"))
            .unwrap();
        status.set_len(2 << 20).unwrap();
        if let Some(mkfifo) = tool("mkfifo") {
            fs::create_dir_all(root.join("lib/apk/db")).unwrap();
            run(Command::new(mkfifo).arg(root.join("lib/apk/db/installed")));
        }
        fs::create_dir_all(root.join("var/lib/rpm")).unwrap();
        symlink("/proc/self/mem", root.join("var/lib/rpm/Packages")).unwrap();
        symlink("rpmdb.sqlite", root.join("var/lib/rpm/rpmdb.sqlite")).unwrap();
        write(
            root.join("var/lib/rpm/Packages.db"),
            "not a database, but long enough for a header",
        );
        write(
            root.join("deep/package-lock.json"),
            "{\"dependencies\":{\"a\":".repeat(100_000),
        );
        write(
            root.join("list/package-lock.json"),
            format!(
                "{{\"packages\":{{\"node_modules/a\":{{\"version\":{}",
                "[".repeat(1 << 20)
            ),
        );
        let mut members = String::from("{\"packages\":{");
        for number in 0..150_000 {
            members += &format!("\"{number}\":{{}},");
        }
        write(root.join("wide/package-lock.json"), members + "\"x\":{}}}");
        write(root.join("x/Cargo.lock"), "[[package]]\n".repeat(300_000));
        write(
            root.join("z/Cargo.lock"),
            format!("a = {}", "[".repeat(1 << 20)),
        );
        write(root.join("b/poetry.lock"), [0xff; 64]);
        write(root.join("good/requirements.txt"), "good==1\n");
        let mut limits = ScanLimits::default();
        limits.text_bytes = 1 << 20;
        let scanner = PackageScanner::new().limits(limits);
        let (json, remarks) = document_by(root, &scanner).await;
        assert_eq!(
            urls(&json).into_iter().collect::<Vec<_>>(),
            ["pkg:pypi/good@1"]
        );
        for path in [
            "/var/lib/dpkg/status",
            "/var/lib/rpm/Packages.db",
            "/deep/",
            "/list/",
            "/wide/",
            "/z/",
            "/b/",
        ] {
            assert!(
                remarks.iter().any(|remark| remark.starts_with(path)),
                "{path}: {remarks:?}"
            );
        }
        assert_eq!(json["comment"].as_str().unwrap(), remarks.join("\n"));
    });
}

#[test]
fn class_12_ceilings_over_a_whole_scan_are_errors() {
    runtime().block_on(async {
        let folder = temp();
        let root = folder.path().join("tree");
        let lines: String = (0..1000).map(|number| format!("p{number}==1\n")).collect();
        write(root.join("requirements.txt"), lines);
        let solver = support::solver(folder.path().join("state"));
        let result = tree(&solver, &root).await;
        let limited = |set: &dyn Fn(&mut ScanLimits)| {
            let mut limits = ScanLimits::default();
            set(&mut limits);
            PackageScanner::new().limits(limits)
        };
        for (scanner, expected) in [
            (limited(&|limits| limits.packages = 999), "packages"),
            (limited(&|limits| limits.files = 10), "files of packages"),
            (
                limited(&|limits| limits.total_bytes = 100),
                "bytes of package databases",
            ),
            (
                limited(&|limits| limits.document_bytes = 100_000),
                "bytes of documents",
            ),
        ] {
            let error = scan(&result, &scanner).await.unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert!(ashlar_solver::error::Blame::remedy(&error).is_some());
        }
        let cancel = Cancel::new();
        cancel.cancel();
        let target = ScanTarget::new(result.reference().clone(), Platform::linux_amd64(), CREATED);
        let cancelled = PackageScanner::new().scan(&target, &cancel).await;
        assert!(matches!(cancelled, Err(ScanError::Cancelled)));
    });
}
