//! From a line to what is done: it is read, and handed to the file of its topic.

use super::moderation::Scope;
use super::session::Cursor;
use super::{Context, Connection, Hub, Now, Phase, UserIx, bye, refusal, session};
use crate::commands::{self, Command, Request, Setting};
use crate::protocol::codec::Frame;
use crate::protocol::tags::CidPrefix;
use crate::protocol::text::{clean, is_blank_text};
use crate::protocol::{Cid, ErrorCode, Event, Farewell, LINE_MAX, Refusal, Tags};
use crate::server::turn::{Cause, ConnId, Turn};

impl Hub {
    /// A line, or what was a line before it was thrown away.
    pub(super) fn handle_line(&mut self, now: Now, conn: ConnId, frame: &Frame<'_>, turn: &mut Turn) {
        let Some(Connection { settings, phase, .. }) = self.connection(conn) else { return };
        let (settings, is_greeting) = (*settings, matches!(phase, Phase::Greeting { .. }));
        let (text, fault) = match frame {
            Frame::Line(line) => (clean(line), None),
            Frame::TooLong(head) => (String::from_utf8_lossy(head), Some(too_long())),
            Frame::BadEncoding(head) => (String::from_utf8_lossy(head), Some(bad_encoding())),
            Frame::Foreign => return,
        };
        let mut ask = Context { now, conn, settings, cid: None, turn };
        let prefix = if settings.tags { CidPrefix::of(&text) } else { CidPrefix::Absent };
        let heard = match (prefix, fault) {
            (CidPrefix::Present(cid, line), fault) => {
                ask.cid = Some(cid);
                let empty = is_blank_text(line).then(|| bad_cid("nothing follows the cid"));
                fault.or(empty).map_or_else(|| read(line, is_greeting), Err)
            }
            (_, Some(fault)) => Err(fault),
            (CidPrefix::Malformed, None) => Err(bad_cid("a cid is 1 to 32 of A-Z a-z 0-9 _ -")),
            (CidPrefix::Absent, None) if raw_len(frame) > LINE_MAX => Err(too_long()),
            (CidPrefix::Absent, None) => read(&text, is_greeting),
        };
        if let Err(refusal) = heard.and_then(|request| self.dispatch(&mut ask, request)) {
            ask.refuse(&refusal);
        }
    }

    fn dispatch(&mut self, ask: &mut Context<'_>, request: Request<'_>) -> Result<(), Refusal> {
        let stage = self.connection(ask.conn).map(|c| c.phase);
        match (stage, request) {
            (_, Request::Nothing) | (None | Some(Phase::Closing), _) => Ok(()),
            (Some(Phase::Greeting { was_refused: false }), Request::Say(name)) => {
                self.log_in(ask, name, None)
            }
            (Some(Phase::Greeting { .. }), Request::Command(command))
                if command.row().before_login =>
            {
                self.execute_without_login(ask, command)
            }
            (Some(Phase::Greeting { .. }), _) => not_logged_in(),
            (Some(Phase::LoggedIn(visit)), Request::Say(text)) => {
                self.mark_active(visit, ask.now);
                self.post(ask, visit, text, false)
            }
            (Some(Phase::LoggedIn(visit)), Request::Command(command)) => {
                if !self.require_storage(visit, command)? {
                    return Ok(());
                }
                if command.is_activity() {
                    self.mark_active(visit, ask.now);
                }
                self.execute(ask, visit, command)?;
                self.note_act(ask.now, visit, command);
                if session::changes_session(command) {
                    self.mark_session_unsaved(visit);
                }
                Ok(())
            }
        }
    }

    /// The commands that need no login.
    fn execute_without_login(&mut self, ask: &mut Context<'_>, command: Command<'_>) -> Result<(), Refusal> {
        match command {
            Command::Login { name, password } => self.log_in(ask, name, password)?,
            Command::Resume { token, after, time } => {
                return self.resume(ask, token, Cursor { after, time });
            }
            Command::Help { command } => return help(ask, command),
            Command::Set { change } => self.set(ask, change),
            Command::Ping { token } => {
                ask.reply(&Event::reply("PONG", token.unwrap_or_default(), ""));
            }
            Command::Version => {
                let version = concat!("chatty ", env!("CARGO_PKG_VERSION"));
                ask.reply(&Event::reply("VERSION", crate::protocol::VERSION, version));
            }
            Command::Quit { reason } => {
                let tags = ask
                    .settings
                    .tags(&Tags { cid: ask.cid.as_ref().map(Cid::as_str), ..Tags::default() });
                let bye = bye(Farewell::Quit);
                ask.turn.send(ask.conn, Cause::Asked, &tags, &bye);
                self.leave(ask.now, ask.conn, None, reason, ask.turn);
            }
            _ => {}
        }
        Ok(())
    }

    /// Every command of somebody who is logged in. The match is exhaustive: a
    /// command in the table without a meaning does not compile.
    fn execute(
        &mut self,
        ask: &mut Context<'_>,
        visit: UserIx,
        command: Command<'_>,
    ) -> Result<(), Refusal> {
        match command {
            Command::Help { .. }
            | Command::Set { .. }
            | Command::Ping { .. }
            | Command::Version
            | Command::Quit { .. } => self.execute_without_login(ask, command),
            Command::Login { .. } => refusal(
                ErrorCode::BadArgument,
                format!("you are {} already; /nick takes another name", self.users[visit].name),
            ),
            Command::Resume { .. } => refusal(
                ErrorCode::BadArgument,
                format!("you are {} already; /resume comes first", self.users[visit].name),
            ),
            Command::Register { password } => self.register(ask, visit, password),
            Command::Passwd { password } => self.change_password(ask, visit, password),
            Command::Unregister { password } => self.unregister(ask, visit, password),
            Command::Op { name } => self.promote(ask, visit, name),
            Command::Deop { name } => self.demote(ask, visit, name),
            Command::Kick { name, reason } => self.kick(ask, visit, name, reason),
            Command::Mute { name, time } => self.mute(ask, visit, name, time),
            Command::Unmute { name } => self.unmute(ask, visit, name),
            Command::Ban { whom, time, reason } => {
                let room = Scope::Room(self.moderated_room(visit)?);
                self.ban(ask, visit, room, (whom, time, reason))
            }
            Command::Unban { whom } => {
                let room = Scope::Room(self.moderated_room(visit)?);
                self.unban(ask, room, whom)
            }
            Command::Bans => {
                let room = Scope::Room(self.moderated_room(visit)?);
                self.send_bans(ask, room);
                Ok(())
            }
            Command::Oper { password } => self.oper(ask, password),
            Command::Wall { text } => self.wall(ask, visit, text),
            Command::Kill { name, reason } => self.kill(ask, visit, name, reason),
            Command::Gban { whom, time, reason } => {
                self.require_server_operator(visit)?;
                self.ban(ask, visit, Scope::Server, (whom, time, reason))
            }
            Command::Gunban { whom } => {
                self.require_server_operator(visit)?;
                self.unban(ask, Scope::Server, whom)
            }
            Command::Gbans => {
                self.require_server_operator(visit)?;
                self.send_bans(ask, Scope::Server);
                Ok(())
            }
            Command::Lock { key } => self.lock(ask, visit, key),
            Command::Unlock => self.unlock(ask, visit),
            Command::Invite { name } => self.invite(ask, visit, name),
            Command::Session => {
                self.session(ask, visit);
                Ok(())
            }
            Command::Msg { to, text } => self.message(ask, visit, to, text),
            Command::Reply { text } => self.reply(ask, visit, text),
            Command::Query { name } => self.query(ask, visit, name),
            Command::Me { text } => self.post(ask, visit, text, true),
            Command::Who { room } => self.who(ask, visit, room),
            Command::Whois { name } => self.whois(ask, visit, name),
            Command::Join { room, key } => self.join(ask, visit, room, key),
            Command::Part { room, reason } => self.part(ask, visit, room, reason),
            Command::List => {
                self.start_room_list(ask);
                Ok(())
            }
            Command::Topic { text } => self.topic(ask, visit, text),
            Command::History { rows, thread } => self.history(ask, visit, rows, thread),
            Command::Search { text, room } => self.search(ask, visit, text, room),
            Command::Nick { name } => self.rename(ask, visit, name),
            Command::Away { text } => {
                self.away(ask, visit, text);
                Ok(())
            }
            Command::Back => {
                self.back(ask, visit);
                Ok(())
            }
            Command::Ignore { name } => self.ignore(ask, visit, name),
            Command::Unignore { name } => self.unignore(ask, visit, name),
        }
    }

    fn set(&mut self, ask: &mut Context<'_>, change: Option<(Setting, bool)>) {
        let before = ask.settings;
        if let Some((setting, is_on)) = change {
            ask.settings.set(setting, is_on);
            if let Some(connection) = self.connection_mut(ask.conn) {
                connection.settings = ask.settings;
                connection.chosen[setting as usize] = true;
                // An audience is made anew for all, so only where it would be another.
                let is_told_otherwise =
                    (before.tags, before.joins) != (ask.settings.tags, ask.settings.joins);
                if let Phase::LoggedIn(visit) = connection.phase
                    && is_told_otherwise
                {
                    self.forget_audiences_of(visit);
                }
            }
        }
        let words = Setting::TABLE.map(|(setting, word)| {
            format!("{word}={}", commands::on_off(ask.settings.get(setting)))
        });
        // A marked line is answered with its mark, this once without tags too.
        ask.settings.tags |= before.tags && ask.cid.is_some();
        ask.reply(&Event::reply("SET", &words.join(" "), ""));
    }
}

/// What a line asks for. What needs a login is refused before one, right or wrong.
fn read(line: &str, is_greeting: bool) -> Result<Request<'_>, Refusal> {
    let needs_login = || commands::row_of(line).is_some_and(|row| !row.before_login);
    if is_greeting && needs_login() { not_logged_in() } else { commands::parse(line) }
}

fn not_logged_in<T>() -> Result<T, Refusal> {
    refusal(ErrorCode::NotLoggedIn, "you are not logged in yet; type /login NAME")
}

fn help(ask: &mut Context<'_>, command: Option<&str>) -> Result<(), Refusal> {
    let rows: Vec<String> = match command {
        None => commands::TABLE.iter().map(commands::Row::help_row).collect(),
        Some(name) => {
            let name = name.strip_prefix('/').unwrap_or(name);
            commands::find(name).ok_or_else(|| commands::unknown(name))?.help_rows()
        }
    };
    ask.reply(&Event::reply("HELP", &rows.len().to_string(), ""));
    for row in &rows {
        ask.reply(&Event::Help(row));
    }
    Ok(())
}

fn raw_len(frame: &Frame<'_>) -> usize {
    if let Frame::Line(line) = frame { line.len() } else { 0 }
}

fn too_long() -> Refusal {
    let text =
        format!("a line has at most {LINE_MAX} bytes; nobody saw this one, send it in parts");
    Refusal::new(ErrorCode::TooLong, text)
}

fn bad_encoding() -> Refusal {
    Refusal::new(ErrorCode::BadEncoding, "that line is not UTF-8; nobody saw it")
}

fn bad_cid(problem: &'static str) -> Refusal {
    Refusal::new(ErrorCode::BadArgument, problem)
}
