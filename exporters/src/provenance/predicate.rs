//! The predicates.

use std::io;

use ashlar_llb::{Graph, Platform};
use ashlar_solver::error::{Blame, Fault, OperationError};
use ashlar_solver::provenance::Provenance;
use ashlar_solver::refs::Ref;
use ashlar_solver::result::{MakeContext, Store};
use ashlar_solver::tree::Timestamp;
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter};
use serde_json::value::RawValue;

use super::layers::{StepLayers, layers};
use super::materials::{Inputs, Lent, LocalSource, Material};
use super::steps::{BuildConfig, Source};
use super::{IncompleteMaterials, ProvenanceMode, ProvenanceOptions, SlsaVersion};

const BUILD_TYPE_V1: &str =
    "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";
const BUILD_TYPE_V02: &str = "https://mobyproject.org/buildkit@v1";

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PredicateV1<'a> {
    build_definition: BuildDefinition<'a>,
    run_details: RunDetails<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BuildDefinition<'a> {
    build_type: &'static str,
    #[serde(skip_serializing_if = "<[Material]>::is_empty")]
    resolved_dependencies: &'a [Material],
    external_parameters: ExternalParameters<'a>,
    internal_parameters: Box<RawValue>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ExternalParameters<'a> {
    config_source: Nothing,
    request: &'a Request<'a>,
}

/// An object without members: there is no frontend whose source could stand in it.
#[derive(Debug, Serialize)]
struct Nothing {}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    #[serde(skip_serializing_if = "<[Lent]>::is_empty")]
    secrets: &'a [Lent],
    #[serde(skip_serializing_if = "<[Lent]>::is_empty")]
    ssh: &'a [Lent],
    #[serde(skip_serializing_if = "<[LocalSource]>::is_empty")]
    locals: &'a [LocalSource],
    compatibility_version: u32,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct InternalParameters {
    #[serde(skip_serializing_if = "Option::is_none")]
    build_config: Option<BuildConfig>,
    builder_platform: String,
}

#[derive(Debug, Serialize)]
struct RunDetails<'a> {
    builder: Builder<'a>,
    metadata: MetadataV1<'a>,
}

#[derive(Debug, Serialize)]
struct Builder<'a> {
    id: &'a str,
}

#[derive(Debug, Serialize)]
struct MetadataV1<'a> {
    #[serde(rename = "invocationId")]
    invocation: &'a str,
    #[serde(rename = "startedOn")]
    started: String,
    #[serde(rename = "finishedOn")]
    finished: String,
    buildkit_metadata: &'a BuildKitMetadata,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    buildkit_hermetic: bool,
    buildkit_completeness: CompletenessV1,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    buildkit_reproducible: bool,
}

#[derive(Debug, Default, Serialize)]
struct BuildKitMetadata {
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Source>,
    #[serde(skip_serializing_if = "StepLayers::is_empty")]
    layers: StepLayers,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CompletenessV1 {
    request: bool,
    resolved_dependencies: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PredicateV02<'a> {
    builder: Builder<'a>,
    build_type: &'static str,
    #[serde(skip_serializing_if = "<[Material]>::is_empty")]
    materials: &'a [Material],
    invocation: Invocation<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    build_config: Option<BuildConfig>,
    metadata: MetadataV02<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Invocation<'a> {
    config_source: Nothing,
    parameters: &'a Request<'a>,
    environment: Environment,
}

#[derive(Debug, Serialize)]
struct Environment {
    platform: String,
}

#[derive(Debug, Serialize)]
struct MetadataV02<'a> {
    #[serde(rename = "buildInvocationID")]
    invocation: &'a str,
    #[serde(rename = "buildStartedOn")]
    started: String,
    #[serde(rename = "buildFinishedOn")]
    finished: String,
    completeness: CompletenessV02,
    reproducible: bool,
    #[serde(rename = "https://mobyproject.org/buildkit@v1#metadata")]
    metadata: &'a BuildKitMetadata,
    #[serde(
        rename = "https://mobyproject.org/buildkit@v1#hermetic",
        skip_serializing_if = "std::ops::Not::not"
    )]
    hermetic: bool,
}

#[derive(Debug, Serialize)]
struct CompletenessV02 {
    parameters: bool,
    environment: bool,
    materials: bool,
}

/// Whether the materials of a result are as complete as the options want them.
pub(crate) fn check(
    provenance: &Provenance,
    options: &ProvenanceOptions,
) -> Result<(), IncompleteMaterials> {
    if !options.complete_materials {
        return Ok(());
    }
    let reasons = match Graph::load(&provenance.definition) {
        Ok(graph) => Inputs::of(provenance, &graph).incomplete,
        Err(error) => vec![error.to_string()],
    };
    match reasons.is_empty() {
        true => Ok(()),
        false => Err(IncompleteMaterials { reasons }),
    }
}

/// Writes the predicate as JSON without white space. `tree` is the result that it is about. Blocks.
pub(crate) fn predicate(
    provenance: &Provenance,
    options: &ProvenanceOptions,
    tree: &Ref,
    store: &Store,
    context: &MakeContext<'_>,
) -> Result<Vec<u8>, OperationError> {
    let graph = Graph::load(&provenance.definition).map_err(Unreadable)?;
    let inputs = Inputs::of(provenance, &graph);
    let is_max = options.mode == ProvenanceMode::Max;
    let mut metadata = BuildKitMetadata::default();
    let mut config = None;
    if is_max {
        let made = BuildConfig::of(provenance, options.capture_usage).map_err(Unreadable)?;
        metadata.source = Source::of(&provenance.definition, &made.numbers).map_err(Unreadable)?;
        metadata.layers = layers(provenance, &made.numbers, tree, store, context)?;
        config = Some(made);
    }
    let complete = inputs.incomplete.is_empty();
    let hermetic = complete && !inputs.network;
    let request = Request {
        secrets: if is_max { &inputs.secrets } else { &[] },
        ssh: if is_max { &inputs.ssh } else { &[] },
        locals: &inputs.locals,
        compatibility_version: context.compatibility,
    };
    let builder = Builder {
        id: &options.builder_id,
    };
    let platform = Platform::of_target().format();
    let time = |time| Timestamp::from(time).to_string();
    let (started, finished) = (time(provenance.started), time(provenance.finished));
    let json = match options.version {
        SlsaVersion::V1 => {
            let internal = InternalParameters {
                build_config: config,
                builder_platform: platform,
            };
            crate::json::compact(&PredicateV1 {
                build_definition: BuildDefinition {
                    build_type: BUILD_TYPE_V1,
                    resolved_dependencies: &inputs.materials,
                    external_parameters: ExternalParameters {
                        config_source: Nothing {},
                        request: &request,
                    },
                    internal_parameters: through_floats(&internal),
                },
                run_details: RunDetails {
                    builder,
                    metadata: MetadataV1 {
                        invocation: &provenance.invocation,
                        started,
                        finished,
                        buildkit_metadata: &metadata,
                        buildkit_hermetic: hermetic,
                        buildkit_completeness: CompletenessV1 {
                            request: false,
                            resolved_dependencies: complete,
                        },
                        buildkit_reproducible: options.reproducible,
                    },
                },
            })
        }
        SlsaVersion::V02 => crate::json::compact(&PredicateV02 {
            builder,
            build_type: BUILD_TYPE_V02,
            materials: &inputs.materials,
            invocation: Invocation {
                config_source: Nothing {},
                parameters: &request,
                environment: Environment { platform },
            },
            build_config: config,
            metadata: MetadataV02 {
                invocation: &provenance.invocation,
                started,
                finished,
                completeness: CompletenessV02 {
                    parameters: false,
                    environment: true,
                    materials: complete,
                },
                reproducible: options.reproducible,
                metadata: &metadata,
                hermetic,
            },
        }),
    };
    Ok(json.expect("BUG: a predicate is JSON"))
}

/// The definition of a solve that succeeded cannot be read again.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the definition of the result again")]
struct Unreadable(#[source] ashlar_llb::LoadError);

impl Blame for Unreadable {
    fn fault(&self) -> Fault {
        Fault::Bug
    }
}

/// JSON as BuildKit gets it by reading its own into maps and writing these: members sorted, and
/// numbers as close as a 64-bit float comes to them.
fn through_floats(value: &impl Serialize) -> Box<RawValue> {
    struct Floats(CompactFormatter);

    impl Formatter for Floats {
        fn write_i64<W: ?Sized + io::Write>(&mut self, to: &mut W, value: i64) -> io::Result<()> {
            #[expect(clippy::cast_precision_loss, reason = "that is what it is for")]
            let float = value as f64;
            write!(to, "{float}")
        }

        fn write_u64<W: ?Sized + io::Write>(&mut self, to: &mut W, value: u64) -> io::Result<()> {
            #[expect(clippy::cast_precision_loss, reason = "that is what it is for")]
            let float = value as f64;
            write!(to, "{float}")
        }
    }

    let tree = serde_json::to_string(value).and_then(|text| {
        // By way of text, since what is written out already has no tree of its own.
        serde_json::from_str::<serde_json::Value>(&text)
    });
    let mut out = Vec::new();
    let formatter = Floats(CompactFormatter);
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    tree.and_then(|tree| tree.serialize(&mut serializer))
        .expect("BUG: parameters are JSON");
    let text = String::from_utf8(out).expect("BUG: JSON is UTF-8");
    RawValue::from_string(text).expect("BUG: JSON was written")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lose_what_a_float_cannot_hold() {
        let value = serde_json::json!({"b": 1_614_834_367_000_000_008_u64, "a": {"d": -1, "c": 420}, "z": u64::MAX});
        assert_eq!(
            through_floats(&value).get(),
            r#"{"a":{"c":420,"d":-1},"b":1614834367000000000,"z":18446744073709552000}"#
        );
    }
}
