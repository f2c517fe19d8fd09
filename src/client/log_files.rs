//! `--log`: what was said, in files that can be read and searched without chatty:
//! `chatty/log/HOST/ROOM/2026-11-23.log` where data is kept, `@NAME` for a private
//! talk. Only what stood on the screen gets there, and no command ever does.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::address::Endpoint;
use super::clean::Clean;
use crate::files::open_own;
use crate::protocol::name::is_name_char;
use crate::protocol::{DEFAULT_PORT, Event, Key, Message, Place, Stamp, Tags};

/// The files of one server; none are written without `--log`.
pub(super) struct LogFiles {
    folder: Option<PathBuf>,
    /// The one written last.
    open: Option<(PathBuf, File)>,
}

impl LogFiles {
    pub(super) fn none() -> Self {
        Self { folder: None, open: None }
    }

    /// Those of this server, where data is kept.
    pub(super) fn of(endpoint: &Endpoint) -> Result<Self, String> {
        let home = super::home("XDG_DATA_HOME", ".local/share");
        let home = home.ok_or("--log: neither XDG_DATA_HOME nor HOME says where to")?;
        let host = match endpoint.port {
            DEFAULT_PORT => path_safe(&endpoint.host),
            port => path_safe(&format!("{}_{port}", endpoint.host)),
        };
        Ok(Self { folder: Some(home.join("chatty/log").join(host)), open: None })
    }

    /// Writes a line that was shown. `Some`: why that cannot be done; it will not
    /// be tried again.
    pub(super) fn note(&mut self, tags: &Tags<'_>, plain: &str) -> Option<String> {
        let place = self.folder.as_ref()?.join(talk(plain)?);
        let problem = self.write(&place, tags, plain).err()?;
        *self = Self::none();
        Some(format!("no log any more: {}: {problem}", place.display()))
    }

    fn write(&mut self, place: &Path, tags: &Tags<'_>, plain: &str) -> io::Result<()> {
        let time = tags.time.map_or_else(Timestamp::now, Stamp::timestamp);
        let time = time.to_zoned(TimeZone::system());
        let path = place.join(time.strftime("%Y-%m-%d.log").to_string());
        if self.open.as_ref().is_none_or(|(open, _)| *open != path) {
            DirBuilder::new().recursive(true).mode(0o700).create(place)?;
            let file = open_own(&path, OpenOptions::new().append(true).create(true))?;
            self.open = Some((path, file));
        }
        let Some((_, file)) = &mut self.open else { return Ok(()) };
        // In one piece: there may be another client of ours.
        file.write_all(format!("{} {}\n", time.strftime("%H:%M:%S"), Clean::of(plain)).as_bytes())
    }
}

/// The folder of the talk that a line belongs to; none for what belongs to none,
/// such as the answer to a command.
fn talk(plain: &str) -> Option<String> {
    let person = |name: &str| format!("@{}", path_safe(Key::fold(name).as_str()));
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
        | Event::Notice { room, .. } => Some(path_safe(Key::fold(room).as_str())),
        _ => None,
    }
}

/// A name as a file's name: no way out of the folder, nothing hidden.
fn path_safe(name: &str) -> String {
    let safe: String = name.chars().map(|c| if is_name_char(c) { c } else { '_' }).collect();
    match safe.strip_prefix('.') {
        Some(rest) => format!("_{rest}"),
        None => safe,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_talk_has_its_folder_and_none_leads_out_of_it() {
        for (line, folder) in [
            ("bob: hi", Some("lobby")),
            ("#Ops bob: hi", Some("ops")),
            ("#ops * bob joined", Some("ops")),
            ("[PRIVATE MESSAGE] Зоя: hi", Some("@зоя")),
            ("[PRIVATE MESSAGE] Bob: hi", Some("@bob")),
            ("[PRIVATE MESSAGE to bob] alice: hi", Some("@bob")),
            ("[REGISTERED alice] x", None),
            ("2026-11-23T06:16:00.123Z bob: told again", None),
            ("/help", None),
        ] {
            assert_eq!(talk(line).as_deref(), folder, "{line}");
        }
        for (name, safe) in [
            ("chat.example.org", "chat.example.org"),
            ("..", "_."),
            ("../../etc", "_._.._etc"),
            (".ssh", "_ssh"),
            ("::1", "__1"),
            ("a/b\0c", "a_b_c"),
        ] {
            assert_eq!(path_safe(name), safe);
        }
    }
}
