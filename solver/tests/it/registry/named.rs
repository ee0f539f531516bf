//! Images that the store has a name for: before the registry, behind it, instead of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ashlar_llb::digest::BlobDigest;
use ashlar_llb::{self as llb, Reference, ResolveMode as Wish};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::oci::Descriptor;
use ashlar_solver::ops::source::SourceError;
use ashlar_solver::progress::Event;
use ashlar_solver::registry::RegistryError;
use ashlar_solver::solver::{SolveError, SolveRequest, Solved, Solver};
use ashlar_solver::source::image::ResolveMode;
use ashlar_solver::tree::TreePath;
use futures::StreamExt as _;

use super::fake::{Fake, Reply};
use super::image::{self, Image, MANIFEST, blocking, failure, layers, request};

/// A registry with the image `v1`, which can be made to fail; a store that has the image and calls
/// it `mine`, of the same repository.
struct World {
    fake: Fake,
    down: Arc<AtomicBool>,
    image: Image,
    solver: Solver,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let (store, image) = image::three();
        let down = Arc::new(AtomicBool::new(false));
        let is_down = down.clone();
        let fake = Fake::start(move |seen| match is_down.load(Ordering::SeqCst) {
            true => Reply::new(503),
            false => store.reply(seen),
        })
        .await;
        let folder = tempfile::tempdir().unwrap();
        let solver = image::solver(folder.path());
        let world = Self {
            fake,
            down,
            image,
            solver,
            _folder: folder,
        };
        let pulled = image::solve(&world.solver, world.request("v1", Wish::Default)).await;
        let reference = pulled.unwrap().result.reference().clone();
        blocking(move || reference.fetch(&Cancel::new()).unwrap()).await;
        let images = world.solver.store().images();
        assert!(images.all().unwrap().is_empty(), "pulling names nothing");
        images.set(&world.name("mine"), &world.manifest()).unwrap();
        world
    }

    fn name(&self, tag: &str) -> Reference {
        Reference::parse(&format!("{}/app:{tag}", self.fake.host)).unwrap()
    }

    fn manifest(&self) -> Descriptor {
        let text = self.image.manifest.to_string();
        Descriptor::new(MANIFEST, BlobDigest::of(text.as_bytes()), text.len() as u64)
    }

    fn request(&self, tag: &str, wish: Wish) -> SolveRequest {
        request(llb::image(self.name(tag).to_string()).resolve_mode(wish))
    }

    /// Solves; gives warnings and the number of requests too.
    async fn solve(
        &self,
        request: SolveRequest,
    ) -> (Result<Solved, SolveError>, Vec<String>, usize) {
        let before = self.fake.seen().len();
        let (mut events, outcome) = self.solver.solve(request).split();
        let mut warnings = Vec::new();
        while let Some(event) = events.next().await {
            if let Event::Warning { message, .. } = event {
                warnings.push(message);
            }
        }
        let solved = outcome.await;
        (solved, warnings, self.fake.seen().len() - before)
    }

    /// The image is whole, and nothing of it was downloaded for that.
    async fn is_whole(&self, solved: Solved) {
        let before = layers(&self.fake, &self.image);
        let reference = solved.result.reference().clone();
        let view = blocking(move || reference.view().unwrap()).await;
        let path = TreePath::new("etc/two").unwrap();
        assert!(view.lookup(&path).is_some());
        assert_eq!(layers(&self.fake, &self.image), before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_op_may_prefer_the_image_that_the_store_has() {
    let world = World::new().await;
    let (solved, warnings, requests) = world.solve(world.request("mine", Wish::PreferLocal)).await;
    assert_eq!((warnings.len(), requests), (0, 0));
    world.is_whole(solved.unwrap()).await;
    // What the store has no name for is asked for.
    let (solved, _, requests) = world.solve(world.request("v1", Wish::PreferLocal)).await;
    solved.unwrap();
    assert_eq!(requests, 1);
    // A name that leads to nothing is none.
    let gone = Descriptor::new(MANIFEST, BlobDigest::of(b"gone"), 4);
    let images = world.solver.store().images();
    images.set(&world.name("mine"), &gone).unwrap();
    let (solved, _, _) = world.solve(world.request("mine", Wish::PreferLocal)).await;
    let error = solved.unwrap_err();
    let missing = |e: &RegistryError| matches!(e, RegistryError::NotFound { .. });
    assert!(failure(&error, missing), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_image_of_the_store_is_taken_where_the_registry_has_none() {
    let world = World::new().await;
    let (solved, warnings, _) = world.solve(world.request("mine", Wish::Default)).await;
    let [warning] = &warnings[..] else {
        panic!("{warnings:?}");
    };
    assert!(warning.contains("app:mine"), "{warning}");
    world.is_whole(solved.unwrap()).await;
    world.down.store(true, Ordering::SeqCst);
    let (solved, warnings, _) = world.solve(world.request("mine", Wish::Default)).await;
    assert_eq!(warnings.len(), 1);
    solved.unwrap();
    // What a tag led to once is no name: what it leads to now has to be known.
    let (solved, warnings, _) = world.solve(world.request("v1", Wish::Default)).await;
    assert!(solved.is_err() && warnings.is_empty());
    // Who insists on the registry gets its answer.
    let (solved, warnings, _) = world.solve(world.request("mine", Wish::ForcePull)).await;
    let error = solved.unwrap_err();
    assert!(failure(&error, |_: &RegistryError| true), "{error:?}");
    assert!(warnings.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_comes_first_where_it_answers() {
    let world = World::new().await;
    let other = Descriptor::new(MANIFEST, BlobDigest::of(b"{}"), 2);
    world.solver.store().blobs().put(b"{}").unwrap();
    let images = world.solver.store().images();
    images.set(&world.name("v1"), &other).unwrap();
    let (solved, warnings, requests) = world.solve(world.request("v1", Wish::Default)).await;
    assert_eq!((warnings.len(), requests), (0, 1));
    world.is_whole(solved.unwrap()).await;
    let found = images.get(&world.name("v1")).unwrap();
    assert_eq!(found, Some(other), "pulling changes no name");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_the_store_serve_offline_and_are_not_missing() {
    let world = World::new().await;
    for mode in [ResolveMode::Offline, ResolveMode::IfMissing] {
        let request = world.request("mine", Wish::Default).resolve(mode);
        let (solved, warnings, requests) = world.solve(request).await;
        assert_eq!((warnings.len(), requests), (0, 0), "{mode:?}");
        world.is_whole(solved.unwrap()).await;
    }
    let unknown = world.request("other", Wish::Default);
    let (solved, _, requests) = world.solve(unknown.resolve(ResolveMode::Offline)).await;
    let error = solved.unwrap_err();
    let offline = |e: &SourceError| matches!(e, SourceError::Offline { .. });
    assert!(failure(&error, offline), "{error:?}");
    assert_eq!(requests, 0);
    // An op that insists has the registry asked again.
    let pulled = world.request("v1", Wish::ForcePull);
    let (solved, _, requests) = world.solve(pulled.resolve(ResolveMode::IfMissing)).await;
    solved.unwrap();
    assert_eq!(requests, 1);
}
