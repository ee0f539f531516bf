//! What every `Executor` promises, the double included: no item needs a kernel's help.

use std::sync::Arc;
use std::time::Duration;

use ashlar_solver::cancel::Cancel;
use ashlar_solver::clock::{Clock as _, SystemClock};
use ashlar_solver::executor::{ExecutorError, ExitStatus};
use ashlar_solver::progress::Stream;

use super::subject::{Behaviour, Collected, Subject};

/// Calls `$callback!` with the name of every item.
macro_rules! seam_items {
    ($callback:ident, $make:expr) => {
        $callback! { seam, $make;
            codes_come_back,
            output_is_complete_and_in_order,
            the_process_waits_for_a_slow_receiver,
            a_cancelled_process_is_gone_within_a_second,
            nothing_starts_after_a_cancel,
            a_dropped_run_ends,
            runs_do_not_wait_for_each_other,
        }
    };
}
pub(crate) use seam_items;

/// Makes a subject that can behave like this, run by run.
pub(crate) type Make = fn(&[Behaviour]) -> Subject;

pub(crate) fn codes_come_back(make: Make) {
    let codes = [0, 1, 42, 126, 127, 255];
    let behaviours: Vec<_> = codes.iter().map(|&code| Behaviour::exit(code)).collect();
    let subject = make(&behaviours);
    for (behaviour, code) in behaviours.iter().zip(codes) {
        let ended = subject.run(subject.behaving(behaviour));
        assert_eq!(ended.status, ExitStatus::Exited(code));
        assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("", ""));
    }
}

pub(crate) fn output_is_complete_and_in_order(make: Make) {
    let mut behaviour = Behaviour::exit(3);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    for number in 0..200u32 {
        let line = format!("{number} {}\n", "x".repeat(number as usize % 90)).into_bytes();
        let all_bytes: Vec<u8> = (0..=255).collect();
        out.extend_from_slice(&line);
        err.extend_from_slice(&all_bytes);
        behaviour = behaviour.writes(Stream::Stdout, line);
        behaviour = behaviour.writes(Stream::Stderr, all_bytes);
    }
    let subject = make(std::slice::from_ref(&behaviour));
    let (sink, cancel) = (Arc::new(Collected::default()), Cancel::new());
    let ran = subject.run_with(subject.behaving(&behaviour), sink.clone(), &cancel);
    assert_eq!(
        subject.runtime.block_on(ran).unwrap(),
        ExitStatus::Exited(3)
    );
    assert_eq!(sink.bytes(Stream::Stdout), out);
    assert_eq!(sink.bytes(Stream::Stderr), err);
}

pub(crate) fn the_process_waits_for_a_slow_receiver(make: Make) {
    // More than a pipe and a piece hold.
    let piece = vec![b'y'; 4096];
    let behaviour = (0..100).fold(Behaviour::exit(0), |it, _| {
        it.writes(Stream::Stdout, piece.clone())
    });
    let subject = make(std::slice::from_ref(&behaviour));
    let sink = Arc::new(Collected::closed());
    subject.runtime.block_on(async {
        let cancel = Cancel::new();
        let ran = subject.run_with(subject.behaving(&behaviour), sink.clone(), &cancel);
        tokio::pin!(ran);
        let early = tokio::time::timeout(Duration::from_millis(400), &mut ran).await;
        assert!(early.is_err(), "it ended before its output was taken");
        assert_eq!(sink.bytes(Stream::Stdout).len(), 0);
        sink.open();
        assert_eq!(ran.await.unwrap(), ExitStatus::Exited(0));
    });
    assert_eq!(sink.bytes(Stream::Stdout).len(), 100 * piece.len());
}

pub(crate) fn a_cancelled_process_is_gone_within_a_second(make: Make) {
    let behaviour = Behaviour::default().writes(Stream::Stdout, "begun");
    let subject = make(std::slice::from_ref(&behaviour));
    let sink = Arc::new(Collected::default());
    subject.runtime.block_on(async {
        let cancel = Cancel::new();
        let ran = subject.run_with(subject.behaving(&behaviour), sink.clone(), &cancel);
        tokio::pin!(ran);
        while sink.text(Stream::Stdout).is_empty() {
            let early = tokio::time::timeout(Duration::from_millis(20), &mut ran).await;
            assert!(early.is_err(), "{early:?}");
        }
        let start = SystemClock.monotonic();
        let raise = cancel.clone();
        tokio::task::spawn_blocking(move || raise.cancel());
        let result = ran.await;
        let spent = SystemClock.monotonic() - start;
        assert!(
            matches!(result, Err(ExecutorError::Cancelled(_))),
            "{result:?}"
        );
        assert!(spent < Duration::from_secs(1), "{spent:?}");
    });
}

pub(crate) fn nothing_starts_after_a_cancel(make: Make) {
    let behaviour = Behaviour::exit(0).writes(Stream::Stdout, "begun");
    let subject = make(std::slice::from_ref(&behaviour));
    let sink = Arc::new(Collected::default());
    let cancel = Cancel::new();
    cancel.cancel();
    let ran = subject.run_with(subject.behaving(&behaviour), sink.clone(), &cancel);
    let result = subject.runtime.block_on(ran);
    assert!(
        matches!(result, Err(ExecutorError::Cancelled(_))),
        "{result:?}"
    );
    assert_eq!(sink.text(Stream::Stdout), "");
}

pub(crate) fn a_dropped_run_ends(make: Make) {
    let behaviour = Behaviour::default().writes(Stream::Stdout, "begun");
    let subject = make(&[behaviour.clone(), Behaviour::exit(0)]);
    let sink = Arc::new(Collected::default());
    subject.runtime.block_on(async {
        let cancel = Cancel::new();
        let ran = subject.run_with(subject.behaving(&behaviour), sink.clone(), &cancel);
        tokio::pin!(ran);
        while sink.text(Stream::Stdout).is_empty() {
            let early = tokio::time::timeout(Duration::from_millis(20), &mut ran).await;
            assert!(early.is_err(), "{early:?}");
        }
    });
    let ended = subject.run(subject.behaving(&Behaviour::exit(0)));
    assert_eq!(ended.status, ExitStatus::Exited(0));
}

pub(crate) fn runs_do_not_wait_for_each_other(make: Make) {
    let endless = Behaviour::default().writes(Stream::Stdout, "begun");
    let behaviours = vec![endless; 8];
    let subject = make(&behaviours);
    subject.runtime.block_on(async {
        let cancel = Cancel::new();
        let sinks: Vec<_> = behaviours
            .iter()
            .map(|_| Arc::new(Collected::default()))
            .collect();
        let runs = behaviours.iter().zip(&sinks).map(|(behaviour, sink)| {
            subject.run_with(subject.behaving(behaviour), sink.clone(), &cancel)
        });
        let all_begun = async {
            while sinks
                .iter()
                .any(|sink| sink.text(Stream::Stdout).is_empty())
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let raise = cancel.clone();
            tokio::task::spawn_blocking(move || raise.cancel())
                .await
                .unwrap();
        };
        let both = futures_join(runs, all_begun);
        let results = tokio::time::timeout(Duration::from_secs(30), both)
            .await
            .unwrap();
        for result in results {
            assert!(
                matches!(result, Err(ExecutorError::Cancelled(_))),
                "{result:?}"
            );
        }
    });
}

async fn futures_join<T>(
    runs: impl Iterator<Item = impl Future<Output = T>>,
    other: impl Future<Output = ()>,
) -> Vec<T> {
    let (results, ()) = futures::join!(futures::future::join_all(runs), other);
    results
}
