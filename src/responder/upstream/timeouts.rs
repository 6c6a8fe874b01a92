//! Validation of time limits.

use std::time::Duration;

/// Refuses time limits of zero, and time limits of more than a day.
///
/// # Errors
/// One line that begins with the name of the first wrong limit.
pub(in crate::responder) fn check(timeouts: &[(&str, Duration)]) -> Result<(), String> {
    const LONGEST: Duration = Duration::from_secs(24 * 3600);
    let wrong = timeouts.iter().find(|(_, time)| time.is_zero() || *time > LONGEST);
    wrong.map_or(Ok(()), |(name, _)| {
        Err(format!("{name} must be more than zero and not more than a day"))
    })
}
