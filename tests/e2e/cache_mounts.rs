//! Cache mounts: who gets which directory, and when one begins anew.

use std::fs;
use std::path::Path;

use ashlar_llb::{self as llb, Cache, State, copy};
use ashlar_solver::progress::Event;
use ashlar_solver::solver::Solver;
use futures::StreamExt as _;

use super::support::{self, Need, lent, output, skipped, temp};

/// A step that adds `word` to a file of the cache `id` and tells what is in it.
fn step(state: &State, id: &str, word: &str) -> State {
    let script = "echo $0 >> /c/words; cat /c/words | busybox tr '\\n' ' '; echo";
    let run = state.run(["sh", "-c", script, word]);
    run.mount("/c", Cache::shared(id)).root()
}

/// Runs `body` with a folder that has a busybox image, and a solver in it that runs four steps at
/// once. Nothing of the steps may be left over.
fn in_busybox(test: &str, body: impl AsyncFnOnce(&Path, &Solver)) {
    let needs = [Need::Root, Need::Tool("busybox")];
    if skipped(&format!("cache_mounts::{test}"), &needs) {
        return;
    }
    let folder = temp();
    let folder = folder.path();
    support::busybox(folder);
    support::runtime().block_on(async {
        let builder = Solver::builder().root(folder.join("state"));
        let solver = builder.parallelism(4).build().unwrap();
        body(folder, &solver).await;
    });
    assert_eq!(support::leftovers(&folder.join("state")), [""; 0]);
}

#[test]
fn caches_begin_anew_where_the_cache_is_ignored() {
    in_busybox(
        "caches_begin_anew_where_the_cache_is_ignored",
        async |folder, solver| {
            let base = support::busybox_state();
            let one = async |id, word| output(solver, lent(folder, &step(&base, id, word))).await;
            assert_eq!(one("a", "1").await, "1 \n");
            assert_eq!(one("a", "2").await, "1 2 \n");
            assert_eq!(one("b", "x").await, "x \n");

            // A whole solve: once, so that its second step sees what the first one left.
            let two = step(&step(&base, "a", "3"), "a", "4");
            let told = output(solver, lent(folder, &two).no_cache(true)).await;
            assert_eq!(told, "3 \n3 4 \n");
            assert_eq!(one("a", "5").await, "3 4 5 \n");
            assert_eq!(one("b", "y").await, "x y \n");

            // One step: its caches, for every step of the solve, and no others.
            let script = "cat /c/words /d/words 2> /dev/null | busybox tr '\\n' ' '; echo 7 > /c/words; echo";
            let before = step(&base, "a", "6");
            let both = before.run(["sh", "-c", script]);
            let both = both
                .mount("/c", Cache::shared("a"))
                .mount("/d", Cache::locked("b"));
            let alone = step(&both.ignore_cache().root(), "a", "8");
            let told = output(solver, lent(folder, &alone)).await;
            assert_eq!(told, "6 \n6 \n7 8 \n");

            // With a base it is that base again.
            let seed = llb::scratch().file(llb::mkfile("/words", "seed\n"));
            let seeded = |word: &str| {
                let script = "echo $0 >> /c/words; cat /c/words | busybox tr '\\n' ' '; echo";
                let mount = Cache::private("s").seeded_with(&seed);
                base.run(["sh", "-c", script, word]).mount("/c", mount)
            };
            for (word, ignore, expected) in [
                ("1", false, "seed 1 \n"),
                ("2", false, "seed 1 2 \n"),
                ("3", true, "seed 3 \n"),
            ] {
                let request = lent(folder, &seeded(word).root()).no_cache(ignore);
                assert_eq!(output(solver, request).await, expected);
            }
        },
    );
}

#[test]
fn a_step_at_work_keeps_its_cache() {
    in_busybox("a_step_at_work_keeps_its_cache", async |folder, solver| {
        let base = support::busybox_state();
        // It waits until somebody writes into another cache that it shares.
        let script = "echo mine > /c/mine; echo up; until [ -e /sign/go ]; do sleep 0.05; done; \
                      cat /c/mine; busybox ls /c";
        let waits = base.run(["sh", "-c", script]);
        let waits = waits
            .mount("/c", Cache::shared("c"))
            .mount("/sign", Cache::shared("sign"));
        let (mut events, outcome) = solver.solve(lent(folder, &waits.root())).split();
        assert_eq!(support::first_output(&mut events).await, "up\n");
        let looks = |word: &str| {
            let run = base.run(["sh", "-c", "busybox ls /c; echo > /c/$0; echo seen", word]);
            run.mount("/c", Cache::shared("c")).ignore_cache().root()
        };
        assert_eq!(output(solver, lent(folder, &looks("a"))).await, "seen\n");
        let go = base
            .run(["touch", "/sign/go"])
            .mount("/sign", Cache::shared("sign"));
        assert_eq!(output(solver, lent(folder, &go.root())).await, "");
        let mut rest = Vec::new();
        while let Some(event) = events.next().await {
            if let Event::Log { data, .. } = event {
                rest.extend_from_slice(&data);
            }
        }
        outcome.await.unwrap();
        assert_eq!(String::from_utf8(rest).unwrap(), "mine\nmine\n");
        // The next one to begin anew removes what was in use the last time.
        assert_eq!(output(solver, lent(folder, &looks("b"))).await, "seen\n");
        let mut all = 0;
        for cache in fs::read_dir(folder.join("state/cache-mounts")).unwrap() {
            all += fs::read_dir(cache.unwrap().path()).unwrap().count();
        }
        assert_eq!(all, 2, "a generation for each of two caches");
    });
}

#[test]
fn a_locked_cache_takes_a_directory_that_is_free() {
    in_busybox(
        "a_locked_cache_takes_a_directory_that_is_free",
        async |folder, solver| {
            let base = support::busybox_state();
            let run = |script: &str, mount: Cache| {
                let step = base.run(["sh", "-c", script]).mount("/c", mount);
                step.mount("/sign", Cache::shared("sign")).root()
            };
            // The first directory is in use for as long as the test wants.
            let holds = "echo > /c/first; echo up; until [ -e /sign/go ]; do sleep 0.05; done";
            let holds = run(holds, Cache::private("c"));
            let (mut events, outcome) = solver.solve(lent(folder, &holds)).split();
            assert_eq!(support::first_output(&mut events).await, "up\n");
            let second = run("echo > /c/second; busybox ls /c", Cache::private("c"));
            assert_eq!(output(solver, lent(folder, &second)).await, "second\n");
            let locked = run("busybox ls /c; echo locked", Cache::locked("c"));
            let told = output(solver, lent(folder, &locked)).await;
            assert_eq!(told, "second\nlocked\n");
            let go = run("touch /sign/go", Cache::shared("other"));
            assert_eq!(output(solver, lent(folder, &go)).await, "");
            drop(events);
            outcome.await.unwrap();
        },
    );
}

#[test]
fn namespaces_keep_caches_apart() {
    in_busybox("namespaces_keep_caches_apart", async |folder, solver| {
        for (namespace, word, expected) in [
            ("", "1", "1 \n"),
            ("x", "2", "2 \n"),
            ("y", "3", "3 \n"),
            ("x", "4", "2 4 \n"),
            ("", "5", "1 5 \n"),
            ("../x", "6", "6 \n"),
        ] {
            let state = step(&support::busybox_state(), "a", word);
            let request = lent(folder, &state).cache_mount_namespace(namespace);
            assert_eq!(output(solver, request).await, expected, "{namespace}");
        }
    });
}

#[test]
fn a_step_may_have_one_cache_twice() {
    in_busybox("a_step_may_have_one_cache_twice", async |folder, solver| {
        for (name, cache) in [
            ("l", Cache::locked("l")),
            ("p", Cache::private("p")),
            ("s", Cache::shared("s")),
        ] {
            let script = "echo in > /c/f; cat /d/f; echo $0";
            let run = support::busybox_state().run(["sh", "-c", script, name]);
            let run = run.mount("/c", cache.clone()).mount("/d", cache);
            let state = llb::scratch().file(copy(run.root(), "/bin", "/bin"));
            let told = tokio::time::timeout(
                std::time::Duration::from_secs(20),
                output(solver, lent(folder, &state)),
            );
            let told = told.await.expect("it does not wait for itself");
            assert_eq!(told, format!("in\n{name}\n"));
        }
    });
}

/// What two steps tell that run at once, each with `cache` at `/c`, and a third one after them.
async fn at_once(solver: &Solver, folder: &Path, cache: Cache, script: &str) -> [String; 3] {
    // Each says that it is there, and what is done waits for the other one, but not for ever.
    let functions = "other() { i=0; until [ -e $1 ]; do i=$((i + 1)); [ $i -lt 500 ] || exit 9; \
                     busybox sleep 0.02; done; }; ";
    let step = |me: &str, other: &str, script: &str| {
        let script = format!("{functions}{script}");
        let run = support::busybox_state().run(["sh", "-c", &script, me, other]);
        let meeting = Cache::shared("meeting");
        let run = run.mount("/c", cache.clone()).mount("/meeting", meeting);
        lent(folder, &run.root())
    };
    let (a, b) = tokio::join!(
        output(solver, step("a", "b", script)),
        output(solver, step("b", "a", script)),
    );
    // Which cache it is does not count for what is known already, so that each script makes another.
    let after = output(solver, step("after", script, "cd /c; echo *")).await;
    [a, b, after]
}

#[test]
fn steps_at_once_share_a_cache_or_wait_or_have_each_their_own() {
    in_busybox(
        "steps_at_once_share_a_cache_or_wait_or_have_each_their_own",
        async |folder, solver| {
            // The same directory at the same time.
            let shared = "echo > /c/$0; other /c/$1; cd /c; echo *";
            let told = at_once(solver, folder, Cache::shared("c"), shared).await;
            assert_eq!(told, ["a b\n", "a b\n", "a b\n"]);
            // Two directories at the same time, of which the next step gets one.
            let private = "echo > /c/$0; echo > /meeting/private-$0; other /meeting/private-$1; \
                       cd /c; echo *; echo > /meeting/seen-$0; other /meeting/seen-$1";
            let [a, b, after] = at_once(solver, folder, Cache::private("c2"), private).await;
            assert_eq!((&*a, &*b), ("a\n", "b\n"));
            assert!([&a, &b].contains(&&after), "{after}");
            // The same directory, one after the other: whoever is first is alone until it is done.
            let locked = "busybox mkdir /c/here || exit 8; echo > /c/$0; busybox sleep 0.3; \
                      busybox rmdir /c/here; cd /c; echo *";
            let [a, b, after] = at_once(solver, folder, Cache::locked("c3"), locked).await;
            let mut told = [&*a, &*b];
            told.sort_by_key(|text| text.len());
            assert!(["a\n", "b\n"].contains(&told[0]), "{told:?}");
            assert_eq!((told[1], &*after), ("a b\n", "a b\n"));
        },
    );
}
