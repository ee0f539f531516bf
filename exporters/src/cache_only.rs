//! No output at all.

use ashlar_solver::cancel::Cancel;
use ashlar_solver::result::BuildResult;
use async_trait::async_trait;

use crate::ExportError;
use crate::exporter::{Exported, Exporter, Prepared};
use crate::spans;

/// Exports nothing: the result stays in the cache of the solver, where a later solve finds it.
#[derive(Debug, Clone, Copy, Default)]
pub struct CacheOnly;

#[async_trait]
impl Exporter for CacheOnly {
    async fn prepare(&self, _: &BuildResult, _: &Cancel) -> Result<Prepared, ExportError> {
        spans::export("cacheonly", async {
            Ok(Prepared::done(Exported::default()))
        })
        .await
    }
}
