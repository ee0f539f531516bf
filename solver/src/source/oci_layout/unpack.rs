//! From a layer of a layout to a layer directory.

use std::os::fd::BorrowedFd;

use super::{Layout, OciLayoutError};
use crate::cancel::Cancel;
use crate::limits::Limits;
use crate::source::image::{self, ImageLayer};
use crate::tree::apply::{ApplyOptions, RawLayer};

impl Layout {
    /// Unpacks a layer into `fs`, an empty directory; see [`image::unpack`].
    ///
    /// # Errors
    /// [`OciLayoutError`]; what is in `fs` is of no use then.
    ///
    /// # Cancellation
    /// As [`image::unpack`].
    pub fn unpack(
        &self,
        layer: &ImageLayer,
        fs: BorrowedFd<'_>,
        options: ApplyOptions,
        limits: &Limits,
        cancel: &Cancel,
    ) -> Result<RawLayer, OciLayoutError> {
        let blob = self.blob(&layer.descriptor)?;
        Ok(image::unpack(layer, blob, fs, options, limits, cancel)?)
    }
}
