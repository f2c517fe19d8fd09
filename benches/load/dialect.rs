//! The protocols of the measured servers: what to send for a login, a message and a logout, and
//! the answer that confirms the login.

use crate::server::Kind;

/// The room of all members in workloads with one room.
pub(crate) const COMMON: &str = "lobby";

/// The role of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Receives the messages of its room, and may send some.
    Member,
    /// The same in the tagged dialect.
    TaggedMember,
    /// Only sends messages, for servers whose members cannot send.
    Publisher,
    /// Exchanges private messages with one other connection.
    Partner,
}

/// The recipient of a message.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// The members of a room that the sender is in.
    Room(String),
    /// One user.
    Person(String),
}

impl Kind {
    /// Whether members of a room can send messages to it.
    pub(crate) fn members_send(self) -> bool {
        self != Self::Redis
    }

    /// Whether the sender receives its own messages.
    pub(crate) fn echoes(self) -> bool {
        matches!(self, Self::Chatty | Self::ChattyLog)
    }

    /// Returns the lines that log in and join a room, and the text that confirms it.
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
            // Publishing on a subscribed connection needs version 3 of its protocol.
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

    /// Returns the line that sends `text`.
    pub(crate) fn message(self, to: &Target, text: &str) -> String {
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

    /// Returns the line after which the server closes the connection.
    pub(crate) fn leave(self) -> &'static str {
        match self {
            Self::Chatty | Self::ChattyLog => "/quit\n",
            Self::Redis | Self::Ngircd => "QUIT\r\n",
        }
    }
}
