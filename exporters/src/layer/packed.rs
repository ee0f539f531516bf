//! Layers that are packed where their bytes are needed.

use std::io;

use ashlar_solver::cancel::Cancel;
use ashlar_solver::error::Failure;
use ashlar_solver::snapshot::Layer;
use ashlar_solver::tree::pack::{PackError, PackOptions, pack};
use ashlar_solver::tree::{Room, Timestamp};

use crate::ExportError;

/// A layer as a plain tar. The same bytes each time.
#[derive(Debug, Clone)]
pub(crate) struct Packed {
    pub(super) layer: Layer,
    /// No time in it is later than this.
    pub(super) latest: Option<Timestamp>,
}

impl Packed {
    /// Writes the tar, and tells its size. `failed`: the error of a stream that takes no more.
    pub(crate) fn write(
        &self,
        stream: &mut dyn Room,
        failed: impl FnOnce(io::Error) -> ExportError,
        cancel: &Cancel,
    ) -> Result<u64, ExportError> {
        let content = self.layer.content().map_err(Failure::from)?;
        let mut options = PackOptions::default();
        options.latest = self.latest;
        match pack(&content.0, &*self.layer.files(), stream, &options, cancel) {
            Ok(packed) => Ok(packed.size),
            Err(PackError::Cancelled(_)) => Err(ExportError::Cancelled),
            Err(PackError::Write { source }) => Err(failed(source)),
            Err(error) => Err(Failure::from(error).into()),
        }
    }
}
