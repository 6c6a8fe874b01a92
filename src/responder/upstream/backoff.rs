//! Delays before retries.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use rand::RngExt as _;

/// Delay before the first retry. It doubles with each further one.
const BASE: Duration = Duration::from_millis(500);

/// Longest delay, before the random part.
const LONGEST: Duration = Duration::from_secs(16);

/// Longest wait before a retry. A reply that would wait longer fails.
pub(in crate::responder) const MAX_WAIT: Duration = Duration::from_secs(60);

/// Longest `Retry-After` that is honored.
pub(in crate::responder) const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Returns the delay after a number of failures in a row. It varies at random by a quarter up or
/// down, so that replies that failed together do not retry together. Each delay is still longer
/// than the one before.
pub(in crate::responder) fn jittered(failures: u32) -> Duration {
    nominal(failures).mul_f64(rand::rng().random_range(0.75..1.25))
}

/// Returns the delay without its random part, for comparisons.
pub(in crate::responder) fn nominal(failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => BASE.saturating_mul(1 << doublings.min(16)).min(LONGEST),
    }
}

/// Adds a random part to the delay that an upstream asked for, so that waiting replies do not all
/// retry at the same moment.
pub(in crate::responder) fn after(floor: Duration) -> Duration {
    let spread = (floor / 10).clamp(Duration::from_millis(20), Duration::from_secs(2));
    floor + spread.mul_f64(rand::rng().random_range(0.0..1.0))
}

/// Reads the delay that a response asks for: `retry-after-ms`, or `Retry-After` in seconds (RFC
/// 9110, section 10.2.3; some servers send fractions) or as a date.
pub(in crate::responder) fn asked_for(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let number = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite());
    let milliseconds = text("retry-after-ms").and_then(number).map(|ms| ms / 1000.0);
    let seconds = milliseconds.or_else(|| text("retry-after").and_then(number));
    let asked = match seconds {
        Some(seconds) => Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(MAX_RETRY_AFTER),
        None => {
            let date = |name| httpdate::parse_http_date(text(name)?).ok();
            // By the clock of the upstream if it sends `Date`: it may differ from ours.
            let now = date("date").unwrap_or(now);
            date("retry-after")?.duration_since(now).unwrap_or_default()
        }
    };
    Some(asked.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_differ_and_have_an_end() {
        for _ in 0..100 {
            let waits: Vec<_> = (1..5).map(jittered).collect();
            assert!(waits.windows(2).all(|pair| pair[0] < pair[1]), "{waits:?}");
            assert_eq!(jittered(0), Duration::ZERO);
            assert!(waits[0] >= BASE * 3 / 4 && jittered(u32::MAX) <= LONGEST * 5 / 4);
            assert!(after(BASE) >= BASE);
        }
        assert_ne!(jittered(3), jittered(3));
    }

    #[test]
    fn every_form_of_retry_after_is_read() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let mut headers = HeaderMap::new();
        headers.insert("date", "Sat, 05 Nov 1994 08:49:37 GMT".parse().unwrap());
        headers.insert("retry-after", "Sat, 05 Nov 1994 08:49:47 GMT".parse().unwrap());
        assert_eq!(asked_for(&headers, now), Some(Duration::from_secs(10)), "its own clock");
        for (name, value, seconds) in [
            ("retry-after", "3", Some(3.0)),
            ("retry-after", " 0.5 ", Some(0.5)),
            ("retry-after-ms", "1500", Some(1.5)),
            ("retry-after", "Sun, 06 Nov 1994 08:49:47 GMT", Some(10.0)),
            ("retry-after", "Sun, 06 Nov 1994 08:49:07 GMT", Some(0.0)),
            ("retry-after", "-1", Some(0.0)),
            ("retry-after", "1e300", Some(3600.0)),
            ("retry-after", "inf", None),
            ("retry-after", "soon", None),
            ("retry", "3", None),
        ] {
            let headers = HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]);
            assert_eq!(asked_for(&headers, now), seconds.map(Duration::from_secs_f64), "{value}");
        }
    }
}
