//! Trying again.

use std::future::Future;
use std::time::{Duration, SystemTime};

use super::{RegistryError, Retry};

/// How often and when one thing is tried again.
#[derive(Debug)]
pub(super) struct Tries {
    retry: Retry,
    done: u32,
}

impl Tries {
    pub(super) fn new(retry: Retry) -> Self {
        Self { retry, done: 0 }
    }

    /// Things moved on: what failed before does not count.
    pub(super) fn reset(&mut self) {
        self.done = 0;
    }

    /// Waits before the next try, or gives the error back if there is none.
    pub(super) async fn again(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        self.after(error, false).await
    }

    /// [`Tries::again`]; `anyway`: also after an error that is not worth another try of the same.
    pub(super) async fn after(
        &mut self,
        error: RegistryError,
        anyway: bool,
    ) -> Result<(), RegistryError> {
        self.done += 1;
        let named = match error.again() {
            Some(named) => named,
            None if anyway => None,
            None => return Err(error),
        };
        if self.done >= self.retry.tries {
            return Err(error);
        }
        let doubled = self.retry.first * 2_u32.saturating_pow(self.done - 1);
        let wait = named.unwrap_or_default().max(jitter(doubled));
        match named {
            Some(named) if named > self.retry.longest => return Err(error),
            _ => tokio::time::sleep(wait.min(self.retry.longest)).await,
        }
        Ok(())
    }
}

/// Between three quarters of a time and all of it, so that clients do not come back together.
fn jitter(time: Duration) -> Duration {
    let mut random = [0; 1];
    // Without randomness the whole time is as good.
    let _same = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::NONBLOCK);
    time - time / 4 * u32::from(random[0]) / 256
}

/// Does a thing until it works, or is not worth another try.
pub(super) async fn retrying<T, F>(
    retry: Retry,
    mut attempt: impl FnMut() -> F,
) -> Result<T, RegistryError>
where
    F: Future<Output = Result<T, RegistryError>>,
{
    let mut tries = Tries::new(retry);
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) => tries.again(error).await?,
        }
    }
}

/// What a `Retry-After` header says: seconds, or a date.
pub(super) fn retry_after(header: Option<&str>, now: SystemTime) -> Option<Duration> {
    let text = header?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Fri, 20 Nov 2026 10:00:00 GMT").unwrap();
        let after = |text| retry_after(Some(text), now);
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        let date = "Fri, 20 Nov 2026 10:00:30 GMT";
        assert_eq!(after(date), Some(Duration::from_secs(30)));
        let past = "Fri, 20 Nov 2026 09:00:30 GMT";
        assert_eq!(after(past), Some(Duration::ZERO));
        assert_eq!(after("soon"), None);
        assert_eq!(after("-1"), None);
        assert_eq!(retry_after(None, now), None);
    }
}
