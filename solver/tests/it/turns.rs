//! Turns, with threads of the machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ashlar_solver::cancel::{Cancel, Cancelled};
use ashlar_solver::turns::Turns;

#[test]
fn one_at_a_time_for_each_key() {
    let turns = Arc::new(Turns::default());
    let inside = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let _turn = turns.take(1, &Cancel::new()).unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    inside.fetch_sub(1, Ordering::SeqCst);
                }
            });
        }
    });
    let _one = turns.take(1, &Cancel::new()).unwrap();
    let _two = turns.take(2, &Cancel::new()).unwrap();
}

#[test]
fn who_waits_can_be_cancelled() {
    let turns = Arc::new(Turns::default());
    let _held = turns.take(1, &Cancel::new()).unwrap();
    let cancel = Cancel::new();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| turns.take(1, &cancel).map(drop));
        std::thread::sleep(Duration::from_millis(20));
        cancel.cancel();
        assert_eq!(waiting.join().unwrap(), Err(Cancelled));
    });
}
