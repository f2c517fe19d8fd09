//! How a visit begins, in both modes: the tagged dialect, the name, the room.
//! Nothing else is sent before the server has taken all three, so no line can
//! go where it was not meant to. Then a session is asked for, to come back by.

use std::time::Duration;

use super::Exit;
use super::address::Endpoint;
use super::comeback::{self, Comeback};
use super::connection::Connection;
use super::outgoing::Cids;
use super::password::Password;
use crate::commands::Command;
use crate::protocol::{ErrorCode, Event, Name, RoomName, Tags};

/// A server that takes the connection says something at once.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(20);

/// Who to be and where to go first.
pub(super) struct Identity {
    pub(super) name: Name,
    pub(super) room: Option<RoomName>,
}

impl Identity {
    /// What is said first.
    pub(super) fn first(&self) -> Vec<String> {
        self.room
            .iter()
            .map(|room| Command::Join { room: room.as_str(), key: None }.to_string())
            .collect()
    }
}

/// A visit that has begun.
pub(super) struct Session {
    /// The name the server greeted us with.
    pub(super) me: String,
    /// What was said meanwhile, to be shown.
    pub(super) lines: Vec<String>,
    /// Why one of the first lines was refused.
    pub(super) refused: Option<String>,
}

/// Why it has not.
#[derive(Debug)]
pub(super) enum Refused {
    Name { why: String, code: Option<ErrorCode> },
    Farewell { code: String, text: String },
    Closed,
    Silent,
    NotChatty,
}

impl Refused {
    pub(super) fn farewell(code: &str, text: &str) -> Self {
        Self::Farewell { code: code.to_owned(), text: text.to_owned() }
    }

    pub(super) fn sentence(&self, endpoint: &Endpoint) -> String {
        match self {
            Self::Name { why, .. } => format!("the server does not take the name: {why}"),
            Self::Farewell { code, text } => {
                format!("{endpoint} ended the connection: {text} ({code})")
            }
            Self::Closed => format!("{endpoint} closed the connection"),
            Self::Silent => format!("{endpoint} does not answer"),
            Self::NotChatty => format!("{endpoint} is no chatty server"),
        }
    }

    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Name { .. } => Exit::NameRefused,
            _ => Exit::Unavailable,
        }
    }

    /// What the server says of the password, if that is the matter.
    pub(super) fn password_problem(&self) -> Option<&str> {
        match self {
            Self::Name { why, code: Some(ErrorCode::BadPassword) } => Some(why),
            _ => None,
        }
    }

    /// Whether who comes back is right to try again: our name may be taken by
    /// ourselves, if the server has not noticed yet that we were gone.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Name { code, .. } => *code == Some(ErrorCode::NameTaken),
            Self::Farewell { code, .. } => comeback::is_worth_it(Some(code)),
            Self::Closed | Self::Silent | Self::NotChatty => true,
        }
    }
}

/// Waits for the server's greeting.
pub(super) async fn greet(connection: &mut Connection) -> Result<(), Refused> {
    let line = in_time(connection.line()).await?.ok_or(Refused::Closed)?;
    match Event::parse(&line) {
        Some(Event::Reply { word: "HELLO", args, .. }) if args.starts_with("chatty/") => Ok(()),
        Some(Event::Bye { code, text }) => Err(Refused::farewell(code, text)),
        _ => Err(Refused::NotChatty),
    }
}

/// Logs in, with a password or without, says the first lines, waits for their
/// answers and then asks for a session.
pub(super) async fn login(
    connection: &mut Connection,
    name: &str,
    password: Option<&Password>,
    first: &[String],
    cids: &Cids,
) -> Result<Session, Refused> {
    connection.send("/set tags on");
    let password = password.map(Password::as_str);
    connection.send(&Command::Login { name, password }.to_string());
    let session = in_time(exchange(connection, first, cids)).await??;
    connection.send(&Comeback::session_request(cids));
    Ok(session)
}

async fn exchange(
    connection: &mut Connection,
    first: &[String],
    cids: &Cids,
) -> Result<Session, Refused> {
    let mut session = Session { me: String::new(), lines: Vec::new(), refused: None };
    let mut unanswered = 0..first.len();
    loop {
        let line = connection.line().await.ok_or(Refused::Closed)?;
        let (tags, plain) = Tags::split(&line);
        let is_first = |at: usize| tags.cid == Some(cids.own(&format!("first{at}")).as_str());
        let is_named = !session.me.is_empty();
        match Event::parse(plain) {
            Some(Event::Bye { code, text }) => return Err(Refused::farewell(code, text)),
            Some(Event::Reply { word: "SET", .. }) if !is_named => continue,
            Some(Event::Error { code, text }) if !is_named => {
                let code = ErrorCode::parse(code);
                return Err(Refused::Name { why: text.to_owned(), code });
            }
            Some(Event::Error { text, .. }) if unanswered.clone().any(is_first) => {
                session.refused = Some(text.to_owned());
            }
            Some(Event::Reply { word: "WELCOME", args, .. }) if !is_named => {
                args.clone_into(&mut session.me);
                for (at, line) in first.iter().enumerate() {
                    connection.send(&format!("@cid={} {line}", cids.own(&format!("first{at}"))));
                }
            }
            _ => {}
        }
        if unanswered.clone().next().is_some_and(is_first) {
            unanswered.next();
        }
        session.lines.push(line);
        if unanswered.is_empty() && !session.me.is_empty() {
            return Ok(session);
        }
    }
}

/// Waits, but not for ever.
async fn in_time<T>(answer: impl Future<Output = T>) -> Result<T, Refused> {
    tokio::time::timeout(LOGIN_TIMEOUT, answer).await.map_err(|_| Refused::Silent)
}
