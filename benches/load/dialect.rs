//! What is said to which server, and how one knows that it was understood.

use crate::server::Kind;

/// The room that everybody is in where there is one room.
pub(crate) const COMMON: &str = "lobby";

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Hears what is said in its room, and says something.
    Member,
    /// The same in the tagged dialect.
    TaggedMember,
    /// Only says something; where members cannot.
    Publisher,
    /// One of two who talk privately, and hears nothing but the other.
    Partner,
}

/// Who is to hear something.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// Everybody in a room that the speaker is in.
    Room(String),
    /// One person.
    Person(String),
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
            Self::Chatty | Self::ChattyLog if role == Role::Partner => {
                (format!("{name}\n/set echo off\n"), "[SET echo=off".to_owned())
            }
            Self::Chatty | Self::ChattyLog if role == Role::TaggedMember => {
                (format!("{name}\n/set tags on\n/part\n/join {room}\n"), format!("[USERS #{room}"))
            }
            Self::Chatty | Self::ChattyLog if room == COMMON => {
                (format!("{name}\n"), "[USERS #".to_owned())
            }
            Self::Chatty | Self::ChattyLog => {
                (format!("{name}\n/part\n/join {room}\n"), format!("[USERS #{room}"))
            }
            Self::Redis if role == Role::Publisher => ("PING\r\n".to_owned(), "+PONG".to_owned()),
            // Hearing and speaking on one connection takes its newer dialect.
            Self::Redis if role == Role::Partner => {
                (format!("HELLO 3\r\nSUBSCRIBE {name}\r\n"), "subscribe\r\n".to_owned())
            }
            Self::Redis => (format!("SUBSCRIBE {room}\r\n"), ":1\r\n".to_owned()),
            Self::Ngircd => (
                format!("NICK {name}\r\nUSER {name} 0 * :b\r\nJOIN #{room}\r\n"),
                " 366 ".to_owned(),
            ),
        }
    }

    /// A line that says `text`.
    pub(crate) fn say(self, to: &Target, text: &str) -> String {
        match (self, to) {
            (Self::Chatty | Self::ChattyLog, Target::Room(_)) => format!("{text}\n"),
            (Self::Chatty | Self::ChattyLog, Target::Person(name)) => {
                format!("/msg {name} {text}\n")
            }
            (Self::Redis, Target::Room(channel) | Target::Person(channel)) => {
                let (channel_len, len) = (channel.len(), text.len());
                format!(
                    "*3\r\n$7\r\nPUBLISH\r\n${channel_len}\r\n{channel}\r\n${len}\r\n{text}\r\n"
                )
            }
            (Self::Ngircd, Target::Room(room)) => format!("PRIVMSG #{room} :{text}\r\n"),
            (Self::Ngircd, Target::Person(name)) => format!("PRIVMSG {name} :{text}\r\n"),
        }
    }

    /// A line after which the server closes.
    pub(crate) fn leave(self) -> &'static str {
        match self {
            Self::Chatty | Self::ChattyLog => "/quit\n",
            Self::Redis | Self::Ngircd => "QUIT\r\n",
        }
    }
}
