//! A CDI specification as its file has it, and the rules that the CDI specification has for one.
//!
//! A member that is not known here is an error, as it is for BuildKit: what it would have asked for
//! is not known either.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::edits::ContainerEdits;

/// The versions that there are.
const VERSIONS: [&str; 10] = [
    "0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0",
];

/// Bytes of all annotations of one thing together, as Kubernetes has it.
const MAX_ANNOTATIONS: usize = 256 << 10;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct Spec {
    cdi_version: String,
    /// `vendor/class`.
    pub(super) kind: String,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) devices: Vec<Device>,
    pub(super) container_edits: ContainerEdits,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct Device {
    pub(super) name: String,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) container_edits: ContainerEdits,
}

impl Spec {
    /// Whether it keeps the rules.
    pub(super) fn check(&self) -> Result<(), String> {
        self.check_version()?;
        let kind = || format!("{:?} is no kind of device", self.kind);
        let (vendor, class) = self.kind.split_once('/').ok_or_else(kind)?;
        if !is_label(vendor) || !is_label(class) {
            return Err(kind());
        }
        check_annotations(&self.annotations)?;
        self.container_edits.check()?;
        if self.devices.is_empty() {
            return Err("there are no devices".to_owned());
        }
        let mut names = BTreeSet::new();
        for device in &self.devices {
            let Device {
                name,
                annotations,
                container_edits,
            } = device;
            if !is_name(name) {
                return Err(format!("{name:?} is no name of a device"));
            }
            if !names.insert(name) {
                return Err(format!("there are several devices {name:?}"));
            }
            let of_device = |problem| format!("device {name:?}: {problem}");
            check_annotations(annotations).map_err(of_device)?;
            if container_edits.is_empty() {
                return Err(of_device("nothing comes with it".to_owned()));
            }
            container_edits.check().map_err(of_device)?;
        }
        Ok(())
    }

    /// Whether its version is one that there is, and new enough for what it uses.
    fn check_version(&self) -> Result<(), String> {
        let place = |version: &str| VERSIONS.iter().position(|it| *it == version);
        let written = &self.cdi_version;
        let version = written.strip_prefix('v').unwrap_or(written);
        let at = place(version).ok_or_else(|| format!("there is no version {written:?} of CDI"))?;
        let needed = self.needed_version();
        if Some(at) < place(needed) {
            return Err(format!(
                "its version is {written}, and it uses what is there since {needed}"
            ));
        }
        Ok(())
    }

    /// The first version that has all that is used.
    fn needed_version(&self) -> &'static str {
        let of_devices = self.devices.iter().map(|it| &it.container_edits);
        let edits = of_devices.chain([&self.container_edits]);
        let edits = edits.map(ContainerEdits::needed_version).max();
        let annotated = self.devices.iter().any(|it| !it.annotations.is_empty());
        let dotted = self
            .kind
            .split_once('/')
            .is_some_and(|it| it.1.contains('.'));
        let digit = |it: &Device| it.name.starts_with(|c: char| c.is_ascii_digit());
        let own = if annotated || dotted || !self.annotations.is_empty() {
            "0.6.0"
        } else if self.devices.iter().any(digit) {
            "0.5.0"
        } else {
            "0.3.0"
        };
        // All have one digit in each place.
        edits.into_iter().fold(own, Ord::max)
    }
}

/// Whether a text can be the name of a vendor or a class.
fn is_label(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic()) && is_made_of(text, "_-.")
}

/// Whether a text can be the name of a device.
fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && is_made_of(text, "_-.:")
}

fn is_made_of(text: &str, more: &str) -> bool {
    text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || more.contains(c))
}

/// Keys are names, with the domain of who made them up before a `/` if need be.
fn check_annotations(annotations: &BTreeMap<String, String>) -> Result<(), String> {
    let is_part = |part: &str, most: usize| {
        part.len() <= most
            && part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && is_made_of(part, "_-.")
    };
    let is_key = |key: &str| match key.split_once('/') {
        Some((domain, name)) => is_part(domain, 253) && is_part(name, 63),
        None => is_part(key, 63),
    };
    if let Some(key) = annotations.keys().find(|key| !is_key(key)) {
        return Err(format!("{key:?} is no key of an annotation"));
    }
    let bytes: usize = annotations
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if bytes > MAX_ANNOTATIONS {
        return Err(format!(
            "its annotations are larger than {MAX_ANNOTATIONS} bytes"
        ));
    }
    Ok(())
}
