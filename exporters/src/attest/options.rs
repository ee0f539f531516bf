//! Option strings: `attest:provenance=mode=min` and `type=provenance,mode=min`.

use super::{Attest, AttestOptionError};
use crate::output::split;
use crate::provenance::{ProvenanceMode, ProvenanceOptions, SlsaVersion};
use crate::sbom::PackageScanner;

const PROVENANCE_KEYS: [&str; 9] = [
    "mode",
    "version",
    "builder-id",
    "filename",
    "reproducible",
    "inline-only",
    "disabled",
    "complete-materials",
    "capture-usage",
];
const SBOM_KEYS: [&str; 3] = ["files", "generator", "disabled"];

impl Attest {
    /// Adds what an option of `buildctl build --opt` asks for: a key with or without `attest:` in
    /// front, and its value.
    ///
    /// The keys are `provenance`, with the fields of [`ProvenanceOptions`] under the names that
    /// their documentation has, and `sbom`, with `files` (whether the files of packages are listed;
    /// default true). A field `disabled=true` takes the attestation out again. The built-in scanner
    /// is the only one that a string can name; `generator` with an image is an error.
    ///
    /// ```
    /// use ashlar_exporters::attest::Attest;
    ///
    /// # fn main() -> Result<(), ashlar_exporters::attest::AttestOptionError> {
    /// let attest = Attest::new().option("attest:provenance", "mode=min")?;
    /// assert!(!attest.is_empty());
    /// let error = attest.option("attest:provenance", "moed=min").unwrap_err();
    /// assert!(error.to_string().contains("it has: mode, version"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`AttestOptionError`]; for a misspelt key it lists the valid ones.
    pub fn option(self, key: &str, value: &str) -> Result<Self, AttestOptionError> {
        let kind = key.strip_prefix("attest:").unwrap_or(key);
        self.with(kind, &fields(value)?)
    }

    fn with(mut self, kind: &str, fields: &[String]) -> Result<Self, AttestOptionError> {
        let kind = kind.to_lowercase();
        let fields = fields.iter().map(|field| match field.split_once('=') {
            Some((key, value)) => (key.trim(), value.trim()),
            None => (field.trim(), ""),
        });
        match &kind[..] {
            "provenance" => {
                self.provenance = provenance(fields)?;
                Ok(self)
            }
            "sbom" => {
                let scanner = sbom(fields)?;
                self.scanner = None;
                Ok(match scanner {
                    Some(scanner) => self.sbom(scanner),
                    None => self,
                })
            }
            _ => Err(AttestOptionError::Type { kind }),
        }
    }

    /// Adds what `buildx build --attest` takes: `type=provenance,mode=min`, `type=sbom`.
    ///
    /// # Errors
    /// [`AttestOptionError`].
    pub fn parse(self, text: &str) -> Result<Self, AttestOptionError> {
        let mut kind = None;
        let mut rest = Vec::new();
        for field in fields(text)? {
            match field.trim().split_once('=') {
                Some(("type", value)) => kind = Some(value.to_owned()),
                _ => rest.push(field),
            }
        }
        let kind = kind.ok_or_else(|| AttestOptionError::NoType {
            text: text.to_owned(),
        })?;
        self.with(&kind, &rest)
    }
}

fn fields(text: &str) -> Result<Vec<String>, AttestOptionError> {
    split(text).map_err(|_| AttestOptionError::Quotes {
        text: text.to_owned(),
    })
}

fn provenance<'a>(
    fields: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<Option<ProvenanceOptions>, AttestOptionError> {
    let mut options = ProvenanceOptions::new();
    let mut disabled = false;
    for (key, value) in fields {
        let invalid = |expected| AttestOptionError::Value {
            key: key.to_owned(),
            value: value.to_owned(),
            expected,
        };
        match key {
            "mode" => {
                options.mode = match value {
                    "min" => ProvenanceMode::Min,
                    "max" | "full" => ProvenanceMode::Max,
                    _ => return Err(invalid("min or max")),
                }
            }
            "version" => {
                options.version = match value {
                    "v1" => SlsaVersion::V1,
                    "v0.2" => SlsaVersion::V02,
                    _ => return Err(invalid("v1 or v0.2")),
                }
            }
            "builder-id" => value.clone_into(&mut options.builder_id),
            "filename" => match value {
                "" | "." | ".." => return Err(invalid("the name of a file")),
                name if name.contains(['/', '\0']) => return Err(invalid("the name of a file")),
                name => name.clone_into(&mut options.filename),
            },
            "reproducible" => options.reproducible = switch(key, value)?,
            "inline-only" => options.inline_only = switch(key, value)?,
            "disabled" => disabled = switch(key, value)?,
            "complete-materials" => options.complete_materials = switch(key, value)?,
            "capture-usage" => options.capture_usage = switch(key, value)?,
            _ => return Err(unknown("provenance", key, &PROVENANCE_KEYS)),
        }
    }
    Ok((!disabled).then_some(options))
}

fn sbom<'a>(
    fields: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<Option<PackageScanner>, AttestOptionError> {
    let mut scanner = PackageScanner::new();
    let mut disabled = false;
    for (key, value) in fields {
        match key {
            "files" => scanner = scanner.files(switch(key, value)?),
            "disabled" => disabled = switch(key, value)?,
            "generator" => {
                return Err(AttestOptionError::Value {
                    key: key.to_owned(),
                    value: value.to_owned(),
                    expected: "no image: the built-in scanner is the only one that has a name",
                });
            }
            _ => return Err(unknown("sbom", key, &SBOM_KEYS)),
        }
    }
    Ok((!disabled).then_some(scanner))
}

fn unknown(kind: &'static str, key: &str, valid: &[&str]) -> AttestOptionError {
    AttestOptionError::Key {
        kind,
        key: key.to_owned(),
        valid: valid.join(", "),
    }
}

/// Reads what Go's `strconv.ParseBool` reads.
fn switch(key: &str, value: &str) -> Result<bool, AttestOptionError> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(AttestOptionError::Value {
            key: key.to_owned(),
            value: value.to_owned(),
            expected: "true or false",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(value: &str) -> Result<Option<ProvenanceOptions>, AttestOptionError> {
        Attest::new()
            .option("attest:provenance", value)
            .map(|attest| attest.provenance)
    }

    #[test]
    fn what_buildctl_and_buildx_take() {
        assert_eq!(options(""), Ok(Some(ProvenanceOptions::new())));
        let all = "mode=min,version=v0.2,builder-id=https://b/x,filename=p.json,reproducible=1,inline-only=true,complete-materials=t,capture-usage=false";
        let expected = ProvenanceOptions::new()
            .mode(ProvenanceMode::Min)
            .version(SlsaVersion::V02)
            .builder_id("https://b/x")
            .filename("p.json")
            .reproducible(true)
            .inline_only(true)
            .complete_materials(true);
        assert_eq!(options(all), Ok(Some(expected.clone())));
        assert_eq!(options("mode=full,disabled=true"), Ok(None));
        let parsed = Attest::new()
            .parse(&format!("type=provenance,{all}"))
            .unwrap();
        assert_eq!(parsed.provenance, Some(expected));
        let quoted = Attest::new()
            .parse("type=provenance,\"builder-id=a,b\"")
            .unwrap();
        assert_eq!(quoted.provenance.unwrap().builder_id, "a,b");
        let both = Attest::new()
            .parse("type=sbom")
            .unwrap()
            .option("sbom", "")
            .unwrap();
        assert!(both.scanner.is_some());
        assert!(both.parse("type=sbom,disabled=true").unwrap().is_empty());
    }

    #[test]
    fn errors_say_what_would_be_right() {
        for (key, value, part) in [
            ("attest:provenance", "mode=most", "min or max"),
            ("attest:provenance", "version=v2", "v1 or v0.2"),
            ("attest:provenance", "filename=../x", "the name of a file"),
            ("attest:provenance", "reproducible=", "true or false"),
            ("provenance", "moed=min", "it has: mode, version"),
            (
                "sbom",
                "generator=docker/buildkit-syft-scanner",
                "built-in scanner",
            ),
            ("sbom", "file=x", "it has: files"),
            ("attest:vex", "", "there are: provenance, sbom"),
        ] {
            let error = Attest::new().option(key, value).unwrap_err().to_string();
            assert!(error.contains(part), "{key}={value}: {error}");
        }
        let error = Attest::new().parse("type=sbom,\"files=true");
        assert!(error.unwrap_err().to_string().contains("quotes"));
        let error = Attest::new().parse("mode=min").unwrap_err().to_string();
        assert!(error.contains("type=provenance"), "{error}");
    }
}
