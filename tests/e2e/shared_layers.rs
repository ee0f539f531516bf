//! Images that share layers in different compressions: what is built on one is exported with the
//! blobs of that one, whichever was pulled first, and the files are in the store once.

use std::fs;
use std::path::Path;

use ashlar_exporters::{Compression, Exporter as _, Oci, Push, cache_blobs};
use ashlar_llb::{self as llb, Constraints, Platform, State, copy, mkfile};
use ashlar_solver::cache::CacheMode;
use ashlar_solver::cancel::Cancel;
use ashlar_solver::registry::RegistryConfig;
use ashlar_solver::solver::{SolveRequest, Solved, Solver};
use ashlar_solver::source::image::ResolveMode;
use serde_json::Value;

use super::registries::{Registry, Yard, nobody, push};
use super::support::{self, layers, solve, then};

/// A layer as a manifest tells it: media type and digest.
type Layer = (String, String);

/// A registry with images of the layers `shared` and `own`, by name: `one` (gzip) and `two` (zstd)
/// share the first; `twin` is `one` in zstd.
struct World {
    yard: Yard,
    registry: Registry,
}

const IMAGES: [(&str, &str, Compression); 3] = [
    ("one", "one", Compression::Gzip { level: 5 }),
    ("two", "two", Compression::Zstd { level: 3 }),
    ("twin", "one", Compression::Zstd { level: 3 }),
];

impl World {
    async fn new(test: &str) -> Option<Self> {
        let yard = Yard::enter(test)?;
        let registry = yard.open();
        let solver = yard.solver();
        for (name, own, compression) in IMAGES {
            let state = llb::scratch()
                .file(mkfile("/shared", "shared\n".repeat(100)).created(then()))
                .file(mkfile("/own", own).created(then()));
            let solved = solve(&solver, support::request(&state)).await;
            let layout = yard.at(name);
            let exporter = Oci::directory(&layout).name("a.test/app:v1");
            let exporter = exporter.compression(compression);
            let never = Cancel::new();
            exporter.export(&solved.result, &never).await.unwrap();
            push(
                &format!("oci:{}:v1", layout.display()),
                &registry,
                &format!("{name}:v1"),
            );
        }
        Some(Self { yard, registry })
    }

    /// A solver on the root `name`.
    fn solver(&self, name: &str) -> Solver {
        let builder = Solver::builder().root(self.yard.at(name));
        let builder = builder.registry(RegistryConfig::default());
        let builder = builder.credentials(std::sync::Arc::new(nobody()));
        builder.build().unwrap()
    }

    fn image(&self, name: &str) -> State {
        llb::image(format!("{}/{name}:v1", self.registry.host())).into()
    }

    /// A file on an image, for which the image has to be unpacked, copied from it.
    fn built(&self, name: &str) -> State {
        let image = self.image(name);
        image.file(copy(&image, "/own", "/copied").created(then()))
    }

    /// The layers of an image as it was pushed.
    fn told(&self, name: &str) -> Vec<Layer> {
        manifest_layers(&self.yard.at(name))
    }

    /// The layers of what a solve gave, in an archive.
    async fn exported(&self, solved: &Solved) -> Vec<Layer> {
        self.exported_as(solved, false).await
    }

    async fn exported_as(&self, solved: &Solved, force: bool) -> Vec<Layer> {
        let layout = tempfile::tempdir_in(self.yard.path()).unwrap();
        let exporter = Oci::directory(layout.path()).force_compression(force);
        let exporter = exporter.verify(true);
        let never = Cancel::new();
        exporter.export(&solved.result, &never).await.unwrap();
        manifest_layers(layout.path())
    }

    /// How many blobs of an image's layers are in a store.
    fn stored(&self, solver: &Solver, image: &str) -> usize {
        let blobs = solver.store().blobs();
        let layers = self.told(image).into_iter();
        let stored = layers.filter(|(_, digest)| blobs.contains(&digest.parse().unwrap()).unwrap());
        stored.count()
    }
}

fn manifest_layers(layout: &Path) -> Vec<Layer> {
    let read = |path: &Path| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let index = read(&layout.join("index.json"));
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    let manifest = read(&layout.join("blobs").join(digest.replace(':', "/")));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let layers = manifest["layers"].as_array().unwrap().iter();
    let layers = layers.map(|layer| (text(&layer["mediaType"]), text(&layer["digest"])));
    layers.collect()
}

fn request(state: &State) -> SolveRequest {
    support::request(state)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_is_exported_with_the_blobs_of_its_base() {
    let name = "a_build_is_exported_with_the_blobs_of_its_base";
    let Some(world) = World::new(name).await else {
        return;
    };
    let [one, two, twin] = ["one", "two", "twin"].map(|name| world.told(name));
    assert_ne!(one[0], two[0]);
    assert_eq!((&two[0], one.len(), two.len()), (&twin[0], 2, 2));
    for (first, second, unpacked) in [
        ("one", "two", 3),
        ("two", "one", 3),
        ("one", "twin", 2),
        ("twin", "one", 2),
    ] {
        let what = format!("{second} after {first}");
        let root = format!("{second}-{first}");
        let mut solver = world.solver(&root);
        for base in [first, second] {
            let solved = solve(&solver, request(&world.built(base))).await;
            let found = world.exported(&solved).await;
            assert_eq!(found[..2], world.told(base)[..], "{what}: {base}");
            assert!(found[2].0.ends_with("tar+gzip"), "{found:?}");
        }
        // Equal files are there once; what was made on equal layers is.
        let made = if unpacked == 3 { 2 } else { 1 };
        assert_eq!(layers(solver.root()), unpacked + made, "{what}");
        // Everything is there now: nobody need be asked.
        for (restarted, resolve) in [(false, ResolveMode::Always), (true, ResolveMode::Offline)] {
            if restarted {
                drop(solver);
                solver = world.solver(&root);
            }
            for base in [first, second] {
                let built = request(&world.built(base)).resolve(resolve);
                let solved = solve(&solver, built).await;
                assert_eq!(solved.ran(), 0, "{what}: {base}");
                let built = world.exported(&solved).await;
                assert_eq!(built[..2], world.told(base)[..], "{what}: {base}");
                let untouched = request(&world.image(base)).resolve(resolve);
                let solved = solve(&solver, untouched).await;
                let untouched = world.exported(&solved).await;
                assert_eq!(untouched, world.told(base), "{what}: {base}");
            }
            assert_eq!(layers(solver.root()), unpacked + made, "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_fetched_when_an_export_needs_them_and_not_before() {
    let name = "blobs_are_fetched_when_an_export_needs_them_and_not_before";
    let Some(world) = World::new(name).await else {
        return;
    };
    let solver = world.solver("root");
    solve(&solver, request(&world.built("one"))).await;
    let solved = solve(&solver, request(&world.built("twin"))).await;
    assert_eq!(solved.ran(), 0);
    // Who may ask nobody gets what is there.
    let offline = || request(&world.built("twin")).resolve(ResolveMode::Offline);
    let before = solve(&solver, offline()).await;
    assert_eq!(world.exported(&before).await[..2], world.told("one")[..]);
    assert_eq!(world.stored(&solver, "twin"), 0);
    assert_eq!(world.exported(&solved).await[..2], world.told("twin")[..]);
    assert_eq!(world.stored(&solver, "twin"), 2);
    let after = solve(&solver, offline()).await;
    assert_eq!(world.exported(&after).await[..2], world.told("twin")[..]);
    // The image itself is no other case.
    let solver = world.solver("untouched");
    solve(&solver, request(&world.built("one"))).await;
    let solved = solve(&solver, request(&world.image("twin"))).await;
    assert_eq!(world.stored(&solver, "twin"), 0);
    let name = format!("{}/pushed:v1", world.registry.host());
    let push = Push::new(solver.registry()).name(name);
    push.export(&solved.result, &Cancel::new()).await.unwrap();
    assert_eq!(world.stored(&solver, "twin"), 0, "they are mounted");
    assert_eq!(world.exported(&solved).await, world.told("twin"));
    assert_eq!(world.stored(&solver, "twin"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_two_images_is_enough() {
    let Some(world) = World::new("what_is_left_of_two_images_is_enough").await else {
        return;
    };
    let solver = world.solver("root");
    for base in ["one", "two"] {
        let solved = solve(&solver, request(&world.built(base))).await;
        world.exported(&solved).await;
    }
    let root = solver.root().to_path_buf();
    drop(solver);
    let solver = world.solver("root");
    // Everything of the first image that the second does not stand on.
    let (store, mut removed) = (solver.store().layers(), 0);
    let is_of_one = |path: &Path| {
        ["copied", "own"]
            .iter()
            .any(|name| fs::read(path.join("fs").join(name)).is_ok_and(|bytes| bytes == b"one"))
    };
    for _ in 0..2 {
        for layer in fs::read_dir(root.join("layers")).unwrap() {
            let layer = layer.unwrap();
            if is_of_one(&layer.path()) {
                let id = layer.file_name().into_string().unwrap().parse().unwrap();
                removed += usize::from(store.remove_unused(id).unwrap());
            }
        }
    }
    assert_eq!((removed, layers(&root)), (2, 3));
    let solved = solve(&solver, request(&world.built("two"))).await;
    assert_eq!(solved.ran(), 0);
    assert_eq!(world.exported(&solved).await[..2], world.told("two")[..]);
    // Its blobs are had again where they are gone.
    let blobs = solver.store().blobs();
    for (_, digest) in world.told("two") {
        assert!(blobs.remove(&digest.parse().unwrap()).unwrap());
    }
    assert_eq!(world.exported(&solved).await[..2], world.told("two")[..]);
    // And the other image is unpacked again on what is shared.
    let solved = solve(&solver, request(&world.built("one"))).await;
    assert_eq!(world.exported(&solved).await[..2], world.told("one")[..]);
    assert_eq!(layers(&root), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_compression_does_not_depend_on_what_was_pulled_first() {
    let name = "a_forced_compression_does_not_depend_on_what_was_pulled_first";
    let Some(world) = World::new(name).await else {
        return;
    };
    let mut all = Vec::new();
    for (root, bases) in [("alone", &["twin"][..]), ("second", &["one", "twin"])] {
        let solver = world.solver(root);
        for base in bases {
            let solved = solve(&solver, request(&world.built(base))).await;
            all.push(world.exported_as(&solved, true).await);
        }
    }
    assert!(
        all.iter()
            .flatten()
            .all(|(kind, _)| kind.ends_with("tar+gzip"))
    );
    assert_eq!(all[0], all[2]);
    assert_eq!(all[1][..2], world.told("one")[..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_copied_from_another_image_does_not_decide() {
    let name = "what_is_copied_from_another_image_does_not_decide";
    let Some(world) = World::new(name).await else {
        return;
    };
    let solver = world.solver("root");
    for (base, beside) in [("one", "two"), ("two", "one"), ("twin", "one")] {
        let beside = world.image(beside);
        let state = world
            .image(base)
            .file(copy(&beside, "/own", "/beside").created(then()));
        let solved = solve(&solver, request(&state)).await;
        assert_eq!(world.exported(&solved).await[..2], world.told(base)[..]);
    }
    // Nor does it where the base is that of a nested build.
    let platform = Constraints::new(Platform::of_target());
    let inner = world.image("twin").marshal(&platform).unwrap().encode();
    let file = mkfile("/buildkit.llb.definition", inner);
    let nested = State::from(llb::scratch().file(file).build(""));
    let state = nested.file(copy(world.image("one"), "/own", "/beside").created(then()));
    let solved = solve(&solver, request(&state)).await;
    assert_eq!(world.exported(&solved).await[..2], world.told("twin")[..]);
    // All inputs of a merge leave layers; what is in two of them is as the first one has it.
    let merged: State = llb::merge([world.built("two"), world.image("one")]).into();
    let solved = solve(&solver, request(&merged)).await;
    let (one, two) = (world.told("one"), world.told("two"));
    let found = world.exported(&solved).await;
    assert_eq!(
        (found.len(), &found[..2], &found[3..]),
        (5, &two[..], &[two[0].clone(), one[1].clone()][..])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn cache_records_name_the_blobs_that_the_image_has() {
    let name = "cache_records_name_the_blobs_that_the_image_has";
    let Some(world) = World::new(name).await else {
        return;
    };
    let solver = world.solver("root");
    for base in ["one", "two", "twin"] {
        let solved = solve(&solver, request(&world.built(base))).await;
        let exported = world.exported(&solved).await;
        let never = Cancel::new();
        for mode in [CacheMode::Min, CacheMode::Max] {
            let export = solved.export_cache(mode).await.unwrap();
            let made = cache_blobs(&export, Compression::default(), &never);
            let records = made.await.unwrap();
            let layers = records.layers().iter().map(|layer| &layer.layer.blob);
            let layers = layers.map(|blob| (blob.media_type.clone(), blob.digest.to_string()));
            let mut layers: Vec<Layer> = layers.collect();
            let mut expected = exported.clone();
            layers.sort();
            expected.sort();
            assert_eq!(layers, expected, "{base} {mode:?}");
        }
    }
}
