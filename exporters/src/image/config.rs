//! The image config: what the caller gave, completed and repaired.

use std::collections::BTreeMap;

use ashlar_llb::{DiffId, Platform};
use ashlar_solver::result::BASE_CONFIG_KEY;
use ashlar_solver::tree::Timestamp;
use base64::Engine as _;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::{ExportError, json};

/// The search path of images that bring no config, as BuildKit sets it.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Comment of history entries that stand for layers of the build.
const COMMENT: &str = "buildkit.exporter.image.v0";

/// The member in which records of the cache travel with an image.
const INLINE_CACHE: &str = "moby.buildkit.cache.v0";

/// What the history says of a layer that the config does not mention.
#[derive(Debug, Clone)]
pub(super) struct HistoryLayer {
    pub(super) diff_id: DiffId,
    pub(super) description: String,
    pub(super) created: Timestamp,
}

/// One entry of the history, in the member order of the Go type.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    #[serde(serialize_with = "super::manifest::list")]
    diff_ids: Vec<String>,
}

/// The members that the exporter itself reads.
#[derive(Default, Deserialize)]
struct Known {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    history: Option<Vec<History>>,
}

type Members = BTreeMap<String, Box<RawValue>>;

/// What of the image that a result started from keeps its times.
#[derive(Debug, Default)]
pub(super) struct BaseConfig {
    /// As they are told.
    pub(super) diff_ids: Vec<String>,
    history: Vec<History>,
}

impl BaseConfig {
    /// Reads an image config.
    pub(super) fn parse(text: &[u8]) -> Result<Self, ExportError> {
        #[derive(Default, Deserialize)]
        struct Layers {
            #[serde(default)]
            diff_ids: Vec<String>,
        }
        #[derive(Deserialize)]
        struct Config {
            #[serde(default)]
            rootfs: Layers,
            #[serde(default)]
            history: Vec<History>,
        }
        let invalid = |error: serde_json::Error| ExportError::Metadata {
            key: BASE_CONFIG_KEY.to_owned(),
            reason: error.to_string(),
        };
        let value = json::DOCKER_IMAGE.read(text).map_err(invalid)?;
        let config: Option<Config> = serde_json::from_value(value).map_err(invalid)?;
        Ok(config.map_or_else(Self::default, |config| Self {
            diff_ids: config.rootfs.diff_ids,
            history: config.history,
        }))
    }
}

/// What a config is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConfigInput<'a> {
    /// The config that came with the result; without one it is BuildKit's default for `platform`.
    pub(super) given: Option<&'a [u8]>,
    pub(super) platform: &'a Platform,
    /// The layers, the lowest first.
    pub(super) layers: &'a [HistoryLayer],
    /// No time that the build made is later.
    pub(super) epoch: Option<Timestamp>,
    /// Whose history keeps its times.
    pub(super) base: Option<&'a BaseConfig>,
    /// Records of the cache that go with the image.
    pub(super) inline_cache: Option<&'a [u8]>,
}

/// The finished config: its bytes and the time in it.
#[derive(Debug)]
pub(super) struct ImageConfig {
    pub(super) bytes: Vec<u8>,
    pub(super) created: Option<String>,
}

/// Completes a config with the root file system, a history that accounts for each layer, and a
/// creation time.
pub(super) fn image_config(input: &ConfigInput<'_>) -> Result<ImageConfig, ExportError> {
    let (layers, epoch) = (input.layers, input.epoch);
    let invalid = ExportError::json;
    let default;
    let given = match input.given {
        Some(given) => given,
        None => {
            default = default_config(input.platform).map_err(invalid)?;
            &default
        }
    };
    let known = json::IMAGE.read(given).map_err(invalid)?;
    let known: Option<Known> = serde_json::from_value(known).map_err(invalid)?;
    let known = known.unwrap_or_default();
    let mut members: Members = serde_json::from_slice(given).map_err(invalid)?;
    for (name, value) in [("os", &known.os), ("architecture", &known.architecture)] {
        if value.is_empty() {
            return Err(ExportError::Config {
                reason: format!("missing {name}"),
            });
        }
    }
    // As in Go, no history is another text than an empty one.
    let is_null = known.history.is_none() && layers.is_empty();
    let mut history = complete(known.history.unwrap_or_default(), layers);
    if let Some(epoch) = epoch {
        let base = input.base.map_or(&[][..], |base| &base.history);
        let same = history.iter().zip(base).take_while(|(a, b)| a == b).count();
        for entry in &mut history[same..] {
            clamp(&mut entry.created, epoch)?;
        }
    }
    // Only under its very name, unlike what else is read.
    let created = members.get("created").map(|text| text.get());
    let created = created.map(serde_json::from_str).transpose();
    let mut created: Option<String> = created.map_err(invalid)?.flatten();
    if let Some(epoch) = epoch
        && created.is_some()
    {
        clamp(&mut created, epoch)?;
    }
    if !members.contains_key("created") {
        created = history.iter().rev().find_map(|entry| entry.created.clone());
    }
    members.insert(
        "created".to_owned(),
        to_raw_value(&created).map_err(invalid)?,
    );
    let diff_ids = layers
        .iter()
        .map(|layer| layer.diff_id.to_string())
        .collect();
    let rootfs = RootFs {
        kind: "layers",
        diff_ids,
    };
    members.insert("rootfs".to_owned(), to_raw_value(&rootfs).map_err(invalid)?);
    let history = Some(history).filter(|_| !is_null);
    members.insert(
        "history".to_owned(),
        to_raw_value(&history).map_err(invalid)?,
    );
    if let Some(records) = input.inline_cache {
        let text = base64::engine::general_purpose::STANDARD.encode(records);
        members.insert(
            INLINE_CACHE.to_owned(),
            to_raw_value(&text).map_err(invalid)?,
        );
    }
    let text = json::compact(&members).map_err(invalid)?;
    Ok(ImageConfig {
        bytes: json::squeeze(&String::from_utf8_lossy(&text)).into_bytes(),
        created,
    })
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

/// Makes a time that is missing or later the epoch.
fn clamp(time: &mut Option<String>, epoch: Timestamp) -> Result<(), ExportError> {
    let later = time
        .as_deref()
        .is_none_or(|text| text.parse::<Timestamp>().is_ok_and(|parsed| parsed > epoch));
    if later {
        let text = json::time_text(epoch).ok_or_else(|| ExportError::Config {
            reason: "a year of more than four digits cannot be written".to_owned(),
        })?;
        *time = Some(text);
    }
    Ok(())
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

    fn input<'a>(
        given: Option<&'a str>,
        platform: &'a Platform,
        layers: &'a [HistoryLayer],
        epoch: Option<Timestamp>,
    ) -> ConfigInput<'a> {
        ConfigInput {
            given: given.map(str::as_bytes),
            platform,
            layers,
            epoch,
            base: None,
            inline_cache: None,
        }
    }

    fn config(given: Option<&str>, layers: &[HistoryLayer], epoch: Option<i64>) -> String {
        let epoch = epoch.map(|seconds| Timestamp {
            seconds,
            nanoseconds: 0,
        });
        let platform = Platform::linux_amd64();
        let config = image_config(&input(given, &platform, layers, epoch)).unwrap();
        String::from_utf8(config.bytes).unwrap()
    }

    #[test]
    fn unknown_members_are_kept_and_members_sorted() {
        let given = r#"{"zzz": {"b": 1, "a": "x && y"}, "os": "linux", "architecture": "arm64", "config": {"Env": ["A=<"], "Cmd": null}}"#;
        let text = config(Some(given), &[], None);
        assert_eq!(
            text,
            r#"{"architecture":"arm64","config":{"Env":["A=\u003c"],"Cmd":null},"created":null,"history":null,"os":"linux","rootfs":{"type":"layers","diff_ids":null},"zzz":{"b":1,"a":"x \u0026\u0026 y"}}"#
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
    fn times_of_the_history_are_in_normal_form() {
        let given = |time: &str| {
            format!(
                r#"{{"os":"linux","architecture":"amd64","history":[{{"created":"{time}","empty_layer":true}}]}}"#
            )
        };
        for (time, normal) in [
            ("1970-01-01T00:00:01+00:00", "1970-01-01T00:00:01Z"),
            ("1970-01-01T00:00:01.100Z", "1970-01-01T00:00:01.1Z"),
            ("1970-01-01T00:00:01.000Z", "1970-01-01T00:00:01Z"),
            (
                "1970-01-01T02:00:01.1234567899+02:00",
                "1970-01-01T02:00:01.123456789+02:00",
            ),
        ] {
            let text = config(Some(&given(time)), &[], None);
            let expected = format!(r#""history":[{{"created":"{normal}","#);
            assert!(text.contains(&expected), "{text}");
        }
        let platform = Platform::linux_amd64();
        for time in ["", "yesterday", "1970-01-01"] {
            let given = given(time);
            let input = input(Some(&given), &platform, &[], None);
            assert!(image_config(&input).is_err(), "{time}");
        }
    }

    #[test]
    fn an_epoch_clamps() {
        let given = r#"{"os":"linux","architecture":"amd64","created":"2023-01-01T00:00:00Z"}"#;
        let text = config(Some(given), &[layer("a")], Some(1_000_000_000));
        assert_eq!(text.matches("2001-09-09T01:46:40Z").count(), 2, "{text}");
    }

    #[test]
    fn the_history_of_a_base_keeps_its_times() {
        let entry = |name: &str| {
            format!(
                r#"{{"created":"2023-01-01T00:00:00Z","created_by":"{name}","empty_layer":true}}"#
            )
        };
        let config = |entries: &[String]| {
            let history = entries.join(",");
            format!(r#"{{"os":"linux","architecture":"amd64","history":[{history}]}}"#)
        };
        let base = config(&[entry("a"), entry("b"), entry("c")]);
        let base = BaseConfig::parse(base.as_bytes()).unwrap();
        // From the first that is another one on, all are of the build.
        let given = config(&[entry("a"), entry("other"), entry("c")]);
        let platform = Platform::linux_amd64();
        let epoch = Some(Timestamp {
            seconds: 1_000_000_000,
            nanoseconds: 0,
        });
        let mut input = input(Some(&given), &platform, &[], epoch);
        input.base = Some(&base);
        let text = String::from_utf8(image_config(&input).unwrap().bytes).unwrap();
        let times: Vec<&str> = text.split("\"created\":\"").skip(2).collect();
        let years: Vec<&str> = times.iter().map(|time| &time[..4]).collect();
        assert_eq!(years, ["2023", "2001", "2001"], "{text}");
    }

    #[test]
    fn a_time_of_creation_that_is_told_to_be_none_stays_none() {
        let given = r#"{"os":"linux","architecture":"amd64","created":null,"history":[{"created":"2023-01-01T00:00:00Z","empty_layer":true}]}"#;
        for epoch in [None, Some(1_000_000_000)] {
            let text = config(Some(given), &[], epoch);
            assert!(text.contains(r#","created":null,"#), "{text}");
        }
        let untold = given.replace(r#""created":null,"#, "");
        let text = config(Some(&untold), &[], None);
        assert!(text.contains(r#","created":"2023-"#), "{text}");
    }

    #[test]
    fn a_year_of_five_digits_is_no_epoch() {
        let platform = Platform::linux_amd64();
        let later = Some(Timestamp {
            seconds: 253_402_300_800,
            nanoseconds: 0,
        });
        let entry = |created: &str| {
            format!(
                r#"{{"os":"linux","architecture":"amd64","history":[{{{created}"empty_layer":true}}]}}"#
            )
        };
        let told = entry(r#""created":"2023-01-01T00:00:00Z","#);
        assert!(image_config(&input(Some(&told), &platform, &[], later)).is_ok());
        let untold = entry("");
        assert!(image_config(&input(Some(&untold), &platform, &[], later)).is_err());
    }

    #[test]
    fn members_are_read_whatever_their_case() {
        let given = r#"{"OS":"linux","architecture":"amd64","Created":"2023-01-01T00:00:00Z","History":[{"Created_By":"one"}]}"#;
        let text = config(Some(given), &[layer("a")], None);
        let history = r#""history":[{"created":"2022-04-15T05:20:00Z","created_by":"one"}]"#;
        assert!(text.contains(history), "{text}");
        // Members are told as they were, and the exporter's own have their very names.
        assert!(text.contains(r#""OS":"linux""#), "{text}");
        assert!(
            text.contains(r#","created":"2022-04-15T05:20:00Z","#),
            "{text}"
        );
    }

    #[test]
    fn os_and_architecture_are_needed() {
        let platform = Platform::linux_amd64();
        for bad in [
            "null",
            "{}",
            r#"{"os":"linux"}"#,
            r#"{"architecture":"x"}"#,
            "[",
            r#"{"os":1,"architecture":"x"}"#,
            r#"{"os":"linux","architecture":"x","created":"yesterday"}"#,
            r#"{"os":"linux","architecture":"x","config":{"Env":"A=b"}}"#,
        ] {
            assert!(
                image_config(&input(Some(bad), &platform, &[], None)).is_err(),
                "{bad}"
            );
        }
    }
}
