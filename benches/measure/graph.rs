//! The graph that writing and reading definitions are measured with.

use ashlar_llb::{Cache, State, copy, image, local};

/// A chain as a frontend would make it, on one image: half of the vertices are steps with an
/// environment and a cache, half are copies from a local directory.
pub(crate) fn chain_of_steps(vertices: usize) -> State {
    let context = local("context").include(["src/**"]);
    let cache = Cache::shared("target");
    let base = image("debian:bookworm")
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("CARGO_HOME", "/root/.cargo")
        .env("LANG", "C.UTF-8")
        .dir("/src");
    (0..vertices / 2).fold(base, |state, number| {
        let from = format!("/src/part-{number}");
        let to = format!("/src/{number}");
        state
            .file(copy(&context, from, &to))
            .run(["make", "-C", &to, "all"])
            .mount("/src/target", cache.clone())
            .custom_name(format!("build part {number}"))
            .root()
    })
}
