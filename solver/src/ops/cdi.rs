//! Devices that the machine's CDI specifications describe.
//!
//! Owns [`Registry`]: the specification files of a few directories, read anew for each step that
//! asks for devices, and the rules of how a name leads to devices, which are BuildKit's:
//! `vendor/class=name`, `vendor/class` (the first), `vendor/class=*` (all), or the class of an
//! annotation.
//!
//! Files are JSON (`.json`) or YAML (`.yaml`, `.yml`). A file that cannot be used is skipped, and told
//! when a device is not found. Of devices with one name the later directory's counts; one that a
//! directory has twice is not there at all, as for BuildKit, because nobody can tell which is meant.

mod edits;
mod spec;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

pub(super) use edits::{ContainerEdits, DeviceNode, Hook, Mount};
use spec::{Device, Spec};

/// Where specifications are by default.
pub const DEFAULT_DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// Bytes of a file that are read at most; real ones have tens of kilobytes.
const MAX_FILE: u64 = 4 << 20;

const CLASS: &str = "org.mobyproject.buildkit.device.class";
const AUTO_ALLOW: &str = "org.mobyproject.buildkit.device.autoallow";

/// What the parser of YAML may take for a file: values, those that aliases repeat among them. Real
/// files have some thousands.
const MAX_YAML_NODES: usize = 200_000;

/// One device.
#[derive(Debug, Clone)]
struct Known {
    spec: Arc<Spec>,
    file: Arc<Path>,
    /// The number of its directory.
    directory: usize,
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
        let mut conflicts = BTreeSet::new();
        for (number, directory) in directories.iter().enumerate() {
            let Ok(entries) = std::fs::read_dir(directory) else {
                continue;
            };
            let mut files: Vec<PathBuf> = entries
                .filter_map(|entry| Some(entry.ok()?.path()))
                .collect();
            files.sort();
            for file in files {
                let Some(format) = Format::of(&file) else {
                    continue;
                };
                match read(&file, format) {
                    Ok(spec) => registry.add(spec, file.into(), number, &mut conflicts),
                    Err(problem) => {
                        let file = file.display();
                        registry.problems.push(format!("{file}: {problem}"));
                    }
                }
            }
        }
        registry.devices.retain(|name, _| !conflicts.contains(name));
        registry
    }

    fn add(
        &mut self,
        spec: Spec,
        file: Arc<Path>,
        directory: usize,
        conflicts: &mut BTreeSet<String>,
    ) {
        let spec = Arc::new(spec);
        for (at, device) in spec.devices.iter().enumerate() {
            let name = format!("{}={}", spec.kind, device.name);
            let other = self.devices.get(&name);
            if let Some(other) = other.filter(|it| it.directory == directory) {
                let (one, two) = (other.file.display(), file.display());
                let problem = format!("{one} and {two} both describe {name}");
                self.problems.push(problem);
                conflicts.insert(name);
                continue;
            }
            let known = Known {
                spec: spec.clone(),
                file: file.clone(),
                directory,
                at,
            };
            self.devices.insert(name, known);
        }
    }

    /// The names of the devices that `name` means; none if there is no such device.
    pub(super) fn find(&self, name: &str) -> Vec<String> {
        let (kind, device) = name.split_once('=').unwrap_or((name, ""));
        let parts = kind.split_once('/');
        let qualified = parts.is_some_and(|it| !it.0.is_empty() && !it.1.is_empty());
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

/// What a file is written in.
#[derive(Debug, Clone, Copy)]
enum Format {
    Json,
    Yaml,
}

impl Format {
    /// By the end of the name; `None`: it is no specification.
    fn of(file: &Path) -> Option<Self> {
        match file.extension()?.to_str()? {
            "json" => Some(Self::Json),
            "yaml" | "yml" => Some(Self::Yaml),
            _ => None,
        }
    }
}

fn read(file: &Path, format: Format) -> Result<Spec, String> {
    let text = || -> io::Result<Vec<u8>> {
        // A pipe would make the build wait for ever.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(rustix::fs::open(file, flags, Mode::empty())?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        let mut text = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut text)?;
        Ok(text)
    };
    let text = text().map_err(|error| error.to_string())?;
    if text.len() as u64 > MAX_FILE {
        return Err(format!("larger than {MAX_FILE} bytes"));
    }
    let spec = match format {
        Format::Json => serde_json::from_slice(&text).map_err(|error| error.to_string())?,
        Format::Yaml => yaml(&text)?,
    };
    Spec::check(&spec)?;
    Ok(spec)
}

/// Reads YAML, with numbers and words as the Go programs that write these files have them.
fn yaml(text: &[u8]) -> Result<Spec, String> {
    let mut budget = serde_saphyr::Budget::default();
    budget.max_nodes = MAX_YAML_NODES;
    budget.max_events = 2 * MAX_YAML_NODES;
    let mut options = serde_saphyr::Options::default();
    options.budget = Some(budget);
    options.alias_limits.max_total_replayed_events = MAX_YAML_NODES;
    // Modes of files: 0660.
    options.legacy_octal_numbers = true;
    options.with_snippet = false;
    serde_saphyr::from_slice_with_options(text, options).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
