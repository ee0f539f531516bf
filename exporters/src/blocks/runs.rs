//! Which parts of a block are worth compressing.
//!
//! Archives, images and encrypted data do not get smaller, and looking for repetitions in them takes
//! as long as in text. They are recognised by what they lack: bytes as frequent as others, and
//! repetitions within the window of deflate. Nothing but the bytes of the block decides.

use std::ops::Range;

/// What is judged at once: enough that random bytes look like it, and little beside what is
/// usually packed into one archive or image.
const PIECE: usize = 16 << 10;

/// How far back deflate may refer.
const WINDOW: usize = 32 << 10;

/// Bits of the hash of four bytes.
const HASH_BITS: u32 = 13;

/// Of so many places the first is remembered, and so many in a row are looked up: one of them is as
/// far from the other end of a repetition as places that are remembered.
const REMEMBERED: usize = 4;

/// Of so many places the first few are looked up.
const LOOKED_UP: usize = 16;

/// The sum of the squared counts of a piece from which on codes for single bytes would save more than
/// half a percent; that of random bytes is `PIECE * PIECE / 256 + PIECE`.
const EVEN: u64 = (PIECE * PIECE / 256 + PIECE + PIECE * PIECE / 256 / 20) as u64;

/// Places looked up that repeat earlier ones from which on repetitions would save as much.
const REPEATED: usize = PIECE / LOOKED_UP / 128;

/// A part of a block.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) range: Range<usize>,
    /// Whether it is worth compressing.
    pub(super) compress: bool,
}

/// Cuts a block into runs that are worth compressing and others. What is not is at least two
/// pieces long: a cut costs something too.
pub(super) fn runs(bytes: &[u8]) -> Vec<Run> {
    let mut seen = Seen::new(bytes);
    let pieces = bytes.len() / PIECE;
    let mut runs: Vec<Run> = Vec::new();
    let mut from = 0;
    let add = |runs: &mut Vec<Run>, compress: bool, range: Range<usize>| match runs.last_mut() {
        Some(last) if last.compress == compress => last.range.end = range.end,
        _ => runs.push(Run { range, compress }),
    };
    while from < pieces {
        let hard = (from..pieces)
            .take_while(|piece| seen.is_hard(piece * PIECE))
            .count();
        if hard > 0 {
            add(&mut runs, hard < 2, from * PIECE..(from + hard) * PIECE);
        }
        from += hard;
        // The one that ended it need not be looked at again.
        if from < pieces {
            add(&mut runs, true, from * PIECE..(from + 1) * PIECE);
            from += 1;
        }
    }
    match runs.last_mut() {
        Some(last) => last.range.end = bytes.len(),
        None => add(&mut runs, true, 0..bytes.len()),
    }
    runs
}

/// What was seen of a block.
struct Seen<'a> {
    bytes: &'a [u8],
    /// The last remembered place of four bytes, by their hash, plus one.
    places: Vec<u32>,
    /// Up to where places are remembered.
    until: usize,
}

impl<'a> Seen<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            places: Vec::new(),
            until: 0,
        }
    }

    /// Whether the piece that begins there is not worth compressing.
    fn is_hard(&mut self, from: usize) -> bool {
        let bytes = self.bytes;
        is_even(&bytes[from..from + PIECE]) && !self.repeats(from)
    }

    fn repeats(&mut self, from: usize) -> bool {
        if self.places.is_empty() {
            self.places.resize(1 << HASH_BITS, 0);
        }
        let start = self.until.max(from.saturating_sub(WINDOW));
        self.remember(start, from);
        let mut repeated = 0;
        for at in (from..from + PIECE).step_by(LOOKED_UP) {
            repeated += (at..at + REMEMBERED)
                .filter(|at| self.is_repeated(*at))
                .count();
            self.remember(at, at + LOOKED_UP);
        }
        repeated > REPEATED
    }

    fn is_repeated(&self, at: usize) -> bool {
        let four = self.four(at);
        match self.places[hash(four)] as usize {
            0 => false,
            place => at - (place - 1) <= WINDOW && self.four(place - 1) == four,
        }
    }

    fn remember(&mut self, from: usize, until: usize) {
        for at in (from..until).step_by(REMEMBERED) {
            let four = self.four(at);
            // Blocks have a few MiB.
            self.places[hash(four)] = u32::try_from(at + 1).unwrap_or(0);
        }
        self.until = until;
    }

    fn four(&self, at: usize) -> u32 {
        match self.bytes[at..].first_chunk() {
            Some(four) => u32::from_le_bytes(*four),
            None => 0,
        }
    }
}

fn hash(four: u32) -> usize {
    (four.wrapping_mul(0x9e37_79b1) >> (32 - HASH_BITS)) as usize
}

/// Whether all bytes are about as frequent in a piece.
fn is_even(piece: &[u8]) -> bool {
    // Four tables, so that equal bytes in a row do not wait for each other.
    let mut counts = [[0_u32; 256]; 4];
    for bytes in piece.chunks_exact(4) {
        for (counts, byte) in counts.iter_mut().zip(bytes) {
            counts[usize::from(*byte)] += 1;
        }
    }
    let squares = (0..256).map(|byte| {
        let count: u64 = counts.iter().map(|counts| u64::from(counts[byte])).sum();
        count * count
    });
    squares.sum::<u64>() <= EVEN
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes without any order; the same for the same seed.
    fn noise(mut seed: u64, length: usize) -> Vec<u8> {
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed.to_le_bytes()
        };
        (0..length.div_ceil(8)).flat_map(|_| next()).collect()
    }

    fn text(length: usize) -> Vec<u8> {
        let words = noise(3, length / 4).into_iter().map(|n| n % 16);
        let text = words.flat_map(|word| format!("word{word} ").into_bytes());
        text.take(length).collect()
    }

    fn lengths(bytes: &[u8]) -> Vec<(usize, bool)> {
        let found = runs(bytes);
        let mut at = 0;
        for run in &found {
            assert_eq!(run.range.start, at);
            at = run.range.end;
        }
        assert_eq!(at, bytes.len());
        let of = |run: &Run| (run.range.len(), run.compress);
        found.iter().map(of).collect()
    }

    #[test]
    fn what_has_no_order_is_not_compressed_and_all_else_is() {
        assert_eq!(lengths(&noise(1, 200_000)), [(200_000, false)]);
        assert_eq!(lengths(&text(200_000)), [(200_000, true)]);
        let even: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        assert_eq!(lengths(&even), [(200_000, true)], "even, but repeated");
        let six: Vec<u8> = noise(1, 200_000).iter().map(|byte| byte & 63).collect();
        assert_eq!(lengths(&six), [(200_000, true)], "six bits of eight");
        assert_eq!(lengths(&[0; 200_000]), [(200_000, true)]);
    }

    #[test]
    fn parts_are_told_apart_to_the_piece() {
        let mut mixed = text(3 * PIECE);
        mixed.extend(noise(1, 4 * PIECE));
        mixed.extend(text(PIECE));
        // Alone, it is not worth a cut.
        mixed.extend(noise(2, PIECE));
        mixed.extend(text(PIECE + 100));
        let wanted = [
            (3 * PIECE, true),
            (4 * PIECE, false),
            (3 * PIECE + 100, true),
        ];
        assert_eq!(lengths(&mixed), wanted);
    }

    #[test]
    fn what_repeats_within_the_window_is_compressed() {
        for (distance, compress) in [(20_001, true), (32_000, true), (40_000, false)] {
            let mut bytes = noise(1, 8 * PIECE);
            for at in 4 * PIECE..8 * PIECE {
                bytes[at] = bytes[at - distance];
            }
            let last = lengths(&bytes).last().copied();
            assert_eq!(last.unwrap().1, compress, "{distance}");
        }
        // A tenth of it, in parts of 40 bytes.
        let mut bytes = noise(1, 8 * PIECE);
        for at in (4 * PIECE..8 * PIECE).step_by(400) {
            bytes.copy_within(at - 10_003..at - 9_963, at);
        }
        assert!(lengths(&bytes).last().unwrap().1);
    }

    #[test]
    fn short_blocks_are_compressed() {
        for length in [0, 1, 100, PIECE, 2 * PIECE - 1] {
            let compressed = lengths(&noise(1, length)[..length]);
            assert_eq!(compressed, [(length, true)]);
        }
    }
}
