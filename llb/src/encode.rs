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

use crate::{Metadata, OpDigest, SourceMaps, pb};

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
    metadata: &BTreeMap<OpDigest, Metadata>,
    source: Option<&SourceMaps>,
) -> Vec<u8> {
    // A digest as text, and tags and lengths.
    const ENTRY: usize = 71 + 12;
    let said = metadata.values().map(|said| said.raw().len() + ENTRY);
    let ops_size = ops.iter().map(|op| op.len() + 6).sum::<usize>();
    let source_size = source.map_or(0, |source| source.raw().len() + 6);
    let mut out = Writer {
        out: Vec::with_capacity(ops_size + said.sum::<usize>() + source_size),
    };
    out.byte_strings(1, ops);
    for (digest, said) in metadata {
        out.nested(2, |out| {
            out.delimited(1, &digest.text());
            out.delimited(2, said.raw());
        });
    }
    if let Some(source) = source {
        out.delimited(3, source.raw());
    }
    out.out
}

/// Encodes source maps, whose places are sorted by digest.
pub(crate) fn source_of(
    locations: &[(OpDigest, pb::Locations)],
    infos: &[pb::SourceInfo],
) -> Vec<u8> {
    let mut out = Writer {
        out: Vec::with_capacity(80 * locations.len()),
    };
    for (digest, places) in locations {
        out.nested(1, |out| {
            out.delimited(1, &digest.text());
            out.message(2, places);
        });
    }
    out.messages(2, infos);
    out.out
}

/// Appends an op to `out`.
pub(crate) fn append_op(op: &pb::Op, out: &mut Vec<u8>) {
    append(out, |writer| op.write_fields(writer));
}

/// Appends metadata and further capabilities, which are sorted, to `out`.
pub(crate) fn append_metadata(metadata: &pb::OpMetadata, caps: &[&str], out: &mut Vec<u8>) {
    append(out, |writer| metadata.write_with_caps(caps, writer));
}

fn append(out: &mut Vec<u8>, write: impl FnOnce(&mut Writer)) {
    let mut writer = Writer {
        out: std::mem::take(out),
    };
    write(&mut writer);
    *out = writer.out;
}

/// Encodes any message.
pub(crate) fn message_bytes<M: Encode>(message: &M) -> Vec<u8> {
    let mut writer = Writer {
        out: Vec::with_capacity(256),
    };
    message.write_fields(&mut writer);
    writer.out
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

/// A message that can be written canonically.
pub(crate) trait Encode {
    /// Writes all fields, without the message's own tag and length.
    fn write_fields(&self, out: &mut Writer);
}

/// The bytes written so far.
#[derive(Debug)]
pub(crate) struct Writer {
    out: Vec<u8>,
}

/// The seven bits that a byte of a varint carries.
fn low_bits(value: u64) -> u8 {
    (value & 0x7f) as u8
}

/// Wire types of the protobuf encoding.
const VARINT: u32 = 0;
const LENGTH_DELIMITED: u32 = 2;

impl Writer {
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

    fn delimited(&mut self, field: u32, value: &[u8]) {
        self.tag(field, LENGTH_DELIMITED);
        self.varint(value.len() as u64);
        self.out.extend_from_slice(value);
    }

    /// Writes a field whose content `write` appends, with the length in front of it.
    fn nested(&mut self, field: u32, write: impl FnOnce(&mut Self)) {
        self.tag(field, LENGTH_DELIMITED);
        // Most messages are shorter than 128 bytes, so one byte is set aside for the length
        // and the rare longer one is moved.
        let start = self.out.len();
        self.out.push(0);
        write(self);
        let length = (self.out.len() - start - 1) as u64;
        if length < 0x80 {
            self.out[start] = low_bits(length);
            return;
        }
        let end = self.out.len();
        self.varint(length);
        let prefix = self.out.split_off(end);
        self.out.splice(start..=start, prefix);
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
    pub(crate) fn strings(&mut self, field: u32, values: &[String]) {
        for value in values {
            self.delimited(field, value.as_bytes());
        }
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
    pub(crate) fn messages<M: Encode>(&mut self, field: u32, messages: &[M]) {
        for message in messages {
            self.message(field, message);
        }
    }

    /// Writes a map from string to string.
    pub(crate) fn string_map(&mut self, field: u32, map: &BTreeMap<String, String>) {
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
