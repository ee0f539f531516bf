//! Turns: one at a time for each key, and nobody waits for ever.

use ashlar_solver::cancel::Cancel;

use crate::kit::{in_many_orders, in_random_orders};
use crate::sync::{Arc, AtomicU64, Ordering};
use crate::turns::Turns;

#[test]
fn one_at_a_time_in_any_order() {
    let model = || {
        let turns = Arc::new(Turns::default());
        let inside = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let threads: Vec<_> = [0, 1, 0, 0]
            .map(|key| {
                let (turns, inside) = (turns.clone(), inside.clone());
                shuttle::thread::spawn(move || {
                    let _turn = turns.take(key, &Cancel::new()).unwrap();
                    assert_eq!(inside[key].fetch_add(1, Ordering::SeqCst), 0);
                    shuttle::thread::yield_now();
                    inside[key].fetch_sub(1, Ordering::SeqCst);
                })
            })
            .into();
        for thread in threads {
            thread.join().unwrap();
        }
    };
    in_many_orders(model);
}

#[test]
fn who_waits_can_be_cancelled_at_any_time() {
    let model = || {
        let turns = Arc::new(Turns::default());
        let held = turns.take(0, &Cancel::new()).unwrap();
        let cancel = Cancel::new();
        let waiting = {
            let (turns, cancel) = (turns.clone(), cancel.clone());
            shuttle::thread::spawn(move || turns.take(0, &cancel).map(drop).is_err())
        };
        cancel.cancel();
        assert!(waiting.join().unwrap());
        drop(held);
        drop(turns.take(0, &Cancel::new()).unwrap());
    };
    in_random_orders(model);
}
