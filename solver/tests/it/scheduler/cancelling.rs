//! Solves that end early, and what that does to others.

use std::sync::Arc;

use ashlar_solver::cancel::Cancel;
use ashlar_solver::clock::SystemClock;
use ashlar_solver::scheduler::{Edge, SolveContext, SolveError};
use tokio::sync::Semaphore;

use super::kit::{Bench, Events, Kind, Number, Plan, context};

/// A vertex that waits to be let through, and one above it.
fn waiting(bench: &Bench, gate: &Arc<Semaphore>) -> (Plan, Edge) {
    let mut plan = bench.plan();
    let number = Number {
        wait: Some(Arc::clone(gate)),
        ..plan.number("slow", Kind::Const(5))
    };
    let slow = plan.add(number, &[]);
    let above = plan.sum("above", &[slow]);
    (plan, above)
}

/// Waits until `slow` was begun `times` times.
async fn begun(bench: &Bench, times: usize) {
    while bench
        .log
        .runs
        .lock()
        .unwrap()
        .get("slow")
        .copied()
        .unwrap_or(0)
        < times
    {
        tokio::task::yield_now().await;
    }
}

fn spawn(
    bench: &Arc<Bench>,
    gate: &Arc<Semaphore>,
    context: SolveContext,
) -> tokio::task::JoinHandle<Result<i64, SolveError>> {
    let (bench, gate) = (Arc::clone(bench), Arc::clone(gate));
    tokio::spawn(async move {
        let (plan, above) = waiting(&bench, &gate);
        let solved = bench
            .scheduler
            .solve(&plan.graph, &[above], &context)
            .await?;
        Ok(solved.values[0])
    })
}

#[tokio::test]
async fn a_cancelled_solve_ends_with_its_operations() {
    let bench = Arc::new(Bench::new());
    let gate = Arc::new(Semaphore::new(0));
    let cancel = Cancel::new();
    let events = Arc::new(Events::default());
    let solve = spawn(
        &bench,
        &gate,
        SolveContext::new(cancel.clone(), events.clone(), Arc::new(SystemClock)),
    );
    begun(&bench, 1).await;
    cancel.cancel();
    assert!(matches!(solve.await.unwrap(), Err(SolveError::Cancelled)));
    assert_eq!(events.of("slow"), ["started", "cancelled"]);
    assert_eq!(events.of("above"), [] as [&str; 0]);
}

#[tokio::test]
async fn a_waiter_takes_over_from_a_cancelled_owner() {
    let bench = Arc::new(Bench::new());
    let gate = Arc::new(Semaphore::new(0));
    let cancel = Cancel::new();
    let owner = spawn(&bench, &gate, context(cancel.clone()));
    begun(&bench, 1).await;
    let waiters: Vec<_> = (0..3)
        .map(|_| spawn(&bench, &gate, context(Cancel::new())))
        .collect();
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    cancel.cancel();
    assert!(matches!(owner.await.unwrap(), Err(SolveError::Cancelled)));
    begun(&bench, 2).await;
    gate.add_permits(1);
    for waiter in waiters {
        assert_eq!(waiter.await.unwrap().unwrap(), 5);
    }
    assert_eq!(bench.log.take_runs()["slow"], 2);
}

#[tokio::test]
async fn a_waiter_takes_over_from_a_dropped_owner() {
    let bench = Arc::new(Bench::new());
    let gate = Arc::new(Semaphore::new(0));
    let owner = spawn(&bench, &gate, context(Cancel::new()));
    begun(&bench, 1).await;
    let waiter = spawn(&bench, &gate, context(Cancel::new()));
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    owner.abort();
    assert!(owner.await.unwrap_err().is_cancelled());
    begun(&bench, 2).await;
    gate.add_permits(1);
    assert_eq!(waiter.await.unwrap().unwrap(), 5);
}

#[tokio::test]
async fn a_cancelled_waiter_leaves_the_owner_alone() {
    let bench = Arc::new(Bench::new());
    let gate = Arc::new(Semaphore::new(0));
    let owner = spawn(&bench, &gate, context(Cancel::new()));
    begun(&bench, 1).await;
    let cancel = Cancel::new();
    let waiter = spawn(&bench, &gate, context(cancel.clone()));
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    cancel.cancel();
    assert!(matches!(waiter.await.unwrap(), Err(SolveError::Cancelled)));
    gate.add_permits(1);
    assert_eq!(owner.await.unwrap().unwrap(), 5);
    assert_eq!(bench.log.take_runs()["slow"], 1);
}

#[tokio::test]
async fn a_failure_cancels_what_else_runs() {
    let bench = Bench::new();
    let gate = Arc::new(Semaphore::new(0));
    let (mut plan, above) = waiting(&bench, &gate);
    let bad = plan.add(plan.number("bad", Kind::Fail), &[]);
    let failed = bench.solve(&plan, &[above, bad]).await;
    assert!(
        matches!(&failed, Err(SolveError::Vertex { name, .. }) if name == "bad"),
        "{failed:?}"
    );
}

#[tokio::test]
async fn permits_bound_what_runs_at_once() {
    let bench = Bench::new();
    let gate = Arc::new(Semaphore::new(0));
    let mut plan = bench.plan();
    let slow: Vec<_> = (0..10)
        .map(|at| {
            let number = Number {
                wait: Some(Arc::clone(&gate)),
                ..plan.number(&format!("slow {at}"), Kind::Const(1))
            };
            plan.add(number, &[])
        })
        .collect();
    let sum = plan.sum("sum", &slow);
    let check = async {
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
        assert_eq!(bench.log.runs.lock().unwrap().len(), 4);
        gate.add_permits(10);
    };
    let (value, ()) = tokio::join!(bench.value(&plan, sum), check);
    assert_eq!(value, 10);
}
