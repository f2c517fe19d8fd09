//! The login handshake of both modes: the tagged dialect, the name, the first commands and
//! the session. No other line is sent before the server has accepted them, so that no
//! message reaches the wrong room or is sent without a session to resume. It does not know
//! why the client logs in.

use std::mem;
use std::time::Duration;

use super::outgoing::CidGenerator;
use super::password::Password;
use super::resume;
use crate::client::limits::{Budget, LOGIN_MAX, MISSED_MAX, SKIPPED_MAX};
use crate::client::net::address::Endpoint;
use crate::client::net::connection::Connection;
use crate::client::process::exit::Exit;
use crate::commands::{Command, Setting};
use crate::protocol::name::NAME_MAX;
use crate::protocol::{
    ErrorCode, Event, Feature, HISTORY_MAX, Message, Name, Reply, RoomName, Stamp, Tags,
};

/// How long each step of the login may take.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(20);

/// The farewell code when the same account logs in on another connection.
pub(in crate::client) const REPLACED: &str = "replaced";

/// The name and the first rooms; text goes to the first of them.
pub(in crate::client) struct Identity {
    pub(in crate::client) name: Name,
    pub(in crate::client) rooms: Vec<RoomName>,
}

impl Identity {
    /// Returns the first commands after the login. The room joined last is the current one.
    pub(in crate::client) fn first(&self) -> Vec<String> {
        let join = |room: &RoomName| Command::Join { room: room.as_str(), key: None }.to_string();
        self.rooms.iter().rev().map(join).collect()
    }
}

/// The result of a login.
#[derive(Default)]
pub(in crate::client) struct Session {
    /// The name the server greeted us with.
    pub(in crate::client) me: String,
    /// The lines that arrived during the login, to be shown.
    pub(in crate::client) lines: Vec<String>,
    /// The messages of the history that the first commands requested, oldest first; and
    /// whether there are more.
    pub(in crate::client) missed: Vec<String>,
    pub(in crate::client) has_more: bool,
    /// The oldest row of each history that reached the row limit, so that older rows may exist.
    pub(super) oldest: Vec<String>,
    is_full: bool,
    /// More history was sent than [`MISSED_MAX`].
    pub(super) is_cut: bool,
    limits: LoginLimits,
    /// Why one of the first commands was refused.
    pub(in crate::client) refused: Option<String>,
}

/// The remaining budgets of a login.
struct LoginLimits {
    lines: Budget,
    missed: Budget,
    skipped: Budget,
}

impl Default for LoginLimits {
    fn default() -> Self {
        let [lines, missed, skipped] = [LOGIN_MAX, MISSED_MAX, SKIPPED_MAX].map(Budget::new);
        Self { lines, missed, skipped }
    }
}

impl Session {
    /// Returns an empty session for this name.
    pub(in crate::client) fn of(me: &str) -> Self {
        Self { me: me.to_owned(), ..Self::default() }
    }

    /// Sorts the history and deduplicates it: messages sent between the join and the
    /// history request arrive twice.
    pub(super) fn sort_missed(&mut self) {
        let id = |line: &String| Tags::split(line).0.id;
        let live: Vec<u64> = self.lines.iter().filter_map(id).collect();
        self.missed.retain(|line| id(line).is_none_or(|id| !live.contains(&id)));
        self.missed.sort_by_key(id);
        self.missed.dedup_by(|one, other| id(one).is_some() && id(one) == id(other));
    }

    /// Handles a line of the server.
    fn handle_line(&mut self, line: String, cids: &CidGenerator) -> Result<(), Refused> {
        let (tags, plain) = Tags::split(&line);
        let is_first = tags.cid == Some(cids.named_cid("first").as_str());
        match Event::parse(plain) {
            Some(Event::Bye { code, text }) => return Err(Refused::farewell(code, text)),
            Some(Event::Error { text, .. }) if is_first => {
                self.refused.get_or_insert_with(|| text.to_owned());
            }
            Some(Event::Reply(Reply::History { count, .. })) if is_first => {
                self.is_full = count == HISTORY_MAX;
                return Ok(());
            }
            Some(Event::Row { time, message }) if is_first => {
                let row = live_form(&tags, time, message);
                let is_full = mem::take(&mut self.is_full);
                if self.limits.missed.spend(&line) {
                    self.oldest.extend(is_full.then(|| row.clone()));
                    self.missed.push(row);
                } else if self.limits.skipped.spend(&line) {
                    self.is_cut = true;
                } else {
                    return Err(Refused::Flood);
                }
                return Ok(());
            }
            _ => {}
        }
        if !self.limits.lines.spend(&line) {
            return Err(Refused::Flood);
        }
        self.lines.push(line);
        Ok(())
    }

    /// Sends further commands of the login and waits for their answers.
    pub(in crate::client) async fn send_and_wait(
        &mut self,
        connection: &mut Connection,
        lines: &[String],
        cids: &CidGenerator,
    ) -> Result<(), Refused> {
        for line in lines {
            connection.send(&format!("@cid={} {line}", cids.named_cid("first")));
        }
        let barrier = cids.named_cid("first-end");
        connection.send(&format!("@cid={barrier} {}", Command::Ping { token: None }));
        loop {
            let line = with_timeout(connection.line()).await?.ok_or(Refused::Closed)?;
            if Tags::split(&line).0.cid == Some(barrier.as_str()) {
                return Ok(());
            }
            self.handle_line(line, cids)?;
        }
    }
}

/// Returns a row of the history in the form of a live line.
fn live_form(tags: &Tags<'_>, time: Stamp, message: Message<'_>) -> String {
    let mut line = Vec::new();
    Tags { time: Some(time), cid: None, ..*tags }.encode(&mut line);
    Event::Message(message).encode(&mut line);
    line.pop_if(|end| *end == b'\n');
    String::from_utf8_lossy(&line).into_owned()
}

/// Returns a similar name, to suggest or use when this one is taken.
pub(in crate::client) fn alternative_name(name: &str) -> String {
    let kept: String = name.chars().take(NAME_MAX - 1).collect();
    format!("{kept}_")
}

/// Returns the reason of a refusal without its advice (`/login NAME`), which is for netcat
/// users: here the name comes from a flag and the password from a prompt.
fn without_advice(why: &str) -> &str {
    why.split_once("; ").map_or(why, |(what, _)| what)
}

/// Why a login failed.
#[derive(Debug)]
pub(in crate::client) enum Refused {
    Name {
        name: String,
        why: String,
        code: Option<ErrorCode>,
    },
    Farewell {
        code: String,
        text: String,
    },
    /// The server cannot do it now, e.g. its storage is full.
    NotNow {
        why: String,
    },
    Closed,
    Silent,
    NotChatty,
    /// The server sent more than the limits of a login.
    Flood,
}

impl Refused {
    pub(in crate::client) fn farewell(code: &str, text: &str) -> Self {
        Self::Farewell { code: code.to_owned(), text: text.to_owned() }
    }

    pub(in crate::client) fn sentence(&self, endpoint: &Endpoint) -> String {
        match self {
            Self::Name { name, why, code: Some(ErrorCode::NameTaken) } => {
                let (other, why) = (alternative_name(name), without_advice(why));
                format!("the server refused the name: {why} (try --name {other})")
            }
            Self::Name { code: Some(ErrorCode::BadPassword), why, .. } => {
                format!("cannot log in: {}", without_advice(why))
            }
            Self::Name { why, .. } => {
                format!("the server refused the name: {}", without_advice(why))
            }
            Self::Farewell { code, text } => {
                format!("{endpoint} ended the connection: {text} ({code})")
            }
            Self::NotNow { why } => format!("{endpoint}: {why}"),
            Self::Closed => format!("{endpoint} closed the connection"),
            Self::Silent => format!("{endpoint} does not answer"),
            Self::NotChatty => format!("{endpoint} does not look like a chatty server"),
            Self::Flood => format!(
                "{endpoint} sent more than {} MiB during the login; it is broken or not a \
                 chatty server",
                LOGIN_MAX >> 20
            ),
        }
    }

    pub(in crate::client) fn exit(&self) -> Exit {
        match self {
            Self::Name { .. } => Exit::NameRefused,
            _ => Exit::Unavailable,
        }
    }

    /// Returns the server's reason if the password is missing or wrong.
    pub(in crate::client) fn password_problem(&self) -> Option<&str> {
        match self {
            Self::Name { why, code: Some(ErrorCode::BadPassword), .. } => Some(without_advice(why)),
            _ => None,
        }
    }

    /// Whether the server's login timeout expired.
    pub(in crate::client) fn is_login_timeout(&self) -> bool {
        match self {
            Self::Farewell { code, .. } => code == "login-timeout",
            other => matches!(other, Self::Closed),
        }
    }

    /// Returns the server's reason if another name may be accepted.
    pub(in crate::client) fn name_problem(&self) -> Option<&str> {
        match self {
            Self::Name { why, code: Some(ErrorCode::NameTaken | ErrorCode::BadName), .. } => {
                Some(without_advice(why))
            }
            _ => None,
        }
    }

    /// Whether the name is in use.
    pub(in crate::client) fn is_name_taken(&self) -> bool {
        matches!(self, Self::Name { code: Some(ErrorCode::NameTaken), .. })
    }

    /// Whether the server is full or rate-limits logins.
    pub(in crate::client) fn is_busy(&self) -> bool {
        match self {
            Self::Farewell { code, .. } => code == "too-many",
            Self::Name { code, .. } => *code == Some(ErrorCode::RateLimited),
            _ => false,
        }
    }

    /// Whether our account logged in on another connection.
    pub(in crate::client) fn is_replaced(&self) -> bool {
        matches!(self, Self::Farewell { code, .. } if code == REPLACED)
    }

    /// Whether a reconnecting client should retry. The name may be in use by our own old
    /// connection until the server notices that it is lost, and after a restart all clients
    /// reconnect at once.
    pub(in crate::client) fn is_transient(&self) -> bool {
        match self {
            Self::Name { .. } => self.is_name_taken() || self.is_busy(),
            Self::Farewell { code, .. } => {
                matches!(code.as_str(), "too-many" | "login-timeout")
                    || resume::should_reconnect(Some(code))
            }
            Self::NotNow { .. } | Self::Closed | Self::Silent | Self::NotChatty => true,
            Self::Flood => false,
        }
    }
}

/// Requests the features and the tagged dialect and waits for the greeting. The client sends
/// first because a server with TLS waits for the first byte to detect the transport; the
/// answers then arrive with the greeting, without another round trip.
pub(in crate::client) async fn greet(connection: &mut Connection) -> Result<(), Refused> {
    let tags_on = Command::Set { change: Some((Setting::Tags, true)) };
    connection.send(&Command::Features.to_string());
    connection.send(&tags_on.to_string());
    with_timeout(read_greeting(connection)).await?
}

/// Reads up to the answer to `/set`. A server without `/features` has answered it with an
/// error by then.
async fn read_greeting(connection: &mut Connection) -> Result<(), Refused> {
    let (mut is_greeted, mut budget) = (false, Budget::new(LOGIN_MAX));
    loop {
        let line = connection.line().await.ok_or(Refused::Closed)?;
        match Event::parse(&line) {
            Some(Event::Bye { code, text }) => return Err(Refused::farewell(code, text)),
            _ if !budget.spend(&line) => return Err(Refused::Flood),
            Some(Event::Reply(Reply::Hello { .. })) => is_greeted = true,
            _ if !is_greeted => return Err(Refused::NotChatty),
            Some(Event::Reply(Reply::Features { words })) => {
                connection.features = Feature::parse(words);
            }
            Some(Event::Reply(Reply::Set { .. })) => return Ok(()),
            _ => {}
        }
    }
}

/// Logs in, sends the first commands and, with `wants_session`, requests a session. Its
/// answer, or else that of a ping, ends the login: no message is sent before the session
/// can be resumed.
pub(in crate::client) async fn login(
    connection: &mut Connection,
    name: &str,
    password: Option<&Password>,
    first: &[String],
    cids: &CidGenerator,
    wants_session: bool,
) -> Result<Session, Refused> {
    let password = password.map(Password::as_str);
    connection.send(&Command::Login { name, password }.to_string());
    let last = last_request(cids, wants_session);
    with_timeout(exchange(connection, name, first, &last, cids)).await?
}

/// Returns the last line of a login, with its cid: it requests a session or, without
/// `wants_session`, a ping whose answer arrives after all others.
fn last_request(cids: &CidGenerator, wants_session: bool) -> String {
    let command = if wants_session { Command::Session } else { Command::Ping { token: None } };
    format!("@cid={} {command}", cids.named_cid("session"))
}

async fn exchange(
    connection: &mut Connection,
    name: &str,
    first: &[String],
    last: &str,
    cids: &CidGenerator,
) -> Result<Session, Refused> {
    let mut session = Session::default();
    loop {
        let line = connection.line().await.ok_or(Refused::Closed)?;
        let (tags, plain) = Tags::split(&line);
        let is_named = !session.me.is_empty();
        let is_last = is_named && tags.cid == Some(cids.named_cid("session").as_str());
        match Event::parse(plain) {
            Some(Event::Error { code, text, .. }) if !is_named => {
                let code = ErrorCode::parse(code);
                return Err(Refused::Name { name: name.to_owned(), why: text.to_owned(), code });
            }
            Some(Event::Reply(Reply::Welcome { name, .. })) if !is_named => {
                name.clone_into(&mut session.me);
                for line in first {
                    connection.send(&format!("@cid={} {line}", cids.named_cid("first")));
                }
                connection.send(last);
            }
            _ => {}
        }
        session.handle_line(line, cids)?;
        if is_last {
            session.has_more = session.is_cut || !session.oldest.is_empty();
            session.sort_missed();
            return Ok(session);
        }
    }
}

/// Waits for at most [`LOGIN_TIMEOUT`].
async fn with_timeout<T>(answer: impl Future<Output = T>) -> Result<T, Refused> {
    tokio::time::timeout(LOGIN_TIMEOUT, answer).await.map_err(|_| Refused::Silent)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    /// Greets a server that answers with these lines; returns the features it has.
    async fn greeted(answers: &str) -> Result<Vec<Feature>, Refused> {
        let (client, mut server) = duplex(1024);
        let mut connection = Connection::new(client);
        let serving = async {
            let mut sent = [0; "/features\n/set tags on\n".len()];
            server.read_exact(&mut sent).await.expect("both lines, before any answer");
            assert_eq!(&sent, b"/features\n/set tags on\n");
            server.write_all(answers.as_bytes()).await.expect("answers");
        };
        let (greeted, ()) = tokio::join!(greet(&mut connection), serving);
        greeted.map(|()| connection.features)
    }

    #[tokio::test]
    async fn greeting_reads_features_of_new_and_old_servers() {
        let hello = "[HELLO chatty/1] hi\n";
        let set = "[SET echo=on joins=on tags=on]\n";
        for (answer, features) in [
            ("[FEATURES new resume-time]\n", &[Feature::ResumeTime][..]),
            ("[FEATURES]\n", &[]),
            ("[ERROR unknown-command] /features: no such command\n", &[]),
            ("[ERROR not-logged-in] log in first\n", &[]),
        ] {
            let answers = format!("{hello}{answer}{set}");
            assert_eq!(greeted(&answers).await.expect(answer), features, "{answer}");
        }
    }

    #[tokio::test]
    async fn greeting_is_refused_by_farewell_or_other_protocol() {
        let farewell = greeted("[HELLO chatty/1] hi\n[BYE too-many] full\n").await;
        assert!(farewell.is_err_and(|refused| refused.is_busy()));
        let other = greeted("220 mail.example.org\n").await;
        assert!(matches!(other, Err(Refused::NotChatty)));
    }
}
