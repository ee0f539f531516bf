//! The table.

use std::time::{Duration, Instant};

/// Prints rows as they are measured.
#[derive(Debug)]
pub struct Report {
    filter: Option<String>,
}

impl Report {
    pub fn new(filter: Option<String>) -> Self {
        Self { filter }
    }

    pub fn heading(&self) {
        println!("{:<52} {:>10} {:>10}  peer", "row", "ashlar", "target");
    }

    /// Whether a row of that name is asked for.
    pub fn wants(&self, name: &str) -> bool {
        self.filter
            .as_ref()
            .is_none_or(|filter| name.contains(filter.as_str()))
    }

    /// A time with an absolute target.
    pub fn time(&self, name: &str, time: Duration, target: Option<Duration>) {
        let target = target.map(show).unwrap_or_default();
        println!("{name:<52} {:>10} {target:>10}", show(time));
    }

    /// A time beside that of a peer, with a target for their ratio.
    pub fn ratio(&self, name: &str, time: Duration, peer: &str, other: Duration, target: f64) {
        let ratio = time.as_secs_f64() / other.as_secs_f64();
        println!(
            "{name:<52} {:>10} {:>10}  {peer} {}, ratio {ratio:.2}",
            show(time),
            format!("{target:.1} x"),
            show(other),
        );
    }

    /// Anything else.
    pub fn value(&self, name: &str, value: &str, target: &str) {
        println!("{name:<52} {value:>10} {target:>10}");
    }

    /// A row that cannot be measured here.
    pub fn skip(&self, name: &str, reason: &str) {
        println!("{name:<52} not measured: {reason}");
    }
}

fn show(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        _ if seconds < 1e-3 => format!("{:.0} us", seconds * 1e6),
        _ if seconds < 1.0 => format!("{:.2} ms", seconds * 1e3),
        _ => format!("{seconds:.2} s"),
    }
}

/// The median of some measurements.
pub fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Times one call.
pub fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let value = work();
    (start.elapsed(), value)
}
