//! Attributes that several outputs share.

use ashlar_solver::result::{BASE_CONFIG_KEY, IMAGE_CONFIG_KEY, INLINE_CACHE_KEY};

use super::OutputError;
use super::fields::{Fields, of_all};
use crate::{Compatibility, Compression, Epoch, FileOptions, ImageOptions, MediaTypes};

/// Keys that go into the metadata of the result as they are, for all of it or for one platform.
const METADATA: [&str; 3] = [IMAGE_CONFIG_KEY, BASE_CONFIG_KEY, INLINE_CACHE_KEY];

/// What can be asked of every image.
pub(super) fn image_options(fields: &mut Fields) -> Result<ImageOptions, OutputError> {
    let mut options = ImageOptions::default();
    if let Some(names) = fields.take("name").filter(|names| !names.is_empty()) {
        options.names = vec![names];
    }
    options.compression = compression(fields)?;
    options.force_compression = fields.flag("force-compression")?.unwrap_or(false);
    options.media_types = fields.switch("oci-mediatypes")?.map(|is_oci| match is_oci {
        true => MediaTypes::Oci,
        false => MediaTypes::Docker,
    });
    options.artifact = fields.switch("oci-artifact")?;
    options.inline_attestations = fields.switch("attestation-inline")?;
    options.prefer_nondistributable = fields.switch("prefer-nondist-layers")?.unwrap_or(false);
    options.epoch = epoch(fields)?;
    options.rewrite_timestamp = fields.switch("rewrite-timestamp")?.unwrap_or(false);
    if let Some(number) = fields.number("compatibility-version")? {
        let known = u32::try_from(number).ok();
        let known = known.and_then(Compatibility::from_number);
        options.compatibility = known.ok_or_else(|| {
            let numbers = Compatibility::ALL.map(|level| level.number().to_string());
            let expected = format!("one of {}", numbers.join(", "));
            OutputError::value("compatibility-version", number.to_string(), expected)
        })?;
    }
    for (key, value) in fields.take_all(|key| key.starts_with("annotation")) {
        let parsed = options.annotations.parse(&key, &value);
        if !matches!(parsed, Ok(true)) {
            let expected = "annotation[-KIND][[PLATFORM]].KEY, KIND being manifest, \
                            manifest-descriptor, index or index-descriptor";
            return Err(OutputError::value(key, value, expected));
        }
    }
    let is_metadata = |key: &str| METADATA.contains(&of_all(key));
    for (key, value) in fields.take_all(is_metadata) {
        options.metadata.insert(key, value.into_bytes());
    }
    if options.media_types == Some(MediaTypes::Docker) {
        let beyond = match options.compression {
            Compression::Estargz { .. } => Some("compression=estargz"),
            _ => (options.artifact == Some(true)).then_some("oci-artifact=true"),
        };
        if let Some(one) = beyond {
            return Err(OutputError::Conflict {
                one: one.to_owned(),
                other: "oci-mediatypes=false".to_owned(),
            });
        }
    }
    Ok(options)
}

fn compression(fields: &mut Fields) -> Result<Compression, OutputError> {
    let mut compression = Compression::default();
    if let Some(value) = fields.take("compression") {
        compression = Compression::named(&value).ok_or_else(|| {
            let names = Compression::ALL.map(Compression::name);
            OutputError::value("compression", value, format!("one of {}", names.join(", ")))
        })?;
    }
    if let Some(level) = fields.number("compression-level")? {
        let fitting = u8::try_from(level).ok();
        let fitting = fitting.and_then(|level| compression.with_level(level));
        compression = fitting.ok_or_else(|| {
            let expected = match compression {
                Compression::Zstd { .. } => "0 to 22",
                _ => "0 to 9",
            };
            OutputError::value("compression-level", level.to_string(), expected)
        })?;
    }
    Ok(compression)
}

/// What can be asked of all outputs of files.
pub(super) fn file_options(fields: &mut Fields) -> Result<FileOptions, OutputError> {
    Ok(FileOptions {
        epoch: epoch(fields)?,
        attestation_prefix: fields.take("attestation-prefix").unwrap_or_default(),
        platform_split: fields.switch("platform-split")?,
    })
}

/// Nothing means that there is none, whatever the result says.
fn epoch(fields: &mut Fields) -> Result<Epoch, OutputError> {
    let key = "source-date-epoch";
    let Some(value) = fields.take(key) else {
        return Ok(Epoch::OfResult);
    };
    if value.is_empty() {
        return Ok(Epoch::None);
    }
    match value.parse() {
        Ok(seconds) => Ok(Epoch::At(seconds)),
        Err(_) => Err(OutputError::value(key, value, "seconds since 1970")),
    }
}
