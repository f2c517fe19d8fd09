//! Dispatch: parses a frame and calls the module that executes its command. It does not
//! know what a command does.

use super::moderation::Scope;
use super::session::Cursor;
use super::{Connection, Context, Hub, Now, Phase, UserIx, bye, refusal, session};
use crate::commands::{self, Command, Request, Setting};
use crate::protocol::codec::Frame;
use crate::protocol::tags::CidPrefix;
use crate::protocol::text::{clean, is_blank_text};
use crate::protocol::{Cid, ErrorCode, Event, Farewell, LINE_MAX, Refusal, Tags};
use crate::server::turn::{ConnId, Origin, Turn};

impl Hub {
    /// Handles a line, or a frame that the codec rejected.
    pub(super) fn handle_line(
        &mut self,
        now: Now,
        conn: ConnId,
        frame: &Frame<'_>,
        turn: &mut Turn,
    ) {
        let Some(Connection { settings, phase, .. }) = self.connection(conn) else { return };
        let (settings, is_greeting) = (*settings, matches!(phase, Phase::Greeting { .. }));
        let (text, fault) = match frame {
            Frame::Line(line) => (clean(line), None),
            Frame::TooLong(head) => (String::from_utf8_lossy(head), Some(too_long())),
            Frame::BadEncoding(head) => (String::from_utf8_lossy(head), Some(bad_encoding())),
            Frame::Foreign => return,
        };
        let mut ctx = Context { now, conn, settings, cid: None, turn };
        let prefix = if settings.tags { CidPrefix::of(&text) } else { CidPrefix::Absent };
        let parsed = match (prefix, fault) {
            (CidPrefix::Present(cid, line), fault) => {
                ctx.cid = Some(cid);
                let empty = is_blank_text(line).then(|| bad_cid("a line must follow the cid"));
                fault.or(empty).map_or_else(|| read(line, is_greeting), Err)
            }
            (_, Some(fault)) => Err(fault),
            (CidPrefix::Malformed, None) => {
                Err(bad_cid("a cid has 1 to 32 characters of A-Z a-z 0-9 _ -"))
            }
            (CidPrefix::Absent, None) if raw_len(frame) > LINE_MAX => Err(too_long()),
            (CidPrefix::Absent, None) => read(&text, is_greeting),
        };
        if let Err(refusal) = parsed.and_then(|request| self.dispatch(&mut ctx, request)) {
            ctx.refuse(&refusal);
        }
    }

    fn dispatch(&mut self, ctx: &mut Context<'_>, request: Request<'_>) -> Result<(), Refusal> {
        let phase = self.connection(ctx.conn).map(|c| c.phase);
        match (phase, request) {
            (_, Request::Nothing) | (None | Some(Phase::Closing), _) => Ok(()),
            (Some(Phase::Greeting { was_refused: false }), Request::Say(name)) => {
                self.log_in(ctx, name, None)
            }
            (Some(Phase::Greeting { .. }), Request::Command(command))
                if command.row().before_login =>
            {
                self.execute_without_login(ctx, command)
            }
            (Some(Phase::Greeting { .. }), _) => not_logged_in(),
            (Some(Phase::LoggedIn(user)), Request::Say(text)) => {
                self.mark_active(user, ctx.now);
                self.post(ctx, user, text, false)
            }
            (Some(Phase::LoggedIn(user)), Request::Command(command)) => {
                if !self.require_storage(user, command)?
                    || !self.require_token(ctx.conn, user, command)
                {
                    return Ok(());
                }
                if command.is_activity() {
                    self.mark_active(user, ctx.now);
                }
                self.execute(ctx, user, command)?;
                self.audit_command(ctx.now, user, command);
                if session::changes_session(command) {
                    self.mark_session_unsaved(user);
                }
                Ok(())
            }
        }
    }

    /// Executes the commands that need no login.
    fn execute_without_login(
        &mut self,
        ctx: &mut Context<'_>,
        command: Command<'_>,
    ) -> Result<(), Refusal> {
        match command {
            Command::Login { name, password } => self.log_in(ctx, name, password)?,
            Command::Resume { token, after, time } => {
                return self.resume(ctx, token, Cursor { after, time });
            }
            Command::Help { command } => return help(ctx, command),
            Command::Set { change } => self.set(ctx, change),
            Command::Ping { token } => {
                ctx.reply(&Event::reply("PONG", token.unwrap_or_default(), ""));
            }
            Command::Version => {
                let version = concat!("chatty ", env!("CARGO_PKG_VERSION"));
                ctx.reply(&Event::reply("VERSION", crate::protocol::VERSION, version));
            }
            Command::Quit { reason } => {
                let tags = ctx
                    .settings
                    .tags(&Tags { cid: ctx.cid.as_ref().map(Cid::as_str), ..Tags::default() });
                let bye = bye(Farewell::Quit);
                ctx.turn.send(ctx.conn, Origin::Reply, &tags, &bye);
                self.leave(ctx.now, ctx.conn, None, reason, ctx.turn);
            }
            _ => {}
        }
        Ok(())
    }

    /// Executes a command of a logged-in user. The match is exhaustive, so that a command
    /// without an implementation does not compile.
    fn execute(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        command: Command<'_>,
    ) -> Result<(), Refusal> {
        match command {
            Command::Help { .. }
            | Command::Set { .. }
            | Command::Ping { .. }
            | Command::Version
            | Command::Quit { .. } => self.execute_without_login(ctx, command),
            Command::Login { .. } => refusal(
                ErrorCode::BadArgument,
                format!(
                    "you are already logged in as {}; /nick NAME changes your name",
                    self.users[user].name
                ),
            ),
            Command::Resume { .. } => refusal(
                ErrorCode::BadArgument,
                format!(
                    "you are already logged in as {}; /resume works only before login",
                    self.users[user].name
                ),
            ),
            Command::Register { password } => self.register(ctx, user, password),
            Command::Passwd { password } => self.change_password(ctx, user, password),
            Command::Unregister { .. } => self.unregister(ctx, user),
            Command::Op { name } => self.promote(ctx, user, name),
            Command::Deop { name } => self.demote(ctx, user, name),
            Command::Kick { name, reason } => self.kick(ctx, user, name, reason),
            Command::Mute { name, time } => self.mute(ctx, user, name, time),
            Command::Unmute { name } => self.unmute(ctx, user, name),
            Command::Ban { whom, time, reason } => {
                let room = Scope::Room(self.moderated_room(user)?);
                self.ban(ctx, user, room, (whom, time, reason))
            }
            Command::Unban { whom } => {
                let room = Scope::Room(self.moderated_room(user)?);
                self.unban(ctx, room, whom)
            }
            Command::Bans => {
                let room = Scope::Room(self.moderated_room(user)?);
                self.send_bans(ctx, room);
                Ok(())
            }
            Command::Oper { .. } => self.oper(ctx),
            Command::Wall { text } => self.wall(ctx, user, text),
            Command::Kill { name, reason } => self.kill(ctx, user, name, reason),
            Command::Gban { whom, time, reason } => {
                self.require_server_operator(user)?;
                self.ban(ctx, user, Scope::Server, (whom, time, reason))
            }
            Command::Gunban { whom } => {
                self.require_server_operator(user)?;
                self.unban(ctx, Scope::Server, whom)
            }
            Command::Gbans => {
                self.require_server_operator(user)?;
                self.send_bans(ctx, Scope::Server);
                Ok(())
            }
            Command::Lock { key } => self.lock(ctx, user, key),
            Command::Unlock => self.unlock(ctx, user),
            Command::Invite { name } => self.invite(ctx, user, name),
            Command::Session => {
                self.session(ctx, user);
                Ok(())
            }
            Command::Msg { to, text } => self.message(ctx, user, to, text),
            Command::Reply { text } => self.reply(ctx, user, text),
            Command::Query { name } => self.query(ctx, user, name),
            Command::Me { text } => self.post(ctx, user, text, true),
            Command::Who { room } => self.who(ctx, user, room),
            Command::Whois { name } => self.whois(ctx, user, name),
            Command::Join { room, key } => self.join(ctx, user, room, key),
            Command::Part { room, reason } => self.part(ctx, user, room, reason),
            Command::List => {
                self.start_room_list(ctx);
                Ok(())
            }
            Command::Topic { text } => self.topic(ctx, user, text),
            Command::History { rows, thread } => self.history(ctx, user, rows, thread),
            Command::Search { text, room } => self.search(ctx, user, text, room),
            Command::Nick { name } => self.rename(ctx, user, name),
            Command::Away { text } => {
                self.away(ctx, user, text);
                Ok(())
            }
            Command::Back => {
                self.back(ctx, user);
                Ok(())
            }
            Command::Ignore { name } => self.ignore(ctx, user, name),
            Command::Unignore { name } => self.unignore(ctx, user, name),
        }
    }

    fn set(&mut self, ctx: &mut Context<'_>, change: Option<(Setting, bool)>) {
        let before = ctx.settings;
        if let Some((setting, is_on)) = change {
            ctx.settings.set(setting, is_on);
            if let Some(connection) = self.connection_mut(ctx.conn) {
                connection.settings = ctx.settings;
                connection.chosen[setting as usize] = true;
                // Rebuilding audiences is expensive, so only settings that affect them do.
                let affects_audiences =
                    (before.tags, before.joins) != (ctx.settings.tags, ctx.settings.joins);
                if let Phase::LoggedIn(user) = connection.phase
                    && affects_audiences
                {
                    self.invalidate_audiences_of(user);
                }
            }
        }
        let words = Setting::TABLE.map(|(setting, word)| {
            format!("{word}={}", commands::on_off(ctx.settings.get(setting)))
        });
        // The answer to a line with a cid carries the cid, even if that line turned tags off.
        ctx.settings.tags |= before.tags && ctx.cid.is_some();
        ctx.reply(&Event::reply("SET", &words.join(" "), ""));
    }
}

/// Parses a line. Before login, a command that needs a login is refused as such even if
/// its arguments are invalid.
fn read(line: &str, is_greeting: bool) -> Result<Request<'_>, Refusal> {
    let needs_login = || commands::row_of(line).is_some_and(|row| !row.before_login);
    if is_greeting && needs_login() { not_logged_in() } else { commands::parse(line) }
}

fn not_logged_in<T>() -> Result<T, Refusal> {
    refusal(ErrorCode::NotLoggedIn, "you are not logged in yet; type /login NAME")
}

fn help(ctx: &mut Context<'_>, command: Option<&str>) -> Result<(), Refusal> {
    let rows: Vec<String> = match command {
        None => commands::TABLE.iter().map(commands::Row::help_row).collect(),
        Some(name) => {
            let name = name.strip_prefix('/').unwrap_or(name);
            commands::find(name).ok_or_else(|| commands::unknown(name))?.help_rows()
        }
    };
    ctx.reply(&Event::reply("HELP", &rows.len().to_string(), ""));
    for row in &rows {
        ctx.reply(&Event::Help(row));
    }
    Ok(())
}

fn raw_len(frame: &Frame<'_>) -> usize {
    if let Frame::Line(line) = frame { line.len() } else { 0 }
}

fn too_long() -> Refusal {
    let text = format!("not sent: longer than {LINE_MAX} bytes; split it");
    Refusal::new(ErrorCode::TooLong, text)
}

fn bad_encoding() -> Refusal {
    Refusal::new(ErrorCode::BadEncoding, "not sent: the line is not valid UTF-8")
}

fn bad_cid(problem: &'static str) -> Refusal {
    Refusal::new(ErrorCode::BadArgument, problem)
}
