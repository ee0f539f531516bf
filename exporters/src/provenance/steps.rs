//! The definition as steps.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use ashlar_llb::{Definition, Dump, LoadError, OpDigest, pb};
use ashlar_solver::progress::Usage;
use ashlar_solver::provenance::Provenance;
use ashlar_solver::tree::Timestamp;
use base64::Engine as _;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::redact;

/// The steps of a definition, and which op is which step.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BuildConfig {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    llb_definition: Vec<BuildStep>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    digest_mapping: BTreeMap<String, String>,
    /// Numbers of the steps.
    #[serde(skip)]
    pub(super) numbers: HashMap<OpDigest, usize>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BuildStep {
    id: String,
    op: Box<RawValue>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    inputs: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_usage: Option<Samples>,
}

/// The files that a definition came from, and where in them its steps are.
#[derive(Debug, Serialize)]
pub(super) struct Source {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    locations: BTreeMap<String, Box<RawValue>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    infos: Vec<SourceInfo>,
}

#[derive(Debug, Serialize)]
struct SourceInfo {
    #[serde(skip_serializing_if = "String::is_empty")]
    filename: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    language: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    data: String,
    #[serde(flatten)]
    definition: BuildConfig,
}

#[derive(Debug, Serialize)]
struct Samples {
    samples: [Sample; 1],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Sample {
    timestamp: String,
    cpu_stat: CpuStat,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_stat: Option<MemoryStat>,
    #[serde(rename = "ioStat", skip_serializing_if = "Option::is_none")]
    io_stat: Option<IoStat>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CpuStat {
    usage_nanos: u64,
    user_nanos: u64,
    system_nanos: u64,
}

#[derive(Debug, Serialize)]
struct MemoryStat {
    peak: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct IoStat {
    #[serde(skip_serializing_if = "Option::is_none")]
    read_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    write_bytes: Option<u64>,
}

impl BuildConfig {
    /// The steps of `definition`: inputs first, as they are met when going back from its end.
    /// `usage` is asked for what a step used.
    fn new(
        definition: &Definition,
        usage: impl Fn(&OpDigest) -> Option<Samples>,
    ) -> Result<Self, LoadError> {
        let dump = Dump::of(definition)?;
        let ops: HashMap<OpDigest, &pb::Op> = dump
            .ops()
            .iter()
            .map(|(digest, op)| (*digest, op))
            .collect();
        let Some((last, _)) = dump.ops().last() else {
            return Ok(Self::default());
        };
        let order = order(&ops, *last);
        let numbers: HashMap<OpDigest, usize> = order
            .iter()
            .enumerate()
            .map(|(number, digest)| (*digest, number))
            .collect();
        let mut steps = Vec::with_capacity(order.len());
        for (number, digest) in order.iter().enumerate() {
            let mut op = ops[digest].clone();
            let inputs = op.inputs.drain(..).map(|input| {
                let number = input
                    .digest
                    .parse()
                    .ok()
                    .and_then(|digest| numbers.get(&digest));
                format!(
                    "step{}:{}",
                    number.copied().unwrap_or_default(),
                    input.index
                )
            });
            let inputs = inputs.collect();
            match &mut op.op {
                Some(pb::op::Op::Source(source)) => {
                    // They say nothing about what was built.
                    source.attrs.remove("local.session");
                    source.attrs.remove("local.unique");
                }
                Some(pb::op::Op::File(file)) => mask_files(file),
                _ => {}
            }
            steps.push(BuildStep {
                id: format!("step{number}"),
                op: raw(op.to_json(&redact::text)),
                inputs,
                resource_usage: usage(digest),
            });
        }
        let mapping = numbers
            .iter()
            .map(|(digest, number)| (digest.to_string(), format!("step{number}")));
        Ok(Self {
            llb_definition: steps,
            digest_mapping: mapping.collect(),
            numbers,
        })
    }

    /// The steps of what was solved.
    pub(super) fn of(provenance: &Provenance, usage: bool) -> Result<Self, LoadError> {
        let used: HashMap<OpDigest, Samples> = provenance
            .vertices
            .iter()
            .filter(|_| usage)
            .filter_map(|vertex| {
                let at = Timestamp::from(vertex.completed?);
                Some((vertex.digest, samples(at, vertex.usage?)))
            })
            .collect();
        let used = std::cell::RefCell::new(used);
        Self::new(&provenance.definition, |digest| {
            used.borrow_mut().remove(digest)
        })
    }
}

/// Masks credentials in files that an op makes, as they are masked in the source that told it to.
fn mask_files(op: &mut pb::FileOp) {
    for action in &mut op.actions {
        if let Some(pb::file_action::Action::Mkfile(file)) = &mut action.action
            && let Cow::Owned(masked) = redact::bytes(&file.data)
        {
            file.data = masked.into();
        }
    }
}

/// The ops that `last` is made from, inputs first, and itself.
fn order(ops: &HashMap<OpDigest, &pb::Op>, last: OpDigest) -> Vec<OpDigest> {
    let mut order = Vec::with_capacity(ops.len());
    let mut met = HashSet::from([last]);
    // Ops whose inputs are being looked at, and which of them is next.
    let mut way = vec![(last, 0)];
    while let Some((digest, next)) = way.last_mut() {
        let Some(input) = ops[digest].inputs.get(*next) else {
            order.push(*digest);
            way.pop();
            continue;
        };
        *next += 1;
        let input: Option<OpDigest> = input.digest.parse().ok();
        if let Some(input) = input.filter(|input| ops.contains_key(input))
            && met.insert(input)
        {
            way.push((input, 0));
        }
    }
    order
}

impl Source {
    /// What a definition says of its files; `None` if it says nothing.
    pub(super) fn of(
        definition: &Definition,
        numbers: &HashMap<OpDigest, usize>,
    ) -> Result<Option<Self>, LoadError> {
        let Some(source) = definition
            .source()
            .filter(|source| !source.infos.is_empty())
        else {
            return Ok(None);
        };
        let mut infos = Vec::with_capacity(source.infos.len());
        for info in &source.infos {
            // What does not decode was no part of the build.
            let inner = info
                .definition
                .clone()
                .and_then(|inner| Definition::from_message(inner).ok());
            let definition = match inner {
                Some(inner) => BuildConfig::new(&inner, |_| None)?,
                None => BuildConfig::default(),
            };
            let data = redact::bytes(&info.data);
            infos.push(SourceInfo {
                filename: redact::text(&info.filename).into_owned(),
                language: info.language.clone(),
                data: base64::engine::general_purpose::STANDARD.encode(data),
                definition,
            });
        }
        let locations = source.locations.iter().filter_map(|(digest, locations)| {
            let digest: OpDigest = digest.parse().ok()?;
            let number = numbers.get(&digest)?;
            Some((format!("step{number}"), raw(locations.to_json())))
        });
        Ok(Some(Self {
            locations: locations.collect(),
            infos,
        }))
    }
}

fn samples(at: Timestamp, usage: Usage) -> Samples {
    let nanos = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let io = usage.read.is_some() || usage.written.is_some();
    Samples {
        samples: [Sample {
            timestamp: at.to_string(),
            cpu_stat: CpuStat {
                usage_nanos: nanos(usage.user + usage.system),
                user_nanos: nanos(usage.user),
                system_nanos: nanos(usage.system),
            },
            memory_stat: usage.peak_memory.map(|peak| MemoryStat { peak }),
            io_stat: io.then_some(IoStat {
                read_bytes: usage.read,
                write_bytes: usage.written,
            }),
        }],
    }
}

fn raw(json: String) -> Box<RawValue> {
    RawValue::from_string(json).expect("BUG: an op is valid JSON")
}

#[cfg(test)]
mod tests {
    use ashlar_llb::{self as llb, Constraints, Platform, copy};

    use super::*;

    #[test]
    fn what_says_nothing_about_the_build_is_left_out() {
        let local = llb::local("context").session("canary-session");
        let other = llb::local("other");
        let tree = llb::scratch()
            .file(copy(&local, "/", "/"))
            .file(copy(&other, "/", "/"));
        let constraints =
            Constraints::new(Platform::linux_amd64()).local_unique_id("canary-unique");
        let definition = tree.marshal(&constraints).unwrap();
        let dump = Dump::of(&definition).unwrap().json().to_string();
        assert!(
            dump.contains("canary-session") && dump.contains("canary-unique"),
            "{dump}"
        );
        let config = BuildConfig::new(&definition, |_| None).unwrap();
        let text = serde_json::to_string(&config).unwrap();
        assert!(
            text.contains("local://other") && !text.contains("canary"),
            "{text}"
        );
    }
}
