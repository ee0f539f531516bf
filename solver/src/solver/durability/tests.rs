use std::time::Instant;

use ashlar_llb::{self as llb, Constraints, Platform};

use super::*;
use crate::meta::Memory;
use crate::solver::{SolveRequest, Solver};

/// Far longer than any of this takes.
const PATIENCE: Duration = Duration::from_secs(30);

#[expect(clippy::disallowed_methods, reason = "only a limit for what hangs")]
fn until(what: &str, test: impl Fn() -> bool) {
    let start = Instant::now();
    while !test() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn syncer(folder: &std::path::Path) -> Syncer {
    let root = StateRoot::open(folder.join("state")).unwrap();
    Syncer::new(Arc::new(root), Arc::new(Memory::new()))
}

#[test]
fn what_is_awaited_is_sent_ahead() {
    let folder = tempfile::tempdir().unwrap();
    let syncer = syncer(folder.path());
    let state = || syncer.shared.state();
    let (one, two) = (syncer.ahead(), syncer.ahead());
    assert!(state().running);
    // More than is waited for: others may remove files meanwhile.
    let block = vec![7; 8 << 20];
    for at in 0..64 {
        if state().ahead > 0 {
            break;
        }
        std::fs::write(folder.path().join(at.to_string()), &block).unwrap();
        std::thread::sleep(LOOK);
    }
    until("something is sent", || state().ahead > 0);
    // A request is served meanwhile, and the thread stays for whom it is awaited by.
    syncer.shared.meta.put_name("a", b"b", b"c").unwrap();
    if let Some(request) = syncer.start().unwrap() {
        syncer.wait(request).unwrap();
    }
    drop(one);
    assert!(state().running);
    drop(two);
    until("the thread ends", || !state().running);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_synced_result_needs_no_sync_and_leaves_no_thread() {
    let folder = tempfile::tempdir().unwrap();
    let solver = Solver::builder().root(folder.path()).build().unwrap();
    let state = || solver.0.syncer.shared.state();
    let file = |text: &'static str| {
        let state = llb::scratch().file(llb::mkfile("/file", text));
        let platform = Constraints::new(Platform::linux_amd64());
        SolveRequest::new(state.marshal(&platform).unwrap()).durability(Durability::Synced)
    };
    for _unchanged in 0..2 {
        let solved = solver.solve(file("text")).result().await.unwrap();
        assert!(!solver.0.syncer.shared.meta.needs_sync().unwrap());
        assert_eq!(state().awaited, 0);
        drop(solved);
    }
    // Neither does one that is dropped.
    drop(solver.solve(file("other")));
    until("the threads end", || {
        let state = state();
        state.awaited == 0 && !state.running
    });
}
