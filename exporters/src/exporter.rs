//! The trait of all exporters.

use std::collections::BTreeMap;
use std::fmt;

use ashlar_llb::{BlobDigest, Reference};
use ashlar_solver::cancel::{Cancel, Cancelled};
use ashlar_solver::result::BuildResult;
use async_trait::async_trait;
use futures::future::{BoxFuture, join_all};
use tokio::runtime::Handle;
use tracing::{Instrument as _, Span};

use crate::ExportError;
use crate::spans::{self, Scope};

/// Writes a build result somewhere.
///
/// An export has two stages. [`Exporter::prepare`] makes everything, and nobody sees anything of
/// it; [`Prepared::finalize`] puts it in its place: a rename, a name in the store, a push.
/// [`Exporter::export`] does both; [`export_all`] first prepares all of several outputs, so that a
/// failure of one leaves the others as they were.
///
/// The exporters of this crate work on threads of a tokio runtime: they are to be awaited in one.
#[async_trait]
pub trait Exporter: Send + Sync + fmt::Debug {
    /// Makes the output of `result` without putting it in its place. May be called again, also at
    /// the same time for other results.
    ///
    /// # Errors
    /// [`ExportError`]. What stood at the destination before is untouched then.
    ///
    /// # Cancellation
    /// Raising `cancel` ends it soon with [`ExportError::Cancelled`]. Dropping the future lets the
    /// part that is under way end by itself, and nothing of it stays.
    async fn prepare(&self, result: &BuildResult, cancel: &Cancel)
    -> Result<Prepared, ExportError>;

    /// Exports `result`: [`Exporter::prepare`] and [`Prepared::finalize`].
    ///
    /// # Errors
    /// [`ExportError`]. What stood at the destination before is there still, unless the exporter
    /// says otherwise.
    ///
    /// # Cancellation
    /// As [`Exporter::prepare`]; once the output is complete it is put in its place all the same.
    async fn export(&self, result: &BuildResult, cancel: &Cancel) -> Result<Exported, ExportError> {
        self.prepare(result, cancel).await?.finalize(cancel).await
    }
}

/// Exports a result to several places at once. They share the work on layers. None of them is put
/// in its place before all are complete.
///
/// # Errors
/// Of the first that failed; the others are ended then. If it failed before all were complete,
/// every destination is as it was, but that layouts that were there may have more blobs.
///
/// # Cancellation
/// As [`Exporter::export`].
///
/// ```no_run
/// # async fn example(result: ashlar_solver::result::BuildResult)
/// # -> Result<(), ashlar_exporters::ExportError> {
/// use ashlar_exporters::{Local, Oci, export_all};
/// use ashlar_solver::cancel::Cancel;
///
/// let (archive, files) = (Oci::archive("app.tar").name("app:v1"), Local::new("out"));
/// let exported = export_all(&[&archive, &files], &result, &Cancel::new()).await?;
/// assert_eq!(exported.len(), 2);
/// # Ok(())
/// # }
/// ```
pub async fn export_all(
    exporters: &[&dyn Exporter],
    result: &BuildResult,
    cancel: &Cancel,
) -> Result<Vec<Exported>, ExportError> {
    let others = &cancel.child();
    // All are waited for, so that none goes on behind the back of the caller.
    let prepared = exporters.iter().map(|each| each.prepare(result, others));
    let prepared = prepared.map(|each| ending(others, each));
    let prepared = all_or_first_error(join_all(prepared).await)?;
    let finalized = prepared.into_iter().map(|each| each.finalize(others));
    let finalized = finalized.map(|each| ending(others, each));
    all_or_first_error(join_all(finalized).await)
}

/// The outcome of `one`; a failure of it ends the others.
async fn ending<T>(
    others: &Cancel,
    one: impl Future<Output = Result<T, ExportError>>,
) -> Result<T, ExportError> {
    let outcome = one.await;
    if outcome.is_err() {
        others.cancel();
    }
    outcome
}

/// The values, or the first error that is not just the end of what another error ended.
fn all_or_first_error<T>(all: Vec<Result<T, ExportError>>) -> Result<Vec<T>, ExportError> {
    let (mut values, mut first) = (Vec::new(), None);
    for one in all {
        match (one, &first) {
            (Ok(value), _) => values.push(value),
            (Err(error), None | Some(ExportError::Cancelled)) => first = Some(error),
            (Err(_), Some(_)) => {}
        }
    }
    first.map_or(Ok(values), Err)
}

/// An output that is complete and not in its place yet. Dropping it removes it.
#[must_use = "it is not in its place yet"]
pub struct Prepared {
    exported: Exported,
    finalize: Option<Finalize>,
    /// That of the export.
    span: Span,
}

/// What puts an output in its place.
type Finalize =
    Box<dyn FnOnce(Cancel) -> BoxFuture<'static, Result<(), ExportError>> + Send + Sync>;

impl fmt::Debug for Prepared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Prepared")
            .field("exported", &self.exported)
            .finish_non_exhaustive()
    }
}

impl Prepared {
    /// An output that is in its place by itself: nothing is left to be done.
    pub fn done(exported: Exported) -> Self {
        Self {
            exported,
            finalize: None,
            span: Span::none(),
        }
    }

    /// The same, put in its place in this span.
    pub(crate) fn within(self, span: Span) -> Self {
        Self { span, ..self }
    }

    /// An output that `finalize` puts in its place.
    pub fn new<F, R>(exported: Exported, finalize: F) -> Self
    where
        F: FnOnce(Cancel) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), ExportError>> + Send + 'static,
    {
        Self {
            exported,
            finalize: Some(Box::new(move |cancel| Box::pin(finalize(cancel)))),
            span: Span::none(),
        }
    }

    /// What the export gives once it is finalized.
    pub fn exported(&self) -> &Exported {
        &self.exported
    }

    /// Puts the output in its place.
    ///
    /// # Errors
    /// [`ExportError`].
    ///
    /// # Cancellation
    /// What takes long (a push, a pipe that has to be read, a directory that somebody else holds)
    /// minds `cancel`; a rename does not.
    pub async fn finalize(self, cancel: &Cancel) -> Result<Exported, ExportError> {
        if let Some(finalize) = self.finalize {
            let finalize = async { finalize(cancel.clone()).await };
            finalize.instrument(self.span).await?;
        }
        Ok(self.exported)
    }
}

/// What an export made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exported {
    /// The digest of the image's manifest or index; `None` for outputs that are no image.
    pub digest: Option<BlobDigest>,
    /// Where the image was pushed to: its names with its digest, so that they lead to it for ever.
    pub references: Vec<Reference>,
    /// What BuildKit returns to its client, by its keys: `containerimage.digest`,
    /// `containerimage.config.digest`, `containerimage.descriptor` (base64 of JSON), `image.name`.
    pub response: BTreeMap<String, String>,
}

/// There is no tokio runtime where work is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoRuntime;

/// Runs `work` on a thread of the runtime that may block.
pub(crate) async fn blocking<T, E>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<Cancelled> + From<NoRuntime> + Send + 'static,
{
    let runtime = Handle::try_current().map_err(|_| NoRuntime)?;
    let scope = Scope::current();
    match runtime.spawn_blocking(move || scope.within(work)).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Cancelled.into()),
        },
    }
}

/// Prepares the output of an exporter of this kind by `run`, on a thread that may block.
pub(crate) async fn prepare<E: Clone + Send + 'static>(
    kind: &'static str,
    exporter: &E,
    result: &BuildResult,
    cancel: &Cancel,
    run: fn(&E, &BuildResult, &Cancel) -> Result<Prepared, ExportError>,
) -> Result<Prepared, ExportError> {
    let (exporter, result, cancel) = (exporter.clone(), result.clone(), cancel.clone());
    let prepared = blocking(move || run(&exporter, &result, &cancel));
    spans::export(kind, prepared).await
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;

    use super::*;
    use crate::sbom::ScanError;

    #[test]
    fn nothing_panics_without_a_runtime() {
        let exported = block_on(blocking(|| Ok::<_, ExportError>(())));
        assert!(matches!(exported, Err(ExportError::NoRuntime)));
        let scanned = block_on(blocking(|| Ok::<_, ScanError>(())));
        assert!(matches!(scanned, Err(ScanError::NoRuntime)));
    }
}
