//! `--output` strings.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::{Compression, Exporter, Local, Oci};

/// An output as `buildctl build --output` takes it: `type=oci,dest=image.tar,name=app:v1`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Output {
    /// `type=oci`. Keys: `dest`, `tar` (default true), `name` (several with `,` in quotes),
    /// `compression` ([`Compression::named`]), `compression-level`, `force-compression`,
    /// `source-date-epoch`.
    Oci(Oci),
    /// `type=local`. Keys: `dest`.
    Local(Local),
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
    /// A key is missing.
    #[error("output needs `{key}`")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// There is no such output.
    #[error("unknown output type `{kind}`; there are: oci, local")]
    Type {
        /// The type that was asked for.
        kind: String,
    },
    /// The output has no such key.
    #[error("output type `{kind}` has no key `{key}`; it has: {valid}")]
    Key {
        /// The output.
        kind: &'static str,
        /// The key.
        key: String,
        /// All its keys.
        valid: String,
    },
    /// A value does not fit its key.
    #[error("invalid value `{value}` for `{key}`: expected {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
        /// What would fit.
        expected: &'static str,
    },
}

const OCI_KEYS: [&str; 7] = [
    "dest",
    "tar",
    "name",
    "compression",
    "compression-level",
    "force-compression",
    "source-date-epoch",
];
const LOCAL_KEYS: [&str; 1] = ["dest"];

impl Output {
    /// Reads an output string. Fields are separated by `,`; a field in double quotes may contain
    /// commas.
    ///
    /// # Errors
    /// [`OutputError`]; for a misspelt key it lists the valid ones.
    pub fn parse(text: &str) -> Result<Self, OutputError> {
        let mut fields = BTreeMap::new();
        for field in split(text) {
            let (key, value) = field.split_once('=').ok_or_else(|| OutputError::Field {
                field: field.clone(),
            })?;
            fields.insert(key.trim().to_lowercase(), value.to_owned());
        }
        let kind = fields
            .remove("type")
            .ok_or(OutputError::Missing { key: "type" })?;
        match kind.as_str() {
            "oci" => oci(Fields {
                kind: "oci",
                fields,
                valid: &OCI_KEYS,
            }
            .checked()?),
            "local" => {
                let mut fields = Fields {
                    kind: "local",
                    fields,
                    valid: &LOCAL_KEYS,
                }
                .checked()?;
                Ok(Self::Local(Local::new(fields.destination()?)))
            }
            _ => Err(OutputError::Type { kind }),
        }
    }

    /// The exporter that it describes.
    pub fn exporter(&self) -> &dyn Exporter {
        match self {
            Self::Oci(oci) => oci,
            Self::Local(local) => local,
        }
    }
}

/// The fields of an output that are not used up yet.
struct Fields {
    kind: &'static str,
    fields: BTreeMap<String, String>,
    valid: &'static [&'static str],
}

impl Fields {
    fn checked(self) -> Result<Self, OutputError> {
        match self
            .fields
            .keys()
            .find(|key| !self.valid.contains(&key.as_str()))
        {
            Some(key) => Err(OutputError::Key {
                kind: self.kind,
                key: key.clone(),
                valid: self.valid.join(", "),
            }),
            None => Ok(self),
        }
    }

    fn destination(&mut self) -> Result<PathBuf, OutputError> {
        self.fields
            .remove("dest")
            .map(PathBuf::from)
            .ok_or(OutputError::Missing { key: "dest" })
    }

    fn number(&mut self, key: &'static str) -> Result<Option<i64>, OutputError> {
        let Some(value) = self.fields.remove(key).filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        let expected = "a whole number";
        value.parse().map(Some).map_err(|_| OutputError::Value {
            key,
            value,
            expected,
        })
    }

    /// Reads what Go's `strconv.ParseBool` reads.
    fn switch(&mut self, key: &'static str, default: bool) -> Result<bool, OutputError> {
        let Some(value) = self.fields.remove(key) else {
            return Ok(default);
        };
        match value.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            _ => Err(OutputError::Value {
                key,
                value,
                expected: "true or false",
            }),
        }
    }
}

fn oci(mut fields: Fields) -> Result<Output, OutputError> {
    let destination = fields.destination()?;
    let mut oci = if fields.switch("tar", true)? {
        Oci::archive(destination)
    } else {
        Oci::directory(destination)
    };
    for name in fields
        .fields
        .remove("name")
        .iter()
        .flat_map(|names| names.split(','))
    {
        oci = oci.name(name.trim());
    }
    if let Some(seconds) = fields.number("source-date-epoch")? {
        oci = oci.source_date_epoch(seconds);
    }
    let name = fields.fields.remove("compression");
    let mut compression = Compression::default();
    if let Some(value) = name {
        compression = Compression::named(&value).ok_or(OutputError::Value {
            key: "compression",
            value,
            expected: "uncompressed, gzip, estargz, zstd or gzip-stream",
        })?;
    }
    if let Some(level) = fields.number("compression-level")? {
        let fitting = u8::try_from(level)
            .ok()
            .and_then(|level| compression.with_level(level));
        compression = fitting.ok_or(OutputError::Value {
            key: "compression-level",
            value: level.to_string(),
            expected: match compression {
                Compression::Zstd { .. } => "0 to 22",
                _ => "0 to 9",
            },
        })?;
    }
    let force = fields.switch("force-compression", false)?;
    let oci = oci.compression(compression).force_compression(force);
    Ok(Output::Oci(oci))
}

fn split(text: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for letter in text.chars() {
        match letter {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            _ => fields
                .last_mut()
                .expect("BUG: there is always a field")
                .push(letter),
        }
    }
    fields.retain(|field| !field.is_empty());
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_buildctl_takes() {
        for good in [
            "type=oci,dest=x.tar",
            "type=oci,dest=x,tar=false,compression=uncompressed",
            "type=oci,dest=x,\"name=a:1,b:2\",compression=gzip,compression-level=9",
            "type=oci,dest=x,compression=zstd,compression-level=22,force-compression=true",
            "type=local,dest=out",
        ] {
            assert!(Output::parse(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn errors_say_what_would_be_right() {
        for (bad, part) in [
            ("type=oci,dest=x,tarr=false", "it has: dest, tar, name"),
            ("type=oci", "needs `dest`"),
            ("dest=x", "needs `type`"),
            ("type=image,name=x", "there are: oci, local"),
            ("type=oci,dest=x,tar=maybe", "true or false"),
            ("type=oci,dest=x,compression=lzma", "estargz, zstd or"),
            ("type=oci,dest=x,compression-level=10", "0 to 9"),
            (
                "type=oci,dest=x,compression=zstd,compression-level=23",
                "0 to 22",
            ),
            ("type", "key=value"),
        ] {
            let error = Output::parse(bad).unwrap_err().to_string();
            assert!(error.contains(part), "{bad}: {error}");
        }
    }
}
