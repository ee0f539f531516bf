//! Time as a value that is passed in.

mod timestamp;

use std::fmt;
use std::time::{Duration, SystemTime};

pub use timestamp::{ParseTimestampError, Timestamp};

/// Tells the time. Implemented by [`SystemClock`] and by the doubles of tests.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The time of day, for file times and image configs.
    fn now(&self) -> SystemTime;

    /// Time since an arbitrary moment, never going backwards, for durations.
    fn monotonic(&self) -> Duration;
}

/// The clock of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the time of day"
    )]
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn monotonic(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        Duration::new(
            u64::try_from(time.tv_sec).unwrap_or_default(),
            u32::try_from(time.tv_nsec).unwrap_or_default(),
        )
    }
}
