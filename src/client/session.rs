//! The session with the server: logging in, the lines without an answer, and what is needed to
//! continue after a lost connection.

pub(super) mod first_contact;
pub(super) mod heartbeat;
pub(super) mod login;
pub(super) mod outgoing;
pub(super) mod password;
pub(super) mod reconnect;
pub(super) mod resume;
mod seen_messages;

use std::time::Duration;

use super::log_files::LogFiles;
use super::net::connection::Connection;
use super::remembered_rooms::RememberedRooms;
use crate::commands::Command;
use login::Session;
use outgoing::CidGenerator;
use reconnect::ReconnectConfig;

/// The command with which the client leaves on its own.
pub(super) const QUIT: Command<'static> = Command::Quit { reason: None };

/// A session after login, with everything needed to resume it.
pub(super) struct ActiveSession {
    pub(super) connection: Connection,
    pub(super) session: Session,
    pub(super) cids: CidGenerator,
    pub(super) reconnect: ReconnectConfig,
    pub(super) ping_after: Duration,
    pub(super) log: LogFiles,
    pub(super) rooms: RememberedRooms,
    pub(super) debug_panic: bool,
}
