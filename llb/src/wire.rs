//! A reader of protobuf's wire format that looks at fields without decoding messages.
//!
//! It never allocates and never reads past its input. [`decode`] makes messages with it, within
//! a budget of memory; [`schema`] checks those that are decoded later.

pub(crate) mod decode;
pub(crate) mod schema;

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
#[derive(Clone, Copy)]
pub(crate) struct Field<'a> {
    pub(crate) number: u32,
    value: Value<'a>,
}

#[derive(Clone, Copy)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Four or eight bytes, which no field here has.
    Fixed,
}

impl<'a> Field<'a> {
    /// The content, if the field is length-delimited.
    pub(crate) fn content(self) -> Option<&'a [u8]> {
        match self.value {
            Value::Bytes(content) => Some(content),
            _ => None,
        }
    }

    /// The number, if the field is a varint.
    pub(crate) fn varint(self) -> Option<u64> {
        match self.value {
            Value::Number(number) => Some(number),
            _ => None,
        }
    }
}

/// Walks over the fields of one message.
#[derive(Clone)]
pub(crate) struct Fields<'a> {
    /// What is left.
    rest: &'a [u8],
    length: usize,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self {
            rest: data,
            length: data.len(),
        }
    }

    /// Where the next field starts.
    pub(crate) fn position(&self) -> usize {
        self.length - self.rest.len()
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, WireError> {
        // Most numbers are tags and lengths of one byte.
        match self.rest.split_first() {
            Some((&byte, rest)) if byte < 0x80 => {
                self.rest = rest;
                Ok(byte.into())
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0;
        for shift in (0..70).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or(WireError::Truncated)?;
            self.rest = rest;
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

    #[inline]
    fn take(&mut self, length: u64) -> Result<&'a [u8], WireError> {
        let length = usize::try_from(length).map_err(|_| WireError::Truncated)?;
        let (content, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(content)
    }

    /// Returns the next field, or `None` at the end.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<Field<'a>>, WireError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            1 => self.take(8).map(|_| Value::Fixed)?,
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return Err(WireError::Tag),
        };
        match u32::try_from(tag) {
            Ok(tag) if tag > 7 => Ok(Some(Field {
                number: tag >> 3,
                value,
            })),
            _ => Err(WireError::Tag),
        }
    }
}

/// What a text costs at most besides its bytes: its header in a list, with room for growth, or
/// what the allocator adds.
const FIELD_COST: usize = 2 * size_of::<String>();

fn spend(budget: &mut usize, cost: usize) -> Result<(), WireError> {
    *budget = budget.checked_sub(cost).ok_or(WireError::Memory)?;
    Ok(())
}
