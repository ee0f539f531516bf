//! Forms in which values are stored, behind the feature `serde`.
//!
//! Owns all of them. Invariant: what is read was checked as if it had been parsed. Texts are
//! those of `Display`; objects have the names of the OCI image specification.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, Serializer};

use crate::reference::Reference;
use crate::{BlobDigest, ChainId, Checksum, Definition, DiffId, ImageConfig, OpDigest, Platform};

macro_rules! text_form {
    ($($type:ident)*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(D::Error::custom)
            }
        }
    )*};
}

text_form!(OpDigest BlobDigest DiffId ChainId Checksum Reference);

/// A platform as the OCI image specification writes it.
#[derive(serde::Serialize, serde::Deserialize)]
struct PlatformForm<'a> {
    architecture: Cow<'a, str>,
    os: Cow<'a, str>,
    #[serde(rename = "os.version", default, skip_serializing_if = "str::is_empty")]
    os_version: Cow<'a, str>,
    #[serde(
        rename = "os.features",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    os_features: Option<Cow<'a, [String]>>,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    variant: Cow<'a, str>,
}

impl<'a> From<&'a Platform> for PlatformForm<'a> {
    fn from(platform: &'a Platform) -> Self {
        let features = &platform.os_features;
        Self {
            architecture: (&platform.architecture).into(),
            os: (&platform.os).into(),
            os_version: (&platform.os_version).into(),
            os_features: (!features.is_empty()).then(|| features.into()),
            variant: (&platform.variant).into(),
        }
    }
}

impl From<PlatformForm<'_>> for Platform {
    fn from(form: PlatformForm<'_>) -> Self {
        Self {
            os: form.os.into_owned(),
            architecture: form.architecture.into_owned(),
            variant: form.variant.into_owned(),
            os_version: form.os_version.into_owned(),
            os_features: form.os_features.unwrap_or_default().into_owned(),
        }
    }
}

impl Serialize for Platform {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        PlatformForm::from(self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Platform {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        PlatformForm::deserialize(deserializer).map(Self::from)
    }
}

/// The parts of an image configuration that a state takes over.
#[derive(Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
struct ImageForm {
    #[serde(skip_serializing_if = "String::is_empty")]
    architecture: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    os: String,
    #[serde(rename = "os.version", skip_serializing_if = "String::is_empty")]
    os_version: String,
    #[serde(rename = "os.features", skip_serializing_if = "Option::is_none")]
    os_features: Option<Vec<String>>,
    #[serde(skip_serializing_if = "String::is_empty")]
    variant: String,
    config: Option<ProcessForm>,
}

#[derive(Default, serde::Serialize, serde::Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct ProcessForm {
    env: Option<Vec<String>>,
    working_dir: String,
}

/// The rest of the configuration is not kept.
impl Serialize for ImageConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let process = ProcessForm {
            env: Some(self.env.clone()),
            working_dir: self.working_dir.clone(),
        };
        let mut form = ImageForm {
            config: Some(process),
            ..ImageForm::default()
        };
        if let Some(platform) = self.platform.clone() {
            form.architecture = platform.architecture;
            form.os = platform.os;
            form.os_version = platform.os_version;
            form.variant = platform.variant;
            let features = platform.os_features;
            form.os_features = (!features.is_empty()).then_some(features);
        }
        form.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ImageConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let form = ImageForm::deserialize(deserializer)?;
        let process = form.config.unwrap_or_default();
        let named = !form.os.is_empty() && !form.architecture.is_empty();
        let platform = named.then(|| Platform {
            os: form.os,
            architecture: form.architecture,
            variant: form.variant,
            os_version: form.os_version,
            os_features: form.os_features.unwrap_or_default(),
        });
        Ok(Self {
            env: process.env.unwrap_or_default(),
            working_dir: process.working_dir,
            platform,
        })
    }
}

impl Serialize for Definition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = self.encode();
        if serializer.is_human_readable() {
            serializer.serialize_str(&STANDARD.encode(bytes))
        } else {
            serializer.serialize_bytes(&bytes)
        }
    }
}

impl<'de> Deserialize<'de> for Definition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = if deserializer.is_human_readable() {
            let text = Cow::<str>::deserialize(deserializer)?;
            STANDARD.decode(text.as_bytes()).map_err(D::Error::custom)?
        } else {
            deserializer.deserialize_byte_buf(BytesVisitor)?
        };
        Self::decode(bytes).map_err(D::Error::custom)
    }
}

struct BytesVisitor;

impl<'de> serde::de::Visitor<'de> for BytesVisitor {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the bytes of a definition")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }

    fn visit_byte_buf<E: serde::de::Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
        Ok(bytes)
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut bytes: A) -> Result<Vec<u8>, A::Error> {
        let mut read = Vec::new();
        while let Some(byte) = bytes.next_element()? {
            read.push(byte);
        }
        Ok(read)
    }
}
