//! Dispatch: parses a frame and calls the function that executes its command. It does not
//! know what a command does.

use super::gate::Gate;
use super::rights::{moderated_room, require_server_operator};
use super::{
    ErrorReason, Event, Farewell, Refusal, Reply, Request, Result, Scope, State, UserIx, accounts,
    bans, history, locks, logout, long_reply, moderation, people, posting, refusal, reply, rooms,
    server_admin, session, talk,
};
use crate::commands;
use crate::commands::{Command, Parsed, Setting};
use crate::protocol::codec::Frame;
use crate::protocol::text::clean;
use crate::protocol::{ClientLine, Feature, LINE_MAX, VERSION};
use crate::server::hub::state::connections::Phase;
use crate::server::hub::state::pending::Cursor;

/// Handles a line, or a frame that the codec rejected.
pub(in crate::server::hub) fn handle_line(
    state: &mut State,
    gate: &mut Gate,
    req: &mut Request<'_>,
    frame: &Frame<'_>,
) {
    if let Err(refusal) = execute_line(state, gate, req, frame) {
        req.refuse(&refusal);
    }
}

/// Executes a line; a refusal is its answer.
pub(in crate::server::hub) fn execute_line(
    state: &mut State,
    gate: &mut Gate,
    req: &mut Request<'_>,
    frame: &Frame<'_>,
) -> Result {
    let is_greeting = state.connections[req.connection].is_greeting();
    let (line, fault) = match frame {
        Frame::Line(line) => (clean(line), None),
        Frame::TooLong(head) => (String::from_utf8_lossy(head), Some(too_long())),
        Frame::BadEncoding(head) => (String::from_utf8_lossy(head), Some(bad_encoding())),
        Frame::Foreign => return Ok(()),
    };
    let ClientLine { cid, text } = req.settings.dialect.parse(&line, is_greeting);
    req.cid = cid;
    let text = fault.map_or(text, Err)?;
    dispatch(state, gate, req, read(&text, is_greeting)?)
}

fn dispatch(state: &mut State, gate: &mut Gate, req: &mut Request<'_>, line: Parsed<'_>) -> Result {
    match (state.connections[req.connection].phase, line) {
        (_, Parsed::Nothing) | (Phase::Closing, _) => Ok(()),
        (Phase::LoggedIn(user), Parsed::Say(text)) => {
            state.users.mark_active(user, req.now.since_start);
            talk::post(state, req, user, text, false)
        }
        (Phase::LoggedIn(user), Parsed::Command(command)) => {
            if !gate.admits(state, req.socket, user, command)? {
                return Ok(());
            }
            if command.is_activity() {
                state.users.mark_active(user, req.now.since_start);
            }
            execute(state, gate, req, Some(user), command)?;
            let now = req.now;
            req.audit.note_command(state, now, user, command);
            Ok(())
        }
        (Phase::Greeting { was_refused: false }, Parsed::Say(name)) => {
            accounts::log_in(state, req, name, None)
        }
        (Phase::Greeting { .. }, Parsed::Command(command)) if command.row().before_login => {
            posting::note_active(state, req);
            execute(state, gate, req, None, command)
        }
        (Phase::Greeting { .. }, _) => Err(not_logged_in()),
    }
}

/// Executes a command. `user` is `None` before login, when only the commands of
/// [`commands::Row::before_login`] arrive here. The match is exhaustive, so that a command
/// without an implementation does not compile.
#[allow(clippy::too_many_lines)] // one arm per command
fn execute(
    state: &mut State,
    gate: &mut Gate,
    req: &mut Request<'_>,
    user: Option<UserIx>,
    command: Command<'_>,
) -> Result {
    let user = user.ok_or_else(not_logged_in);
    match command {
        Command::Login { name, password } => match user {
            Ok(user) => already_logged_in(state, user, "/nick NAME changes your name"),
            Err(_) => accounts::log_in(state, req, name, password),
        },
        Command::Resume { token, after, time } => match user {
            Ok(user) => already_logged_in(state, user, "/resume works only before login"),
            Err(_) => session::resume(state, req, token, Cursor { after, time }),
        },
        Command::Help { command } => help(req, command),
        Command::Set { change } => {
            set(state, req, change);
            Ok(())
        }
        Command::Ping { token } => {
            req.reply(Reply::Pong { token: token.unwrap_or_default() });
            Ok(())
        }
        Command::Version => {
            let server = concat!("chatty ", env!("CARGO_PKG_VERSION"));
            req.reply(Reply::Version { protocol: VERSION, server });
            Ok(())
        }
        Command::Features => {
            req.reply(Reply::Features { words: &Feature::words() });
            Ok(())
        }
        Command::Quit { reason } => {
            quit(state, req, reason);
            Ok(())
        }
        Command::Register { password } => accounts::register(state, req, user?, password),
        Command::Passwd { password } => accounts::change_password(state, req, user?, password),
        Command::Unregister { .. } => accounts::unregister(state, req, user?),
        Command::Op { name } => moderation::promote(state, req, user?, name),
        Command::Deop { name } => moderation::demote(state, req, user?, name),
        Command::Kick { name, reason } => moderation::kick(state, req, user?, name, reason),
        Command::Mute { name, time } => moderation::mute(state, req, user?, name, time),
        Command::Unmute { name } => moderation::unmute(state, req, user?, name),
        Command::Ban { whom, time, reason } => {
            let user = user?;
            let room = Scope::Room(moderated_room(state, user)?);
            bans::ban(state, req, user, room, (whom, time, reason))
        }
        Command::Unban { whom } => {
            let room = Scope::Room(moderated_room(state, user?)?);
            bans::unban(state, req, room, whom)
        }
        Command::Bans => {
            let room = Scope::Room(moderated_room(state, user?)?);
            bans::send_bans(state, req, room);
            Ok(())
        }
        Command::Oper { .. } => server_admin::oper(state, req),
        Command::Wall { text } => server_admin::wall(state, req, user?, text),
        Command::Kill { name, reason } => server_admin::kill(state, req, user?, name, reason),
        Command::Gban { whom, time, reason } => {
            let user = user?;
            require_server_operator(state, user)?;
            bans::ban(state, req, user, Scope::Server, (whom, time, reason))
        }
        Command::Gunban { whom } => {
            require_server_operator(state, user?)?;
            bans::unban(state, req, Scope::Server, whom)
        }
        Command::Gbans => {
            require_server_operator(state, user?)?;
            bans::send_bans(state, req, Scope::Server);
            Ok(())
        }
        Command::Lock { key } => locks::lock(state, req, user?, key),
        Command::Unlock => locks::unlock(state, req, user?),
        Command::Invite { name } => locks::invite(state, req, user?, name),
        Command::Session => {
            let user = user?;
            let new_token = gate.take_token(state, user);
            session::session(state, req, user, new_token);
            Ok(())
        }
        Command::Msg { to, text } => talk::message(state, req, user?, to, text),
        Command::Reply { text } => talk::reply(state, req, user?, text),
        Command::Query { name } => talk::query(state, req, name),
        Command::Me { text } => talk::post(state, req, user?, text, true),
        Command::Who { room, has_details } => rooms::who(state, req, room, has_details),
        Command::Whois { name } => people::whois(state, req, user?, name),
        Command::Join { room, key } => rooms::join(state, req, user?, room, key),
        Command::Part { room, reason } => rooms::part(state, req, user?, room, reason),
        Command::List => {
            long_reply::send_rooms(state, req);
            Ok(())
        }
        Command::Topic { text } => rooms::topic(state, req, user?, text),
        Command::History { rows, thread } => history::history(state, req, user?, rows, thread),
        Command::Search { query } => history::search(state, req, user?, query),
        Command::Post { room, label, text } => match user {
            Ok(user) => already_logged_in(state, user, "/post is for connections without a login"),
            Err(_) => posting::post(state, req, room, label, text),
        },
        Command::Auth { name, .. } => match user {
            Ok(user) => already_logged_in(state, user, "/auth is for connections without a login"),
            Err(_) => posting::prove_account(state, req, name),
        },
        Command::Nick { name } => people::rename(state, req, user?, name),
        Command::Away { text } => {
            people::away(state, req, user?, text);
            Ok(())
        }
        Command::Back => {
            people::back(state, req, user?);
            Ok(())
        }
        Command::Ignore { name } => people::ignore(state, req, user?, name),
        Command::Unignore { name } => people::unignore(state, req, user?, name),
    }
}

fn set(state: &mut State, req: &mut Request<'_>, change: Option<(Setting, bool)>) {
    let before = req.settings.dialect;
    if let Some((setting, is_on)) = change {
        req.settings.set(setting, is_on);
        state.choose(req.connection, setting, req.settings);
    }
    let words = Setting::TABLE
        .map(|(setting, word)| format!("{word}={}", commands::on_off(req.settings.get(setting))));
    // The answer to a line with a cid carries the cid, even if that line turned tags off.
    if req.cid.is_some() {
        req.settings.dialect = before;
    }
    req.reply(Reply::Set { settings: reply::Settings(&words.join(" ")) });
}

fn quit(state: &mut State, req: &mut Request<'_>, reason: Option<&str>) {
    req.reply(Event::Bye { code: Farewell::Quit.as_str(), text: Farewell::Quit.sentence() });
    let socket = req.socket;
    logout::leave(state, req, socket, None, reason);
}

/// Parses a line, without its cid, in which forbidden characters are replaced. The length is
/// checked here since a replacement can be longer than the character. Before login, a command
/// that needs a login is refused as such even if its arguments are invalid.
fn read(line: &str, is_greeting: bool) -> Result<Parsed<'_>> {
    if line.len() > LINE_MAX {
        return Err(too_long());
    }
    let needs_login = || commands::row_of(line).is_some_and(|row| !row.before_login);
    if is_greeting && needs_login() { Err(not_logged_in()) } else { commands::parse(line) }
}

fn not_logged_in() -> Refusal {
    Refusal::new(ErrorReason::NotLoggedIn, "you are not logged in yet; type /login NAME")
}

fn already_logged_in(state: &State, user: UserIx, advice: &str) -> Result {
    let text = format!("you are already logged in as {}; {advice}", state.users[user].name);
    refusal(ErrorReason::BadArgument, text)
}

fn help(req: &mut Request<'_>, command: Option<&str>) -> Result {
    let rows: Vec<String> = match command {
        None => commands::TABLE.iter().map(commands::Row::help_row).collect(),
        Some(name) => {
            let name = name.strip_prefix('/').unwrap_or(name);
            commands::find(name).ok_or_else(|| commands::unknown(name))?.help_rows()
        }
    };
    req.reply(Reply::Help { count: rows.len() });
    for row in &rows {
        req.reply(Event::Help(row));
    }
    Ok(())
}

fn too_long() -> Refusal {
    let text = format!("not sent: longer than {LINE_MAX} bytes; split it");
    Refusal::new(ErrorReason::TooLong, text)
}

fn bad_encoding() -> Refusal {
    Refusal::new(ErrorReason::BadEncoding, "not sent: the line is not valid UTF-8")
}

#[cfg(test)]
mod tests {
    use crate::protocol::{LINE_MAX, LOGIN_LINE_MAX};
    use crate::server::hub::Limits;
    use crate::server::hub::test_support::{connect, hub, register, say};

    /// No path stores or sends more than the longest line, also if replaced characters grow.
    #[test]
    fn line_is_measured_after_its_characters_are_replaced() {
        let mut hub = hub(Limits::default());
        connect(&mut hub, 0);
        connect(&mut hub, 1);
        say(&mut hub, 1, "bob");
        // Before login a line is shorter, and a name with such characters is invalid.
        let (_, reply) = say(&mut hub, 0, &"\u{1}".repeat(LOGIN_LINE_MAX));
        assert!(reply.text.starts_with("[ERROR bad-name]"), "{}", reply.text);
        say(&mut hub, 0, "/login alice");
        register(&mut hub, 0);
        say(&mut hub, 0, "/set tags on");
        let lines = [
            "",
            "/me ",
            "/msg bob ",
            "/msg #lobby ",
            "/topic ",
            "/away ",
            "/part #lobby ",
            "/kick bob ",
            "/ban bob ",
            "/join ",
            "/nick ",
            "/search ",
            "/lock ",
            "/passwd ",
            "/wall ",
            "/ping ",
            "/quit ",
            "//",
            " ",
        ];
        for line in lines {
            for cid in ["", "@cid=a1 "] {
                let fill = |size: usize| "\u{1}".repeat((size - line.len()) / 3);
                let too_long = format!("{cid}{line}{}xxx", fill(LINE_MAX));
                let (_, reply) = say(&mut hub, 0, &too_long);
                let error = format!("{cid}[ERROR too-long] ");
                assert!(reply.text.starts_with(&error), "{line}: {}", reply.text);
            }
        }
        let text = "\u{1}".repeat(LINE_MAX / 3);
        let (_, reply) = say(&mut hub, 1, &text);
        assert_eq!(reply.text.trim_end(), format!("bob: {}", "\u{FFFD}".repeat(LINE_MAX / 3)));
    }
}
