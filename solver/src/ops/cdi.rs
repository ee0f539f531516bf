//! Devices that the machine's CDI specifications describe.
//!
//! Owns [`Registry`]: the specification files of a few directories, read anew for each step that
//! asks for devices, and the rules of how a name leads to devices, which are BuildKit's:
//! `vendor/class=name`, `vendor/class` (the first), `vendor/class=*` (all), or the class of an
//! annotation.
//!
//! Only JSON files are read. A file that cannot be used is skipped, and told when a device is not
//! found. Of devices with one name the later directory's counts.

mod spec;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) use spec::ContainerEdits;
use spec::{Device, Spec};

/// Where specifications are by default.
pub const DEFAULT_DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// Bytes of a file that are read at most; real ones have tens of kilobytes.
const MAX_FILE: u64 = 4 << 20;

const CLASS: &str = "org.mobyproject.buildkit.device.class";
const AUTO_ALLOW: &str = "org.mobyproject.buildkit.device.autoallow";

/// One device.
#[derive(Debug, Clone)]
struct Known {
    spec: Arc<Spec>,
    /// Its place among those of the specification.
    at: usize,
}

impl Known {
    fn device(&self) -> &Device {
        &self.spec.devices[self.at]
    }

    fn annotation(&self, key: &str) -> Option<&str> {
        let own = self.device().annotations.get(key);
        own.or_else(|| self.spec.annotations.get(key))
            .map(String::as_str)
    }
}

/// All devices, by name.
#[derive(Debug, Default)]
pub(super) struct Registry {
    devices: BTreeMap<String, Known>,
    /// Files that could not be used, and why.
    pub(super) problems: Vec<String>,
}

impl Registry {
    /// Reads all specifications. Blocks. Directories that are not there have none.
    pub(super) fn read(directories: &[PathBuf]) -> Self {
        let mut registry = Self::default();
        for directory in directories {
            let Ok(entries) = std::fs::read_dir(directory) else {
                continue;
            };
            let mut files: Vec<PathBuf> = entries
                .filter_map(|entry| Some(entry.ok()?.path()))
                .collect();
            files.sort();
            for file in files {
                let extension = file.extension().and_then(|it| it.to_str());
                match extension {
                    Some("json") => registry.add(&file),
                    Some("yaml" | "yml") => {
                        let name = file.display();
                        registry.problems.push(format!("{name}: only JSON is read"));
                    }
                    _ => {}
                }
            }
        }
        registry
    }

    fn add(&mut self, file: &Path) {
        match read(file) {
            Ok(spec) => {
                let spec = Arc::new(spec);
                for (at, device) in spec.devices.iter().enumerate() {
                    let name = format!("{}={}", spec.kind, device.name);
                    let spec = spec.clone();
                    self.devices.insert(name, Known { spec, at });
                }
            }
            Err(problem) => self.problems.push(format!("{}: {problem}", file.display())),
        }
    }

    /// The names of the devices that `name` means; none if there is no such device.
    pub(super) fn find(&self, name: &str) -> Vec<String> {
        let (kind, device) = name.split_once('=').unwrap_or((name, ""));
        let qualified = kind.split_once('/').is_some_and(|it| !it.0.is_empty());
        let mut found: Vec<&String> = Vec::new();
        if qualified {
            let prefix = format!("{kind}=");
            let mut of_kind = self.devices.keys().filter(|it| it.starts_with(&prefix));
            match device {
                "" => found.extend(of_kind.next()),
                "*" => found.extend(of_kind),
                _ => found.extend(of_kind.find(|it| *it == name)),
            }
        }
        if found.is_empty() {
            let of_class = |it: &(&String, &Known)| it.1.annotation(CLASS) == Some(name);
            found.extend(self.devices.iter().filter(of_class).map(|it| it.0));
        }
        found.into_iter().cloned().collect()
    }

    /// Whether the specification says that everybody may have the device.
    pub(super) fn is_free(&self, name: &str) -> bool {
        let known = self.devices.get(name);
        let value = known.and_then(|known| known.annotation(AUTO_ALLOW));
        matches!(value, Some("1" | "t" | "T" | "TRUE" | "true" | "True"))
    }

    /// What has to be done for these devices; what is common to a specification once and first.
    pub(super) fn edits(&self, names: &[String]) -> Vec<ContainerEdits> {
        let mut seen: Vec<*const Spec> = Vec::new();
        let mut edits = Vec::new();
        for known in names.iter().filter_map(|name| self.devices.get(name)) {
            let spec = Arc::as_ptr(&known.spec);
            if !seen.contains(&spec) {
                seen.push(spec);
                edits.push(known.spec.container_edits.clone());
            }
            edits.push(known.device().container_edits.clone());
        }
        edits
    }
}

fn read(file: &Path) -> Result<Spec, String> {
    let text = || -> io::Result<Vec<u8>> {
        let file = File::open(file)?;
        if !file.metadata()?.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut text = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut text)?;
        Ok(text)
    };
    let text = text().map_err(|error| error.to_string())?;
    if text.len() as u64 > MAX_FILE {
        return Err(format!("larger than {MAX_FILE} bytes"));
    }
    let spec: Spec = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    spec.check()?;
    Ok(spec)
}

#[cfg(test)]
mod tests;
