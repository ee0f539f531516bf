//! How long a start takes. Run by hand, in release:
//! `cargo test --release --test root speed -- --ignored --nocapture`.

use crate::fixture::Fixture;
use ashlar_sandbox::{ExitStatus, IdMap, Network, Spec, Stdio};
use std::time::{Duration, Instant};

#[expect(clippy::disallowed_methods, reason = "the test measures real time")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::print_stdout, reason = "the figures are the purpose")]
fn measure(f: &Fixture, label: &str, change: impl Fn(&mut Spec)) -> Duration {
    let mut times: Vec<_> = (0..30)
        .map(|i| {
            let mut spec = f.spec(&format!("{label}{i}"), &["/bin/true"]);
            change(&mut spec);
            let start = now();
            let child = f.spawner.spawn(spec, Stdio::default()).unwrap();
            assert_eq!(child.wait(), ExitStatus::Exited(0));
            start.elapsed()
        })
        .collect();
    times.sort();
    println!("{label}: median {:?}, fastest {:?}", times[15], times[0]);
    times[15]
}

#[test]
#[ignore = "measures real time on an idle machine"]
fn a_start_takes_a_few_milliseconds() {
    let f = Fixture::new();
    measure(&f, "warm", |_| {});
    let plain = measure(&f, "plain", |_| {});
    measure(&f, "hostnet", |s| s.namespaces.network = Network::Host);
    measure(&f, "nocgroup", |s| s.namespaces.cgroup = false);
    measure(&f, "noipc", |s| s.namespaces.ipc = false);
    measure(&f, "noseccomp", |s| s.seccomp = None);
    measure(&f, "nomasks", |s| {
        s.masked_paths.clear();
        s.readonly_paths.clear();
    });
    measure(&f, "userns", |s| s.namespaces.user = Some(IdMap::root()));
    let resident = vec![1u8; 2 << 30];
    let large = measure(&f, "resident", |_| {});
    assert_eq!(
        resident
            .iter()
            .step_by(4096)
            .map(|&b| u64::from(b))
            .sum::<u64>(),
        2 << 18
    );
    assert!(plain < Duration::from_millis(20) && large < Duration::from_millis(20));
}
