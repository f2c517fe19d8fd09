//! How a visit begins, in both modes: the tagged dialect, the name, the room.
//! Nothing else is sent before the server has taken all three, so no line can
//! go where it was not meant to.

use std::time::Duration;

use super::Exit;
use super::address::Endpoint;
use super::connection::{Connection, Progress};
use super::outgoing::Cids;
use crate::protocol::{Event, Name, RoomName, Tags};

/// A server that takes the connection says something at once.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(20);

/// Who to be and where to go first.
pub(super) struct Identity {
    pub(super) name: Name,
    pub(super) room: Option<RoomName>,
}

/// A visit that has begun.
pub(super) struct Session {
    /// The name the server greeted us with.
    pub(super) me: String,
    /// What was said meanwhile, to be shown.
    pub(super) lines: Vec<String>,
    /// The marks of this visit; 0 is used up.
    pub(super) cids: Cids,
}

/// Why it has not.
pub(super) enum Refused {
    Name(String),
    Room(String),
    Farewell(String),
    Closed,
    Silent,
    NotChatty,
}

impl Refused {
    pub(super) fn sentence(&self, endpoint: &Endpoint) -> String {
        match self {
            Self::Name(why) => format!("the server does not take the name: {why}"),
            Self::Room(why) => format!("cannot enter the room: {why}"),
            Self::Farewell(why) => format!("{endpoint} ended the connection: {why}"),
            Self::Closed => format!("{endpoint} closed the connection"),
            Self::Silent => format!("{endpoint} does not answer"),
            Self::NotChatty => format!("{endpoint} is no chatty server"),
        }
    }

    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Name(_) => Exit::NameRefused,
            Self::Room(_) => Exit::Refused,
            _ => Exit::Unavailable,
        }
    }
}

/// Logs in and enters the room.
pub(super) async fn login(
    connection: &mut Connection,
    identity: &Identity,
) -> Result<Session, Refused> {
    tokio::time::timeout(LOGIN_TIMEOUT, exchange(connection, identity))
        .await
        .unwrap_or(Err(Refused::Silent))
}

async fn exchange(connection: &mut Connection, identity: &Identity) -> Result<Session, Refused> {
    let cids = Cids::new();
    connection.send("/set tags on");
    connection.send(&format!("/login {}", identity.name));
    let mut session = Session { me: String::new(), lines: Vec::new(), cids };
    let mut is_greeted = false;
    loop {
        let line = next_line(connection).await?;
        let (tags, plain) = Tags::split(&line);
        let is_ours = tags.cid.and_then(|cid| session.cids.number(cid)).is_some();
        let is_named = !session.me.is_empty();
        match Event::parse(plain) {
            Some(Event::Bye { code, text }) => {
                return Err(Refused::Farewell(format!("{text} ({code})")));
            }
            Some(Event::Reply { word: "HELLO", args, .. }) if args.starts_with("chatty/") => {
                is_greeted = true;
            }
            _ if !is_greeted => return Err(Refused::NotChatty),
            Some(Event::Reply { word: "SET", .. }) if !is_named => {}
            Some(Event::Error { text, .. }) if !is_named => {
                return Err(Refused::Name(text.to_owned()));
            }
            Some(Event::Error { text, .. }) if is_ours => {
                return Err(Refused::Room(text.to_owned()));
            }
            Some(Event::Reply { word: "WELCOME", args, .. }) => {
                args.clone_into(&mut session.me);
                session.lines.push(line);
                let Some(room) = &identity.room else { return Ok(session) };
                connection.send(&format!("@cid={} /join {room}", session.cids.mark(0)));
            }
            _ => {
                session.lines.push(line);
                if is_ours {
                    return Ok(session);
                }
            }
        }
    }
}

async fn next_line(connection: &mut Connection) -> Result<String, Refused> {
    loop {
        if let Some(line) = connection.next_line() {
            return Ok(line);
        }
        if connection.progress().await == Progress::Closed {
            return connection.next_line().ok_or(Refused::Closed);
        }
    }
}
