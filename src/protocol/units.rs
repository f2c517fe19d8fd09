//! Values of time as people write them: timestamps (RFC 3339) and durations (`2s`, `10m`).
//! This module does not know what a value is for.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A timestamp in milliseconds since the Unix epoch, as in the log. On the wire it is
/// RFC 3339 in UTC: `2026-11-23T06:16:00.123Z`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Stamp(pub i64);

impl Stamp {
    /// Parses RFC 3339 in UTC, as written by [`Display`](fmt::Display).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if !text.ends_with('Z') {
            return None;
        }
        text.parse::<Timestamp>().ok().map(|t| Self(t.as_millisecond()))
    }

    /// Converts to a calendar timestamp, clamped to the calendar's range.
    #[must_use]
    pub fn timestamp(self) -> Timestamp {
        let range = Timestamp::MIN.as_second() * 1000..=Timestamp::MAX.as_second() * 1000;
        let ms = self.0.clamp(*range.start(), *range.end());
        Timestamp::from_millisecond(ms).unwrap_or_default()
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.timestamp())
    }
}

/// Parses a duration: a whole number and a unit, `500ms`, `2s`, `10m`, `2h`, `7d`.
///
/// # Errors
/// The text is invalid; the error describes the problem for the user.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let problem = || {
        format!(
            "invalid duration \"{text}\": needs a number and a unit, like 500ms, 2s, 10m, 2h or 7d"
        )
    };
    let (number, unit) = split_unit(text);
    let number: u64 = number.parse().map_err(|_| problem())?;
    let ms: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 3600 * 1000,
        "d" => 24 * 3600 * 1000,
        _ => return Err(problem()),
    };
    number.checked_mul(ms).map(Duration::from_millis).ok_or_else(problem)
}

/// Formats a duration in its largest whole unit, as [`parse_duration`] parses it.
#[must_use]
pub fn show_duration(time: Duration) -> String {
    let ms = time.as_millis();
    let units = [("d", 24 * 3600 * 1000), ("h", 3600 * 1000), ("m", 60 * 1000), ("s", 1000)];
    let whole = units.iter().find(|(_, size)| ms > 0 && ms.is_multiple_of(*size));
    let (unit, size) = whole.unwrap_or(&("ms", 1));
    format!("{}{unit}", ms / size)
}

/// Splits a value into its leading digits and its unit.
#[must_use]
pub fn split_unit(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamp_has_milliseconds_and_round_trips() {
        let stamp = Stamp(1_795_414_560_123);
        assert_eq!(stamp.to_string(), "2026-11-23T06:16:00.123Z");
        assert_eq!(Stamp::parse("2026-11-23T06:16:00.123Z"), Some(stamp));
        assert_eq!(Stamp(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Stamp::parse("yesterday"), None);
        assert_eq!(Stamp(i64::MAX).to_string(), "9999-12-30T22:00:00.000Z");
        assert_eq!(Stamp(i64::MIN).to_string(), "-009999-01-02T01:59:59.000Z");
    }

    #[test]
    fn durations_parse_with_their_units() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("10m"), Ok(Duration::from_mins(10)));
        assert_eq!(parse_duration("7d"), Ok(Duration::from_hours(7 * 24)));
        for bad in ["", "5", "s", "1.5s", "-1s", "5 s", "5y", "99999999999999999999d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        for text in ["7d", "2h", "90m", "61s", "1500ms", "0ms"] {
            assert_eq!(parse_duration(text).map(show_duration), Ok(text.to_owned()));
        }
    }
}
