//! Times as Go reads and writes them.

use ashlar_solver::tree::Timestamp;

/// The years that can be written, in seconds since 1970: 0 to 9999.
const YEARS: std::ops::RangeInclusive<i64> = -62_167_219_200..=253_402_300_799;

/// A time of RFC 3339 with the fewest digits, and its offset if it has one; `None` if it is none.
pub(crate) fn normal_time(text: &str) -> Option<String> {
    text.parse::<Timestamp>().ok()?;
    let (second, rest) = text.split_at_checked(19)?;
    let (fraction, offset) = rest.split_at_checked(rest.find(['Z', '+', '-'])?)?;
    // Nanoseconds are the least.
    let fraction = fraction.get(..10).unwrap_or(fraction);
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    let offset = match offset {
        "+00:00" | "-00:00" => "Z",
        offset => offset,
    };
    Some([second, fraction, offset].concat())
}

/// The text of a time; `None` for years that have more than four digits or none.
pub(crate) fn time_text(time: Timestamp) -> Option<String> {
    YEARS.contains(&time.seconds).then(|| time.to_string())
}
