//! The canonical encoder: writes LLB messages as BuildKit's Go client does.
//!
//! An op's identity is the SHA-256 of its bytes, so the bytes have to be equal, not merely
//! equivalent. The rules, all of which the golden files cover:
//!
//! - fields in ascending number, except that the member of a oneof comes after all others;
//! - maps sorted bytewise by key, each entry with key *and* value, even if empty;
//! - zero numbers, `false`, empty strings and empty lists are left out, but a message that is
//!   present is written even if empty, and so is a oneof's member;
//! - negative numbers take ten bytes, lists of numbers are packed.
//!
//! Decoding is `prost`'s. What is *in* the messages is the caller's affair.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{MetadataMap, OpDigest, SourceMaps, pb};

/// Encodes an op. The op's digest is [`OpDigest::of`](crate::OpDigest::of) these bytes.
#[must_use]
pub fn op_bytes(op: &pb::Op) -> Vec<u8> {
    message_bytes(op)
}

/// Encodes a definition, maps sorted by key.
///
/// BuildKit's client writes the maps of this outermost message in random order; sorted, equal
/// definitions have equal bytes.
#[must_use]
pub fn definition_bytes(definition: &pb::Definition) -> Vec<u8> {
    message_bytes(definition)
}

/// Encodes a definition of which all parts are serialised.
pub(crate) fn definition_of(
    ops: &[Bytes],
    metadata: &MetadataMap,
    source: Option<&SourceMaps>,
) -> Vec<u8> {
    // A digest as text, and tags and lengths.
    const ENTRY: usize = 71 + 12;
    let said = metadata.iter().map(|(_, said)| said.raw().len() + ENTRY);
    let ops_size = ops.iter().map(|op| op.len() + 6).sum::<usize>();
    let source_size = source.map_or(0, |source| source.raw().len() + 6);
    let mut out = Writer::with_capacity(ops_size + said.sum::<usize>() + source_size);
    out.byte_strings(1, ops);
    for (digest, said) in metadata.iter() {
        out.nested(2, |out| {
            out.delimited(1, &digest.text());
            out.delimited(2, said.raw());
        });
    }
    if let Some(source) = source {
        out.delimited(3, source.raw());
    }
    out.into_bytes()
}

/// Encodes source maps, whose places are sorted by digest.
pub(crate) fn source_of<'a>(
    locations: impl ExactSizeIterator<Item = (OpDigest, &'a pb::Locations)>,
    infos: &[pb::SourceInfo],
) -> Vec<u8> {
    let mut out = Writer::with_capacity(80 * locations.len());
    for (digest, places) in locations {
        out.nested(1, |out| {
            out.delimited(1, &digest.text());
            out.message(2, places);
        });
    }
    out.messages(2, infos);
    out.into_bytes()
}

/// Encodes any message.
pub(crate) fn message_bytes<M: Encode>(message: &M) -> Vec<u8> {
    let mut out = Writer::with_capacity(256);
    message.write_fields(&mut out);
    out.into_bytes()
}

/// Appends a length-delimited field.
pub(crate) fn push_delimited(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    let mut writer = Writer {
        out: std::mem::take(out),
    };
    writer.delimited(field, value);
    *out = writer.out;
}

/// Appends a number, even if it is zero.
pub(crate) fn push_number(out: &mut Vec<u8>, field: u32, value: u64) {
    let mut writer = Writer {
        out: std::mem::take(out),
    };
    writer.present_uint64(field, value);
    *out = writer.out;
}

/// The entries of a map, borrowed.
pub(crate) fn texts(map: &BTreeMap<String, String>) -> impl Iterator<Item = (&str, &str)> {
    map.iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
}

/// A message that can be written canonically.
pub(crate) trait Encode {
    /// Writes all fields, without the message's own tag and length.
    fn write_fields(&self, out: &mut Writer);
}

impl<M: Encode> Encode for &M {
    fn write_fields(&self, out: &mut Writer) {
        (*self).write_fields(out);
    }
}

/// The bytes written so far.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    out: Vec<u8>,
}

/// The seven bits that a byte of a varint carries.
fn low_bits(value: u64) -> u8 {
    (value & 0x7f) as u8
}

/// How many bytes a varint takes.
fn varint_length(value: u64) -> usize {
    let bits = u64::BITS - (value | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

/// Wire types of the protobuf encoding.
const VARINT: u32 = 0;
const LENGTH_DELIMITED: u32 = 2;

impl Writer {
    fn with_capacity(capacity: usize) -> Self {
        Self {
            out: Vec::with_capacity(capacity),
        }
    }

    /// Returns what was written.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    /// How many bytes were written.
    pub(crate) fn len(&self) -> usize {
        self.out.len()
    }

    /// What was written from this position on.
    pub(crate) fn since(&self, start: usize) -> &[u8] {
        &self.out[start..]
    }

    /// Takes back what was written from this position on.
    pub(crate) fn take_back(&mut self, start: usize) {
        self.out.truncate(start);
    }

    /// Appends what is serialised.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out.push(low_bits(value) | 0x80);
            value >>= 7;
        }
        self.out.push(low_bits(value));
    }

    fn tag(&mut self, field: u32, wire: u32) {
        self.varint(u64::from(field << 3 | wire));
    }

    /// Writes a field of bytes, even if it is empty.
    pub(crate) fn delimited(&mut self, field: u32, value: &[u8]) {
        self.tag(field, LENGTH_DELIMITED);
        self.varint(value.len() as u64);
        self.out.extend_from_slice(value);
    }

    /// Writes a field whose content `write` appends, with the length in front of it.
    pub(crate) fn nested<R>(&mut self, field: u32, write: impl FnOnce(&mut Self) -> R) -> R {
        self.tag(field, LENGTH_DELIMITED);
        // Most messages are shorter than 128 bytes, so one byte is set aside for the length
        // and the rare longer one is moved.
        let start = self.out.len();
        self.out.push(0);
        let returned = write(self);
        let end = self.out.len();
        let mut length = (end - start - 1) as u64;
        let more = varint_length(length) - 1;
        if more > 0 {
            self.out.resize(end + more, 0);
            self.out.copy_within(start + 1..end, start + 1 + more);
        }
        for byte in &mut self.out[start..start + more] {
            *byte = low_bits(length) | 0x80;
            length >>= 7;
        }
        self.out[start + more] = low_bits(length);
        returned
    }

    /// Writes a string field unless it is empty.
    pub(crate) fn string(&mut self, field: u32, value: &str) {
        self.bytes(field, value.as_bytes());
    }

    /// Writes a bytes field unless it is empty.
    pub(crate) fn bytes(&mut self, field: u32, value: &[u8]) {
        if !value.is_empty() {
            self.delimited(field, value);
        }
    }

    /// Writes a bool field if it is true.
    pub(crate) fn bool(&mut self, field: u32, value: bool) {
        self.uint64(field, value.into());
    }

    /// Writes a signed field, or an enum's number, unless it is zero.
    pub(crate) fn int32(&mut self, field: u32, value: i32) {
        self.int64(field, value.into());
    }

    /// Writes a signed field unless it is zero.
    pub(crate) fn int64(&mut self, field: u32, value: i64) {
        self.uint64(field, value.cast_unsigned());
    }

    /// Writes an unsigned field unless it is zero.
    pub(crate) fn uint64(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.present_uint64(field, value);
        }
    }

    /// Writes an unsigned field even if it is zero, as members of a oneof are.
    pub(crate) fn present_uint64(&mut self, field: u32, value: u64) {
        self.tag(field, VARINT);
        self.varint(value);
    }

    /// Writes each string of a list, empty ones too.
    pub(crate) fn strings(&mut self, field: u32, values: impl Iterator<Item: AsRef<[u8]>>) {
        values.for_each(|value| self.delimited(field, value.as_ref()));
    }

    /// Writes each byte string of a list, empty ones too.
    pub(crate) fn byte_strings(&mut self, field: u32, values: &[Bytes]) {
        for value in values {
            self.delimited(field, value);
        }
    }

    /// Writes a list of numbers in packed form unless it is empty.
    pub(crate) fn packed(&mut self, field: u32, values: impl ExactSizeIterator<Item = i64>) {
        if values.len() > 0 {
            self.nested(field, |out| {
                values.for_each(|value| out.varint(value.cast_unsigned()));
            });
        }
    }

    /// Writes a message, even if it is empty.
    pub(crate) fn message<M: Encode>(&mut self, field: u32, message: &M) {
        self.nested(field, |out| message.write_fields(out));
    }

    /// Writes a message if it is present.
    pub(crate) fn optional<M: Encode>(&mut self, field: u32, message: Option<&M>) {
        if let Some(message) = message {
            self.message(field, message);
        }
    }

    /// Writes each message of a list.
    pub(crate) fn messages(&mut self, field: u32, messages: impl IntoIterator<Item: Encode>) {
        for message in messages {
            self.message(field, &message);
        }
    }

    /// Writes a map from string to string, whose entries are sorted.
    pub(crate) fn texts<'a>(&mut self, field: u32, map: impl Iterator<Item = (&'a str, &'a str)>) {
        for (key, value) in map {
            self.nested(field, |out| {
                out.delimited(1, key.as_bytes());
                out.delimited(2, value.as_bytes());
            });
        }
    }

    /// Writes a map from string to bool, whose entries are sorted.
    pub(crate) fn flags<'a>(&mut self, field: u32, map: impl Iterator<Item = (&'a str, bool)>) {
        for (key, value) in map {
            self.nested(field, |out| {
                out.delimited(1, key.as_bytes());
                out.present_uint64(2, u64::from(value));
            });
        }
    }

    /// Writes a map from string to message.
    pub(crate) fn message_map<M: Encode>(&mut self, field: u32, map: &BTreeMap<String, M>) {
        for (key, value) in map {
            self.nested(field, |out| {
                out.delimited(1, key.as_bytes());
                out.message(2, value);
            });
        }
    }
}
