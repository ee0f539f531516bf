//! What `prost` will accept of the messages that are kept as bytes until somebody asks.
//!
//! Owns the schemas of metadata and source maps, and [`check`]. Invariant: what passes decodes.

use super::{Fields, WireError};

/// What a field holds.
enum Kind {
    Number,
    Text,
    Bytes,
    Message(&'static Schema),
}

/// The known fields of a message. Others are skipped, whatever they hold.
pub(crate) struct Schema(&'static [(u64, Kind)]);

use Kind::{Bytes, Message, Number, Text};

static TEXTS: Schema = Schema(&[(1, Text), (2, Text)]);
static FLAGS: Schema = Schema(&[(1, Text), (2, Number)]);
static EXPORT_CACHE: Schema = Schema(&[(1, Number)]);
static PROGRESS_GROUP: Schema = Schema(&[(1, Text), (2, Text), (3, Number)]);
static LINUX_RESOURCES: Schema = Schema(&[
    (1, Number),
    (2, Number),
    (3, Number),
    (4, Number),
    (5, Number),
    (6, Text),
    (7, Text),
]);
static METADATA_ENTRY: Schema = Schema(&[(1, Text), (2, Message(&OP_METADATA))]);
static DEFINITION: Schema = Schema(&[
    (1, Bytes),
    (2, Message(&METADATA_ENTRY)),
    (3, Message(&SOURCE)),
]);
static POSITION: Schema = Schema(&[(1, Number), (2, Number)]);
static RANGE: Schema = Schema(&[(1, Message(&POSITION)), (2, Message(&POSITION))]);
static LOCATION: Schema = Schema(&[(1, Number), (2, Message(&RANGE))]);
static LOCATIONS: Schema = Schema(&[(1, Message(&LOCATION))]);
static LOCATIONS_ENTRY: Schema = Schema(&[(1, Text), (2, Message(&LOCATIONS))]);
static SOURCE_INFO: Schema = Schema(&[(1, Text), (2, Bytes), (3, Message(&DEFINITION)), (4, Text)]);

/// One op's metadata.
pub(crate) static OP_METADATA: Schema = Schema(&[
    (1, Number),
    (2, Message(&TEXTS)),
    (4, Message(&EXPORT_CACHE)),
    (5, Message(&FLAGS)),
    (6, Message(&PROGRESS_GROUP)),
    (7, Message(&LINUX_RESOURCES)),
]);

/// A definition's source maps.
pub(crate) static SOURCE: Schema =
    Schema(&[(1, Message(&LOCATIONS_ENTRY)), (2, Message(&SOURCE_INFO))]);

/// Nesting that is checked; well below what `prost` accepts, whatever it counts.
const MAX_DEPTH: usize = 64;

/// Checks that `data` will decode, without decoding it.
pub(crate) fn check(data: &[u8], schema: &Schema) -> Result<(), WireError> {
    check_nested(data, schema, 0)
}

fn check_nested(data: &[u8], schema: &Schema, depth: usize) -> Result<(), WireError> {
    if depth > MAX_DEPTH {
        return Err(WireError::Depth);
    }
    let mut fields = Fields::new(data);
    while let Some(field) = fields.next()? {
        let known = schema.0.iter().find(|(number, _)| *number == field.number);
        match (known, field.content, field.varint) {
            (None, ..) | (Some((_, Number)), _, Some(_)) | (Some((_, Bytes)), Some(_), _) => {}
            (Some((_, Text)), Some(content), _) => {
                str::from_utf8(&data[content]).map_err(|_| WireError::Text)?;
            }
            (Some((_, Message(schema))), Some(content), _) => {
                check_nested(&data[content], schema, depth + 1)?;
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
        assert_eq!(check(&message_bytes(&metadata()), &OP_METADATA), Ok(()));
        assert_eq!(check(&message_bytes(&source()), &SOURCE), Ok(()));
    }

    #[test]
    fn wrong_types_and_texts_do_not() {
        assert_eq!(check(&[0x0a, 0], &OP_METADATA), Err(WireError::Type));
        let key = [0x12, 3, 0x0a, 1, 0xff];
        assert_eq!(check(&key, &OP_METADATA), Err(WireError::Text));
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
                if check(&bytes, schema).is_ok() {
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
