//! The image config: what the caller gave, completed and repaired.

use std::collections::BTreeMap;

use ashlar_llb::{DiffId, Platform};
use ashlar_solver::tree::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::{ExportError, json};

/// The search path of images that bring no config, as BuildKit sets it.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Comment of history entries that stand for layers of the build.
const COMMENT: &str = "buildkit.exporter.image.v0";

/// What the history says of a layer that the config does not mention.
#[derive(Debug, Clone)]
pub(crate) struct HistoryLayer {
    pub(crate) diff_id: DiffId,
    pub(crate) description: String,
    pub(crate) created: Timestamp,
}

/// One entry of the history, in the member order of the Go type.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct History {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    created_by: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    author: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    comment: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    empty_layer: bool,
}

#[derive(Serialize)]
struct RootFs {
    #[serde(rename = "type")]
    kind: &'static str,
    diff_ids: Vec<String>,
}

/// The members that the exporter itself reads.
#[derive(Deserialize)]
struct Known {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    history: Option<Vec<History>>,
    #[serde(default)]
    created: Option<String>,
}

type Members = BTreeMap<String, Box<RawValue>>;

/// The finished config: its bytes and the time in it.
#[derive(Debug)]
pub(crate) struct ImageConfig {
    pub(crate) bytes: Vec<u8>,
    pub(crate) created: Option<String>,
}

/// Completes the config `given` (or BuildKit's default one for `platform`) with the root file
/// system, a history that accounts for each layer, and a creation time. With an `epoch` no time
/// that the build made is later.
pub(crate) fn image_config(
    given: Option<&[u8]>,
    platform: &Platform,
    layers: &[HistoryLayer],
    epoch: Option<Timestamp>,
) -> Result<ImageConfig, ExportError> {
    let invalid = |error: serde_json::Error| ExportError::Config {
        reason: error.to_string(),
    };
    let default;
    let given = match given {
        Some(given) => given,
        None => {
            default = default_config(platform).map_err(invalid)?;
            &default
        }
    };
    let known: Known = serde_json::from_slice(given).map_err(invalid)?;
    let mut members: Members = serde_json::from_slice(given).map_err(invalid)?;
    for (name, value) in [("os", &known.os), ("architecture", &known.architecture)] {
        if value.is_empty() {
            return Err(ExportError::Config {
                reason: format!("missing {name}"),
            });
        }
    }
    let mut history = complete(known.history.unwrap_or_default(), layers);
    if let Some(epoch) = epoch {
        for entry in &mut history {
            clamp(&mut entry.created, epoch);
        }
    }
    let mut created = known.created;
    match (&mut created, epoch) {
        (Some(_), Some(epoch)) => clamp(&mut created, epoch),
        (Some(_), None) => {}
        (None, _) => {
            created = history.iter().rev().find_map(|entry| entry.created.clone());
        }
    }
    let diff_ids = layers
        .iter()
        .map(|layer| layer.diff_id.to_string())
        .collect();
    let rootfs = RootFs {
        kind: "layers",
        diff_ids,
    };
    members.insert("rootfs".to_owned(), to_raw_value(&rootfs).map_err(invalid)?);
    members.insert(
        "history".to_owned(),
        to_raw_value(&history).map_err(invalid)?,
    );
    members.insert(
        "created".to_owned(),
        to_raw_value(&created).map_err(invalid)?,
    );
    let text = json::compact(&members).map_err(invalid)?;
    let bytes = json::squeeze(&String::from_utf8_lossy(&text)).into_bytes();
    Ok(ImageConfig { bytes, created })
}

fn default_config(platform: &Platform) -> serde_json::Result<Vec<u8>> {
    let mut config = serde_json::json!({
        "architecture": platform.architecture,
        "os": platform.os,
    });
    if !platform.variant.is_empty() {
        config["variant"] = platform.variant.clone().into();
    }
    if !platform.os_version.is_empty() {
        config["os.version"] = platform.os_version.clone().into();
    }
    if !platform.os_features.is_empty() {
        config["os.features"] = platform.os_features.clone().into();
    }
    config["config"] = serde_json::json!({ "Env": [DEFAULT_PATH], "WorkingDir": "/" });
    serde_json::to_vec(&config)
}

/// Makes the history account for each layer: entries for layers that it lacks, empty layers where
/// it has too many, times where they are missing.
fn complete(mut history: Vec<History>, layers: &[HistoryLayer]) -> Vec<History> {
    let mut accounted = 0;
    for entry in history.iter_mut().filter(|entry| !entry.empty_layer) {
        if accounted >= layers.len() {
            entry.empty_layer = true;
        } else {
            accounted += 1;
        }
    }
    history.extend(layers[accounted..].iter().map(|layer| History {
        created: Some(layer.created.to_string()),
        created_by: layer.description.clone(),
        comment: COMMENT.to_owned(),
        ..History::default()
    }));
    let filled = history.iter_mut().filter(|entry| !entry.empty_layer);
    for (entry, layer) in filled.zip(layers) {
        entry
            .created
            .get_or_insert_with(|| layer.created.to_string());
    }
    // Entries without a layer get the time of the first layer after the first gap, or else the
    // last time before it.
    let mut created = None;
    let mut gap = false;
    for entry in &history {
        match &entry.created {
            Some(time) => {
                created = Some(time.clone());
                if gap {
                    break;
                }
            }
            None => gap = true,
        }
    }
    gap = false;
    for entry in &mut history {
        match &entry.created {
            Some(time) => {
                if gap {
                    created = Some(time.clone());
                }
            }
            None => {
                gap = true;
                entry.created.clone_from(&created);
            }
        }
    }
    history
}

fn clamp(time: &mut Option<String>, epoch: Timestamp) {
    let later = time
        .as_deref()
        .is_none_or(|text| text.parse::<Timestamp>().is_ok_and(|parsed| parsed > epoch));
    if later {
        *time = Some(epoch.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(text: &str) -> HistoryLayer {
        HistoryLayer {
            diff_id: DiffId::of(text.as_bytes()),
            description: text.to_owned(),
            created: Timestamp {
                seconds: 1_650_000_000,
                nanoseconds: 0,
            },
        }
    }

    fn config(given: Option<&str>, layers: &[HistoryLayer], epoch: Option<i64>) -> String {
        let epoch = epoch.map(|seconds| Timestamp {
            seconds,
            nanoseconds: 0,
        });
        let platform = Platform::linux_amd64();
        let config = image_config(given.map(str::as_bytes), &platform, layers, epoch).unwrap();
        String::from_utf8(config.bytes).unwrap()
    }

    #[test]
    fn unknown_members_are_kept_and_members_sorted() {
        let given = r#"{"zzz": {"b": 1, "a": "x && y"}, "os": "linux", "architecture": "arm64", "config": {"Env": ["A=<"], "Cmd": null}}"#;
        let text = config(Some(given), &[], None);
        assert_eq!(
            text,
            r#"{"architecture":"arm64","config":{"Env":["A=\u003c"],"Cmd":null},"created":null,"history":[],"os":"linux","rootfs":{"type":"layers","diff_ids":[]},"zzz":{"b":1,"a":"x \u0026\u0026 y"}}"#
        );
    }

    #[test]
    fn history_accounts_for_each_layer() {
        let given = r#"{"os":"linux","architecture":"amd64","history":[{"created_by":"base"},{"created_by":"env","empty_layer":true}]}"#;
        let text = config(Some(given), &[layer("a"), layer("b")], None);
        assert!(text.contains(r#""history":[{"created":"2022-04-15T05:20:00Z","created_by":"base"},{"created":"2022-04-15T05:20:00Z","created_by":"env","empty_layer":true},{"created":"2022-04-15T05:20:00Z","created_by":"b","comment":"buildkit.exporter.image.v0"}]"#), "{text}");
        let text = config(Some(given), &[], None);
        assert!(
            text.contains(r#"{"created_by":"base","empty_layer":true}"#),
            "{text}"
        );
    }

    #[test]
    fn an_epoch_clamps() {
        let given = r#"{"os":"linux","architecture":"amd64","created":"2023-01-01T00:00:00Z"}"#;
        let text = config(Some(given), &[layer("a")], Some(1_000_000_000));
        assert_eq!(text.matches("2001-09-09T01:46:40Z").count(), 2, "{text}");
    }

    #[test]
    fn os_and_architecture_are_needed() {
        let platform = Platform::linux_amd64();
        for bad in [
            "null",
            "{}",
            r#"{"os":"linux"}"#,
            "[",
            r#"{"os":1,"architecture":"x"}"#,
        ] {
            assert!(
                image_config(Some(bad.as_bytes()), &platform, &[], None).is_err(),
                "{bad}"
            );
        }
    }
}
