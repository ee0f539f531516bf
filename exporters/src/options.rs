//! What can be asked of an image, whatever it is written to.
//!
//! Owns [`ImageOptions`] and the small types in it: plain data, with BuildKit's defaults. The texts
//! that `--output` takes are read in `output`.

use std::collections::BTreeMap;

use ashlar_llb::Reference;
use ashlar_solver::result::{BuildResult, EPOCH_KEY, IMAGE_NAME_KEY};
use ashlar_solver::tree::Timestamp;

use crate::{Annotations, Compression, ExportError};

/// Which of BuildKit's bytes an image has where they changed in the course of time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Compatibility {
    /// 10: as version 0.13. Docker media types unless there are attestations; no zstd.
    V10,
    /// 20: as version 0.15. Docker media types unless there are attestations.
    V20,
    /// 30: as version 0.31 and later. OCI media types, attestations as artifacts.
    #[default]
    V30,
}

impl Compatibility {
    /// All of them, the oldest first.
    pub const ALL: [Self; 3] = [Self::V10, Self::V20, Self::V30];

    /// The number that BuildKit gives it.
    pub fn number(self) -> u32 {
        match self {
            Self::V10 => 10,
            Self::V20 => 20,
            Self::V30 => 30,
        }
    }

    /// The one with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.number() == number)
    }
}

/// Whose media types an image has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MediaTypes {
    /// Those of the OCI image specification.
    Oci,
    /// Those of Docker's image manifest, version 2, schema 2. They have neither annotations nor
    /// attestations.
    Docker,
}

/// Where `SOURCE_DATE_EPOCH` comes from: the moment after which nothing in an image is dated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Epoch {
    /// From the metadata of the result (`source.date.epoch`), if it has any.
    #[default]
    OfResult,
    /// There is none, whatever the result says.
    None,
    /// This many seconds since 1970.
    At(i64),
}

impl Epoch {
    /// The moment for the platform with this id.
    pub(crate) fn moment(
        self,
        result: &BuildResult,
        id: &str,
    ) -> Result<Option<Timestamp>, ExportError> {
        let seconds = match self {
            Self::None => return Ok(None),
            Self::At(seconds) => seconds,
            // As in BuildKit, that of the whole result wins.
            Self::OfResult => match result
                .metadata
                .get(EPOCH_KEY)
                .map(Vec::as_slice)
                .filter(|text| !text.is_empty())
                .or_else(|| result.metadata_of(EPOCH_KEY, id))
            {
                None | Some(b"") => return Ok(None),
                Some(text) => {
                    let parsed = std::str::from_utf8(text).ok().and_then(|t| t.parse().ok());
                    parsed.ok_or_else(|| ExportError::Metadata {
                        key: EPOCH_KEY.to_owned(),
                        reason: "not a whole number of seconds".to_owned(),
                    })?
                }
            },
        };
        Ok(Some(Timestamp {
            seconds,
            nanoseconds: 0,
        }))
    }
}

/// What can be asked of an image, whatever it is written to. The exporters of images
/// ([`Oci`](crate::Oci) and its like) have methods for each field.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ImageOptions {
    /// What the image is called (`name`); each is completed as Docker does (`app` is
    /// `docker.io/library/app:latest`). `*` stands for what the frontend calls it. One text may have
    /// several, with commas between them and nothing else. Default: none.
    pub names: Vec<String>,
    /// How layers made by the build are compressed (`compression`, `compression-level`).
    pub compression: Compression,
    /// Whether layers of a base image are converted to that compression too, if they have another
    /// (`force-compression`). Default: false.
    pub force_compression: bool,
    /// Whose media types it has (`oci-mediatypes`). Default: see [`Compatibility`]; of
    /// `oci` always OCI.
    pub media_types: Option<MediaTypes>,
    /// Write attestations as artifacts with a subject instead of as images (`oci-artifact`).
    /// Default: see [`Compatibility`], and only with OCI media types.
    pub artifact: Option<bool>,
    /// Include attestations that are for inline use only (`attestation-inline`). Default: true for
    /// images that are stored or pushed, else false.
    pub inline_attestations: Option<bool>,
    /// Leave layers that their owner offers elsewhere and does not let others distribute marked so,
    /// with where they can be had (`prefer-nondist-layers`). They are not pushed then. Default: false,
    /// they are like any other.
    pub prefer_nondistributable: bool,
    /// The moment after which nothing is dated (`source-date-epoch`).
    pub epoch: Epoch,
    /// Apply the epoch to the files in layers as well, except those of a base image whose config
    /// the frontend told (`rewrite-timestamp`). Default: false.
    pub rewrite_timestamp: bool,
    /// Annotations (`annotation…`). Those in the metadata of the result are added and win.
    pub annotations: Annotations,
    /// Which bytes it has. Default: the newest.
    pub compatibility: Compatibility,
    /// Metadata that replaces that of the result. Default: none.
    pub metadata: BTreeMap<String, Vec<u8>>,
}

impl ImageOptions {
    /// The names one by one, with that of the frontend for `*`.
    pub(crate) fn told_names(&self, result: &BuildResult) -> Vec<String> {
        let told = result.metadata.get(IMAGE_NAME_KEY);
        let told = told.map(|names| String::from_utf8_lossy(names).into_owned());
        let names = self.names.iter().map(|name| match (name.as_str(), &told) {
            ("*", Some(told)) => told,
            _ => name,
        });
        let names = names.filter(|names| !names.is_empty());
        let names = names.flat_map(|names| names.split(','));
        names.map(str::to_owned).collect()
    }
}

/// Names completed as Docker does.
pub(crate) fn references(names: &[String]) -> Result<Vec<Reference>, ExportError> {
    let complete = names.iter().map(|name| {
        let parsed = Reference::parse(name).map_err(|source| ExportError::Name {
            name: name.clone(),
            source,
        })?;
        Ok(parsed.with_default_tag())
    });
    complete.collect()
}

/// The methods of an exporter of images that fill its field `options`.
macro_rules! image_options {
    () => {
        /// Adds a name, for example `example.com/app:v1`; it is completed as Docker does
        /// (`app` is `docker.io/library/app:latest`).
        #[must_use]
        pub fn name(mut self, name: impl Into<String>) -> Self {
            self.options.names.push(name.into());
            self
        }

        /// Sets how layers made by the build are compressed. Default: gzip, level 5.
        #[must_use]
        pub fn compression(mut self, compression: crate::Compression) -> Self {
            self.options.compression = compression;
            self
        }

        /// Sets whether layers of a base image are converted to that compression too, if they have
        /// another. Default: no.
        #[must_use]
        pub fn force_compression(mut self, force: bool) -> Self {
            self.options.force_compression = force;
            self
        }

        /// Sets `SOURCE_DATE_EPOCH`: no creation time in config and history is later than this
        /// many seconds since 1970. Times inside layers are left alone unless
        /// [`ImageOptions::rewrite_timestamp`] is set.
        #[must_use]
        pub fn source_date_epoch(mut self, seconds: i64) -> Self {
            self.options.epoch = crate::Epoch::At(seconds);
            self
        }

        /// Sets everything that can be asked of the image.
        #[must_use]
        pub fn options(mut self, options: ImageOptions) -> Self {
            self.options = options;
            self
        }
    };
}

pub(crate) use image_options;
