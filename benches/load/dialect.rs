//! What is said to which server, and how one knows that it was understood.

use crate::server::Kind;

/// The room that everybody is in where there is one room.
pub(crate) const COMMON: &str = "lobby";

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Hears what is said in its room, and says something.
    Member,
    /// Only says something; where members cannot.
    Publisher,
}

impl Kind {
    /// Whether who is in a room can say something there.
    pub(crate) fn members_speak(self) -> bool {
        self != Self::Redis
    }

    /// Whether what one says comes back.
    pub(crate) fn echoes(self) -> bool {
        matches!(self, Self::Chatty | Self::ChattyLog)
    }

    /// What to send to be in a room, and what comes when one is.
    pub(crate) fn log_in(self, name: &str, room: &str, role: Role) -> (String, String) {
        match self {
            Self::Chatty | Self::ChattyLog if room == COMMON => {
                (format!("{name}\n"), "[USERS #".to_owned())
            }
            Self::Chatty | Self::ChattyLog => {
                (format!("{name}\n/part\n/join {room}\n"), format!("[USERS #{room}"))
            }
            Self::Redis if role == Role::Publisher => ("PING\r\n".to_owned(), "+PONG".to_owned()),
            Self::Redis => (format!("SUBSCRIBE {room}\r\n"), ":1\r\n".to_owned()),
            Self::Ngircd => (
                format!("NICK {name}\r\nUSER {name} 0 * :b\r\nJOIN #{room}\r\n"),
                " 366 ".to_owned(),
            ),
        }
    }

    /// A line that says `text` in a room.
    pub(crate) fn say(self, room: &str, text: &str) -> String {
        match self {
            Self::Chatty | Self::ChattyLog => format!("{text}\n"),
            Self::Redis => {
                let (room_len, len) = (room.len(), text.len());
                format!("*3\r\n$7\r\nPUBLISH\r\n${room_len}\r\n{room}\r\n${len}\r\n{text}\r\n")
            }
            Self::Ngircd => format!("PRIVMSG #{room} :{text}\r\n"),
        }
    }
}
