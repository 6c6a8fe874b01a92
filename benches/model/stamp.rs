//! The text of a delta: its number and the time at which the upstream wrote it. A reader
//! therefore knows how long it took, and that none is missing.

use std::{io::Write as _, sync::LazyLock, time::Instant};

/// Bytes of each.
pub(crate) const LENGTH: usize = 16;

/// Both ends are in this program and share its clock.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds on that clock. The stamp holds 4 hours of them.
pub(crate) fn now() -> u64 {
    u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Appends one.
pub(crate) fn write(out: &mut Vec<u8>, number: u16, at: u64) {
    // Writing to memory does not fail.
    let _ = write!(out, "{number:04x}{at:011x} ");
}

/// Reads one: its number and its time.
pub(crate) fn read(text: &str) -> Option<(u16, u64)> {
    let number = u16::from_str_radix(text.get(..4)?, 16).ok()?;
    let at = u64::from_str_radix(text.get(4..LENGTH - 1)?, 16).ok()?;
    Some((number, at))
}
