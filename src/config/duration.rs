//! Durations as Go writes them: `300ms`, `1h30m`, `1.5s`.

use std::time::Duration;

/// Parses a duration. `infinite` is one that never passes.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let broken = || format!("{text:?} is not a duration such as 300ms, 10s or 1h30m");
    if text == "infinite" {
        return Ok(Duration::MAX);
    }
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(broken)?;
        let number: f64 = rest[..digits].parse().map_err(|_| broken())?;
        rest = &rest[digits..];
        let units =
            [("ms", 0.001), ("us", 0.000_001), ("µs", 0.000_001), ("ns", 1e-9), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];
        let (unit, seconds) = units.into_iter().find(|(unit, _)| rest.starts_with(unit)).ok_or_else(broken)?;
        rest = &rest[unit.len()..];
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| broken())?;
        total = total.checked_add(part).unwrap_or(Duration::MAX);
    }
    if text.is_empty() { Err(broken()) } else { Ok(total) }
}
