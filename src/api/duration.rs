//! Durations as configuration has them: protobuf's JSON (`1.5s`) and Go's form
//! (`1h30m`, `300ms`), of which the first and the Gateway API's are subsets.
//! <https://protobuf.dev/programming-guides/json/>,
//! <https://pkg.go.dev/time#ParseDuration>

#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// The longest duration that protobuf has, ten thousand years. Envoy refuses a
/// message with a longer one.
const LONGEST: Duration = Duration::from_secs(315_576_000_000);

/// For `#[serde(deserialize_with)]`: a duration that may be absent.
pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let Some(text) = Option::<std::borrow::Cow<'de, str>>::deserialize(deserializer)? else { return Ok(None) };
    match parse(&text) {
        Some(duration) => Ok(Some(duration)),
        None => Err(D::Error::custom(format_args!("{text:?} is not a duration such as 1.5s, 300ms or 1h30m"))),
    }
}

/// Parses a duration, exactly.
pub fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut nanoseconds: u128 = 0;
    let mut rest = text;
    while !rest.is_empty() || text.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let (unit, scale) = UNITS.into_iter().find(|(unit, _)| after.starts_with(unit))?;
        rest = &after[unit.len()..];
        nanoseconds = nanoseconds.checked_add(scaled(number, scale)?)?;
    }
    let seconds = u64::try_from(nanoseconds / 1_000_000_000).ok()?;
    let part = u32::try_from(nanoseconds % 1_000_000_000).ok()?;
    Some(Duration::new(seconds, part)).filter(|duration| *duration <= LONGEST)
}

/// Units in nanoseconds. Those that begin with another one come before it.
const UNITS: [(&str, u64); 8] = [
    ("ms", 1_000_000),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ns", 1),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
];

/// A decimal number times a scale. What is smaller than one is cut off.
fn scaled(number: &str, scale: u64) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || fraction.len() > 20 {
        return None;
    }
    let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u64>().ok().map(u128::from) };
    let exponent = u32::try_from(fraction.len()).ok()?;
    let fraction = digits(fraction)?.checked_mul(scale.into())? / 10_u128.checked_pow(exponent)?;
    digits(whole)?.checked_mul(scale.into())?.checked_add(fraction)
}
