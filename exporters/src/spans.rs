//! Spans of exports: one per export, and in it one per layer that is made, per blob that is
//! written, and per thing that is pushed.
//!
//! Invariant: nothing is computed for them where nobody listens.

use ashlar_llb::BlobDigest;
use tracing::{Dispatch, Instrument as _, Span, dispatcher};

use crate::ExportError;
use crate::exporter::Prepared;

/// The span that work belongs to, and who listens, for a thread of its own.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    listener: Dispatch,
    span: Span,
}

impl Scope {
    /// That of the caller.
    pub(crate) fn current() -> Self {
        Self {
            listener: dispatcher::get_default(Dispatch::clone),
            span: Span::current(),
        }
    }

    /// Does `work` in it.
    pub(crate) fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        dispatcher::with_default(&self.listener, || self.span.in_scope(work))
    }
}

/// Prepares an output of this kind in a span that stays until it is in its place.
pub(crate) async fn export(
    kind: &'static str,
    prepare: impl Future<Output = Result<Prepared, ExportError>>,
) -> Result<Prepared, ExportError> {
    let span = tracing::info_span!("export", kind);
    let prepared = prepare.instrument(span.clone()).await?;
    Ok(prepared.within(span))
}

/// The span of a blob that is written.
pub(crate) fn blob(digest: &BlobDigest, size: u64) -> Span {
    tracing::debug_span!("blob", %digest, size)
}
