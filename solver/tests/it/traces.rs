//! Spans of a solve.

use std::collections::HashMap;
use std::fmt::{Debug, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;

use ashlar_llb::{self as llb, Constraints, Platform, copy, mkfile};
use ashlar_solver::solver::{SolveRequest, Solver};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// A span: its name with its fields, and the place of the one that it is in.
type Seen = (String, Option<u64>);

/// Keeps all spans, and knows which ones each thread is in.
#[derive(Debug, Clone, Default)]
struct Spans(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    seen: Mutex<Vec<Seen>>,
    entered: Mutex<HashMap<ThreadId, Vec<u64>>>,
    events: AtomicU64,
}

impl Spans {
    /// The spans that this thread is in.
    fn entered<T>(&self, look: impl FnOnce(&mut Vec<u64>) -> T) -> T {
        let mut entered = self.0.entered.lock().unwrap();
        look(entered.entry(std::thread::current().id()).or_default())
    }
}

/// The name of a span and its fields but for digests.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() != "digest" {
            write!(self.0, " {}={value:?}", field.name()).unwrap();
        }
    }
}

impl Subscriber for Spans {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("ashlar")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut text = Text(span.metadata().name().to_owned());
        span.record(&mut text);
        let parent = self.entered(|entered| entered.last().copied());
        let mut seen = self.0.seen.lock().unwrap();
        seen.push((text.0, parent));
        Id::from_u64(seen.len() as u64)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        self.0.events.fetch_add(1, Ordering::Relaxed);
    }

    fn enter(&self, span: &Id) {
        self.entered(|entered| entered.push(span.into_u64()));
    }

    fn exit(&self, span: &Id) {
        assert_eq!(self.entered(Vec::pop), Some(span.into_u64()));
    }
}

#[test]
fn each_piece_of_work_has_a_span_in_that_of_its_solve() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("context")).unwrap();
    let state = llb::scratch()
        .file(copy(llb::local("context"), "/", "/all").custom_name("copied"))
        .file(mkfile("/secret-path", "secret text").custom_name("made"));
    let platform = Platform::of_target();
    let definition = state.marshal(&Constraints::new(platform)).unwrap();
    let spans = Spans::default();
    // One thread, so that the subscriber is that of all tasks.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tracing::subscriber::with_default(spans.clone(), || {
        runtime.block_on(async {
            let root = folder.path().join("state");
            let solver = Solver::builder().root(root).build().unwrap();
            let context = folder.path().join("context");
            let request = SolveRequest::new(definition).local("context", context);
            solver.solve(request).result().await.unwrap();
        });
    });
    let seen = spans.0.seen.lock().unwrap();
    assert_eq!(seen[0], ("solve ops=4".to_owned(), None));
    for work in ["cache map", "run"] {
        for name in ["local://context", "copied", "made"] {
            let text = format!("vertex work={work:?} name={name:?}");
            let mut same = seen.iter().filter(|(shown, _)| *shown == text);
            assert!(same.all(|(_, parent)| *parent == Some(1)));
            assert!(
                seen.iter().any(|(shown, _)| *shown == text),
                "{text}: {seen:?}"
            );
        }
    }
    assert!(seen.iter().all(|(text, _)| !text.contains("secret")));
    assert!(spans.0.events.load(Ordering::Relaxed) >= 3);
}
