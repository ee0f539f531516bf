//! A reader of protobuf's wire format that looks at fields without decoding messages.
//!
//! It never allocates and never reads past its input. [`charge`] uses it to tell, before the
//! real decoder runs, how much memory the decoded message would take.

pub(crate) mod schema;

use crate::pb;

/// Why bytes are not a message at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// A field or its length reaches past the end.
    #[error("a field reaches past the end of the message")]
    Truncated,
    /// A number takes more than 64 bits.
    #[error("a number takes more than 64 bits")]
    Varint,
    /// A tag has field number 0 or a wire type that does not exist.
    #[error("a tag has a field number or a wire type that does not exist")]
    Tag,
    /// Messages are nested more than 100 deep.
    #[error("messages are nested too deeply")]
    Depth,
    /// A field holds something else than it should.
    #[error("a field holds something else than it should")]
    Type,
    /// A text is not UTF-8.
    #[error("a text is not UTF-8")]
    Text,
    /// The decoded message would take more memory than allowed.
    #[error("the decoded message would take more memory than allowed")]
    Memory,
}

/// One field.
pub(crate) struct Field {
    pub(crate) number: u64,
    /// Where the content is, if the field is length-delimited.
    pub(crate) content: Option<std::ops::Range<usize>>,
    /// The number, if the field is a varint.
    pub(crate) varint: Option<u64>,
}

/// Walks over the fields of one message.
pub(crate) struct Fields<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0 }
    }

    /// Where the next field starts.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0;
        for shift in (0..70).step_by(7) {
            let byte = *self.data.get(self.at).ok_or(WireError::Truncated)?;
            self.at += 1;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(WireError::Varint)
    }

    fn skip(&mut self, length: u64) -> Result<std::ops::Range<usize>, WireError> {
        let length = usize::try_from(length).map_err(|_| WireError::Truncated)?;
        let end = self.at.checked_add(length).ok_or(WireError::Truncated)?;
        if end > self.data.len() {
            return Err(WireError::Truncated);
        }
        let content = self.at..end;
        self.at = end;
        Ok(content)
    }

    /// Returns the next field, or `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Field>, WireError> {
        if self.at == self.data.len() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let (number, mut content, mut varint) = (tag >> 3, None, None);
        match tag & 7 {
            0 => varint = Some(self.varint()?),
            1 => {
                self.skip(8)?;
            }
            2 => {
                let length = self.varint()?;
                content = Some(self.skip(length)?);
            }
            5 => {
                self.skip(4)?;
            }
            _ => return Err(WireError::Tag),
        }
        if number == 0 || tag > u64::from(u32::MAX) {
            return Err(WireError::Tag);
        }
        Ok(Some(Field {
            number,
            content,
            varint,
        }))
    }
}

/// What a message type costs and which of its fields hold messages.
pub(crate) struct Shape {
    cost: usize,
    children: &'static [(u64, &'static Self)],
}

macro_rules! shape {
    ($message:ty $(, $field:literal: $child:expr)*) => {
        Shape { cost: size_of::<$message>(), children: &[$(($field, $child)),*] }
    };
}

static ENTRY: Shape = shape!([String; 2]);
static HOST_IP: Shape = shape!(pb::HostIp);
static ULIMIT: Shape = shape!(pb::Ulimit);
static META: Shape = shape!(pb::Meta, 6: &HOST_IP, 9: &ULIMIT);
static MOUNT: Shape = shape!(pb::Mount);
static SECRET_ENV: Shape = shape!(pb::SecretEnv);
static CDI_DEVICE: Shape = shape!(pb::CdiDevice);
static EXEC: Shape = shape!(pb::ExecOp, 1: &META, 2: &MOUNT, 5: &SECRET_ENV, 6: &CDI_DEVICE);
static SOURCE_OP: Shape = shape!(pb::SourceOp, 2: &ENTRY);
static FILE_ACTION: Shape = shape!(pb::FileAction);
static FILE: Shape = shape!(pb::FileOp, 2: &FILE_ACTION);
static BUILD: Shape = shape!(pb::BuildOp, 2: &ENTRY, 3: &DEFINITION, 4: &ENTRY);
static MERGE_INPUT: Shape = shape!(pb::MergeInput);
static MERGE: Shape = shape!(pb::MergeOp, 1: &MERGE_INPUT);
static INPUT: Shape = shape!(pb::Input);
static METADATA_ENTRY: Shape = shape!([String; 2], 2: &OP_METADATA);
static DEFINITION: Shape = shape!(pb::Definition, 2: &METADATA_ENTRY, 3: &SOURCE);
static RANGE: Shape = shape!(pb::Range);
static LOCATION: Shape = shape!(pb::Location, 2: &RANGE);
static LOCATIONS: Shape = shape!(pb::Locations, 1: &LOCATION);
static LOCATIONS_ENTRY: Shape = shape!([String; 2], 2: &LOCATIONS);
static SOURCE_INFO: Shape = shape!(pb::SourceInfo, 3: &DEFINITION);

/// The shape of an op.
pub(crate) static OP: Shape =
    shape!(pb::Op, 1: &INPUT, 2: &EXEC, 3: &SOURCE_OP, 4: &FILE, 5: &BUILD, 6: &MERGE);
/// The shape of one op's metadata.
pub(crate) static OP_METADATA: Shape = shape!(pb::OpMetadata, 2: &ENTRY, 5: &ENTRY);
/// The shape of a definition's source maps.
pub(crate) static SOURCE: Shape = shape!(pb::Source, 1: &LOCATIONS_ENTRY, 2: &SOURCE_INFO);

/// What any other field costs at most: a string's header in a list, with room for its growth.
const FIELD_COST: usize = 2 * size_of::<String>();

/// Nesting that `prost` accepts as well.
const MAX_DEPTH: usize = 100;

/// Subtracts from `budget` what decoding `data` will take.
pub(crate) fn charge(data: &[u8], shape: &Shape, budget: &mut usize) -> Result<(), WireError> {
    charge_nested(data, shape, budget, 0)
}

fn charge_nested(
    data: &[u8],
    shape: &Shape,
    budget: &mut usize,
    depth: usize,
) -> Result<(), WireError> {
    if depth > MAX_DEPTH {
        return Err(WireError::Depth);
    }
    let mut fields = Fields::new(data);
    while let Some(field) = fields.next()? {
        let Some(content) = field.content else {
            continue;
        };
        let child = shape
            .children
            .iter()
            .find(|(number, _)| *number == field.number);
        let cost = child.map_or(FIELD_COST + content.len(), |(_, child)| 2 * child.cost);
        *budget = budget.checked_sub(cost).ok_or(WireError::Memory)?;
        if let Some((_, child)) = child {
            charge_nested(&data[content], child, budget, depth + 1)?;
        }
    }
    Ok(())
}
