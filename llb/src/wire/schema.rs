//! What `prost` will accept of the messages that are kept as bytes until somebody asks.
//!
//! Owns the schemas of metadata and source maps, and [`check`]. Invariant: what passes decodes.

use super::{FIELD_COST, Fields, WireError, spend};
use crate::pb;

/// What a field holds.
enum Kind {
    Number,
    Text,
    Bytes,
    Message(&'static Schema),
}

/// The known fields of a message, and the memory it takes. Other fields are skipped, whatever
/// they hold.
pub(crate) struct Schema {
    cost: usize,
    fields: &'static [(u32, Kind)],
}

use Kind::{Bytes, Message, Number, Text};

macro_rules! schema {
    ($message:ty, $($field:literal: $kind:expr),*) => {
        Schema { cost: size_of::<$message>(), fields: &[$(($field, $kind)),*] }
    };
}

static TEXTS: Schema = schema!([String; 2], 1: Text, 2: Text);
static FLAGS: Schema = schema!([String; 2], 1: Text, 2: Number);
static EXPORT_CACHE: Schema = schema!(pb::ExportCache, 1: Number);
static PROGRESS_GROUP: Schema = schema!(pb::ProgressGroup, 1: Text, 2: Text, 3: Number);
static LINUX_RESOURCES: Schema = schema!(
    pb::LinuxResources,
    1: Number, 2: Number, 3: Number, 4: Number, 5: Number, 6: Text, 7: Text
);
static METADATA_ENTRY: Schema = schema!([String; 2], 1: Text, 2: Message(&OP_METADATA));
/// A definition inside an op or a source file.
pub(super) static DEFINITION: Schema =
    schema!(pb::Definition, 1: Bytes, 2: Message(&METADATA_ENTRY), 3: Message(&SOURCE));
static POSITION: Schema = schema!(pb::Position, 1: Number, 2: Number);
static RANGE: Schema = schema!(pb::Range, 1: Message(&POSITION), 2: Message(&POSITION));
static LOCATION: Schema = schema!(pb::Location, 1: Number, 2: Message(&RANGE));
static LOCATIONS: Schema = schema!(pb::Locations, 1: Message(&LOCATION));
static LOCATIONS_ENTRY: Schema = schema!([String; 2], 1: Text, 2: Message(&LOCATIONS));
static SOURCE_INFO: Schema =
    schema!(pb::SourceInfo, 1: Text, 2: Bytes, 3: Message(&DEFINITION), 4: Text);

/// One op's metadata.
pub(crate) static OP_METADATA: Schema = schema!(
    pb::OpMetadata,
    1: Number,
    2: Message(&TEXTS),
    4: Message(&EXPORT_CACHE),
    5: Message(&FLAGS),
    6: Message(&PROGRESS_GROUP),
    7: Message(&LINUX_RESOURCES)
);

/// A definition's source maps.
pub(crate) static SOURCE: Schema =
    schema!(pb::Source, 1: Message(&LOCATIONS_ENTRY), 2: Message(&SOURCE_INFO));

/// Nesting that is checked; well below what `prost` accepts, whatever it counts.
const MAX_DEPTH: usize = 64;

/// Checks that `data` will decode, without decoding it, and subtracts from `budget` the memory
/// that decoding will take.
pub(crate) fn check(data: &[u8], schema: &Schema, budget: &mut usize) -> Result<(), WireError> {
    check_nested(data, schema, budget, 0)
}

fn check_nested(
    data: &[u8],
    schema: &Schema,
    budget: &mut usize,
    depth: usize,
) -> Result<(), WireError> {
    if depth > MAX_DEPTH {
        return Err(WireError::Depth);
    }
    spend(budget, 2 * schema.cost)?;
    let mut fields = Fields::new(data);
    while let Some(field) = fields.next()? {
        let mut known = schema.fields.iter();
        let known = known.find(|(number, _)| *number == field.number);
        let content = field.content();
        let cost = FIELD_COST + content.map_or(0, <[u8]>::len);
        match (known, content, field.varint()) {
            (None, None, _) | (Some((_, Number)), _, Some(_)) => {}
            (None | Some((_, Bytes)), Some(_), _) => spend(budget, cost)?,
            (Some((_, Text)), Some(content), _) => {
                spend(budget, cost)?;
                str::from_utf8(content).map_err(|_| WireError::Text)?;
            }
            (Some((_, Message(schema))), Some(content), _) => {
                check_nested(content, schema, budget, depth + 1)?;
            }
            _ => return Err(WireError::Type),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::encode::message_bytes;
    use crate::pb;

    fn check_all(data: &[u8], schema: &Schema) -> Result<(), WireError> {
        check(data, schema, &mut usize::MAX.clone())
    }

    fn metadata() -> pb::OpMetadata {
        pb::OpMetadata {
            ignore_cache: true,
            description: [("k".to_owned(), "v".to_owned())].into(),
            export_cache: Some(pb::ExportCache { value: true }),
            caps: [("cap".to_owned(), true)].into(),
            progress_group: Some(pb::ProgressGroup {
                id: "i".into(),
                name: "n".into(),
                weak: true,
            }),
            linux_resources: Some(pb::LinuxResources {
                memory: -1,
                cpuset_cpus: "0-3".into(),
                ..pb::LinuxResources::default()
            }),
        }
    }

    fn source() -> pb::Source {
        let position = |line, character| Some(pb::Position { line, character });
        let location = pb::Location {
            source_index: 0,
            ranges: vec![pb::Range {
                start: position(1, 2),
                end: position(3, 4),
            }],
        };
        let locations = pb::Locations {
            locations: vec![location],
        };
        pb::Source {
            locations: [("sha256:0".to_owned(), locations)].into(),
            infos: vec![pb::SourceInfo {
                filename: "Dockerfile".into(),
                data: vec![0xff, 0].into(),
                definition: Some(pb::Definition {
                    def: vec![vec![1].into()],
                    metadata: [("sha256:1".to_owned(), metadata())].into(),
                    source: None,
                }),
                language: "Dockerfile".into(),
            }],
        }
    }

    #[test]
    fn whole_messages_pass() {
        assert_eq!(check_all(&message_bytes(&metadata()), &OP_METADATA), Ok(()));
        assert_eq!(check_all(&message_bytes(&source()), &SOURCE), Ok(()));
    }

    #[test]
    fn wrong_types_and_texts_do_not() {
        assert_eq!(check_all(&[0x0a, 0], &OP_METADATA), Err(WireError::Type));
        let key = [0x12, 3, 0x0a, 1, 0xff];
        assert_eq!(check_all(&key, &OP_METADATA), Err(WireError::Text));
    }

    proptest! {
        #[test]
        fn what_passes_decodes(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
            keep in any::<bool>(),
        ) {
            for (mut bytes, schema) in [
                (message_bytes(&metadata()), &OP_METADATA),
                (message_bytes(&source()), &SOURCE),
            ] {
                for (at, byte) in &changes {
                    let at = at.index(bytes.len());
                    bytes[at] = *byte;
                }
                if !keep {
                    bytes.truncate(cut.index(bytes.len() + 1));
                }
                if check_all(&bytes, schema).is_ok() {
                    if std::ptr::eq(schema, &raw const OP_METADATA) {
                        prop_assert!(pb::OpMetadata::decode(&*bytes).is_ok());
                    } else {
                        prop_assert!(pb::Source::decode(&*bytes).is_ok());
                    }
                }
            }
        }
    }
}
