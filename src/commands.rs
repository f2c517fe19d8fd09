//! The one table of commands. A row knows a command's *syntax*: its name, its
//! arguments, its help and how to read it. From the rows come parsing, usage
//! errors, "did you mean", `/help`, the README's list and the client's
//! completion. What a command *means* is the hub's business (`server/hub.rs`).
//!
//! To add a command: a variant of [`Command`], a row in [`TABLE`], an arm in
//! `server/hub/obey.rs`, a transcript in `tests/transcripts`. The compiler and the tests
//! below name what was forgotten.
//!
//! Lexing: words ignore case and are parted by blanks; exactly one blank
//! precedes the last argument, which is the rest of the line, verbatim.

use std::fmt;
use std::time::Duration;

use crate::protocol::name::is_name;
use crate::protocol::text::{is_blank, is_blank_text, nearest, split_word};
use crate::protocol::units::{parse_duration, show_duration};
use crate::protocol::{ErrorCode, HISTORY_DEFAULT, HISTORY_MAX, REASON_MAX, Refusal, Stamp};

mod mistakes;

pub use mistakes::{behind_blanks, word_behind_blanks};

/// What one line of a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    /// An empty line, or one of blanks: nothing, and no answer.
    Nothing,
    /// Text for wherever plain lines go.
    Say(&'a str),
    /// A command.
    Command(Command<'a>),
}

/// Whom `/msg` is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageTarget<'a> {
    /// `#ops`, its name without the sign.
    Room(&'a str),
    /// A person.
    Person(&'a str),
}

/// Which rows `/history` gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryRange {
    /// At most so many.
    pub count: usize,
    /// The nearest after this id; without one, the latest.
    pub after: Option<u64>,
}

/// What `/set` can switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// My own lines come back to me.
    Echo,
    /// Joined, left and quit events come to me.
    Joins,
    /// Lines carry their `@id=…;time=…` prefix.
    Tags,
}

impl Setting {
    /// Every setting with its word, in the order `[SET]` tells them.
    pub const TABLE: [(Self, &'static str); 3] =
        [(Self::Echo, "echo"), (Self::Joins, "joins"), (Self::Tags, "tags")];

    /// The setting's word.
    #[must_use]
    pub fn word(self) -> &'static str {
        Self::TABLE[self as usize].1
    }
}

/// A command with its arguments, as written; whether they make sense where and
/// when they are said is for the hub to find out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // each stands in TABLE with its arguments and its help
pub enum Command<'a> {
    Help { command: Option<&'a str> },
    Login { name: &'a str, password: Option<&'a str> },
    Msg { to: MessageTarget<'a>, text: &'a str },
    Reply { text: &'a str },
    Query { name: Option<&'a str> },
    Me { text: &'a str },
    Who { room: Option<&'a str> },
    Whois { name: &'a str },
    Join { room: &'a str, key: Option<&'a str> },
    Part { room: Option<&'a str>, reason: Option<&'a str> },
    List,
    Topic { text: Option<&'a str> },
    History { rows: HistoryRange, thread: Option<MessageTarget<'a>> },
    Search { text: &'a str, room: Option<&'a str> },
    Nick { name: &'a str },
    Away { text: Option<&'a str> },
    Back,
    Ignore { name: Option<&'a str> },
    Unignore { name: &'a str },
    Set { change: Option<(Setting, bool)> },
    Ping { token: Option<&'a str> },
    Register { password: &'a str },
    Passwd { password: &'a str },
    Unregister { password: &'a str },
    Op { name: &'a str },
    Deop { name: &'a str },
    Kick { name: &'a str, reason: Option<&'a str> },
    Mute { name: &'a str, time: Option<Duration> },
    Unmute { name: &'a str },
    Ban { whom: &'a str, time: Option<Duration>, reason: Option<&'a str> },
    Unban { whom: &'a str },
    Bans,
    Lock { key: Option<&'a str> },
    Unlock,
    Invite { name: &'a str },
    Oper { password: &'a str },
    Wall { text: &'a str },
    Kill { name: &'a str, reason: Option<&'a str> },
    Gban { whom: &'a str, time: Option<Duration>, reason: Option<&'a str> },
    Gunban { whom: &'a str },
    Gbans,
    Session,
    Resume { token: &'a str, after: u64, time: Option<Stamp> },
    Version,
    Quit { reason: Option<&'a str> },
}

/// What an argument is, for completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArgKind {
    /// Somebody who is here.
    Person,
    /// A room, with its `#`.
    Room,
    /// Either.
    PersonOrRoom,
    /// A command of this table.
    Command,
    /// `echo`, `joins` or `tags`.
    Setting,
    /// `on` or `off`.
    Switch,
    /// A password: in no history, and shown to nobody.
    Secret,
    /// Anything else; nothing to offer.
    Free,
}

/// One argument.
#[derive(Debug, Clone, Copy)]
pub struct Arg {
    /// As usage shows it, brackets included.
    pub usage: &'static str,
    /// What it is.
    pub kind: ArgKind,
}

/// What a command is about, in the order of what most people want to know last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Order on the server.
    Rule,
    /// Order in a room.
    Order,
    /// What programs need.
    Programs,
    /// Who I am, and how I wish it.
    Me,
    /// What was said.
    Earlier,
    /// Where one is, and who else.
    Rooms,
    /// Saying something.
    Talk,
}

impl Group {
    /// For people.
    #[must_use]
    pub fn heading(self) -> &'static str {
        match self {
            Self::Rule => "for operators of the server",
            Self::Order => "for operators of a room",
            Self::Programs => "for programs",
            Self::Me => "you",
            Self::Earlier => "what was said",
            Self::Rooms => "rooms, and who is there",
            Self::Talk => "talking",
        }
    }
}

/// One command's syntax.
#[derive(Debug)]
pub struct Row {
    /// The name, without `/`.
    pub name: &'static str,
    /// What it is about.
    pub group: Group,
    /// Other names for it.
    pub aliases: &'static [&'static str],
    /// The arguments in order.
    pub args: &'static [Arg],
    /// What it does, in one line.
    pub help: &'static str,
    /// Lines one could type; the first is the plainest.
    pub examples: &'static [&'static str],
    /// Whether it may be said before login.
    pub before_login: bool,
    read: for<'a> fn(&mut Args<'a>) -> Result<Command<'a>, Refusal>,
}

const fn arg(usage: &'static str, kind: ArgKind) -> Arg {
    Arg { usage, kind }
}

/// The longest time limit that is taken for one. More is a slip of the finger, and near
/// the end of what a clock can count.
const TIME_MAX: Duration = Duration::from_hours(24 * 1_000_000_000);

const BAN_ARGS: &[Arg] = &[
    arg("NAME|ADDRESS[/BITS]", ArgKind::Person),
    arg("[TIME]", ArgKind::Free),
    arg("[REASON]", ArgKind::Free),
];

/// Every command, in the order the server's `/help` tells them: the daily ones first.
pub const TABLE: &[Row] = &[
    Row {
        name: "help",
        group: Group::Me,
        aliases: &[],
        args: &[arg("[COMMAND]", ArgKind::Command)],
        help: "this list, or one command in detail",
        examples: &["/help", "/help msg"],
        before_login: true,
        read: |args| Ok(Command::Help { command: args.last_word() }),
    },
    Row {
        name: "login",
        group: Group::Me,
        aliases: &[],
        args: &[arg("NAME", ArgKind::Free), arg("[PASSWORD]", ArgKind::Secret)],
        help: "say who you are; before login a line with just a name does the same",
        examples: &["/login alice"],
        before_login: true,
        read: |args| Ok(Command::Login { name: args.word()?, password: args.rest() }),
    },
    Row {
        name: "msg",
        group: Group::Talk,
        aliases: &[],
        args: &[arg("NAME", ArgKind::PersonOrRoom), arg("TEXT", ArgKind::Free)],
        help: "say something to one person only or, with #ROOM for NAME, in another room",
        examples: &["/msg bob see you at six", "/msg #ops deploy is done"],
        before_login: false,
        read: |args| Ok(Command::Msg { to: target(args.word()?), text: args.text()? }),
    },
    Row {
        name: "reply",
        group: Group::Talk,
        aliases: &["r"],
        args: &[arg("TEXT", ArgKind::Free)],
        help: "answer whoever last wrote to you privately",
        examples: &["/reply on my way"],
        before_login: false,
        read: |args| Ok(Command::Reply { text: args.text()? }),
    },
    Row {
        name: "query",
        group: Group::Talk,
        aliases: &[],
        args: &[arg("[NAME]", ArgKind::Person)],
        help: "send plain lines to one person; without a name, to the room again",
        examples: &["/query bob", "/query"],
        before_login: false,
        read: |args| Ok(Command::Query { name: args.last_word() }),
    },
    Row {
        name: "me",
        group: Group::Talk,
        aliases: &[],
        args: &[arg("TEXT", ArgKind::Free)],
        help: "do something instead of saying it",
        examples: &["/me waves"],
        before_login: false,
        read: |args| Ok(Command::Me { text: args.text()? }),
    },
    Row {
        name: "who",
        group: Group::Rooms,
        aliases: &["names", "users"],
        args: &[arg("[ROOM]", ArgKind::Room)],
        help: "list who is in a room",
        examples: &["/who", "/who #ops"],
        before_login: false,
        read: |args| Ok(Command::Who { room: args.last_word() }),
    },
    Row {
        name: "whois",
        group: Group::Rooms,
        aliases: &[],
        args: &[arg("NAME", ArgKind::Person)],
        help: "tell about one person: since when, idle how long, where",
        examples: &["/whois bob"],
        before_login: false,
        read: |args| Ok(Command::Whois { name: args.needed_last_word()? }),
    },
    Row {
        name: "join",
        group: Group::Rooms,
        aliases: &["j"],
        args: &[arg("ROOM", ArgKind::Room), arg("[KEY]", ArgKind::Secret)],
        help: "enter a room, made if there is none; plain lines then go there",
        examples: &["/join #ops", "/join #ops open sesame"],
        before_login: false,
        read: |args| Ok(Command::Join { room: args.word()?, key: args.last_word() }),
    },
    Row {
        name: "part",
        group: Group::Rooms,
        aliases: &["leave"],
        args: &[arg("[ROOM", ArgKind::Room), arg("[REASON]]", ArgKind::Free)],
        help: "leave a room, the current one if none is named",
        examples: &["/part", "/part #ops back to work"],
        before_login: false,
        read: |args| Ok(Command::Part { room: args.optional_word(), reason: args.rest() }),
    },
    Row {
        name: "list",
        group: Group::Rooms,
        aliases: &[],
        args: &[],
        help: "list the rooms, how many are in each, and their topics",
        examples: &["/list"],
        before_login: false,
        read: |_| Ok(Command::List),
    },
    Row {
        name: "topic",
        group: Group::Rooms,
        aliases: &[],
        args: &[arg("[TEXT]", ArgKind::Free)],
        help: "show the room's topic, or set it; - clears it",
        examples: &["/topic", "/topic release at noon", "/topic -"],
        before_login: false,
        read: |args| Ok(Command::Topic { text: args.rest() }),
    },
    Row {
        name: "history",
        group: Group::Earlier,
        aliases: &[],
        args: &[
            arg("[N]", ArgKind::Free),
            arg("[after ID]", ArgKind::Free),
            arg("[ROOM|NAME]", ArgKind::PersonOrRoom),
        ],
        help: "show earlier messages of a room or of your talk with one person",
        examples: &["/history", "/history 50 #ops", "/history after 42 bob"],
        before_login: false,
        read: read_history,
    },
    Row {
        name: "search",
        group: Group::Earlier,
        aliases: &[],
        args: &[arg("TEXT", ArgKind::Free), arg("[#ROOM]", ArgKind::Room)],
        help: "find messages with all these words, in your rooms and private talks",
        examples: &["/search deploy failed", "/search deploy failed #ops"],
        before_login: false,
        read: read_search,
    },
    Row {
        name: "nick",
        group: Group::Me,
        aliases: &[],
        args: &[arg("NAME", ArgKind::Free)],
        help: "take another name",
        examples: &["/nick al"],
        before_login: false,
        read: |args| Ok(Command::Nick { name: args.needed_last_word()? }),
    },
    Row {
        name: "away",
        group: Group::Talk,
        aliases: &[],
        args: &[arg("[TEXT]", ArgKind::Free)],
        help: "tell those who write to you that you are away",
        examples: &["/away lunch", "/away"],
        before_login: false,
        read: |args| Ok(Command::Away { text: args.rest() }),
    },
    Row {
        name: "back",
        group: Group::Talk,
        aliases: &[],
        args: &[],
        help: "be here again",
        examples: &["/back"],
        before_login: false,
        read: |_| Ok(Command::Back),
    },
    Row {
        name: "ignore",
        group: Group::Talk,
        aliases: &[],
        args: &[arg("[NAME]", ArgKind::Person)],
        help: "hide what one person says; without a name, list whom you ignore",
        examples: &["/ignore bob", "/ignore"],
        before_login: false,
        read: |args| Ok(Command::Ignore { name: args.last_word() }),
    },
    Row {
        name: "unignore",
        group: Group::Talk,
        aliases: &[],
        args: &[arg("NAME", ArgKind::Person)],
        help: "hear that person again",
        examples: &["/unignore bob"],
        before_login: false,
        read: |args| Ok(Command::Unignore { name: args.needed_last_word()? }),
    },
    Row {
        name: "set",
        group: Group::Me,
        aliases: &[],
        args: &[arg("[KEY", ArgKind::Setting), arg("on|off]", ArgKind::Switch)],
        help: "show or change settings: echo (my own lines), joins (comings and goings), tags",
        examples: &["/set", "/set joins off"],
        before_login: true,
        read: read_set,
    },
    Row {
        name: "ping",
        group: Group::Programs,
        aliases: &[],
        args: &[arg("[TOKEN]", ArgKind::Free)],
        help: "answered when all you sent before is done and on its way to its readers",
        examples: &["/ping t1"],
        before_login: true,
        read: read_ping,
    },
    Row {
        name: "register",
        group: Group::Me,
        aliases: &[],
        args: &[arg("PASSWORD", ArgKind::Secret)],
        help: "make your name yours: from then on it takes the password to log in with it",
        examples: &["/register correct horse battery"],
        before_login: false,
        read: |args| Ok(Command::Register { password: args.text()? }),
    },
    Row {
        name: "passwd",
        group: Group::Me,
        aliases: &[],
        args: &[arg("NEW", ArgKind::Secret)],
        help: "change the password of your name",
        examples: &["/passwd staple battery horse"],
        before_login: false,
        read: |args| Ok(Command::Passwd { password: args.text()? }),
    },
    Row {
        name: "unregister",
        group: Group::Me,
        aliases: &[],
        args: &[arg("PASSWORD", ArgKind::Secret)],
        help: "give your name up: anybody can take it then",
        examples: &["/unregister correct horse battery"],
        before_login: false,
        read: |args| Ok(Command::Unregister { password: args.text()? }),
    },
    Row {
        name: "op",
        group: Group::Order,
        aliases: &[],
        args: &[arg("NAME", ArgKind::Person)],
        help: "let somebody keep order in this room as you do; who makes a room is its operator",
        examples: &["/op bob"],
        before_login: false,
        read: |args| Ok(Command::Op { name: args.needed_last_word()? }),
    },
    Row {
        name: "deop",
        group: Group::Order,
        aliases: &[],
        args: &[arg("NAME", ArgKind::Person)],
        help: "make an operator of this room one no longer",
        examples: &["/deop bob"],
        before_login: false,
        read: |args| Ok(Command::Deop { name: args.needed_last_word()? }),
    },
    Row {
        name: "kick",
        group: Group::Order,
        aliases: &[],
        args: &[arg("NAME", ArgKind::Person), arg("[REASON]", ArgKind::Free)],
        help: "put somebody out of this room, which you have to be an operator of",
        examples: &["/kick bob", "/kick bob take a walk"],
        before_login: false,
        read: |args| Ok(Command::Kick { name: args.word()?, reason: args.reason()? }),
    },
    Row {
        name: "ban",
        group: Group::Order,
        aliases: &[],
        args: BAN_ARGS,
        help: "put somebody, or a network, out of this room and keep them out",
        examples: &["/ban bob", "/ban bob 2h no more of this", "/ban 192.0.2.0/24 7d"],
        before_login: false,
        read: |args| {
            let (whom, time, reason) = read_ban(args)?;
            Ok(Command::Ban { whom, time, reason })
        },
    },
    Row {
        name: "unban",
        group: Group::Order,
        aliases: &[],
        args: &[arg("NAME|ADDRESS[/BITS]", ArgKind::Person)],
        help: "let them into this room again",
        examples: &["/unban bob", "/unban 192.0.2.0/24"],
        before_login: false,
        read: |args| Ok(Command::Unban { whom: args.needed_last_word()? }),
    },
    Row {
        name: "bans",
        group: Group::Order,
        aliases: &[],
        args: &[],
        help: "list who is kept out of this room",
        examples: &["/bans"],
        before_login: false,
        read: |_| Ok(Command::Bans),
    },
    Row {
        name: "mute",
        group: Group::Order,
        aliases: &[],
        args: &[arg("NAME", ArgKind::Person), arg("[TIME]", ArgKind::Free)],
        help: "let somebody speak in this room no more, for a time like 10m, 2h or 7d",
        examples: &["/mute bob", "/mute bob 10m"],
        before_login: false,
        read: read_mute,
    },
    Row {
        name: "unmute",
        group: Group::Order,
        aliases: &[],
        args: &[arg("NAME", ArgKind::Person)],
        help: "let somebody speak in this room again",
        examples: &["/unmute bob"],
        before_login: false,
        read: |args| Ok(Command::Unmute { name: args.needed_last_word()? }),
    },
    Row {
        name: "lock",
        group: Group::Order,
        aliases: &[],
        args: &[arg("[KEY]", ArgKind::Secret)],
        help: "let nobody into this room but who is invited or knows the key",
        examples: &["/lock", "/lock open sesame"],
        before_login: false,
        read: |args| Ok(Command::Lock { key: args.last_word() }),
    },
    Row {
        name: "unlock",
        group: Group::Order,
        aliases: &[],
        args: &[],
        help: "let everybody into this room again",
        examples: &["/unlock"],
        before_login: false,
        read: |_| Ok(Command::Unlock),
    },
    Row {
        name: "invite",
        group: Group::Order,
        aliases: &[],
        args: &[arg("NAME", ArgKind::Person)],
        help: "ask somebody into this room, once also if it is locked",
        examples: &["/invite bob"],
        before_login: false,
        read: |args| Ok(Command::Invite { name: args.needed_last_word()? }),
    },
    Row {
        name: "oper",
        group: Group::Rule,
        aliases: &[],
        args: &[arg("PASSWORD", ArgKind::Secret)],
        help: "be an operator of this server: of every room, and of what follows",
        examples: &["/oper correct horse battery"],
        before_login: false,
        read: |args| Ok(Command::Oper { password: args.text()? }),
    },
    Row {
        name: "wall",
        group: Group::Rule,
        aliases: &[],
        args: &[arg("TEXT", ArgKind::Free)],
        help: "tell everybody on this server, which you have to be an operator of",
        examples: &["/wall the server moves at noon"],
        before_login: false,
        read: |args| Ok(Command::Wall { text: args.text()? }),
    },
    Row {
        name: "kill",
        group: Group::Rule,
        aliases: &[],
        args: &[arg("NAME", ArgKind::Person), arg("[REASON]", ArgKind::Free)],
        help: "end somebody's connection; they may come back",
        examples: &["/kill bob", "/kill bob take a walk"],
        before_login: false,
        read: |args| Ok(Command::Kill { name: args.word()?, reason: args.reason()? }),
    },
    Row {
        name: "gban",
        group: Group::Rule,
        aliases: &[],
        args: BAN_ARGS,
        help: "put somebody, or a network, off this server and keep them off",
        examples: &["/gban bob", "/gban bob 2h no more of this", "/gban 192.0.2.0/24 7d"],
        before_login: false,
        read: |args| {
            let (whom, time, reason) = read_ban(args)?;
            Ok(Command::Gban { whom, time, reason })
        },
    },
    Row {
        name: "gunban",
        group: Group::Rule,
        aliases: &[],
        args: &[arg("NAME|ADDRESS[/BITS]", ArgKind::Person)],
        help: "let them onto this server again",
        examples: &["/gunban bob", "/gunban 192.0.2.0/24"],
        before_login: false,
        read: |args| Ok(Command::Gunban { whom: args.needed_last_word()? }),
    },
    Row {
        name: "gbans",
        group: Group::Rule,
        aliases: &[],
        args: &[],
        help: "list who is kept off this server",
        examples: &["/gbans"],
        before_login: false,
        read: |_| Ok(Command::Gbans),
    },
    Row {
        name: "session",
        group: Group::Programs,
        aliases: &[],
        args: &[],
        help: "get a token that brings you back where you were if the connection drops",
        examples: &["/session"],
        before_login: false,
        read: |_| Ok(Command::Session),
    },
    Row {
        name: "resume",
        group: Group::Programs,
        aliases: &[],
        args: &[
            arg("TOKEN", ArgKind::Free),
            arg("ID", ArgKind::Free),
            arg("[TIME]", ArgKind::Free),
        ],
        help: "come back instead of logging in, and read on after a message, by its id and time",
        examples: &[
            "/resume 9f86d081884c7d659a2feaa0c55ad015 42 2026-11-23T06:16:00.123Z",
            "/resume 9f86d081884c7d659a2feaa0c55ad015 42",
        ],
        before_login: true,
        read: read_resume,
    },
    Row {
        name: "version",
        group: Group::Programs,
        aliases: &[],
        args: &[],
        help: "tell the protocol's and the server's version",
        examples: &["/version"],
        before_login: true,
        read: |_| Ok(Command::Version),
    },
    Row {
        name: "quit",
        group: Group::Me,
        aliases: &[],
        args: &[arg("[REASON]", ArgKind::Free)],
        help: "leave; all you sent before is answered first",
        examples: &["/quit", "/quit good night"],
        before_login: true,
        read: |args| Ok(Command::Quit { reason: args.rest() }),
    },
];

/// Reads a client's line, already cleaned and without `@cid=`.
///
/// # Errors
/// The refusal to answer it with. What looks private or like a command never
/// becomes public text.
pub fn parse(line: &str) -> Result<Request<'_>, Refusal> {
    if is_blank_text(line) {
        return Ok(Request::Nothing);
    }
    match line.strip_prefix('/') {
        Some(said) if said.starts_with('/') => return Ok(Request::Say(said)),
        Some(command) => return parse_command(command).map(Request::Command),
        None => {}
    }
    if is_private_looking(line) {
        return parse_private(line).map(Request::Command);
    }
    if mistakes::is_private_copy(line) {
        return Err(looks_private());
    }
    if let Some(word) = word_behind_blanks(line).filter(|word| find(word).is_some()) {
        return Err(not_at_start(&word));
    }
    Ok(Request::Say(line))
}

/// The row of a command by name or alias, without `/`.
#[must_use]
pub fn find(name: &str) -> Option<&'static Row> {
    let is_it = |candidate: &&str| candidate.eq_ignore_ascii_case(name);
    TABLE.iter().find(|row| is_it(&row.name) || row.aliases.iter().any(is_it))
}

/// The row of the command that a line begins with, whatever follows it.
#[must_use]
pub fn row_of(line: &str) -> Option<&'static Row> {
    find(split_word(line.strip_prefix('/')?).0)
}

/// What people know from elsewhere. Not aliases: one name is enough.
const FOREIGN_COMMANDS: [(&str, &str); 11] = [
    ("bye", "quit"),
    ("channels", "list"),
    ("disconnect", "quit"),
    ("dm", "msg"),
    ("exit", "quit"),
    ("logout", "quit"),
    ("pm", "msg"),
    ("rooms", "list"),
    ("tell", "msg"),
    ("w", "msg"),
    ("whisper", "msg"),
];

/// The refusal of a name that is no command, with the nearest one.
#[must_use]
pub fn unknown(name: &str) -> Refusal {
    let known = TABLE.iter().flat_map(|row| std::iter::once(&row.name).chain(row.aliases));
    let elsewhere = FOREIGN_COMMANDS.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
    let meant = elsewhere.map(|(_, known)| *known).or_else(|| nearest(name, known.copied()));
    let text = match meant {
        Some(known) => format!("/{name}: no such command, did you mean /{known}?"),
        None => format!("/{name}: no such command; /help lists them"),
    };
    Refusal::new(ErrorCode::UnknownCommand, text)
}

impl Row {
    /// `/msg NAME TEXT`
    #[must_use]
    pub fn usage(&self) -> String {
        let mut usage = format!("/{}", self.name);
        for arg in self.args {
            usage.push(' ');
            usage.push_str(arg.usage);
        }
        usage
    }

    /// The row of `/help`.
    #[must_use]
    pub fn help_row(&self) -> String {
        format!("{}  {}", self.usage(), self.help)
    }

    /// The rows of `/help` with its name: how it is written, and examples.
    #[must_use]
    pub fn help_rows(&self) -> Vec<String> {
        let aliases = self.aliases.iter().map(|alias| format!("/{alias}  the same"));
        let examples = self.examples.iter().map(|example| format!("{example}  (an example)"));
        std::iter::once(self.help_row()).chain(aliases).chain(examples).collect()
    }

    fn missing(&self) -> Refusal {
        Refusal::new(ErrorCode::MissingArgument, format!("usage: {}", self.usage()))
    }

    fn bad(&self, problem: &str) -> Refusal {
        Refusal::new(ErrorCode::BadArgument, format!("{problem}; usage: {}", self.usage()))
    }
}

fn parse_command(line: &str) -> Result<Command<'_>, Refusal> {
    let (name, rest) = split_word(line);
    let row = find(name).ok_or_else(|| unknown(name))?;
    (row.read)(&mut Args { row, rest })
}

const PRIVATE: &str = "[PRIVATE MESSAGE";

fn is_private_looking(line: &str) -> bool {
    line.get(..PRIVATE.len()).is_some_and(|start| start.eq_ignore_ascii_case(PRIVATE))
}

/// The refusal of a line that is a command but for what stands before its slash.
#[must_use]
pub fn not_at_start(word: &str) -> Refusal {
    let text =
        format!("not sent: begin the line with /{word} to run it, or with //{word} to say it");
    Refusal::new(ErrorCode::BadArgument, text)
}

fn looks_private() -> Refusal {
    let text = "not sent: this looks like a copy of a private message; use /msg NAME TEXT";
    Refusal::new(ErrorCode::NoTarget, text)
}

/// `[PRIVATE MESSAGE] bob: hi`, as an older client writes it, means `/msg bob hi`.
fn parse_private(line: &str) -> Result<Command<'_>, Refusal> {
    let rest = line[PRIVATE.len()..].strip_prefix("] ").ok_or_else(looks_private)?;
    let (name, text) = rest
        .split_once(": ")
        .or(rest.strip_suffix(':').map(|n| (n, "")))
        .ok_or_else(looks_private)?;
    if !is_name(name) {
        return Err(looks_private());
    }
    if is_blank_text(text) {
        return Err(find("msg").map_or_else(looks_private, Row::missing));
    }
    Ok(Command::Msg { to: MessageTarget::Person(name), text })
}

fn target(word: &str) -> MessageTarget<'_> {
    word.strip_prefix('#').map_or(MessageTarget::Person(word), MessageTarget::Room)
}

fn read_history<'a>(args: &mut Args<'a>) -> Result<Command<'a>, Refusal> {
    let mut rows = HistoryRange { count: HISTORY_DEFAULT, after: None };
    let mut word = args.optional_word();
    if let Some(number) = word.filter(|w| w.starts_with(|c: char| c.is_ascii_digit())) {
        rows.count = usize::try_from(args.number(number)?).unwrap_or(usize::MAX).min(HISTORY_MAX);
        word = args.optional_word();
    }
    if word.is_some_and(|w| w.eq_ignore_ascii_case("after")) {
        let id = args.optional_word().ok_or_else(|| args.row.missing())?;
        rows.after = Some(args.number(id)?);
        word = args.optional_word();
    }
    let thread = word.map(target);
    match thread {
        Some(MessageTarget::Person(name)) if !is_name(name) => {
            Err(args.row.bad(&format!("\"{name}\" is neither a number nor a name")))
        }
        _ if args.rest().is_some() => Err(args.row.bad("too many arguments")),
        _ => Ok(Command::History { rows, thread }),
    }
}

/// A room at the end is where to search; a `#1` that can be none is text.
fn read_search<'a>(args: &mut Args<'a>) -> Result<Command<'a>, Refusal> {
    let text = args.text()?.trim_matches(is_blank);
    let start = text.rfind(is_blank).map_or(0, |at| at + 1);
    let room = text[start..].strip_prefix('#').filter(|room| is_name(room));
    let text = if room.is_some() { text[..start].trim_end_matches(is_blank) } else { text };
    if text.is_empty() {
        return Err(args.row.missing());
    }
    Ok(Command::Search { text, room })
}

/// Whom to ban, how long, and why.
type BanArgs<'a> = (&'a str, Option<Duration>, Option<&'a str>);

fn read_ban<'a>(args: &mut Args<'a>) -> Result<BanArgs<'a>, Refusal> {
    let whom = args.word()?;
    let rest = args.rest;
    let time = match args.optional_word() {
        Some(word) if begins_like_number(word) => Some(args.time(word)?),
        _ => {
            args.rest = rest;
            None
        }
    };
    Ok((whom, time, args.reason()?))
}

/// Whether the first letter or digit of a word is a digit, of any script. Such a word is
/// never a reason: a mistyped time taken for one would make the ban permanent.
fn begins_like_number(word: &str) -> bool {
    word.chars().find(|c| c.is_alphanumeric()).is_some_and(char::is_numeric)
}

fn read_mute<'a>(args: &mut Args<'a>) -> Result<Command<'a>, Refusal> {
    let name = args.word()?;
    let time = args.last_word().map(|word| args.time(word)).transpose()?;
    Ok(Command::Mute { name, time })
}

fn read_set<'a>(args: &mut Args<'a>) -> Result<Command<'a>, Refusal> {
    let Some(key) = args.optional_word() else { return Ok(Command::Set { change: None }) };
    let setting = Setting::TABLE.iter().find(|row| row.1.eq_ignore_ascii_case(key));
    let Some((setting, _)) = setting else {
        return Err(args
            .row
            .bad(&format!("there is no setting \"{key}\", only echo, joins and tags")));
    };
    let on = match args.last_word() {
        Some(word) if word.eq_ignore_ascii_case("on") => true,
        Some(word) if word.eq_ignore_ascii_case("off") => false,
        _ => return Err(args.row.bad(&format!("{key} is on or off"))),
    };
    Ok(Command::Set { change: Some((*setting, on)) })
}

fn read_resume<'a>(args: &mut Args<'a>) -> Result<Command<'a>, Refusal> {
    let token = args.word()?;
    let after = args.word()?;
    let after = args.number(after)?;
    let bad = |word: &str| {
        let problem = format!("\"{word}\" is no time of a message, like 2026-11-23T06:16:00.123Z");
        args.row.bad(&problem)
    };
    let time = args.last_word().map(|word| {
        let stamp = Stamp::parse(word).filter(|_| !word.contains(is_blank));
        stamp.ok_or_else(|| bad(word))
    });
    Ok(Command::Resume { token, after, time: time.transpose()? })
}

fn read_ping<'a>(args: &mut Args<'a>) -> Result<Command<'a>, Refusal> {
    let token = args.rest();
    if token.is_some_and(|token| token.contains(']')) {
        // It could not be found again in [PONG token].
        return Err(args.row.bad("a token holds no ]"));
    }
    Ok(Command::Ping { token })
}

/// What follows a command's name, read from the front.
struct Args<'a> {
    row: &'static Row,
    rest: &'a str,
}

impl<'a> Args<'a> {
    /// The next word, more to follow.
    fn optional_word(&mut self) -> Option<&'a str> {
        let (word, rest) = split_word(self.rest.trim_start_matches(is_blank));
        self.rest = rest;
        (!word.is_empty()).then_some(word)
    }

    /// The next word, more to follow; it has to be there.
    fn word(&mut self) -> Result<&'a str, Refusal> {
        self.optional_word().ok_or_else(|| self.row.missing())
    }

    /// The last argument where it is a name or the like: blanks around it mean
    /// nothing, blanks inside make it one that does not exist.
    fn last_word(&mut self) -> Option<&'a str> {
        let word = std::mem::take(&mut self.rest).trim_matches(is_blank);
        (!word.is_empty()).then_some(word)
    }

    fn needed_last_word(&mut self) -> Result<&'a str, Refusal> {
        self.last_word().ok_or_else(|| self.row.missing())
    }

    /// The rest, verbatim; `None` if there is nothing but blanks.
    fn rest(&mut self) -> Option<&'a str> {
        let rest = std::mem::take(&mut self.rest);
        (!is_blank_text(rest)).then_some(rest)
    }

    /// Why an operator does something: it is kept with a ban, and logged.
    fn reason(&mut self) -> Result<Option<&'a str>, Refusal> {
        let reason = self.rest();
        if reason.is_some_and(|reason| reason.chars().nth(REASON_MAX).is_some()) {
            let problem = format!("a reason has at most {REASON_MAX} characters; say it shorter");
            return Err(self.row.bad(&problem));
        }
        Ok(reason)
    }

    /// The rest, verbatim; it has to be there.
    fn text(&mut self) -> Result<&'a str, Refusal> {
        self.rest().ok_or_else(|| self.row.missing())
    }

    /// How long something is to last.
    fn time(&self, word: &str) -> Result<Duration, Refusal> {
        let problem = match parse_duration(word) {
            Ok(time) if !time.is_zero() && time <= TIME_MAX => return Ok(time),
            Ok(Duration::ZERO) => format!("\"{word}\" is no time at all"),
            Ok(_) => {
                format!("\"{word}\" is too long; at most {}, or no time", show_duration(TIME_MAX))
            }
            Err(problem) if self.row.args.iter().any(|arg| arg.usage == "[REASON]") => {
                format!("{problem}, or begin the reason with a word")
            }
            Err(problem) => problem,
        };
        Err(self.row.bad(&problem))
    }

    /// A number; one too large for the machine means the largest there is.
    fn number(&self, word: &str) -> Result<u64, Refusal> {
        if word.is_empty() || !word.bytes().all(|b| b.is_ascii_digit()) {
            return Err(self.row.bad(&format!("\"{word}\" is no number")));
        }
        Ok(word.parse().unwrap_or(u64::MAX))
    }
}

impl fmt::Display for MessageTarget<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Room(room) => write!(f, "#{room}"),
            Self::Person(name) => f.write_str(name),
        }
    }
}

impl Command<'_> {
    /// Whether a person does this, which ends their idle time in `/whois`. What clients
    /// send by themselves does not: keepalives, settings, logging in and resuming.
    #[must_use]
    pub fn is_activity(&self) -> bool {
        match self {
            Self::Ping { .. }
            | Self::Set { .. }
            | Self::Session
            | Self::Login { .. }
            | Self::Resume { .. }
            | Self::Version => false,
            Self::Help { .. }
            | Self::Msg { .. }
            | Self::Reply { .. }
            | Self::Query { .. }
            | Self::Me { .. }
            | Self::Who { .. }
            | Self::Whois { .. }
            | Self::Join { .. }
            | Self::Part { .. }
            | Self::List
            | Self::Topic { .. }
            | Self::History { .. }
            | Self::Search { .. }
            | Self::Nick { .. }
            | Self::Away { .. }
            | Self::Back
            | Self::Ignore { .. }
            | Self::Unignore { .. }
            | Self::Register { .. }
            | Self::Passwd { .. }
            | Self::Unregister { .. }
            | Self::Op { .. }
            | Self::Deop { .. }
            | Self::Kick { .. }
            | Self::Mute { .. }
            | Self::Unmute { .. }
            | Self::Ban { .. }
            | Self::Unban { .. }
            | Self::Bans
            | Self::Lock { .. }
            | Self::Unlock
            | Self::Invite { .. }
            | Self::Oper { .. }
            | Self::Wall { .. }
            | Self::Kill { .. }
            | Self::Gban { .. }
            | Self::Gunban { .. }
            | Self::Gbans
            | Self::Quit { .. } => true,
        }
    }

    /// The command's row in [`TABLE`].
    ///
    /// # Panics
    /// Never: the tests below read every row and find it here again.
    #[must_use]
    pub fn row(&self) -> &'static Row {
        let name = match self {
            Self::Help { .. } => "help",
            Self::Login { .. } => "login",
            Self::Msg { .. } => "msg",
            Self::Reply { .. } => "reply",
            Self::Query { .. } => "query",
            Self::Me { .. } => "me",
            Self::Who { .. } => "who",
            Self::Whois { .. } => "whois",
            Self::Join { .. } => "join",
            Self::Part { .. } => "part",
            Self::List => "list",
            Self::Topic { .. } => "topic",
            Self::History { .. } => "history",
            Self::Search { .. } => "search",
            Self::Nick { .. } => "nick",
            Self::Away { .. } => "away",
            Self::Back => "back",
            Self::Ignore { .. } => "ignore",
            Self::Unignore { .. } => "unignore",
            Self::Set { .. } => "set",
            Self::Ping { .. } => "ping",
            Self::Register { .. } => "register",
            Self::Passwd { .. } => "passwd",
            Self::Unregister { .. } => "unregister",
            Self::Op { .. } => "op",
            Self::Deop { .. } => "deop",
            Self::Kick { .. } => "kick",
            Self::Mute { .. } => "mute",
            Self::Unmute { .. } => "unmute",
            Self::Ban { .. } => "ban",
            Self::Unban { .. } => "unban",
            Self::Bans => "bans",
            Self::Lock { .. } => "lock",
            Self::Unlock => "unlock",
            Self::Invite { .. } => "invite",
            Self::Oper { .. } => "oper",
            Self::Wall { .. } => "wall",
            Self::Kill { .. } => "kill",
            Self::Gban { .. } => "gban",
            Self::Gunban { .. } => "gunban",
            Self::Gbans => "gbans",
            Self::Session => "session",
            Self::Resume { .. } => "resume",
            Self::Version => "version",
            Self::Quit { .. } => "quit",
        };
        find(name).expect("every command has a row")
    }
}

/// Writes the command as a line; [`parse`] reads it back.
impl fmt::Display for Command<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.row().name)?;
        let mut put =
            |args: &[Option<&str>]| args.iter().flatten().try_for_each(|arg| write!(f, " {arg}"));
        match *self {
            Self::List
            | Self::Back
            | Self::Bans
            | Self::Gbans
            | Self::Unlock
            | Self::Session
            | Self::Version
            | Self::Set { change: None } => Ok(()),
            Self::Help { command: arg }
            | Self::Query { name: arg }
            | Self::Who { room: arg }
            | Self::Topic { text: arg }
            | Self::Lock { key: arg }
            | Self::Away { text: arg }
            | Self::Ignore { name: arg }
            | Self::Ping { token: arg }
            | Self::Quit { reason: arg } => put(&[arg]),
            Self::Reply { text: arg }
            | Self::Me { text: arg }
            | Self::Whois { name: arg }
            | Self::Nick { name: arg }
            | Self::Unignore { name: arg }
            | Self::Op { name: arg }
            | Self::Deop { name: arg }
            | Self::Invite { name: arg }
            | Self::Unban { whom: arg }
            | Self::Gunban { whom: arg }
            | Self::Wall { text: arg }
            | Self::Oper { password: arg }
            | Self::Unmute { name: arg }
            | Self::Register { password: arg }
            | Self::Passwd { password: arg }
            | Self::Unregister { password: arg } => put(&[Some(arg)]),
            Self::Resume { token, after, time } => {
                let time = time.map(|time| time.to_string());
                put(&[Some(token), Some(&after.to_string()), time.as_deref()])
            }
            Self::Login { name, password } => put(&[Some(name), password]),
            Self::Msg { to, text } => put(&[Some(&to.to_string()), Some(text)]),
            Self::Kick { name, reason } | Self::Kill { name, reason } => put(&[Some(name), reason]),
            Self::Mute { name, time } => put(&[Some(name), time.map(show_duration).as_deref()]),
            Self::Ban { whom, time, reason } | Self::Gban { whom, time, reason } => {
                put(&[Some(whom), time.map(show_duration).as_deref(), reason])
            }
            Self::Join { room, key } => put(&[Some(room), key]),
            Self::Part { room, reason } => put(&[room, reason]),
            Self::History { rows, thread } => {
                let after = rows.after.map(|id| format!("after {id}"));
                let thread = thread.map(|thread| thread.to_string());
                put(&[Some(&rows.count.to_string()), after.as_deref(), thread.as_deref()])
            }
            Self::Search { text, room } => {
                let room = room.map(|room| format!("#{room}"));
                put(&[Some(text), room.as_deref()])
            }
            Self::Set { change: Some((setting, is_on)) } => {
                put(&[Some(setting.word()), Some(on_off(is_on))])
            }
        }
    }
}

/// `on` or `off`.
#[must_use]
pub fn on_off(is_on: bool) -> &'static str {
    if is_on { "on" } else { "off" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_row_is_complete() {
        let mut seen = std::collections::HashSet::new();
        for row in TABLE {
            for name in std::iter::once(&row.name).chain(row.aliases) {
                assert!(seen.insert(*name), "/{name} stands twice");
                assert_eq!(find(&name.to_uppercase()).map(|r| r.name), Some(row.name));
            }
            assert!(!row.help.is_empty() && !row.examples.is_empty(), "/{}", row.name);
        }
    }

    #[test]
    fn every_example_is_read_as_its_command_and_round_trips() {
        for row in TABLE {
            for example in row.examples {
                let Ok(Request::Command(command)) = parse(example) else { panic!("{example}") };
                assert_eq!(command.row().name, row.name, "{example}");
                let written = command.to_string();
                assert_eq!(parse(&written), Ok(Request::Command(command)), "{example}");
            }
        }
    }

    #[test]
    fn a_line_is_nothing_text_or_a_command() {
        assert_eq!(parse(""), Ok(Request::Nothing));
        assert_eq!(parse(" \t "), Ok(Request::Nothing));
        assert_eq!(parse("hi  there "), Ok(Request::Say("hi  there ")));
        assert_eq!(parse("//who is it"), Ok(Request::Say("/who is it")));
        assert_eq!(parse(" /etc"), Ok(Request::Say(" /etc")));
        assert_eq!(parse("/WHO"), Ok(Request::Command(Command::Who { room: None })));
        let msg = |name, text| {
            Ok(Request::Command(Command::Msg { to: MessageTarget::Person(name), text }))
        };
        assert_eq!(parse("/msg bob hi"), msg("bob", "hi"));
        assert_eq!(parse("/msg   bob  hi "), msg("bob", " hi "));
        assert_eq!(parse("[PRIVATE MESSAGE] bob: hi: there"), msg("bob", "hi: there"));
    }

    #[test]
    fn what_goes_wrong_is_named() {
        for (line, code) in [
            ("/", ErrorCode::UnknownCommand),
            ("/ who", ErrorCode::UnknownCommand),
            ("/whoo", ErrorCode::UnknownCommand),
            ("/msg", ErrorCode::MissingArgument),
            ("/msg bob", ErrorCode::MissingArgument),
            ("/msg bob   ", ErrorCode::MissingArgument),
            ("/me", ErrorCode::MissingArgument),
            ("/nick ", ErrorCode::MissingArgument),
            ("/set echo", ErrorCode::BadArgument),
            ("/set sound on", ErrorCode::BadArgument),
            ("/set echo maybe", ErrorCode::BadArgument),
            ("/history -1", ErrorCode::BadArgument),
            ("/history 5x", ErrorCode::BadArgument),
            ("/history after", ErrorCode::MissingArgument),
            ("/history after soon", ErrorCode::BadArgument),
            ("/history 5 #ops now", ErrorCode::BadArgument),
            ("/mute", ErrorCode::MissingArgument),
            ("/mute bob soon", ErrorCode::BadArgument),
            ("/mute bob 0s", ErrorCode::BadArgument),
            ("/ban", ErrorCode::MissingArgument),
            ("/ban bob 0s", ErrorCode::BadArgument),
            ("/ping a]b", ErrorCode::BadArgument),
            ("[PRIVATE MESSAGE to bob] alice: hi", ErrorCode::NoTarget),
            ("[private message] bob hi", ErrorCode::NoTarget),
            ("[PRIVATE MESSAGE", ErrorCode::NoTarget),
            ("[PRIVATE MESSAGE] bob: ", ErrorCode::MissingArgument),
        ] {
            assert_eq!(parse(line).map_err(|r| r.code), Err(code), "{line}");
        }
    }

    #[test]
    fn an_unknown_command_names_the_nearest() {
        assert!(unknown("whoo").text.contains("did you mean /who?"));
        assert!(unknown("jion").text.contains("did you mean /join?"));
        assert!(unknown("HLEP").text.contains("did you mean /help?"));
        assert!(!unknown("frobnicate").text.contains("did you mean"));
    }

    #[test]
    fn search_reads_words_and_a_room_behind_them() {
        let search = |line| match parse(line) {
            Ok(Request::Command(Command::Search { text, room })) => Ok((text, room)),
            Err(refusal) => Err(refusal.code),
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(search("/search  two words "), Ok(("two words", None)));
        assert_eq!(search("/search two words  #ops"), Ok(("two words", Some("ops"))));
        assert_eq!(search("/search issue #1"), Ok(("issue #1", None)));
        assert_eq!(search("/search #ops #dev"), Ok(("#ops", Some("dev"))));
        assert_eq!(search("/search #ops"), Err(ErrorCode::MissingArgument));
        assert_eq!(search("/search "), Err(ErrorCode::MissingArgument));
    }

    #[test]
    fn a_ban_reads_a_time_and_a_reason_behind_it() {
        let ban = |line| match parse(line) {
            Ok(Request::Command(Command::Ban { whom, time, reason })) => (whom, time, reason),
            other => panic!("{line}: {other:?}"),
        };
        let hour = Some(Duration::from_hours(1));
        assert_eq!(ban("/ban bob"), ("bob", None, None));
        assert_eq!(ban("/ban bob 1h"), ("bob", hour, None));
        assert_eq!(ban("/ban bob 1h two words "), ("bob", hour, Some("two words ")));
        assert_eq!(ban("/ban bob third 3rd strike"), ("bob", None, Some("third 3rd strike")));
        assert_eq!(ban("/ban bob 1000000000d"), ("bob", Some(TIME_MAX), None));
        assert_eq!(ban("/ban bob :-) 5m"), ("bob", None, Some(":-) 5m")));
        assert_eq!(ban("/ban bob 1h 2h"), ("bob", hour, Some("2h")));
        let long = "ß".repeat(REASON_MAX);
        assert_eq!(ban(&format!("/ban bob 1h {long}")), ("bob", hour, Some(long.as_str())));
        for command in ["/ban bob 1h", "/gban bob", "/kick bob", "/kill bob"] {
            let line = format!("{command} {long}s");
            let code = parse(&line).map_err(|refusal| refusal.code);
            assert_eq!(code, Err(ErrorCode::BadArgument), "{command}");
        }
    }

    #[test]
    fn mistyped_time_limit_is_refused_and_names_the_usage() {
        let times = [
            "1 hour",
            "10",
            "10min",
            "2hours",
            "1w",
            "1y",
            "1h30m",
            "99999999999999999999d",
            "99999999999d",
            "1000000001d",
            "1.5h",
            "1,5h",
            ".5h",
            "-5m",
            "+5m",
            "\u{2212}5m",
            "~5m",
            "/24",
            "(5m)",
            "\u{200b}5m",
            "\u{663}h",
            "\u{ff15}m",
            "½h",
            "0m",
            "0",
            "3 strikes",
            "3rd strike",
            "#1 offender",
            "2026-11-30",
        ];
        for time in times {
            for line in [
                format!("/ban bob {time}"),
                format!("/gban 192.0.2.1 {time} too loud"),
                format!("/mute bob {time}"),
            ] {
                let refusal = parse(&line).expect_err(&line);
                assert_eq!(refusal.code, ErrorCode::BadArgument, "{line}");
                let command = line.split(' ').next().expect("a command");
                assert!(refusal.text.contains(&format!("; usage: {command} ")), "{}", refusal.text);
            }
        }
        let text = |line| parse(line).expect_err(line).text;
        assert!(text("/ban bob 3 strikes").contains("begin the reason with a word"));
        assert!(!text("/mute bob 3 strikes").contains("reason"));
    }

    #[test]
    fn resume_reads_an_id_and_the_time_of_that_message() {
        let resume = |line: &str| match parse(line) {
            Ok(Request::Command(Command::Resume { after, time, .. })) => Ok((after, time)),
            Err(refusal) => Err(refusal.code),
            other => panic!("{line}: {other:?}"),
        };
        let time = Some(Stamp(1_795_414_560_123));
        assert_eq!(resume("/resume t 7"), Ok((7, None)));
        assert_eq!(resume("/resume t 7 2026-11-23T06:16:00.123Z"), Ok((7, time)));
        assert_eq!(resume("/resume  t  7  2026-11-23T06:16:00.123Z "), Ok((7, time)));
        assert_eq!(
            resume("/resume t 7 2026-11-23T06:16:00Z"),
            Ok((7, Some(Stamp(1_795_414_560_000))))
        );
        assert_eq!(resume("/resume t"), Err(ErrorCode::MissingArgument));
        for time in ["soon", "5", "2026-11-23", "2026-11-23T06:16:00.123", "2026-11-23T06:16:00Z x"]
        {
            let line = format!("/resume t 7 {time}");
            assert_eq!(resume(&line), Err(ErrorCode::BadArgument), "{time}");
        }
    }

    #[test]
    fn history_reads_a_number_an_id_and_a_thread() {
        let history = |line| match parse(line) {
            Ok(Request::Command(Command::History { rows, thread })) => {
                (rows.count, rows.after, thread)
            }
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(history("/history"), (20, None, None));
        assert_eq!(history("/history 5"), (5, None, None));
        assert_eq!(history("/history 99999999999999999999"), (1000, None, None));
        assert_eq!(history("/history #ops"), (20, None, Some(MessageTarget::Room("ops"))));
        assert_eq!(history("/history bob"), (20, None, Some(MessageTarget::Person("bob"))));
        assert_eq!(
            history("/history after 7 bob"),
            (20, Some(7), Some(MessageTarget::Person("bob")))
        );
        assert_eq!(history("/history 3 AFTER 7"), (3, Some(7), None));
    }
}
