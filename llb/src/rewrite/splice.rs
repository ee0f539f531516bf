//! Changes to serialised ops that leave all other bytes where they are.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::OpDigest;
use crate::encode::{push_delimited, push_number};
use crate::pb::op::Op;
use crate::wire::{Fields, WireError};

/// What an input refers to from now on.
pub(super) struct NewInput {
    pub(super) digest: OpDigest,
    pub(super) output: u32,
}

const INPUTS: u32 = 1;
const LOCATIONS: u32 = 1;
const SOURCE: u32 = 3;
const OPS: std::ops::RangeInclusive<u32> = 2..=8;

/// Copies a message; `change` gets each field with its number, content and bytes, and tells
/// whether it wrote the field itself.
fn copied<'a>(
    raw: &'a [u8],
    mut change: impl FnMut(&mut Vec<u8>, u32, Option<&'a [u8]>) -> Result<bool, WireError>,
) -> Result<Vec<u8>, WireError> {
    let mut out = Vec::with_capacity(raw.len() + 16);
    let mut fields = Fields::new(raw);
    loop {
        let start = fields.position();
        let Some(field) = fields.next()? else {
            return Ok(out);
        };
        if !change(&mut out, field.number, field.content())? {
            out.extend_from_slice(&raw[start..fields.position()]);
        }
    }
}

/// Gives an op other inputs, as many as it has.
pub(super) fn with_inputs(raw: &[u8], inputs: &[NewInput]) -> Result<Vec<u8>, WireError> {
    let mut inputs = inputs.iter();
    copied(raw, |out, number, content| {
        let (INPUTS, Some(content)) = (number, content) else {
            return Ok(false);
        };
        let Some(input) = inputs.next() else {
            return Ok(false);
        };
        push_delimited(out, 1, &with_target(content, input)?);
        Ok(true)
    })
}

/// Lets an input refer to something else.
fn with_target(raw: &[u8], input: &NewInput) -> Result<Vec<u8>, WireError> {
    let mut output = 0;
    let mut fields = Fields::new(raw);
    while let Some(field) = fields.next()? {
        if field.number == 2 {
            output = field.varint().unwrap_or(0);
        }
    }
    let digest = input.digest.to_string();
    let wanted = u64::from(input.output);
    let mut out = copied(raw, |out, number, _| {
        match number {
            1 => push_delimited(out, 1, digest.as_bytes()),
            2 if output != wanted => {}
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    // The first output is written as nothing at all.
    if output != wanted && wanted != 0 {
        push_number(&mut out, 2, wanted);
    }
    Ok(out)
}

/// Lets the places in source maps belong to other ops, or to none. What is known of one op, and of
/// others that it became one with, is joined; all else stays.
pub(super) fn with_locations(
    raw: &[u8],
    new_name: impl Fn(OpDigest) -> Option<OpDigest>,
) -> Result<Vec<u8>, WireError> {
    let mut places: BTreeMap<Cow<'_, [u8]>, Vec<u8>> = BTreeMap::new();
    let rest = copied(raw, |_, number, content| {
        let (LOCATIONS, Some(content)) = (number, content) else {
            return Ok(false);
        };
        let (mut key, mut value) = (&[][..], &[][..]);
        let mut fields = Fields::new(content);
        while let Some(field) = fields.next()? {
            match (field.number, field.content()) {
                (1, Some(content)) => key = content,
                (2, Some(content)) => value = content,
                _ => {}
            }
        }
        let name = match OpDigest::parse_bytes(key) {
            Ok(digest) => new_name(digest).map(|digest| digest.text().to_vec().into()),
            Err(_) => Some(key.into()),
        };
        if let Some(name) = name {
            // Lists one behind the other are one list.
            places.entry(name).or_default().extend_from_slice(value);
        }
        Ok(true)
    })?;
    let mut out = Vec::with_capacity(raw.len());
    for (name, places) in places {
        let mut entry = Vec::with_capacity(name.len() + places.len() + 8);
        push_delimited(&mut entry, 1, &name);
        push_delimited(&mut entry, 2, &places);
        push_delimited(&mut out, LOCATIONS, &entry);
    }
    out.extend(rest);
    Ok(out)
}

/// Lets an op do something else.
pub(super) fn with_op(raw: &[u8], op: &Op) -> Result<Vec<u8>, WireError> {
    let mut new = Some(super::op_bytes(op));
    copied(raw, |out, number, _| {
        if OPS.contains(&number) {
            out.extend(new.take().unwrap_or_default());
        }
        Ok(OPS.contains(&number))
    })
}

/// Gives a source op another identifier.
pub(super) fn with_identifier(raw: &[u8], identifier: &str) -> Result<Vec<u8>, WireError> {
    copied(raw, |out, number, content| {
        let (SOURCE, Some(content)) = (number, content) else {
            return Ok(false);
        };
        let mut seen = false;
        let mut source = copied(content, |out, number, _| {
            if number == 1 && !std::mem::replace(&mut seen, true) {
                push_delimited(out, 1, identifier.as_bytes());
            }
            Ok(number == 1)
        })?;
        if !seen {
            let rest = std::mem::take(&mut source);
            push_delimited(&mut source, 1, identifier.as_bytes());
            source.extend(rest);
        }
        push_delimited(out, 3, &source);
        Ok(true)
    })
}
