//! Messages made of their serialised form, within a budget of memory.
//!
//! Owns how each kind of field is read; which fields a message has is told in
//! [`pb`](crate::pb). Invariants: what this accepts, `prost` reads as the same message; memory is
//! taken from the budget before it is allocated; lists have the length they need.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;

use super::{FIELD_COST, Field, Fields, WireError, schema, spend};
use crate::pb;

/// What a text takes beside its bytes and its place in a list, or more: what an allocator adds, and a
/// copy of it for a key.
const TEXT_COST: usize = 3 * size_of::<String>();

/// A message that can be read.
pub(crate) trait Decode: Default {
    /// Takes in one field. Fields that are not known are left out.
    fn merge_field<'a>(&mut self, field: Field<'a>, from: &mut Reader<'a>)
    -> Result<(), WireError>;
}

/// Where a message is read from.
pub(crate) struct Reader<'a> {
    /// What all fields are part of, so that bytes can be shared.
    whole: &'a Bytes,
    /// How much memory may still be taken.
    budget: usize,
    /// The fields after the one that is read.
    rest: Fields<'a>,
}

/// Reads the fields of a message that `pass` holds for.
pub(crate) fn decode<M: Decode>(
    whole: &Bytes,
    budget: &mut usize,
    pass: impl Fn(u32) -> bool,
) -> Result<M, WireError> {
    let mut message = M::default();
    let mut fields = Fields::new(whole);
    let mut reader = Reader {
        whole,
        budget: *budget,
        rest: fields.clone(),
    };
    while let Some(field) = fields.next()? {
        if pass(field.number) {
            reader.rest = fields.clone();
            message.merge_field(field, &mut reader)?;
        }
    }
    *budget = reader.budget;
    Ok(message)
}

fn merge<'a, M: Decode>(
    message: &mut M,
    content: &'a [u8],
    from: &mut Reader<'a>,
) -> Result<(), WireError> {
    let mut fields = Fields::new(content);
    while let Some(field) = fields.next()? {
        from.rest = fields.clone();
        message.merge_field(field, from)?;
    }
    Ok(())
}

impl<'a> Field<'a> {
    fn bytes(self) -> Result<&'a [u8], WireError> {
        self.content().ok_or(WireError::Type)
    }

    fn str(self, from: &mut Reader<'a>) -> Result<&'a str, WireError> {
        let content = self.bytes()?;
        spend(&mut from.budget, TEXT_COST + content.len())?;
        str::from_utf8(content).map_err(|_| WireError::Text)
    }

    /// Makes room for this entry of a list and those like it that follow.
    fn room<T>(self, list: &mut Vec<T>, from: &mut Reader<'a>) -> Result<(), WireError> {
        spend(&mut from.budget, size_of::<T>())?;
        if list.len() < list.capacity() {
            return Ok(());
        }
        let (mut rest, mut more) = (from.rest.clone(), 1);
        // What is wrong with the rest is found when it is read.
        while let Ok(Some(next)) = rest.next()
            && next.number == self.number
        {
            more += 1;
        }
        if more * size_of::<T>() > from.budget {
            return Err(WireError::Memory);
        }
        // Entries that are not one behind the other must not make the list be copied each time.
        if list.is_empty() {
            list.reserve_exact(more);
        } else {
            spend(&mut from.budget, list.capacity() * size_of::<T>())?;
            list.reserve(more);
        }
        Ok(())
    }

    pub(crate) fn int64(self, into: &mut i64, _: &mut Reader<'a>) -> Result<(), WireError> {
        *into = self.varint().ok_or(WireError::Type)?.cast_signed();
        Ok(())
    }

    pub(crate) fn int32(self, into: &mut i32, _: &mut Reader<'a>) -> Result<(), WireError> {
        *into = low_half(self.varint().ok_or(WireError::Type)?).cast_signed();
        Ok(())
    }

    pub(crate) fn uint32(self, into: &mut u32, _: &mut Reader<'a>) -> Result<(), WireError> {
        *into = low_half(self.varint().ok_or(WireError::Type)?);
        Ok(())
    }

    pub(crate) fn bool(self, into: &mut bool, _: &mut Reader<'a>) -> Result<(), WireError> {
        *into = self.varint().ok_or(WireError::Type)? != 0;
        Ok(())
    }

    pub(crate) fn text(self, into: &mut String, from: &mut Reader<'a>) -> Result<(), WireError> {
        self.str(from)?.clone_into(into);
        Ok(())
    }

    pub(crate) fn texts(
        self,
        into: &mut Vec<String>,
        from: &mut Reader<'a>,
    ) -> Result<(), WireError> {
        self.room(into, from)?;
        into.push(self.str(from)?.to_owned());
        Ok(())
    }

    /// Bytes, which are shared with what they are read from.
    pub(crate) fn data(self, into: &mut Bytes, from: &mut Reader<'a>) -> Result<(), WireError> {
        *into = from.whole.slice_ref(self.bytes()?);
        spend(&mut from.budget, FIELD_COST)
    }

    /// A list of numbers, one by one or packed.
    fn numbers<T>(
        self,
        into: &mut Vec<T>,
        from: &mut Reader<'a>,
        number: impl Fn(u64) -> T,
    ) -> Result<(), WireError> {
        if let Some(value) = self.varint() {
            self.room(into, from)?;
            into.push(number(value));
            return Ok(());
        }
        let packed = self.bytes()?;
        spend(&mut from.budget, 2 * size_of::<T>() * packed.len())?;
        let mut values = Fields::new(packed);
        while !values.rest.is_empty() {
            into.push(number(values.varint()?));
        }
        Ok(())
    }

    pub(crate) fn int64s(
        self,
        into: &mut Vec<i64>,
        from: &mut Reader<'a>,
    ) -> Result<(), WireError> {
        self.numbers(into, from, u64::cast_signed)
    }

    pub(crate) fn int32s(
        self,
        into: &mut Vec<i32>,
        from: &mut Reader<'a>,
    ) -> Result<(), WireError> {
        self.numbers(into, from, |value| low_half(value).cast_signed())
    }

    /// A message that may come in several pieces.
    pub(crate) fn message<M: Decode>(
        self,
        into: &mut Option<M>,
        from: &mut Reader<'a>,
    ) -> Result<(), WireError> {
        merge(into.get_or_insert_default(), self.bytes()?, from)
    }

    /// A message that may be there in part.
    pub(crate) fn part_of<M: Decode>(
        self,
        into: &mut M,
        from: &mut Reader<'a>,
    ) -> Result<(), WireError> {
        merge(into, self.bytes()?, from)
    }

    pub(crate) fn messages<M: Decode>(
        self,
        into: &mut Vec<M>,
        from: &mut Reader<'a>,
    ) -> Result<(), WireError> {
        let content = self.bytes()?;
        self.room(into, from)?;
        into.push(M::default());
        let message = into.last_mut().expect("BUG: one was just added");
        merge(message, content, from)
    }

    /// An entry of a map whose values are read by `value`.
    fn entry<V: Default>(
        self,
        into: &mut BTreeMap<String, V>,
        from: &mut Reader<'a>,
        value: impl Fn(Self, &mut V, &mut Reader<'a>) -> Result<(), WireError>,
    ) -> Result<(), WireError> {
        spend(&mut from.budget, 2 * size_of::<(String, V)>())?;
        let (mut key, mut found) = (String::new(), V::default());
        let mut fields = Fields::new(self.bytes()?);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => field.text(&mut key, from)?,
                2 => value(field, &mut found, from)?,
                _ => {}
            }
        }
        into.insert(key, found);
        Ok(())
    }

    pub(crate) fn text_map(
        self,
        into: &mut BTreeMap<String, String>,
        from: &mut Reader<'a>,
    ) -> Result<(), WireError> {
        self.entry(into, from, Field::text)
    }

    pub(crate) fn message_map<M: Decode>(
        self,
        into: &mut BTreeMap<String, M>,
        from: &mut Reader<'a>,
    ) -> Result<(), WireError> {
        self.entry(into, from, Field::part_of)
    }

    /// A definition inside an op. `prost` decodes it, once it is known that there is memory.
    pub(crate) fn definition(
        self,
        into: &mut Option<pb::Definition>,
        from: &mut Reader<'a>,
    ) -> Result<(), WireError> {
        let content = self.bytes()?;
        schema::check(content, &schema::DEFINITION, &mut from.budget)?;
        let whole = from.whole.slice_ref(content);
        let merged = into.get_or_insert_default().merge(whole);
        merged.map_err(|_| WireError::Type)
    }
}

/// The lower half of a number, which is what is left of one that is too large.
fn low_half(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// Tells which fields a message has, by their numbers, and how each is read.
macro_rules! decodable {
    ($($message:ident { $($number:literal: $kind:ident $field:ident),* $(,)? })*) => {$(
        impl $crate::wire::decode::Decode for $message {
            fn merge_field<'a>(
                &mut self,
                field: $crate::wire::Field<'a>,
                from: &mut $crate::wire::decode::Reader<'a>,
            ) -> Result<(), $crate::wire::WireError> {
                match field.number {
                    $($number => field.$kind(&mut self.$field, from),)*
                    _ => Ok(()),
                }
            }
        }
    )*};
}

pub(crate) use decodable;

#[cfg(test)]
mod tests;
