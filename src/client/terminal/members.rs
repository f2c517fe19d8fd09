//! The members of a room in columns. It knows neither colours nor the connection.

use crate::client::model::state::State;
use crate::client::text::width::most;
use crate::protocol::{Event, Key, Reply, Tags};

/// Rooms with more members are listed with recent speakers first, and only as far as the
/// screen has rows.
const SMALL_ROOM: usize = 40;

/// The indent of a row of names, and the gap between two columns.
pub(super) const INDENT: usize = 3;
const GAP: usize = 2;

/// Rows that a list leaves free: its heading, its end, the prompt and some lines above.
const ROWS_RESERVED: usize = 6;

/// The marks of an operator and of a user who is away. No name begins with one of them.
const OPERATOR: char = '@';
const AWAY: char = '-';

/// A member in a list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) name: String,
    is_operator: bool,
    is_away: bool,
}

impl Listed {
    /// Returns the marks before the name, in `width` columns.
    pub(super) fn marks(&self, width: usize) -> String {
        let mut marks = String::new();
        marks.extend(self.is_operator.then_some(OPERATOR));
        marks.extend(self.is_away.then_some(AWAY));
        format!("{marks:>width$}")
    }
}

/// The answer to `/who`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MemberList {
    pub(super) room: String,
    pub(super) count: usize,
    members: Vec<Listed>,
}

impl MemberList {
    /// Reads the lines of an answer to `/who` or `/who -l`; `None` if they are another answer.
    pub(super) fn parse(lines: &[String]) -> Option<Self> {
        let mut list: Option<Self> = None;
        let new = |room: &str, count| Self { room: room.to_owned(), count, members: Vec::new() };
        for line in lines {
            match (&mut list, Event::parse(Tags::split(line).1)?) {
                (None, Event::Reply(Reply::Who { room, count })) => list = Some(new(room, count)),
                (Some(list), Event::Reply(Reply::Person(person))) => list.members.push(Listed {
                    name: person.name.to_owned(),
                    is_operator: person.is_operator,
                    is_away: person.is_away,
                }),
                (_, Event::Reply(Reply::Users { room, count, names: Some(names) })) => {
                    let plain = |name: &str| Listed {
                        name: name.to_owned(),
                        is_operator: false,
                        is_away: false,
                    };
                    let list = list.get_or_insert_with(|| new(room, count));
                    list.members.extend(names.iter().map(plain));
                }
                // A row that the server replaced by a note.
                (Some(_), _) => {}
                (None, _) => return None,
            }
        }
        list
    }

    /// Sorts by name; in a large room, recent speakers come first.
    pub(super) fn sort(&mut self, state: &State) {
        let is_large = self.is_large();
        self.members.sort_by_cached_key(|member| {
            let speaker = state.speaker(&member.name).filter(|_| is_large);
            (speaker.unwrap_or(usize::MAX), Key::fold(&member.name))
        });
    }

    fn is_large(&self) -> bool {
        self.members.len() > SMALL_ROOM
    }

    /// Returns what the heading explains: the order, and the marks that occur.
    pub(super) fn legend(&self) -> String {
        let order = if self.is_large() { ", recent speakers first" } else { "" };
        let has = |is_marked: fn(&Listed) -> bool| self.members.iter().any(is_marked);
        let marks = match (has(|it| it.is_operator), has(|it| it.is_away)) {
            (true, true) => " (@ operator, - away)",
            (true, false) => " (@ operator)",
            (false, true) => " (- away)",
            (false, false) => "",
        };
        format!("{order}{marks}")
    }

    /// Arranges the members in rows for a screen of this size, and returns how many are left
    /// out.
    pub(super) fn arrange(&self, (columns, rows): (usize, usize)) -> (Grid<'_>, usize) {
        let marks = self.members.iter().map(|it| it.marks(0).len()).max().unwrap_or_default();
        let names = self.members.iter().map(|it| most(&it.name)).max().unwrap_or_default();
        let cell = marks + names + GAP;
        let per_row = ((columns + GAP).saturating_sub(INDENT) / cell).max(1);
        let fits = per_row * rows.saturating_sub(ROWS_RESERVED).max(1);
        let shown = if self.is_large() { fits.min(self.members.len()) } else { self.members.len() };
        let grid = Grid { rows: self.members[..shown].chunks(per_row).collect(), marks, cell };
        (grid, self.members.len() - shown)
    }
}

/// Members in rows of equal columns.
#[derive(Debug)]
pub(super) struct Grid<'a> {
    pub(super) rows: Vec<&'a [Listed]>,
    /// The width of the marks before each name.
    pub(super) marks: usize,
    /// The width of a column with its gap.
    pub(super) cell: usize,
}

/// Returns how many of these names fit behind `used` columns in two rows of the screen, all of
/// them or as many as leave `reserved` columns.
pub(super) fn count_in_two_rows<'a>(
    names: impl Iterator<Item = &'a str>,
    (used, reserved): (usize, usize),
    columns: usize,
) -> usize {
    // Names are not broken, so the first row may end early.
    let names: Vec<usize> = names.map(|name| most(name) + ", ".len()).collect();
    let longest = names.iter().copied().max().unwrap_or_default();
    let room = (2 * columns).saturating_sub(used + longest);
    if names.iter().sum::<usize>() <= room {
        return names.len();
    }
    let mut left = room.saturating_sub(reserved);
    let fits = |width: &&usize| left.checked_sub(**width).map(|rest| left = rest).is_some();
    names.iter().take_while(fits).count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(lines: &[&str]) -> Option<MemberList> {
        MemberList::parse(&lines.iter().map(|&line| line.to_owned()).collect::<Vec<_>>())
    }

    fn person(name: &str, op: &str, away: &str) -> String {
        format!("@cid=x [PERSON {name}] op={op} away={away} idle=1s since=2026-11-23T06:00:00.000Z")
    }

    /// Returns the rows with the marks and names of their members, and how many are left out.
    fn rows(list: &MemberList, size: (usize, usize)) -> (Vec<String>, usize) {
        let (grid, left_out) = list.arrange(size);
        let cell = |it: &Listed| format!("{}{}", it.marks(grid.marks), it.name);
        let row = |row: &&[Listed]| row.iter().map(cell).collect::<Vec<_>>().join("|");
        (grid.rows.iter().map(row).collect(), left_out)
    }

    #[test]
    fn details_are_shown_as_marks_and_explained() {
        let lines = [
            "[WHO #ops 3]".to_owned(),
            person("bob", "yes", "yes"),
            person("carol", "no", "yes"),
            person("alice", "no", "no"),
        ];
        let mut list = MemberList::parse(&lines).unwrap();
        list.sort(&State::new("alice"));
        assert_eq!(list.legend(), " (@ operator, - away)");
        assert_eq!(rows(&list, (80, 24)), (vec!["  alice|@-bob| -carol".to_owned()], 0));
        assert_eq!(rows(&list, (20, 5)).0.len(), 2);
    }

    #[test]
    fn list_without_details_has_no_marks() {
        let list = list(&["[USERS #ops 3] bob,al", "[USERS #ops 3] zed"]).unwrap();
        assert_eq!((list.room.as_str(), list.count, list.legend().as_str()), ("ops", 3, ""));
        assert_eq!(rows(&list, (40, 10)), (vec!["bob|al|zed".to_owned()], 0));
        assert!(
            super::tests::list(&["[TOPIC #ops] x"]).is_none() && super::tests::list(&[]).is_none()
        );
    }

    #[test]
    fn large_room_lists_recent_speakers_and_fits_the_screen() {
        let names: Vec<String> = (0..100).map(|n| format!("n{n:02}")).collect();
        let mut list = list(&[&format!("[USERS #lobby 100] {}", names.join(","))]).unwrap();
        let mut state = State::new("alice");
        state.apply(&Tags::default(), &Event::parse("n77: hi").unwrap());
        list.sort(&state);
        assert_eq!(list.legend(), ", recent speakers first");
        for (size, count, left_out) in
            [((20, 5), 1, 97), ((40, 10), 4, 72), ((80, 24), 7, 0), ((120, 50), 5, 0)]
        {
            let (rows, out) = rows(&list, size);
            assert_eq!((rows.len(), out), (count, left_out), "{size:?}");
            assert!(rows[0].starts_with("n77|n00|n01"), "{rows:?}");
        }
    }

    #[test]
    fn two_rows_hold_all_names_or_leave_space_for_the_rest() {
        let count =
            |names: &[&str], columns| count_in_two_rows(names.iter().copied(), (10, 10), columns);
        assert_eq!(count(&["anna", "ben"], 80), 2);
        assert_eq!(count(&["anna"; 20], 40), 9);
        assert_eq!(count(&["anna"; 20], 5), 1);
        assert_eq!(count(&[], 40), 0);
    }
}
