//! Whether a block is text, such as source code.

/// Bytes that are looked at in a row.
const SAMPLE: usize = 1 << 10;

/// Bytes of which so many are looked at.
const STRIDE: usize = 64 << 10;

/// How many in a hundred are characters of text: in trees of sources 90 and more, the bytes that fill
/// up members of a tar left out; in programs and libraries 60 at most.
const TEXT: usize = 85;

/// Whether most of a block's bytes are printable ASCII or white space. Zeros do not count.
pub(super) fn is_text(block: &[u8]) -> bool {
    let (mut text, mut all) = (0, 0);
    for stride in block.chunks(STRIDE) {
        for byte in &stride[..SAMPLE.min(stride.len())] {
            text += usize::from(matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~'));
            all += usize::from(*byte != 0);
        }
    }
    text * 100 >= all * TEXT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_told_from_other_bytes() {
        let source = b"fn main() {\n\tprintln!(\"text\");\r\n}\n".repeat(10_000);
        assert!(is_text(&source));
        let even: Vec<u8> = (0..=255).cycle().take(300_000).collect();
        assert!(!is_text(&even));
        assert!(is_text(b""));
        assert!(is_text(&[0; 1024]));
    }

    #[test]
    fn zeros_between_files_do_not_count_and_single_other_bytes_are_text_too() {
        let mut member = b"some words of a file\n".repeat(30);
        member.resize(1024, 0);
        assert!(is_text(&member.repeat(500)));
        for (others, text) in [(10, true), (20, false)] {
            let mut hundred = vec![b'a'; 100 - others];
            hundred.resize(100, 0xff);
            assert_eq!(is_text(&hundred.repeat(10_000)), text, "{others} in 100");
        }
    }

    #[test]
    fn all_parts_of_a_block_are_looked_at() {
        let mut block = vec![1; 8 * STRIDE];
        block[..STRIDE].fill(b'a');
        assert!(!is_text(&block));
        block[STRIDE..].fill(b'a');
        assert!(is_text(&block));
    }
}
