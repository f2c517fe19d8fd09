//! The command table. A row defines a command's *syntax*: name, arguments, help text
//! and parser. Parsing, usage errors, "did you mean", `/help`, the list in the README,
//! the manual page and the client's completion are generated from the rows. This module
//! does not know what a command *does*; the hub does (`server/hub.rs`).
//!
//! To add a command, add a variant of [`Command`], a row in [`TABLE`], an arm in
//! `server/hub/dispatch.rs` and a transcript in `tests/transcripts`. The compiler and the
//! tests below report a missing step.
//!
//! Lexing: words are separated by blanks and ignore case; exactly one blank
//! precedes the last argument, which is the rest of the line, verbatim.

use std::fmt;
use std::time::Duration;

use crate::protocol::name::is_name;
use crate::protocol::text::{is_blank, is_blank_text, nearest, split_word};
use crate::protocol::units::{parse_duration, show_duration};
use crate::protocol::{ErrorCode, HISTORY_DEFAULT, HISTORY_MAX, REASON_MAX, Refusal, Stamp};

mod mistakes;

pub use mistakes::{behind_blanks, word_behind_blanks};

/// The parsed form of a line from a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    /// An empty or blank line: ignored without an answer.
    Nothing,
    /// Text for the current room, or for the person of the current `/query`.
    Say(&'a str),
    /// A command.
    Command(Command<'a>),
}

/// The recipient of `/msg`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageTarget<'a> {
    /// A room, by its name without `#`.
    Room(&'a str),
    /// A user, by name.
    Person(&'a str),
}

/// The messages that `/history` returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryRange {
    /// The maximum number of messages.
    pub count: usize,
    /// Returns the first messages after this id; `None` returns the latest.
    pub after: Option<u64>,
}

/// A per-session setting of `/set`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// The user's own messages are echoed.
    Echo,
    /// Joined, left and quit events are sent.
    Joins,
    /// Lines carry an `@id=…;time=…` prefix.
    Tags,
}

impl Setting {
    /// Every setting with its wire word, in the order of `[SET]`.
    pub const TABLE: [(Self, &'static str); 3] =
        [(Self::Echo, "echo"), (Self::Joins, "joins"), (Self::Tags, "tags")];

    /// The setting's wire word.
    #[must_use]
    pub fn word(self) -> &'static str {
        Self::TABLE[self as usize].1
    }
}

/// A command with its arguments as written. The hub checks whether they are valid in the
/// current state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // documented by the rows of TABLE
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

/// The type of an argument, for completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArgKind {
    /// The name of a user who is online.
    Person,
    /// A room, with its `#`.
    Room,
    /// The name of a user or of a room.
    PersonOrRoom,
    /// A command of this table.
    Command,
    /// `echo`, `joins` or `tags`.
    Setting,
    /// `on` or `off`.
    Switch,
    /// A password: never stored in a history and never displayed.
    Secret,
    /// Anything else; has no completions.
    Free,
}

/// One argument.
#[derive(Debug, Clone, Copy)]
pub struct Arg {
    /// The argument as the usage shows it, brackets included.
    pub usage: &'static str,
    /// Its type.
    pub kind: ArgKind,
}

/// The subject of a command. The order is the reverse of [`TABLE`]: the interactive
/// client lists the groups in this order, so that the most used one is next to the prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Commands of server operators.
    Server,
    /// Commands of room operators.
    Moderation,
    /// Commands for programs.
    Programs,
    /// The user's login, account and settings.
    Me,
    /// History and search.
    History,
    /// Rooms and topics.
    Rooms,
    /// Other people, and how they see the user.
    People,
    /// Sending messages.
    Talk,
}

impl Group {
    /// The heading that the client and the manual page show above the group.
    #[must_use]
    pub fn heading(self) -> &'static str {
        match self {
            Self::Server => "for operators of the server",
            Self::Moderation => "for operators of a room",
            Self::Programs => "for programs",
            Self::Me => "you",
            Self::History => "history and search",
            Self::Rooms => "rooms",
            Self::People => "people",
            Self::Talk => "talking",
        }
    }
}

/// The syntax of a command.
#[derive(Debug)]
pub struct Row {
    /// The name, without `/`.
    pub name: &'static str,
    /// Its subject.
    pub group: Group,
    /// Alternative names.
    pub aliases: &'static [&'static str],
    /// The arguments, in order.
    pub args: &'static [Arg],
    /// What the command does, in one line.
    pub help: &'static str,
    /// Example lines; the simplest comes first.
    pub examples: &'static [&'static str],
    /// Whether the command is allowed before login.
    pub before_login: bool,
    read: for<'a> fn(&mut Args<'a>) -> Result<Command<'a>, Refusal>,
}

const fn arg(usage: &'static str, kind: ArgKind) -> Arg {
    Arg { usage, kind }
}

/// The longest accepted time limit, a billion days. A longer one is a typing error and
/// close to the range of a timestamp.
const TIME_MAX: Duration = Duration::from_hours(24 * 1_000_000_000);

const BAN_ARGS: &[Arg] = &[
    arg("NAME|ADDRESS[/BITS]", ArgKind::Person),
    arg("[TIME]", ArgKind::Free),
    arg("[REASON]", ArgKind::Free),
];

/// Every command, in the order of `/help`: the most used ones first, those of operators
/// last.
pub const TABLE: &[Row] = &[
    Row {
        name: "msg",
        group: Group::Talk,
        aliases: &[],
        args: &[arg("NAME", ArgKind::PersonOrRoom), arg("TEXT", ArgKind::Free)],
        help: "send a private message; with #ROOM as NAME, post in that room",
        examples: &["/msg bob see you at six", "/msg #ops deploy is done"],
        before_login: false,
        read: |args| Ok(Command::Msg { to: target(args.word()?), text: args.text()? }),
    },
    Row {
        name: "reply",
        group: Group::Talk,
        aliases: &["r"],
        args: &[arg("TEXT", ArgKind::Free)],
        help: "answer the person who last wrote to you privately",
        examples: &["/reply on my way"],
        before_login: false,
        read: |args| Ok(Command::Reply { text: args.text()? }),
    },
    Row {
        name: "query",
        group: Group::Talk,
        aliases: &[],
        args: &[arg("[NAME]", ArgKind::Person)],
        help: "send everything you type to one person; without a name, to the room again",
        examples: &["/query bob", "/query"],
        before_login: false,
        read: |args| Ok(Command::Query { name: args.last_word() }),
    },
    Row {
        name: "me",
        group: Group::Talk,
        aliases: &[],
        args: &[arg("TEXT", ArgKind::Free)],
        help: "post an action, like \"alice waves\"",
        examples: &["/me waves"],
        before_login: false,
        read: |args| Ok(Command::Me { text: args.text()? }),
    },
    Row {
        name: "who",
        group: Group::People,
        aliases: &["names", "users"],
        args: &[arg("[ROOM]", ArgKind::Room)],
        help: "list who is in a room",
        examples: &["/who", "/who #ops"],
        before_login: false,
        read: |args| Ok(Command::Who { room: args.last_word() }),
    },
    Row {
        name: "whois",
        group: Group::People,
        aliases: &[],
        args: &[arg("NAME", ArgKind::Person)],
        help: "show when a person logged in, how long they are idle, and their rooms",
        examples: &["/whois bob"],
        before_login: false,
        read: |args| Ok(Command::Whois { name: args.needed_last_word()? }),
    },
    Row {
        name: "nick",
        group: Group::People,
        aliases: &[],
        args: &[arg("NAME", ArgKind::Free)],
        help: "change your name",
        examples: &["/nick al"],
        before_login: false,
        read: |args| Ok(Command::Nick { name: args.needed_last_word()? }),
    },
    Row {
        name: "away",
        group: Group::People,
        aliases: &[],
        args: &[arg("[TEXT]", ArgKind::Free)],
        help: "mark yourself as away; people who write to you see the text",
        examples: &["/away lunch", "/away"],
        before_login: false,
        read: |args| Ok(Command::Away { text: args.rest() }),
    },
    Row {
        name: "back",
        group: Group::People,
        aliases: &[],
        args: &[],
        help: "mark yourself as back",
        examples: &["/back"],
        before_login: false,
        read: |_| Ok(Command::Back),
    },
    Row {
        name: "ignore",
        group: Group::People,
        aliases: &[],
        args: &[arg("[NAME]", ArgKind::Person)],
        help: "hide what a person writes; without a name, list the people you ignore",
        examples: &["/ignore bob", "/ignore"],
        before_login: false,
        read: |args| Ok(Command::Ignore { name: args.last_word() }),
    },
    Row {
        name: "unignore",
        group: Group::People,
        aliases: &[],
        args: &[arg("NAME", ArgKind::Person)],
        help: "stop ignoring a person",
        examples: &["/unignore bob"],
        before_login: false,
        read: |args| Ok(Command::Unignore { name: args.needed_last_word()? }),
    },
    Row {
        name: "join",
        group: Group::Rooms,
        aliases: &["j"],
        args: &[arg("ROOM", ArgKind::Room), arg("[KEY]", ArgKind::Secret)],
        help: "enter a room (created if it does not exist); your messages then go there",
        examples: &["/join #ops", "/join #ops open sesame"],
        before_login: false,
        read: |args| Ok(Command::Join { room: args.word()?, key: args.last_word() }),
    },
    Row {
        name: "part",
        group: Group::Rooms,
        aliases: &["leave"],
        args: &[arg("[ROOM", ArgKind::Room), arg("[REASON]]", ArgKind::Free)],
        help: "leave a room; without a name, the current one",
        examples: &["/part", "/part #ops back to work"],
        before_login: false,
        read: |args| Ok(Command::Part { room: args.optional_word(), reason: args.rest() }),
    },
    Row {
        name: "list",
        group: Group::Rooms,
        aliases: &[],
        args: &[],
        help: "list the rooms with their number of members and topic",
        examples: &["/list"],
        before_login: false,
        read: |_| Ok(Command::List),
    },
    Row {
        name: "topic",
        group: Group::Rooms,
        aliases: &[],
        args: &[arg("[TEXT]", ArgKind::Free)],
        help: "show or set the room's topic; - clears it",
        examples: &["/topic", "/topic release at noon", "/topic -"],
        before_login: false,
        read: |args| Ok(Command::Topic { text: args.rest() }),
    },
    Row {
        name: "history",
        group: Group::History,
        aliases: &[],
        args: &[
            arg("[N]", ArgKind::Free),
            arg("[after ID]", ArgKind::Free),
            arg("[ROOM|NAME]", ArgKind::PersonOrRoom),
        ],
        help: "show earlier messages of a room or of your conversation with a person",
        examples: &["/history", "/history 50 #ops", "/history after 42 bob"],
        before_login: false,
        read: read_history,
    },
    Row {
        name: "search",
        group: Group::History,
        aliases: &[],
        args: &[arg("TEXT", ArgKind::Free), arg("[#ROOM]", ArgKind::Room)],
        help: "find messages that contain all the words, in your rooms and conversations",
        examples: &["/search deploy failed", "/search deploy failed #ops"],
        before_login: false,
        read: read_search,
    },
    Row {
        name: "login",
        group: Group::Me,
        aliases: &[],
        args: &[arg("NAME", ArgKind::Free), arg("[PASSWORD]", ArgKind::Secret)],
        help: "log in; before login a line with only a name does the same",
        examples: &["/login alice"],
        before_login: true,
        read: |args| Ok(Command::Login { name: args.word()?, password: args.rest() }),
    },
    Row {
        name: "register",
        group: Group::Me,
        aliases: &[],
        args: &[arg("PASSWORD", ArgKind::Secret)],
        help: "protect your name with a password; logging in with it then needs the password",
        examples: &["/register correct horse battery"],
        before_login: false,
        read: |args| Ok(Command::Register { password: args.text()? }),
    },
    Row {
        name: "passwd",
        group: Group::Me,
        aliases: &[],
        args: &[arg("NEW", ArgKind::Secret)],
        help: "change the password of your account",
        examples: &["/passwd staple battery horse"],
        before_login: false,
        read: |args| Ok(Command::Passwd { password: args.text()? }),
    },
    Row {
        name: "unregister",
        group: Group::Me,
        aliases: &[],
        args: &[arg("PASSWORD", ArgKind::Secret)],
        help: "delete your account; anyone can then use the name",
        examples: &["/unregister correct horse battery"],
        before_login: false,
        read: |args| Ok(Command::Unregister { password: args.text()? }),
    },
    Row {
        name: "help",
        group: Group::Me,
        aliases: &[],
        args: &[arg("[COMMAND]", ArgKind::Command)],
        help: "list the commands, or show one in detail",
        examples: &["/help", "/help msg"],
        before_login: true,
        read: |args| Ok(Command::Help { command: args.last_word() }),
    },
    Row {
        name: "set",
        group: Group::Me,
        aliases: &[],
        args: &[arg("[KEY", ArgKind::Setting), arg("on|off]", ArgKind::Switch)],
        help: "show or change settings: echo (your own lines), joins (joined/left/quit), tags",
        examples: &["/set", "/set joins off"],
        before_login: true,
        read: read_set,
    },
    Row {
        name: "quit",
        group: Group::Me,
        aliases: &[],
        args: &[arg("[REASON]", ArgKind::Free)],
        help: "log out and disconnect, after everything you sent has been answered",
        examples: &["/quit", "/quit good night"],
        before_login: true,
        read: |args| Ok(Command::Quit { reason: args.rest() }),
    },
    Row {
        name: "session",
        group: Group::Programs,
        aliases: &[],
        args: &[],
        help: "get a token to resume after a lost connection",
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
        help: "resume a session in place of logging in; ID and TIME are of the last message read",
        examples: &[
            "/resume 9f86d081884c7d659a2feaa0c55ad015 42 2026-11-23T06:16:00.123Z",
            "/resume 9f86d081884c7d659a2feaa0c55ad015 42",
        ],
        before_login: true,
        read: read_resume,
    },
    Row {
        name: "ping",
        group: Group::Programs,
        aliases: &[],
        args: &[arg("[TOKEN]", ArgKind::Free)],
        help: "check that everything sent so far was processed",
        examples: &["/ping t1"],
        before_login: true,
        read: read_ping,
    },
    Row {
        name: "version",
        group: Group::Programs,
        aliases: &[],
        args: &[],
        help: "show the protocol's and the server's version",
        examples: &["/version"],
        before_login: true,
        read: |_| Ok(Command::Version),
    },
    Row {
        name: "op",
        group: Group::Moderation,
        aliases: &[],
        args: &[arg("NAME", ArgKind::Person)],
        help: "make someone an operator of this room",
        examples: &["/op bob"],
        before_login: false,
        read: |args| Ok(Command::Op { name: args.needed_last_word()? }),
    },
    Row {
        name: "deop",
        group: Group::Moderation,
        aliases: &[],
        args: &[arg("NAME", ArgKind::Person)],
        help: "take operator rights in this room away",
        examples: &["/deop bob"],
        before_login: false,
        read: |args| Ok(Command::Deop { name: args.needed_last_word()? }),
    },
    Row {
        name: "kick",
        group: Group::Moderation,
        aliases: &[],
        args: &[arg("NAME", ArgKind::Person), arg("[REASON]", ArgKind::Free)],
        help: "remove someone from this room; they can come back",
        examples: &["/kick bob", "/kick bob take a walk"],
        before_login: false,
        read: |args| Ok(Command::Kick { name: args.word()?, reason: args.reason()? }),
    },
    Row {
        name: "ban",
        group: Group::Moderation,
        aliases: &[],
        args: BAN_ARGS,
        help: "remove a person or network from this room and keep them out",
        examples: &["/ban bob", "/ban bob 2h no more of this", "/ban 192.0.2.0/24 7d"],
        before_login: false,
        read: |args| {
            let (whom, time, reason) = read_ban(args)?;
            Ok(Command::Ban { whom, time, reason })
        },
    },
    Row {
        name: "unban",
        group: Group::Moderation,
        aliases: &[],
        args: &[arg("NAME|ADDRESS[/BITS]", ArgKind::Person)],
        help: "lift a ban from this room",
        examples: &["/unban bob", "/unban 192.0.2.0/24"],
        before_login: false,
        read: |args| Ok(Command::Unban { whom: args.needed_last_word()? }),
    },
    Row {
        name: "bans",
        group: Group::Moderation,
        aliases: &[],
        args: &[],
        help: "list the bans of this room",
        examples: &["/bans"],
        before_login: false,
        read: |_| Ok(Command::Bans),
    },
    Row {
        name: "mute",
        group: Group::Moderation,
        aliases: &[],
        args: &[arg("NAME", ArgKind::Person), arg("[TIME]", ArgKind::Free)],
        help: "mute someone in this room, for a time like 10m, 2h or 7d",
        examples: &["/mute bob", "/mute bob 10m"],
        before_login: false,
        read: read_mute,
    },
    Row {
        name: "unmute",
        group: Group::Moderation,
        aliases: &[],
        args: &[arg("NAME", ArgKind::Person)],
        help: "let someone talk in this room again",
        examples: &["/unmute bob"],
        before_login: false,
        read: |args| Ok(Command::Unmute { name: args.needed_last_word()? }),
    },
    Row {
        name: "lock",
        group: Group::Moderation,
        aliases: &[],
        args: &[arg("[KEY]", ArgKind::Secret)],
        help: "make the room invite-only or key-protected",
        examples: &["/lock", "/lock open sesame"],
        before_login: false,
        read: |args| Ok(Command::Lock { key: args.last_word() }),
    },
    Row {
        name: "unlock",
        group: Group::Moderation,
        aliases: &[],
        args: &[],
        help: "open the room to everyone again",
        examples: &["/unlock"],
        before_login: false,
        read: |_| Ok(Command::Unlock),
    },
    Row {
        name: "invite",
        group: Group::Moderation,
        aliases: &[],
        args: &[arg("NAME", ArgKind::Person)],
        help: "invite someone to this room; lets them in once if it is locked",
        examples: &["/invite bob"],
        before_login: false,
        read: |args| Ok(Command::Invite { name: args.needed_last_word()? }),
    },
    Row {
        name: "oper",
        group: Group::Server,
        aliases: &[],
        args: &[arg("PASSWORD", ArgKind::Secret)],
        help: "become a server operator, with operator rights in every room",
        examples: &["/oper correct horse battery"],
        before_login: false,
        read: |args| Ok(Command::Oper { password: args.text()? }),
    },
    Row {
        name: "wall",
        group: Group::Server,
        aliases: &[],
        args: &[arg("TEXT", ArgKind::Free)],
        help: "send a message to everyone on this server",
        examples: &["/wall the server moves at noon"],
        before_login: false,
        read: |args| Ok(Command::Wall { text: args.text()? }),
    },
    Row {
        name: "kill",
        group: Group::Server,
        aliases: &[],
        args: &[arg("NAME", ArgKind::Person), arg("[REASON]", ArgKind::Free)],
        help: "disconnect someone; they can log in again",
        examples: &["/kill bob", "/kill bob take a walk"],
        before_login: false,
        read: |args| Ok(Command::Kill { name: args.word()?, reason: args.reason()? }),
    },
    Row {
        name: "gban",
        group: Group::Server,
        aliases: &[],
        args: BAN_ARGS,
        help: "ban a person or network from this server",
        examples: &["/gban bob", "/gban bob 2h no more of this", "/gban 192.0.2.0/24 7d"],
        before_login: false,
        read: |args| {
            let (whom, time, reason) = read_ban(args)?;
            Ok(Command::Gban { whom, time, reason })
        },
    },
    Row {
        name: "gunban",
        group: Group::Server,
        aliases: &[],
        args: &[arg("NAME|ADDRESS[/BITS]", ArgKind::Person)],
        help: "lift a ban from this server",
        examples: &["/gunban bob", "/gunban 192.0.2.0/24"],
        before_login: false,
        read: |args| Ok(Command::Gunban { whom: args.needed_last_word()? }),
    },
    Row {
        name: "gbans",
        group: Group::Server,
        aliases: &[],
        args: &[],
        help: "list the bans of this server",
        examples: &["/gbans"],
        before_login: false,
        read: |_| Ok(Command::Gbans),
    },
];

/// Parses a line from a client, already cleaned and without its `@cid=` prefix.
///
/// # Errors
/// The refusal to answer with. A line that looks like a private message or like a
/// command is refused and never posted as text.
pub fn parse(line: &str) -> Result<Request<'_>, Refusal> {
    if is_blank_text(line) {
        return Ok(Request::Nothing);
    }
    match line.strip_prefix('/') {
        Some(text) if text.starts_with('/') => return Ok(Request::Say(text)),
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

/// Returns the row of a command by its name or alias, without `/`.
#[must_use]
pub fn find(name: &str) -> Option<&'static Row> {
    let matches = |candidate: &&str| candidate.eq_ignore_ascii_case(name);
    TABLE.iter().find(|row| matches(&row.name) || row.aliases.iter().any(matches))
}

/// Returns the row of the command at the start of a line, whether or not its arguments
/// are valid.
#[must_use]
pub fn row_of(line: &str) -> Option<&'static Row> {
    find(split_word(line.strip_prefix('/')?).0)
}

/// Commands of other chat systems and the command to suggest for each. They are
/// deliberately not aliases: each command has one name.
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

/// Returns the refusal of an unknown command; it suggests the closest one.
#[must_use]
pub fn unknown(name: &str) -> Refusal {
    let known = TABLE.iter().flat_map(|row| std::iter::once(&row.name).chain(row.aliases));
    let foreign = FOREIGN_COMMANDS.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
    let suggestion = foreign.map(|(_, known)| *known).or_else(|| nearest(name, known.copied()));
    let text = match suggestion {
        Some(known) => format!("/{name}: no such command, did you mean /{known}?"),
        None => format!("/{name}: no such command; /help lists them"),
    };
    Refusal::new(ErrorCode::UnknownCommand, text)
}

impl Row {
    /// Returns the usage, like `/msg NAME TEXT`.
    #[must_use]
    pub fn usage(&self) -> String {
        let mut usage = format!("/{}", self.name);
        for arg in self.args {
            usage.push(' ');
            usage.push_str(arg.usage);
        }
        usage
    }

    /// Returns the command's line in `/help`: usage and help text.
    #[must_use]
    pub fn help_row(&self) -> String {
        format!("{}  {}", self.usage(), self.help)
    }

    /// Returns the lines of `/help COMMAND`: usage, aliases and examples.
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

/// Returns the refusal of a line with a command behind blanks.
#[must_use]
pub fn not_at_start(word: &str) -> Refusal {
    let text = format!(
        "not sent: begin the line with /{word} to run it, or with //{word} to send it as text"
    );
    Refusal::new(ErrorCode::BadArgument, text)
}

fn looks_private() -> Refusal {
    let text = "not sent: this looks like a copy of a private message; use /msg NAME TEXT";
    Refusal::new(ErrorCode::NoTarget, text)
}

/// Parses `[PRIVATE MESSAGE] bob: hi`, the form of an older client, as `/msg bob hi`.
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

/// Parses `/search`. A room name as the last word limits the search to that room; a
/// word like `#1` is not a room name and stays part of the text.
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

/// The subject, duration and reason of a ban.
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

/// Whether the first letter or digit of a word is a digit, in any script. Such a word is
/// parsed as a time and never as the start of a reason: otherwise a mistyped time would
/// make the ban permanent.
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
        let problem =
            format!("\"{word}\" is not the time of a message, like 2026-11-23T06:16:00.123Z");
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
        // A client could not parse it in [PONG token].
        return Err(args.row.bad("a token cannot contain ]"));
    }
    Ok(Command::Ping { token })
}

/// The text after a command's name, consumed from the front.
struct Args<'a> {
    row: &'static Row,
    rest: &'a str,
}

impl<'a> Args<'a> {
    /// Consumes the next word.
    fn optional_word(&mut self) -> Option<&'a str> {
        let (word, rest) = split_word(self.rest.trim_start_matches(is_blank));
        self.rest = rest;
        (!word.is_empty()).then_some(word)
    }

    /// Consumes the next word, which is required.
    fn word(&mut self) -> Result<&'a str, Refusal> {
        self.optional_word().ok_or_else(|| self.row.missing())
    }

    /// Consumes the last argument if it is a name or the like. Surrounding blanks are
    /// dropped; blanks inside are part of it, so that `/nick a b` is an invalid name and
    /// not `/nick a`.
    fn last_word(&mut self) -> Option<&'a str> {
        let word = std::mem::take(&mut self.rest).trim_matches(is_blank);
        (!word.is_empty()).then_some(word)
    }

    fn needed_last_word(&mut self) -> Result<&'a str, Refusal> {
        self.last_word().ok_or_else(|| self.row.missing())
    }

    /// Consumes the rest of the line, verbatim; `None` if it is blank.
    fn rest(&mut self) -> Option<&'a str> {
        let rest = std::mem::take(&mut self.rest);
        (!is_blank_text(rest)).then_some(rest)
    }

    /// Consumes the rest as a moderation reason. Its length is limited because it is
    /// stored with a ban and logged.
    fn reason(&mut self) -> Result<Option<&'a str>, Refusal> {
        let reason = self.rest();
        if reason.is_some_and(|reason| reason.chars().nth(REASON_MAX).is_some()) {
            let problem = format!("a reason has at most {REASON_MAX} characters; shorten it");
            return Err(self.row.bad(&problem));
        }
        Ok(reason)
    }

    /// Consumes the rest of the line, verbatim, which is required.
    fn text(&mut self) -> Result<&'a str, Refusal> {
        self.rest().ok_or_else(|| self.row.missing())
    }

    /// Parses the time limit of a ban or mute.
    fn time(&self, word: &str) -> Result<Duration, Refusal> {
        let problem = match parse_duration(word) {
            Ok(time) if !time.is_zero() && time <= TIME_MAX => return Ok(time),
            Ok(Duration::ZERO) => format!("\"{word}\" is too short; use a time longer than zero"),
            Ok(_) => {
                format!(
                    "\"{word}\" is too long; use at most {}, or leave it out for no limit",
                    show_duration(TIME_MAX)
                )
            }
            Err(problem) if self.row.args.iter().any(|arg| arg.usage == "[REASON]") => {
                format!("{problem}, or begin the reason with a word")
            }
            Err(problem) => problem,
        };
        Err(self.row.bad(&problem))
    }

    /// Parses a number. A number above `u64::MAX` is clamped to it.
    fn number(&self, word: &str) -> Result<u64, Refusal> {
        if word.is_empty() || !word.bytes().all(|b| b.is_ascii_digit()) {
            return Err(self.row.bad(&format!("\"{word}\" is not a number")));
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

impl<'a> Command<'a> {
    /// Returns the password or key among the arguments ([`ArgKind::Secret`]).
    #[must_use]
    pub fn secret(self) -> Option<&'a str> {
        match self {
            Self::Login { password: secret, .. }
            | Self::Join { key: secret, .. }
            | Self::Lock { key: secret } => secret,
            Self::Register { password }
            | Self::Passwd { password }
            | Self::Unregister { password }
            | Self::Oper { password } => Some(password),
            _ => None,
        }
    }

    /// Whether the command counts as user activity, which resets the idle time of
    /// `/whois`. Commands that clients send on their own do not: heartbeats, settings,
    /// logging in and resuming.
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
    /// Never: the tests below parse an example of every row and look it up here.
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

/// Formats the command as a line that [`parse`] parses to the same command.
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

/// Returns `on` or `off`.
#[must_use]
pub fn on_off(is_on: bool) -> &'static str {
    if is_on { "on" } else { "off" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_names_are_unique_and_rows_complete() {
        let mut seen = std::collections::HashSet::new();
        for row in TABLE {
            for name in std::iter::once(&row.name).chain(row.aliases) {
                assert!(seen.insert(*name), "/{name} is defined twice");
                assert_eq!(find(&name.to_uppercase()).map(|r| r.name), Some(row.name));
            }
            assert!(!row.help.is_empty() && !row.examples.is_empty(), "/{}", row.name);
        }
    }

    #[test]
    fn examples_parse_as_their_command_and_round_trip() {
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
    fn secret_argument_is_found_in_every_command_that_has_one() {
        for row in TABLE {
            let line = format!("/{} a b c", row.name);
            let secret = match parse(&line) {
                Ok(Request::Command(command)) => command.secret(),
                _ => None,
            };
            let is_declared = row.args.iter().any(|arg| arg.kind == ArgKind::Secret);
            assert_eq!(secret.is_some(), is_declared, "{line}");
        }
    }

    #[test]
    fn line_parses_as_nothing_text_or_command() {
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
    fn invalid_line_is_refused_with_its_code() {
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
    fn unknown_command_suggests_the_closest() {
        assert!(unknown("whoo").text.contains("did you mean /who?"));
        assert!(unknown("jion").text.contains("did you mean /join?"));
        assert!(unknown("HLEP").text.contains("did you mean /help?"));
        assert!(!unknown("frobnicate").text.contains("did you mean"));
    }

    #[test]
    fn search_parses_words_and_a_trailing_room() {
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
    fn ban_parses_an_optional_time_and_reason() {
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
    fn mistyped_time_limit_is_refused_with_the_usage() {
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
    fn resume_parses_an_id_and_an_optional_time() {
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
    fn history_parses_a_count_an_id_and_a_thread() {
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
