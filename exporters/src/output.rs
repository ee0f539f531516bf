//! `--output` strings and attributes: texts become exporters here, and nowhere else.

mod attributes;
mod fields;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use ashlar_solver::error::{Blame, Fault};

use crate::{CacheOnly, Docker, Epoch, Exporter, Image, Local, LocalMode, Oci, Tar};
use attributes::{file_options, image_options};
use fields::Fields;
pub(crate) use fields::split;

/// An output as `buildctl build --output` takes it: `type=oci,dest=image.tar,name=app:v1`.
///
/// Fields are separated by `,`; a field in double quotes may contain commas. A path alone is
/// `type=local,dest=PATH`, and `-` is `type=tar,dest=-`, as in buildx; `dest=-` is standard output.
///
/// ```
/// use ashlar_exporters::Output;
///
/// let output = Output::parse("type=oci,dest=app.tar,\"name=app:v1,app:latest\",compression=zstd")?;
/// assert!(matches!(output, Output::Oci(_)));
/// let error = Output::parse("type=oci,dest=app.tar,compresion=zstd").unwrap_err();
/// assert!(error.to_string().contains("did you mean `compression`"));
/// # Ok::<(), ashlar_exporters::OutputError>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Output {
    /// `type=image`: into the store of the solver, and with `push` into registries;
    /// `type=registry`: into registries alone. What pushes needs [`Output::with_registry`].
    Image(Box<Image>),
    /// `type=oci`.
    Oci(Oci),
    /// `type=docker`.
    Docker(Docker),
    /// `type=local`.
    Local(Local),
    /// `type=tar`.
    Tar(Tar),
    /// `type=cacheonly`.
    CacheOnly(CacheOnly),
}

/// An output string cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// A field is not `key=value`.
    #[error("invalid output field `{field}`: expected key=value")]
    Field {
        /// The field.
        field: String,
    },
    /// A quote is where none may be, or is not closed.
    #[error("invalid quotes in `{text}`: a field with commas is quoted as a whole, \"key=a,b\"")]
    Quotes {
        /// The string.
        text: String,
    },
    /// A key is missing.
    #[error("output needs `{key}`")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// There is no such output.
    #[error("unknown output type `{kind}`; there are: {known}")]
    Type {
        /// The type that was asked for.
        kind: String,
        /// Those that there are.
        known: String,
    },
    /// The output has no such key.
    #[error("output type `{kind}` has no key `{key}`{hint}; it has: {valid}")]
    Key {
        /// The output.
        kind: &'static str,
        /// The key.
        key: String,
        /// Which one was perhaps meant, as a part of a sentence; or nothing.
        hint: String,
        /// All its keys.
        valid: String,
    },
    /// A value does not fit its key.
    #[error("invalid value `{value}` for `{key}`: expected {expected}")]
    Value {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// What would fit.
        expected: String,
    },
    /// Two values do not go together.
    #[error("`{one}` conflicts with `{other}`")]
    Conflict {
        /// One of them.
        one: String,
        /// The other.
        other: String,
    },
}

impl Blame for OutputError {
    fn fault(&self) -> Fault {
        Fault::Input
    }
}

/// What `type` can be.
const TYPES: [&str; 7] = [
    "image",
    "registry",
    "oci",
    "docker",
    "local",
    "tar",
    "cacheonly",
];

/// Keys of outputs that are images.
const IMAGE_KEYS: [&str; 16] = [
    "name",
    "compression",
    "compression-level",
    "force-compression",
    "oci-mediatypes",
    "oci-artifact",
    "attestation-inline",
    "prefer-nondist-layers",
    "source-date-epoch",
    "rewrite-timestamp",
    "compatibility-version",
    "annotation[-KIND][[PLATFORM]].KEY",
    "containerimage.config[/PLATFORM]",
    "containerimage.base.config[/PLATFORM]",
    "containerimage.inlinecache[/PLATFORM]",
    "verify",
];
/// Keys of images in the store and in registries. One is spelt as BuildKit spells it.
const STORE_KEYS: [&str; 9] = [
    "push",
    "push-by-digest",
    "registry.insecure",
    "store",
    "unpack",
    "name-canonical",
    "dangling-name-prefix",
    "danging-name-empty-only",
    "unsafe-internal-store-allow-incomplete",
];
const OCI_KEYS: [&str; 2] = ["dest", "tar"];
/// `engine` is no key of BuildKit.
const DOCKER_KEYS: [&str; 3] = ["dest", "tar", "engine"];
/// Keys of outputs that are files.
const FILE_KEYS: [&str; 5] = [
    "dest",
    "source-date-epoch",
    "attestation-prefix",
    "platform-split",
    "verify",
];
const LOCAL_KEYS: [&str; 1] = ["mode"];

impl Output {
    /// Reads an output string.
    ///
    /// # Errors
    /// [`OutputError`]; for a misspelt key it lists the valid ones.
    pub fn parse(text: &str) -> Result<Self, OutputError> {
        if text == "-" {
            return Ok(Self::Tar(Tar::writer(standard_output)));
        }
        let fields = split(text)?;
        // A path alone.
        if let [path] = &fields[..]
            && path == text
            && !path.is_empty()
            && !path.contains('=')
        {
            return Ok(Self::Local(Local::new(path)));
        }
        let mut attributes = BTreeMap::new();
        for field in fields {
            let (key, value) = field.split_once('=').ok_or_else(|| OutputError::Field {
                field: field.clone(),
            })?;
            let mut key = key.trim().to_owned();
            // The key of an annotation keeps its letters.
            if !key.starts_with("annotation") {
                key = key.to_lowercase();
            }
            attributes.insert(key, value.to_owned());
        }
        let kind = attributes
            .remove("type")
            .ok_or(OutputError::Missing { key: "type" })?;
        Self::from_attributes(&kind, attributes)
    }

    /// The output of a type with BuildKit's attributes; where it goes is the attribute `dest`.
    ///
    /// # Errors
    /// [`OutputError`]; for a misspelt key it lists the valid ones.
    pub fn from_attributes(
        kind: &str,
        attributes: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, OutputError> {
        let attributes = attributes.into_iter().collect();
        let known = TYPES.iter().find(|known| **known == kind);
        let Some(kind) = known else {
            return Err(OutputError::Type {
                kind: kind.to_owned(),
                known: TYPES.join(", "),
            });
        };
        let fields = |valid: &[&[&'static str]]| Fields::new(kind, attributes, valid.concat());
        match *kind {
            "image" => image(Image::new(), false, fields(&[&IMAGE_KEYS, &STORE_KEYS])),
            "registry" => {
                let image = Image::new().store(false);
                self::image(image, true, fields(&[&IMAGE_KEYS, &STORE_KEYS]))
            }
            "oci" => oci(fields(&[&OCI_KEYS, &IMAGE_KEYS])),
            "docker" => docker(fields(&[&DOCKER_KEYS, &IMAGE_KEYS])),
            "local" => local(fields(&[&FILE_KEYS, &LOCAL_KEYS])),
            "tar" => tar(fields(&[&FILE_KEYS])),
            _ => {
                fields(&[]).end()?;
                Ok(Self::CacheOnly(CacheOnly))
            }
        }
    }

    /// The exporter that it describes.
    pub fn exporter(&self) -> &dyn Exporter {
        match self {
            Self::Image(image) => &**image,
            Self::Oci(oci) => oci,
            Self::Docker(docker) => docker,
            Self::Local(local) => local,
            Self::Tar(tar) => tar,
            Self::CacheOnly(none) => none,
        }
    }

    /// Gives the client through which images are pushed, such as that of the solver. Other outputs
    /// stay as they are.
    #[cfg(feature = "registry")]
    #[must_use]
    pub fn with_registry(self, registry: &ashlar_solver::registry::Registry) -> Self {
        match self {
            Self::Image(image) => Self::Image(Box::new(image.registry(registry))),
            other => other,
        }
    }

    /// Sets `SOURCE_DATE_EPOCH` unless the output says what it is: what a build argument of this name
    /// does. One that is empty is [`Epoch::None`], which outweighs what the result says.
    #[must_use]
    pub fn with_default_epoch(mut self, default: Epoch) -> Self {
        let epoch = match &mut self {
            Self::Image(image) => &mut image.options.epoch,
            Self::Oci(oci) => &mut oci.options.epoch,
            Self::Docker(docker) => &mut docker.options.epoch,
            Self::Local(local) => &mut local.options.epoch,
            Self::Tar(tar) => &mut tar.options.epoch,
            Self::CacheOnly(_) => return self,
        };
        if *epoch == Epoch::OfResult {
            *epoch = default;
        }
        self
    }
}

/// What `dest=-` is.
fn standard_output() -> std::io::Result<Box<dyn Write + Send>> {
    Ok(Box::new(std::io::stdout()))
}

/// Where an output of one stream goes.
enum Stream {
    File(PathBuf),
    StandardOutput,
}

/// Where an image goes.
enum Place {
    Archive(PathBuf),
    Directory(PathBuf),
    StandardOutput,
}

impl Fields {
    fn image_place(&mut self) -> Result<Place, OutputError> {
        let is_archive = self.flag("tar")?.unwrap_or(true);
        Ok(match self.stream()? {
            Stream::File(path) if is_archive => Place::Archive(path),
            Stream::File(path) => Place::Directory(path),
            Stream::StandardOutput if is_archive => Place::StandardOutput,
            Stream::StandardOutput => {
                return Err(OutputError::Conflict {
                    one: "dest=-".to_owned(),
                    other: "tar=false".to_owned(),
                });
            }
        })
    }

    fn stream(&mut self) -> Result<Stream, OutputError> {
        Ok(match self.needed("dest")?.as_str() {
            "-" => Stream::StandardOutput,
            path => Stream::File(path.into()),
        })
    }
}

/// An image for the store, for registries, or for both; `is_pushed` unless it is said otherwise.
fn image(mut image: Image, is_pushed: bool, mut fields: Fields) -> Result<Output, OutputError> {
    for (key, set) in [
        ("store", Image::store as fn(Image, bool) -> Image),
        ("unpack", Image::unpack),
        ("danging-name-empty-only", Image::dangling_only_if_unnamed),
        (
            "unsafe-internal-store-allow-incomplete",
            Image::allow_incomplete,
        ),
        ("verify", Image::verify),
    ] {
        if let Some(value) = fields.flag(key)? {
            image = set(image, value);
        }
    }
    // Whether it is asked for or not, the store finds an image by its digest.
    let _canonical = fields.flag("name-canonical")?;
    if let Some(prefix) = fields.take("dangling-name-prefix") {
        image = image.dangling_prefix(prefix);
    }
    let push = fields.flag("push")?.unwrap_or(is_pushed);
    if is_pushed && !push {
        return Err(OutputError::Conflict {
            one: "type=registry".to_owned(),
            other: "push=false".to_owned(),
        });
    }
    let image = pushed(image, push, &mut fields)?;
    let image = image.options(image_options(&mut fields)?);
    fields.end()?;
    Ok(Output::Image(Box::new(image)))
}

/// An image that is pushed, if it is to be.
#[cfg(feature = "registry")]
fn pushed(image: Image, push: bool, fields: &mut Fields) -> Result<Image, OutputError> {
    let by_digest = fields.flag("push-by-digest")?.unwrap_or(false);
    let insecure = fields.flag("registry.insecure")?.unwrap_or(false);
    Ok(image
        .push(push)
        .push_by_digest(by_digest)
        .insecure(insecure))
}

/// Without the feature `registry` nothing can be pushed.
#[cfg(not(feature = "registry"))]
fn pushed(image: Image, push: bool, fields: &mut Fields) -> Result<Image, OutputError> {
    let _by_digest = fields.flag("push-by-digest")?;
    let _insecure = fields.flag("registry.insecure")?;
    match push {
        true => Err(OutputError::value(
            "push",
            "true",
            "no push: there is no client of registries",
        )),
        false => Ok(image),
    }
}

fn oci(mut fields: Fields) -> Result<Output, OutputError> {
    let mut oci = match fields.image_place()? {
        Place::Archive(path) => Oci::archive(path),
        Place::Directory(path) => Oci::directory(path),
        Place::StandardOutput => Oci::writer(standard_output),
    };
    oci = oci.verify(fields.flag("verify")?.unwrap_or(false));
    let oci = oci.options(image_options(&mut fields)?);
    fields.end()?;
    Ok(Output::Oci(oci))
}

fn docker(mut fields: Fields) -> Result<Output, OutputError> {
    let mut docker = match fields.take("engine") {
        Some(socket) => engine(&mut fields, socket)?,
        None => match fields.image_place()? {
            Place::Archive(path) => Docker::archive(path),
            Place::Directory(path) => Docker::directory(path),
            Place::StandardOutput => Docker::writer(standard_output),
        },
    };
    docker = docker.verify(fields.flag("verify")?.unwrap_or(false));
    let docker = docker.options(image_options(&mut fields)?);
    fields.end()?;
    Ok(Output::Docker(docker))
}

/// The engine that listens on a socket.
fn engine(fields: &mut Fields, socket: String) -> Result<Docker, OutputError> {
    let beside = fields.take("dest").or_else(|| fields.take("tar"));
    let expected = match beside {
        Some(_) => "no `dest` or `tar` beside it",
        None if socket.is_empty() => "the socket of an engine",
        #[cfg(feature = "engine")]
        None => return Ok(Docker::engine(socket)),
        #[cfg(not(feature = "engine"))]
        None => "none: there is no client of engines",
    };
    Err(OutputError::value("engine", socket, expected))
}

fn local(mut fields: Fields) -> Result<Output, OutputError> {
    let mut local = Local::new(fields.needed("dest")?);
    let mode = fields.take("mode").unwrap_or_default();
    local = local.mode(match mode.trim().to_lowercase().as_str() {
        "" | "copy" => LocalMode::Copy,
        "delete" => LocalMode::Delete,
        _ => return Err(OutputError::value("mode", mode, "copy or delete")),
    });
    local = local.verify(fields.flag("verify")?.unwrap_or(false));
    let local = local.options(file_options(&mut fields)?);
    fields.end()?;
    Ok(Output::Local(local))
}

fn tar(mut fields: Fields) -> Result<Output, OutputError> {
    let mut tar = match fields.stream()? {
        Stream::File(path) => Tar::file(path),
        Stream::StandardOutput => Tar::writer(standard_output),
    };
    tar = tar.verify(fields.flag("verify")?.unwrap_or(false));
    let tar = tar.options(file_options(&mut fields)?);
    fields.end()?;
    Ok(Output::Tar(tar))
}

#[cfg(test)]
mod tests;
