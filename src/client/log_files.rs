//! `--log`: writes the chat to text files: `chatty/log/HOST/ROOM/2026-11-23.log` in the
//! user's data folder, with `@NAME` for a private conversation. Only shown lines are
//! written, never commands. It does not know how lines are shown.
//!
//! The date of a file comes from the local clock, since a hostile server could send any
//! date. Room names come from the server, so their number is bounded ([`LOGGED_MAX`]).

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use jiff::civil::Date;
use jiff::{Timestamp, Zoned};

use super::limits::LOGGED_MAX;
use super::net::address::Endpoint;
use super::text::file_name::{safe_file_name, server_folder};
use super::text::sanitize::Clean;
use crate::config::base_folder;
use crate::files::open_own;
use crate::protocol::{Event, Key, Message, Place, Stamp, Tags};

/// The log files of one server.
pub(super) struct LogFiles {
    /// `None` if the user has no folder for data.
    folder: Option<PathBuf>,
    is_on: bool,
    /// The file written last.
    open: Option<(PathBuf, File)>,
    /// The current date and the conversations logged on it.
    today: (Date, BTreeSet<String>),
}

impl LogFiles {
    pub(super) fn none() -> Self {
        Self { folder: None, is_on: false, open: None, today: (Date::default(), BTreeSet::new()) }
    }

    /// Returns the log files of this server, in the user's data folder. They are written once
    /// they are turned on.
    pub(super) fn of(endpoint: &Endpoint) -> Self {
        let home = base_folder("XDG_DATA_HOME", ".local/share");
        let host = server_folder(&endpoint.host, endpoint.port);
        let folder = home.map(|home| home.join("chatty/log").join(host));
        Self { folder, ..Self::none() }
    }

    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// Turns logging on or off.
    pub(super) fn turn(&mut self, is_on: bool) -> Result<(), String> {
        if is_on && self.folder.is_none() {
            return Err("set XDG_DATA_HOME or HOME to store log files".to_owned());
        }
        self.is_on = is_on;
        Ok(())
    }

    /// Writes a shown line. Returns a problem to report, each problem once.
    pub(super) fn note(&mut self, tags: &Tags<'_>, plain: &str) -> Option<String> {
        self.note_at(&Zoned::now(), tags, plain)
    }

    fn note_at(&mut self, now: &Zoned, tags: &Tags<'_>, plain: &str) -> Option<String> {
        let folder = self.folder.as_ref().filter(|_| self.is_on)?;
        let conversation = conversation_folder(plain)?;
        let (day, conversations) = &mut self.today;
        if *day != now.date() {
            (*day, *conversations) = (now.date(), BTreeSet::new());
        }
        if !conversations.contains(&conversation) {
            // One entry beyond the limit marks that the limit was reported.
            if conversations.len() > LOGGED_MAX {
                return None;
            }
            conversations.insert(conversation.clone());
            if conversations.len() > LOGGED_MAX {
                return Some(format!(
                    "--log: only {LOGGED_MAX} rooms and private conversations are logged per day"
                ));
            }
        }
        let place = folder.join(conversation);
        let problem = self.write(&place, now, tags, plain).err()?;
        // Logging is not retried.
        (self.is_on, self.open) = (false, None);
        Some(format!("logging stopped: {}: {problem}", place.display()))
    }

    fn write(&mut self, place: &Path, now: &Zoned, tags: &Tags<'_>, plain: &str) -> io::Result<()> {
        let path = place.join(now.strftime("%Y-%m-%d.log").to_string());
        if self.open.as_ref().is_none_or(|(open, _)| *open != path) {
            DirBuilder::new().recursive(true).mode(0o700).create(place)?;
            let file = open_own(&path, OpenOptions::new().append(true).create(true))?;
            self.open = Some((path, file));
        }
        let Some((_, file)) = &mut self.open else { return Ok(()) };
        let time = tags.time.map_or_else(|| now.timestamp(), Stamp::timestamp);
        // One write: another client may append at the same time.
        file.write_all(format!("{} {}\n", time_in_file(time, now), Clean::of(plain)).as_bytes())
    }
}

/// Formats the time of a line, with the date if it differs from that of the file, e.g. for
/// lines missed overnight.
fn time_in_file(time: Timestamp, now: &Zoned) -> String {
    let time = time.to_zoned(now.time_zone().clone());
    let format = if time.date() == now.date() { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" };
    time.strftime(format).to_string()
}

/// Returns the folder of the conversation of a line; `None` for lines of no conversation,
/// such as answers to commands.
fn conversation_folder(plain: &str) -> Option<String> {
    let person = |name: &str| format!("@{}", safe_file_name(Key::fold(name).as_str()));
    match Event::parse(plain)? {
        Event::Message(Message { place: Place::ToMe, from, .. }) => Some(person(from)),
        Event::Message(Message { place: Place::ToPerson(to), .. }) => Some(person(to)),
        Event::Message(Message { place: Place::Room(room), .. })
        | Event::Joined { room, .. }
        | Event::Left { room, .. }
        | Event::Topic { room, .. }
        | Event::Promoted { room, .. }
        | Event::Demoted { room, .. }
        | Event::Kicked { room, .. }
        | Event::Crowd { room, .. }
        | Event::Notice { room, .. } => Some(safe_file_name(Key::fold(room).as_str())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Logs lines to a temporary folder. Returns the problems, and the path and content of
    /// each file.
    fn logged(lines: &[(&str, &str)]) -> (Vec<String>, Vec<(String, String)>) {
        let folder = tempfile::tempdir().unwrap();
        let mut log =
            LogFiles { folder: Some(folder.path().to_owned()), is_on: true, ..LogFiles::none() };
        let mut problems = Vec::new();
        for (now, line) in lines {
            let now = now.parse::<Timestamp>().unwrap().to_zoned(jiff::tz::TimeZone::UTC);
            let (tags, plain) = Tags::split(line);
            problems.extend(log.note_at(&now, &tags, plain));
        }
        let mut files = Vec::new();
        for conversation in fs::read_dir(folder.path()).unwrap() {
            for file in fs::read_dir(conversation.unwrap().path()).unwrap() {
                let path = file.unwrap().path();
                let name = path.strip_prefix(folder.path()).unwrap().display().to_string();
                files.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
        files.sort();
        (problems, files)
    }

    #[test]
    fn date_of_file_is_that_of_local_clock() {
        let (problems, files) = logged(&[
            ("2026-11-23T06:16:00Z", "@time=2026-11-23T06:15:59.123Z bob: now"),
            ("2026-11-23T06:16:00Z", "@time=2026-11-22T23:15:59.123Z bob: overnight"),
            ("2026-11-23T06:16:00Z", "@time=9000-01-01T23:59:59.999Z bob: far off"),
            ("2026-11-23T06:16:01Z", "bob: without a time"),
            ("2026-11-24T06:16:00Z", "@time=2026-11-24T06:16:00.000Z bob: the next day"),
        ]);
        assert_eq!(problems, [""; 0]);
        let [(first, text), (second, next)] = &files[..] else { panic!("{files:?}") };
        assert_eq!(
            (first.as_str(), second.as_str()),
            ("lobby/2026-11-23.log", "lobby/2026-11-24.log")
        );
        let lines = "06:15:59 bob: now\n2026-11-22 23:15:59 bob: overnight\n\
                     9000-01-01 23:59:59 bob: far off\n06:16:01 bob: without a time\n";
        assert_eq!(text, lines);
        assert_eq!(next, "06:16:00 bob: the next day\n");
    }

    #[test]
    fn number_of_files_is_bounded() {
        let lines: Vec<String> = (0..LOGGED_MAX + 50)
            .map(|number| format!("#r{number} bob: hi"))
            .chain(["#r0 bob: still".to_owned()])
            .collect();
        let lines: Vec<_> =
            lines.iter().map(|line| ("2026-11-23T06:16:00Z", line.as_str())).collect();
        let (problems, files) = logged(&lines);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(files.len(), LOGGED_MAX);
        assert_eq!(files[0].1, "06:16:00 #r0 bob: hi\n06:16:00 #r0 bob: still\n");
    }

    #[test]
    fn every_conversation_has_a_folder_inside_the_log() {
        for (line, folder) in [
            ("bob: hi", Some("lobby")),
            ("#Ops bob: hi", Some("ops")),
            ("#ops * bob joined", Some("ops")),
            ("[PRIVATE MESSAGE] Зоя: hi", Some("@зоя")),
            ("[PRIVATE MESSAGE] Bob: hi", Some("@bob")),
            ("[PRIVATE MESSAGE to bob] alice: hi", Some("@bob")),
            ("[REGISTERED alice] x", None),
            ("2026-11-23T06:16:00.123Z bob: repeated", None),
            ("/help", None),
        ] {
            assert_eq!(conversation_folder(line).as_deref(), folder, "{line}");
        }
        for (name, safe) in [
            ("chat.example.org", "chat.example.org"),
            ("..", "_."),
            ("../../etc", "_._.._etc"),
            (".ssh", "_ssh"),
            ("::1", "__1"),
            ("a/b\0c", "a_b_c"),
        ] {
            assert_eq!(safe_file_name(name), safe);
        }
    }
}
