//! The fields of one 512-byte header block.

use super::BLOCK;

/// A header block. Field positions are those of POSIX ustar.
pub(super) struct Block<'a>(pub(super) &'a [u8; BLOCK]);

/// Which of the formats a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    V7,
    Ustar,
    Star,
    Gnu,
}

/// A number field does not hold a number.
#[derive(Debug)]
pub(super) struct BadNumber;

impl<'a> Block<'a> {
    pub(super) fn is_zero(&self) -> bool {
        self.0.iter().all(|&byte| byte == 0)
    }

    /// Whether the checksum is right, summed as unsigned or, as old writers did, signed bytes.
    pub(super) fn checksum_holds(&self) -> bool {
        let Ok(stored) = number(&self.0[148..156]) else {
            return false;
        };
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for (at, &byte) in self.0.iter().enumerate() {
            let byte = if (148..156).contains(&at) { b' ' } else { byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        stored == unsigned || stored == signed
    }

    pub(super) fn format(&self) -> Format {
        match (&self.0[257..263], &self.0[263..265], &self.0[508..512]) {
            (b"ustar\0", _, b"tar\0") => Format::Star,
            (b"ustar\0", ..) => Format::Ustar,
            (b"ustar ", b" \0", _) => Format::Gnu,
            _ => Format::V7,
        }
    }

    /// Whether all readers see that the block has another format than V7: some look at the magic
    /// alone, others at the version too.
    pub(super) fn tells_format(&self) -> bool {
        match self.format() {
            Format::V7 => false,
            Format::Gnu => true,
            Format::Ustar | Format::Star => self.0[263..265] == *b"00",
        }
    }

    pub(super) fn kind(&self) -> u8 {
        self.0[156]
    }

    /// The name with the prefix that the format gives it.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        let prefix = match self.format() {
            Format::Ustar => text(&self.0[345..500]),
            Format::Star => text(&self.0[345..476]),
            Format::V7 | Format::Gnu => b"",
        };
        if prefix.is_empty() {
            name.to_vec()
        } else {
            [prefix, b"/", name].concat()
        }
    }

    pub(super) fn link(&self) -> &'a [u8] {
        text(&self.0[157..257])
    }

    pub(super) fn mode(&self) -> Result<i64, BadNumber> {
        number(&self.0[100..108])
    }

    pub(super) fn uid(&self) -> Result<i64, BadNumber> {
        number(&self.0[108..116])
    }

    pub(super) fn gid(&self) -> Result<i64, BadNumber> {
        number(&self.0[116..124])
    }

    pub(super) fn size(&self) -> Result<i64, BadNumber> {
        number(&self.0[124..136])
    }

    pub(super) fn mtime(&self) -> Result<i64, BadNumber> {
        number(&self.0[136..148])
    }

    /// Major and minor number; V7 has none.
    pub(super) fn device(&self) -> Result<(i64, i64), BadNumber> {
        if self.format() == Format::V7 {
            return Ok((0, 0));
        }
        Ok((number(&self.0[329..337])?, number(&self.0[337..345])?))
    }
}

/// A string up to the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// Octal digits between spaces and NULs, or a base-256 number in two's complement.
pub(super) fn number(field: &[u8]) -> Result<i64, BadNumber> {
    let Some(&first) = field.first() else {
        return Ok(0);
    };
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let fill = if negative { 0xff } else { 0 };
        // The first byte has six bits of the number, and its sign.
        let top = if negative { first | 0x80 } else { first & 0x3f };
        let mut bytes = vec![top];
        bytes.extend_from_slice(&field[1..]);
        let split = bytes.len().saturating_sub(8);
        let (high, low) = bytes.split_at(split);
        let mut value = [fill; 8];
        value[8 - low.len()..].copy_from_slice(low);
        let value = i64::from_be_bytes(value);
        if high.iter().any(|&byte| byte != fill) || value.is_negative() != negative {
            return Err(BadNumber);
        }
        return Ok(value);
    }
    let trimmed = {
        let padding = |byte: &u8| matches!(byte, b' ' | 0);
        let start = field
            .iter()
            .position(|byte| !padding(byte))
            .unwrap_or(field.len());
        let rest = &field[start..];
        let end = rest
            .iter()
            .rposition(|byte| !padding(byte))
            .map_or(0, |last| last + 1);
        &rest[..end]
    };
    trimmed.iter().try_fold(0_i64, |value, byte| match byte {
        b'0'..=b'7' => {
            let digit = i64::from(byte - b'0');
            value
                .checked_mul(8)
                .and_then(|value| value.checked_add(digit))
                .ok_or(BadNumber)
        }
        _ => Err(BadNumber),
    })
}
