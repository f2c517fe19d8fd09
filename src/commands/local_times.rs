//! Times without an offset, `since 9:00`, as a reader's moments. On the wire they would be UTC.

use jiff::tz::TimeZone;

use super::parse::SearchFilter;
use super::{Command, HistoryRange, Parsed, parse};
use crate::protocol::text::is_blank;
use crate::protocol::{Stamp, When};

/// Returns a line with the times of its `/history` or `/search` as moments, if any has no offset.
#[must_use]
pub fn with_moments(line: &str, now: Stamp, zone: &TimeZone) -> Option<String> {
    let start = |when: When| When::Moment(when.start(now, zone));
    let end = |when: When| When::Moment(when.end(now, zone));
    match parse(line) {
        Ok(Parsed::Command(Command::History { rows, thread }))
            if has_local([rows.since, rows.until]) =>
        {
            let (since, until) = (rows.since.map(start), rows.until.map(end));
            let rows = HistoryRange { since, until, ..rows };
            Some(Command::History { rows, thread }.to_string())
        }
        Ok(Parsed::Command(Command::Search { query })) if has_local([query.since, query.until]) => {
            let moment = |word: &str| match SearchFilter::of(word) {
                Some((SearchFilter::Since, when)) => {
                    When::parse(when).map(|when| format!("since:{}", start(when)))
                }
                Some((SearchFilter::Until, when)) => {
                    When::parse(when).map(|when| format!("until:{}", end(when)))
                }
                _ => None,
            };
            let words = query.text().split(is_blank);
            let words: Vec<String> =
                words.map(|it| moment(it).unwrap_or_else(|| it.into())).collect();
            Some(format!("/search {}", words.join(" ")))
        }
        _ => None,
    }
}

fn has_local(times: [Option<When>; 2]) -> bool {
    times.into_iter().flatten().any(When::is_local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_history_and_search_become_moments() {
        let zone = TimeZone::posix("CET-1").expect("a zone");
        let now = Stamp::parse("2026-11-29T12:30:00Z").expect("a time");
        for (line, sent) in [
            ("/history since 9:00", "/history 20 since 2026-11-29T08:00:00.000Z"),
            (
                "/history 5 since yesterday until yesterday #ops",
                "/history 5 since 2026-11-27T23:00:00.000Z until 2026-11-28T22:59:59.999Z #ops",
            ),
            (
                "/history since 2026-11-29 until 2h",
                "/history 20 since 2026-11-28T23:00:00.000Z until 2026-11-29T10:30:00.000Z",
            ),
            (
                "/search  a since:9:00 UNTIL:2026-11-29T10:00  b #ops",
                "/search a since:2026-11-29T08:00:00.000Z until:2026-11-29T09:00:00.000Z  b #ops",
            ),
        ] {
            assert_eq!(with_moments(line, now, &zone).as_deref(), Some(sent), "{line}");
        }
        for line in [
            "/history",
            "/history since 2h",
            "/history since 2026-11-29T09:00Z",
            "/history since x",
            "/search today",
            "/search a since:2h",
            "since 9:00",
            "/msg bob since:9:00",
        ] {
            assert_eq!(with_moments(line, now, &zone), None, "{line}");
        }
    }
}
