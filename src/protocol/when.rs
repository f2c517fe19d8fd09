//! Points in time as people write them in `since` and `until`: `2026-11-29T09:00:00Z`,
//! `2026-11-29`, `2026-11-29T09:00`, `9:00`, `today`, `yesterday`, or a span like `2h`.
//!
//! A time without an offset belongs to a time zone: that of the reader for `chatty join`, UTC on
//! the wire. This module does not know what a time is for.

use std::fmt;
use std::time::Duration;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

use super::Stamp;
use super::units::{parse_duration, show_duration};

/// A point in time, or a whole day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// A time with an offset.
    Moment(Stamp),
    /// A date and a time of day.
    At(DateTime),
    /// A time of day: of today, or of yesterday if a period begins with it and it is still to
    /// come today.
    Clock(Time),
    /// A day. A period that begins or ends with it contains all of it.
    Day(Date),
    /// The current day.
    Today,
    /// The day before it.
    Yesterday,
    /// This long ago.
    Ago(Duration),
}

/// The accepted forms, for error texts.
pub const WHEN_FORMS: &str = "2026-11-29, 2026-11-29T09:00, 9:00, today, yesterday or 2h";

impl When {
    /// Parses a word. Keywords and units ignore case.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        if word.eq_ignore_ascii_case("today") {
            return Some(Self::Today);
        }
        if word.eq_ignore_ascii_case("yesterday") {
            return Some(Self::Yesterday);
        }
        // jiff accepts more forms than those documented here.
        if !word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-:.+".contains(&b)) {
            return None;
        }
        if word.as_bytes().get(4) == Some(&b'-') {
            return Self::parse_date(word);
        }
        if word.contains(':') {
            return parse_clock(word).map(Self::Clock);
        }
        parse_duration(&word.to_ascii_lowercase()).ok().map(Self::Ago)
    }

    /// Parses a word that begins with a date.
    fn parse_date(word: &str) -> Option<Self> {
        let Some((date, time)) = word.split_once(['T', 't']) else {
            return (word.len() == 10).then(|| word.parse().ok().map(Self::Day))?;
        };
        if date.len() != 10 || !time.contains(':') {
            return None;
        }
        let has_offset = time.ends_with(['Z', 'z']) || time.contains(['+', '-']);
        if has_offset {
            let moment = word.parse::<Timestamp>().ok()?;
            return Some(Self::Moment(Stamp(moment.as_millisecond())));
        }
        word.parse().ok().map(Self::At)
    }

    /// Whether it depends on the time zone.
    #[must_use]
    pub fn is_local(self) -> bool {
        !matches!(self, Self::Moment(_) | Self::Ago(_))
    }

    /// Returns the first moment of a period that begins with this time.
    #[must_use]
    pub fn start(self, now: Stamp, zone: &TimeZone) -> Stamp {
        let today = || zone.to_datetime(now.timestamp());
        match self {
            Self::Clock(time) => {
                let at = today().date().to_datetime(time);
                let is_to_come = at > today();
                let day_before = || at.saturating_sub(1.day());
                stamp(if is_to_come { day_before() } else { at }, zone)
            }
            Self::Day(date) => stamp(date.into(), zone),
            Self::Today => stamp(today().date().into(), zone),
            Self::Yesterday => stamp(day_before(today().date()).into(), zone),
            Self::Moment(_) | Self::At(_) | Self::Ago(_) => self.end(now, zone),
        }
    }

    /// Returns the last moment of a period that ends with this time.
    #[must_use]
    pub fn end(self, now: Stamp, zone: &TimeZone) -> Stamp {
        let today = || zone.to_datetime(now.timestamp()).date();
        match self {
            Self::Moment(stamp) => stamp,
            Self::At(at) => stamp(at, zone),
            Self::Clock(time) => stamp(today().to_datetime(time), zone),
            Self::Day(date) => end_of(date, zone),
            Self::Today => end_of(today(), zone),
            Self::Yesterday => end_of(day_before(today()), zone),
            Self::Ago(span) => {
                let ms = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
                Stamp(now.0.saturating_sub(ms))
            }
        }
    }
}

/// Writes a form that [`When::parse`] parses to the same value.
impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Moment(stamp) => stamp.fmt(f),
            Self::At(at) => at.fmt(f),
            Self::Clock(time) => time.fmt(f),
            Self::Day(date) => date.fmt(f),
            Self::Today => f.write_str("today"),
            Self::Yesterday => f.write_str("yesterday"),
            Self::Ago(span) => f.write_str(&show_duration(*span)),
        }
    }
}

/// Parses `9:00`, `09:00` or `09:00:30`.
fn parse_clock(word: &str) -> Option<Time> {
    let (hour, rest) = word.split_once(':')?;
    let (minute, second) = rest.split_once(':').unwrap_or((rest, "00"));
    let number = |digits: &str, lengths: &[usize]| -> Option<i8> {
        let is_number = digits.bytes().all(|b| b.is_ascii_digit());
        (is_number && lengths.contains(&digits.len())).then(|| digits.parse().ok())?
    };
    Time::new(number(hour, &[1, 2])?, number(minute, &[2])?, number(second, &[2])?, 0).ok()
}

fn day_before(date: Date) -> Date {
    date.yesterday().unwrap_or(date)
}

/// Returns the last millisecond of a day.
fn end_of(date: Date, zone: &TimeZone) -> Stamp {
    date.tomorrow().map_or(Stamp(i64::MAX), |next| Stamp(stamp(next.into(), zone).0 - 1))
}

/// A time that a change of the clock skips or repeats is resolved as calendars do: after a gap,
/// before a repetition.
fn stamp(at: DateTime, zone: &TimeZone) -> Stamp {
    let limit = if at.year() < 0 { Timestamp::MIN } else { Timestamp::MAX };
    let time = zone.to_ambiguous_timestamp(at).compatible().unwrap_or(limit);
    Stamp(time.as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-29, 12:30 UTC.
    fn noon() -> Stamp {
        Stamp::parse("2026-11-29T12:30:00Z").expect("a time")
    }

    fn period(word: &str, zone: &TimeZone) -> Option<[String; 2]> {
        let when = When::parse(word)?;
        Some([when.start(noon(), zone).to_string(), when.end(noon(), zone).to_string()])
    }

    #[test]
    fn times_and_days_are_resolved_in_utc() {
        for (word, start, end) in [
            ("2026-11-28T09:00:00.5Z", "2026-11-28T09:00:00.500Z", "2026-11-28T09:00:00.500Z"),
            ("2026-11-28t09:00:00z", "2026-11-28T09:00:00.000Z", "2026-11-28T09:00:00.000Z"),
            ("2026-11-28T09:00+01:00", "2026-11-28T08:00:00.000Z", "2026-11-28T08:00:00.000Z"),
            ("2026-11-28T09:00", "2026-11-28T09:00:00.000Z", "2026-11-28T09:00:00.000Z"),
            ("2026-11-28T09:00:05", "2026-11-28T09:00:05.000Z", "2026-11-28T09:00:05.000Z"),
            ("2026-11-28", "2026-11-28T00:00:00.000Z", "2026-11-28T23:59:59.999Z"),
            ("9:00", "2026-11-29T09:00:00.000Z", "2026-11-29T09:00:00.000Z"),
            ("09:00:10", "2026-11-29T09:00:10.000Z", "2026-11-29T09:00:10.000Z"),
            // Still to come: a period begins with yesterday's, and ends with today's.
            ("18:00", "2026-11-28T18:00:00.000Z", "2026-11-29T18:00:00.000Z"),
            ("Today", "2026-11-29T00:00:00.000Z", "2026-11-29T23:59:59.999Z"),
            ("yesterday", "2026-11-28T00:00:00.000Z", "2026-11-28T23:59:59.999Z"),
            ("2h", "2026-11-29T10:30:00.000Z", "2026-11-29T10:30:00.000Z"),
            ("2H", "2026-11-29T10:30:00.000Z", "2026-11-29T10:30:00.000Z"),
        ] {
            assert_eq!(period(word, &TimeZone::UTC), Some([start.into(), end.into()]), "{word}");
        }
    }

    #[test]
    fn malformed_times_are_refused() {
        for word in [
            "",
            "soon",
            "9",
            "9:0",
            "9:000",
            "24:00",
            "9:60",
            ":30",
            "9:00pm",
            "-1h",
            "2 h",
            "2x",
            "2026",
            "2026-11",
            "2026-13-01",
            "2026-11-31",
            "2026-11-29T",
            "2026-11-29T09",
            "2026-11-29 09:00",
            "2026-11-29T09:00Z[UTC]",
            "2026-11-29T09:00+99:00",
            "20261129",
            "29.11.2026",
            "2026-11-29T09:00:00.Z",
            "tomorrow",
            "２h",
        ] {
            assert_eq!(When::parse(word), None, "{word}");
        }
    }

    #[test]
    fn times_belong_to_the_zone_even_if_the_clock_changes() {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("a zone");
        let local = |word| period(word, &zone).expect("a time");
        assert_eq!(local("9:00"), ["2026-11-29T08:00:00.000Z", "2026-11-29T08:00:00.000Z"]);
        assert_eq!(local("13:00")[0], "2026-11-29T12:00:00.000Z");
        assert_eq!(local("13:31")[0], "2026-11-28T12:31:00.000Z");
        assert_eq!(local("today"), ["2026-11-28T23:00:00.000Z", "2026-11-29T22:59:59.999Z"]);
        // A day of 23 hours, the hour that it lacks, and a day of 25 hours.
        assert_eq!(local("2026-03-29"), ["2026-03-28T23:00:00.000Z", "2026-03-29T21:59:59.999Z"]);
        assert_eq!(local("2026-03-29T02:30")[0], "2026-03-29T01:30:00.000Z");
        assert_eq!(local("2026-10-25"), ["2026-10-24T22:00:00.000Z", "2026-10-25T22:59:59.999Z"]);
    }

    #[test]
    fn every_time_has_moments_and_a_form_that_parses_again() {
        for word in [
            "0001-01-01",
            "9999-12-31",
            "9999-12-31T23:59",
            "-009999-01-01",
            "0s",
            "90m",
            "1d",
            "106751991167d",
            "2026-11-29T09:00:00.123Z",
            "2026-11-29T09:00",
            "9:05",
            "today",
        ] {
            let Some(when) = When::parse(word) else { continue };
            assert_eq!(When::parse(&when.to_string()), Some(when), "{word}");
            let (start, end) =
                (when.start(noon(), &TimeZone::UTC), when.end(noon(), &TimeZone::UTC));
            assert!(start <= end, "{word}");
        }
    }
}
