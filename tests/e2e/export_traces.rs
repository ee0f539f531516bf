//! Spans of exports.

use std::collections::HashMap;
use std::fmt::{Debug, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;

use ashlar_exporters::{Compression, Exporter, Local, Oci, Push, cache_blobs, export_all};
use ashlar_llb::{self as llb, mkfile};
use ashlar_solver::cache::CacheMode;
use ashlar_solver::cancel::Cancel;
use ashlar_solver::solver::{Solved, Solver};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use tracing_core::span::Current;

use super::registries::{Registry, TOOLS};
use super::support::{self, skipped, solve, temp, then};

/// Keeps the spans of the exporters, each with the names of those that it is in, and counts those
/// that are not over.
#[derive(Debug, Clone, Default)]
struct Spans(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    /// `export/push/blob`, and the fields.
    seen: Vec<(String, String)>,
    known: Vec<&'static Metadata<'static>>,
    entered: HashMap<ThreadId, Vec<u64>>,
    open: HashMap<u64, usize>,
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, "{}={value:?} ", field.name()).unwrap();
    }
}

impl Subscriber for Spans {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("ashlar_exporters")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut fields = Text(String::new());
        span.record(&mut fields);
        let mut kept = self.0.lock().unwrap();
        let thread = std::thread::current().id();
        let parent = kept
            .entered
            .get(&thread)
            .and_then(|ids| ids.last().copied());
        let parent = parent.map(|id| kept.seen[usize::try_from(id).unwrap() - 1].0.clone());
        let name = span.metadata().name();
        let path = parent.map_or_else(|| name.to_owned(), |parent| format!("{parent}/{name}"));
        kept.seen.push((path, fields.0));
        kept.known.push(span.metadata());
        let id = kept.seen.len() as u64;
        kept.open.insert(id, 1);
        Id::from_u64(id)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, span: &Id) {
        let thread = std::thread::current().id();
        let mut kept = self.0.lock().unwrap();
        kept.entered
            .entry(thread)
            .or_default()
            .push(span.into_u64());
    }

    fn exit(&self, span: &Id) {
        let mut kept = self.0.lock().unwrap();
        let entered = kept.entered.get_mut(&std::thread::current().id());
        assert_eq!(entered.and_then(Vec::pop), Some(span.into_u64()));
    }

    fn current_span(&self) -> Current {
        let kept = self.0.lock().unwrap();
        let entered = kept.entered.get(&std::thread::current().id());
        match entered.and_then(|ids| ids.last()) {
            Some(&id) => Current::new(
                Id::from_u64(id),
                kept.known[usize::try_from(id).unwrap() - 1],
            ),
            None => Current::none(),
        }
    }

    fn clone_span(&self, span: &Id) -> Id {
        *self
            .0
            .lock()
            .unwrap()
            .open
            .entry(span.into_u64())
            .or_default() += 1;
        span.clone()
    }

    fn try_close(&self, span: Id) -> bool {
        let mut kept = self.0.lock().unwrap();
        let left = kept.open.get_mut(&span.into_u64()).unwrap();
        *left -= 1;
        let closed = *left == 0;
        if closed {
            kept.open.remove(&span.into_u64());
        }
        closed
    }
}

impl Spans {
    /// How many spans are at `path` and have `text` in their fields.
    fn count(&self, path: &str, text: &str) -> usize {
        let kept = self.0.lock().unwrap();
        let all = kept.seen.iter();
        all.filter(|(at, fields)| at == path && fields.contains(text))
            .count()
    }
}

/// Exports what has been solved, on one thread, so that the listener hears all of it.
fn listened(export: impl AsyncFnOnce(&Solver, &Solved, &Path)) -> Spans {
    let folder = temp();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let state = llb::scratch()
        .file(mkfile("/a", "a").created(then()))
        .file(mkfile("/b", "b").created(then()));
    let solver = {
        let _within = runtime.enter();
        support::solver(folder.path().join("state"))
    };
    let solved = runtime.block_on(solve(&solver, support::request(&state)));
    let spans = Spans::default();
    tracing::subscriber::with_default(spans.clone(), || {
        runtime.block_on(export(&solver, &solved, folder.path()));
    });
    let kept = spans.0.lock().unwrap();
    assert!(kept.open.is_empty(), "not over: {:?}", kept);
    drop(kept);
    spans
}

#[test]
fn each_export_has_a_span_with_those_of_its_layers_and_blobs() {
    let spans = listened(async |_, solved, folder| {
        let archive = Oci::archive(folder.join("app.tar")).name("app:v1");
        let files = Local::new(folder.join("out"));
        let both: [&dyn Exporter; 2] = [&archive, &files];
        export_all(&both, &solved.result, &Cancel::new())
            .await
            .unwrap();
    });
    assert_eq!(spans.count("export", "kind=\"oci\""), 1, "{spans:?}");
    assert_eq!(spans.count("export", "kind=\"local\""), 1, "{spans:?}");
    assert_eq!(
        spans.count("export/layer", "compression=gzip"),
        2,
        "{spans:?}"
    );
    // Two layers, a config and a manifest.
    assert_eq!(spans.count("export/blob", "digest=sha256:"), 4, "{spans:?}");
    let spans = listened(async |_, solved, _| {
        let cache = solved.export_cache(CacheMode::Max).await.unwrap();
        let cancel = Cancel::new();
        cache_blobs(&cache, Compression::default(), &cancel)
            .await
            .unwrap();
    });
    assert_eq!(spans.count("export cache/layer", ""), 2, "{spans:?}");
}

#[test]
fn a_push_has_a_span_for_all_that_it_sends() {
    if skipped("a_push_has_a_span_for_all_that_it_sends", &TOOLS) {
        return;
    }
    let spans = listened(async |solver, solved, folder| {
        let registry = Registry::start(folder, &folder.join("store"), "");
        let push = Push::new(solver.registry()).name(format!("{}/app:v1", registry.host()));
        push.export(&solved.result, &Cancel::new()).await.unwrap();
    });
    assert_eq!(spans.count("export", "kind=\"push\""), 1, "{spans:?}");
    assert_eq!(spans.count("export/push", "/app"), 1, "{spans:?}");
    assert_eq!(spans.count("export/push/blob", ""), 3, "{spans:?}");
    assert_eq!(
        spans.count("export/push/manifest", "tag=\"v1\""),
        1,
        "{spans:?}"
    );
}
