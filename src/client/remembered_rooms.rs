//! `--rejoin`: the rooms that a user is in, remembered per server and account in the user's data
//! folder: `chatty/rooms/HOST/ACCOUNT`, one room a line, the current one last.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::net::address::Endpoint;
use super::text::file_name::{safe_file_name, server_folder};
use crate::commands::Command;
use crate::config::base_folder;
use crate::files::open_own;
use crate::protocol::name::{is_lobby, is_same_name};
use crate::protocol::{Key, LOBBY, RoomName};
use crate::text_file;

/// The most rooms that are joined again.
const REJOINED_MAX: usize = 100;

/// The rooms of one user on one server.
pub(super) struct RememberedRooms {
    /// The folder of the server; `None` if the user has no folder for data.
    folder: Option<PathBuf>,
    account: String,
    is_on: bool,
    /// Without `--rejoin`, the rooms of accounts are remembered.
    follows_account: bool,
    saved: Option<Vec<String>>,
}

impl RememberedRooms {
    /// Returns rooms that are not remembered.
    pub(super) fn none() -> Self {
        let (folder, account, saved) = (None, String::new(), None);
        Self { folder, account, is_on: false, follows_account: false, saved }
    }

    /// Returns the rooms of a user. `rejoin`: `--rejoin`.
    pub(super) fn of(
        endpoint: &Endpoint,
        name: &str,
        is_account: bool,
        rejoin: Option<bool>,
    ) -> Self {
        let home = base_folder("XDG_DATA_HOME", ".local/share");
        let server = server_folder(&endpoint.host, endpoint.port);
        Self {
            folder: home.map(|home| home.join("chatty/rooms").join(server)),
            account: name.to_owned(),
            is_on: rejoin.unwrap_or(is_account),
            follows_account: rejoin.is_none(),
            saved: None,
        }
    }

    /// Handles that the user registered this account, or unregistered it (`None`).
    pub(super) fn account_changed(&mut self, account: Option<&str>) {
        if self.follows_account {
            self.is_on = account.is_some();
        }
        if let Some(name) = account {
            name.clone_into(&mut self.account);
        }
        self.saved = None;
    }

    /// Returns the commands that join the remembered rooms after a login into the lobby and the
    /// `named` rooms, of which the first is the current one and stays it.
    pub(super) fn rejoin(&self, named: &[RoomName]) -> Vec<String> {
        let Some(path) = self.path() else { return Vec::new() };
        let bytes =
            open_own(&path, OpenOptions::new().read(true)).and_then(text_file::read_bytes_from);
        // A file that cannot be read counts as missing; the next save replaces it.
        let text = bytes.and_then(text_file::decode).unwrap_or_default();
        let remembered: Vec<RoomName> =
            text.lines().take(REJOINED_MAX).filter_map(|line| RoomName::parse(line).ok()).collect();
        commands(&remembered, named)
    }

    /// Stores the rooms if they have changed; the current one is the last.
    pub(super) fn save(&mut self, rooms: &[&str]) -> Result<(), String> {
        let Some(path) = self.path() else { return Ok(()) };
        if self.saved.as_ref().is_some_and(|saved| saved == rooms) {
            return Ok(());
        }
        self.saved = Some(rooms.iter().map(|&room| room.to_owned()).collect());
        let text = rooms.join("\n") + "\n";
        write(&path, &text)
            .map_err(|problem| format!("rooms are not remembered: {}: {problem}", path.display()))
    }

    fn path(&self) -> Option<PathBuf> {
        let folder = self.folder.as_ref().filter(|_| self.is_on)?;
        Some(folder.join(safe_file_name(Key::fold(&self.account).as_str())))
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    // Emptied only after it was checked that it is the user's own.
    let mut file = open_own(path, OpenOptions::new().write(true).create(true))?;
    file.set_len(0)?;
    file.write_all(text.as_bytes())
}

fn commands(remembered: &[RoomName], named: &[RoomName]) -> Vec<String> {
    let current = named.first().map_or(LOBBY, RoomName::as_str);
    let last = match (named.first(), remembered.last()) {
        (None, Some(last)) => last.as_str(),
        _ => current,
    };
    let is_joined =
        |room: &str| is_lobby(room) || named.iter().any(|named| is_same_name(named.as_str(), room));
    let others = remembered.iter().map(RoomName::as_str);
    let mut rooms: Vec<&str> =
        others.filter(|room| !is_joined(room) && !is_same_name(room, last)).collect();
    if !rooms.is_empty() || !is_same_name(last, current) {
        rooms.push(last);
    }
    rooms.into_iter().map(|room| Command::Join { room, key: None }.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooms(names: &[&str]) -> Vec<RoomName> {
        names.iter().map(|name| RoomName::parse(name).unwrap()).collect()
    }

    #[test]
    fn remembered_rooms_are_joined_and_the_current_one_last() {
        for (remembered, named, expected) in [
            (&[][..], &[][..], &[][..]),
            (&["lobby"], &[], &[]),
            (&["lobby", "ops"], &[], &["/join ops"]),
            (&["ops", "dev", "lobby"], &[], &["/join ops", "/join dev", "/join lobby"]),
            (&["lobby", "ops"], &["dev"], &["/join ops", "/join dev"]),
            (&["lobby", "OPS"], &["dev", "ops"], &[]),
            (&["ops", "dev"], &["dev"], &["/join ops", "/join dev"]),
        ] {
            let lines = commands(&rooms(remembered), &rooms(named));
            assert_eq!(lines, expected, "{remembered:?} {named:?}");
        }
    }

    #[test]
    fn rooms_of_an_account_are_stored_and_damage_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let mut of = RememberedRooms {
            folder: Some(folder.path().join("host")),
            account: "Al".to_owned(),
            follows_account: true,
            ..RememberedRooms::none()
        };
        of.save(&["lobby", "ops"]).unwrap();
        assert!(!folder.path().join("host").exists(), "a guest");
        of.account_changed(Some("Al"));
        assert_eq!(of.rejoin(&[]), [""; 0]);
        of.save(&["lobby", "ops", "dev"]).unwrap();
        assert_eq!(of.rejoin(&[]), ["/join ops", "/join dev"]);
        of.save(&["ops"]).unwrap();
        let path = folder.path().join("host/al");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "ops\n");
        std::fs::write(&path, b"ops\n\xff\n").unwrap();
        assert_eq!(of.rejoin(&[]), [""; 0]);
        std::fs::write(&path, b"a b\n\n#dev\n/x").unwrap();
        assert_eq!(of.rejoin(&[]), ["/join dev"]);
        of.account_changed(None);
        assert_eq!(of.rejoin(&[]), [""; 0]);
    }
}
