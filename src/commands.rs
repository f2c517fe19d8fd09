//! The command table. A row defines a command's *syntax* (name, arguments, help text and
//! parser) and its *properties*: when it is allowed, what it may change of what is stored,
//! whether it is audited. Parsing, usage errors, "did you mean", `/help`, the list in the
//! README, the manual page and the client's completion are generated from the rows. This
//! module does not know what a command *does*; the hub does (`server/hub/commands/`).
//!
//! To add a command, add a variant of [`Command`], a row in [`TABLE`], an arm in
//! `server/hub/commands/dispatch.rs` and a transcript in `tests/transcripts`. The compiler and
//! the tests below report a missing step.

use std::time::Duration;

use crate::protocol::text::split_word;
use crate::protocol::{Refusal, Stamp, When};

mod format;
mod local_times;
mod mistakes;
mod parse;

pub use format::{on_off, usage};
pub use local_times::with_moments;
pub use mistakes::{behind_blanks, word_behind_blanks};
use parse::{
    Args, read_ban, read_history, read_mute, read_ping, read_resume, read_search, read_set, target,
};
pub use parse::{completions, not_at_start, parse, unknown, unknown_among};

/// The parsed form of a line from a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// An empty or blank line: ignored without an answer.
    Nothing,
    /// Text for the current room, or for the user of the current `/query`.
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
    /// Only messages before this id.
    pub before: Option<u64>,
    /// Only messages after this id.
    pub after: Option<u64>,
    /// Only messages of a period that begins with this time.
    pub since: Option<When>,
    /// Only messages of a period that ends with this time.
    pub until: Option<When>,
}

impl HistoryRange {
    /// The latest messages, at most `count`.
    #[must_use]
    pub fn latest(count: usize) -> Self {
        Self { count, before: None, after: None, since: None, until: None }
    }

    /// The first messages after an id, at most `count`.
    #[must_use]
    pub fn after(count: usize, id: u64) -> Self {
        Self { after: Some(id), ..Self::latest(count) }
    }

    /// Whether the messages nearest to the start of the range are returned, and not the latest.
    #[must_use]
    pub fn is_forward(&self) -> bool {
        self.after.is_some() || self.since.is_some()
    }
}

/// The argument of `/search`: words, and filters among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SearchQuery<'a> {
    /// The words and the filters, as written.
    text: &'a str,
    /// The author.
    pub from: Option<&'a str>,
    /// The room, from `in:` or as the last word.
    pub room: Option<&'a str>,
    /// The start of a period.
    pub since: Option<When>,
    /// The end of a period.
    pub until: Option<When>,
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
    Who { room: Option<&'a str>, has_details: bool },
    Whois { name: &'a str },
    Join { room: &'a str, key: Option<&'a str> },
    Part { room: Option<&'a str>, reason: Option<&'a str> },
    List,
    Topic { text: Option<&'a str> },
    History { rows: HistoryRange, thread: Option<MessageTarget<'a>> },
    Search { query: SearchQuery<'a> },
    Post { room: &'a str, label: &'a str, text: &'a str },
    Auth { name: &'a str, password: &'a str },
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
    Features,
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

/// What a command may change of what is stored. Such a command is refused while storage
/// does not accept writes; ending a session cannot be refused, so `/quit` changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changes {
    /// Nothing.
    Nothing,
    /// Only the session and the account of the user who sent it, if they are stored.
    User,
    /// What other users share, or a session or account that the command creates, changes or
    /// deletes: storage is needed for every sender.
    Shared,
}

/// Whether operators are accountable for a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audit {
    /// It is not logged.
    No,
    /// It affects the user's current room, which the log names.
    Room,
    /// It affects the whole server.
    Server,
}

/// How a line relates to the target of plain text: the current room or, during a `/query`,
/// a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetEffect {
    /// It does not depend on the target.
    None,
    /// A message to the target.
    Message,
    /// A command that acts on the current room.
    Uses,
    /// A command that changes the target.
    Changes,
}

/// The syntax and the properties of a command.
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
    /// Whether the command resets the idle time of `/whois`. Commands that clients send on
    /// their own do not: heartbeats, settings, logging in and resuming.
    pub is_activity: bool,
    /// What the command may change of what is stored.
    pub changes: Changes,
    /// Whether the command is written to the audit log.
    pub audit: Audit,
    /// How the command relates to the target of plain text.
    pub target_effect: TargetEffect,
    read: for<'a> fn(&mut Args<'a>) -> Result<Command<'a>, Refusal>,
}

const fn arg(usage: &'static str, kind: ArgKind) -> Arg {
    Arg { usage, kind }
}

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
        is_activity: true,
        changes: Changes::Nothing,
        audit: Audit::No,
        target_effect: TargetEffect::None,
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
        is_activity: true,
        changes: Changes::Nothing,
        audit: Audit::No,
        target_effect: TargetEffect::None,
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
        is_activity: true,
        changes: Changes::User,
        audit: Audit::No,
        target_effect: TargetEffect::Changes,
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
        is_activity: true,
        changes: Changes::Nothing,
        audit: Audit::No,
        target_effect: TargetEffect::Message,
        read: |args| Ok(Command::Me { text: args.text()? }),
    },
    Row {
        name: "who",
        group: Group::People,
        aliases: &["names", "users"],
        // A room can be the first argument, so rooms are completed there, too.
        args: &[arg("[-l]", ArgKind::Room), arg("[ROOM]", ArgKind::Room)],
        help: "list who is in a room; -l with operators, away, idle and login time",
        examples: &["/who", "/who #ops", "/who -l"],
        before_login: false,
        is_activity: true,
        changes: Changes::Nothing,
        audit: Audit::No,
        target_effect: TargetEffect::Uses,
        read: |args| Ok(parse::read_who(args)),
    },
    Row {
        name: "whois",
        group: Group::People,
        aliases: &[],
        args: &[arg("NAME", ArgKind::Person)],
        help: "show when a person logged in, how long they are idle, and their rooms",
        examples: &["/whois bob"],
        before_login: false,
        is_activity: true,
        changes: Changes::Nothing,
        audit: Audit::No,
        target_effect: TargetEffect::None,
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
        is_activity: true,
        changes: Changes::User,
        audit: Audit::No,
        target_effect: TargetEffect::None,
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
        is_activity: true,
        changes: Changes::User,
        audit: Audit::No,
        target_effect: TargetEffect::None,
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
        is_activity: true,
        changes: Changes::User,
        audit: Audit::No,
        target_effect: TargetEffect::None,
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
        is_activity: true,
        changes: Changes::User,
        audit: Audit::No,
        target_effect: TargetEffect::None,
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
        is_activity: true,
        changes: Changes::User,
        audit: Audit::No,
        target_effect: TargetEffect::None,
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
        is_activity: true,
        changes: Changes::User,
        audit: Audit::No,
        target_effect: TargetEffect::Changes,
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
        is_activity: true,
        changes: Changes::User,
        audit: Audit::No,
        target_effect: TargetEffect::Changes,
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
        is_activity: true,
        changes: Changes::Nothing,
        audit: Audit::No,
        target_effect: TargetEffect::None,
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
        is_activity: true,
        changes: Changes::Shared,
        audit: Audit::No,
        target_effect: TargetEffect::Uses,
        read: |args| Ok(Command::Topic { text: args.rest() }),
    },
    Row {
        name: "history",
        group: Group::History,
        aliases: &[],
        args: &[
            arg("[N]", ArgKind::Free),
            arg("[before ID|after ID]", ArgKind::Free),
            arg("[since WHEN]", ArgKind::Free),
            arg("[until WHEN]", ArgKind::Free),
            arg("[ROOM|NAME]", ArgKind::PersonOrRoom),
        ],
        help: "show earlier messages of a room or of your conversation with a person",
        examples: &[
            "/history",
            "/history 50 #ops",
            "/history after 42 bob",
            "/history since yesterday until 9:00",
        ],
        before_login: false,
        is_activity: true,
        changes: Changes::Nothing,
        audit: Audit::No,
        target_effect: TargetEffect::Uses,
        read: read_history,
    },
    Row {
        name: "search",
        group: Group::History,
        aliases: &[],
        args: &[arg("TEXT", ArgKind::Free), arg("[#ROOM]", ArgKind::Room)],
        help: "find messages that contain all the words, in your rooms and conversations; \
               from:NAME, in:ROOM, since:WHEN and until:WHEN narrow it, WORD* finds beginnings",
        examples: &[
            "/search deploy failed",
            "/search deploy* from:bob in:ops",
            "/search since:2026-11-29 until:2h failed",
        ],
        before_login: false,
        is_activity: true,
        changes: Changes::Nothing,
        audit: Audit::No,
        target_effect: TargetEffect::None,
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
        is_activity: false,
        changes: Changes::Nothing,
        audit: Audit::No,
        target_effect: TargetEffect::None,
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
        is_activity: true,
        changes: Changes::Shared,
        audit: Audit::No,
        target_effect: TargetEffect::None,
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
        is_activity: true,
        changes: Changes::Shared,
        audit: Audit::No,
        target_effect: TargetEffect::None,
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
        is_activity: true,
        changes: Changes::Shared,
        audit: Audit::No,
        target_effect: TargetEffect::None,
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
        is_activity: true,
        changes: Changes::Nothing,
        audit: Audit::No,
        target_effect: TargetEffect::None,
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
        is_activity: false,
        changes: Changes::User,
        audit: Audit::No,
        target_effect: TargetEffect::None,
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
        is_activity: true,
        changes: Changes::Nothing,
        audit: Audit::No,
        target_effect: TargetEffect::None,
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
        is_activity: false,
        changes: Changes::Shared,
        audit: Audit::No,
        target_effect: TargetEffect::None,
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
        is_activity: false,
        changes: Changes::Nothing,
        audit: Audit::No,
        target_effect: TargetEffect::None,
        read: read_resume,
    },
    Row {
        name: "post",
        group: Group::Programs,
        aliases: &[],
        args: &[
            arg("ROOM", ArgKind::Room),
            arg("LABEL", ArgKind::Free),
            arg("TEXT", ArgKind::Free),
        ],
        help: "post to a room without logging in; people see +LABEL as the author",
        examples: &["/post ops alerts disk full"],
        before_login: true,
        is_activity: false,
        changes: Changes::Nothing,
        audit: Audit::No,
        target_effect: TargetEffect::None,
        read: |args| {
            Ok(Command::Post { room: args.word()?, label: args.word()?, text: args.text()? })
        },
    },
    Row {
        name: "auth",
        group: Group::Programs,
        aliases: &[],
        args: &[arg("NAME", ArgKind::Free), arg("PASSWORD", ArgKind::Secret)],
        help: "prove an account for /post, without logging in",
        examples: &["/auth alice correct horse battery"],
        before_login: true,
        is_activity: false,
        changes: Changes::Nothing,
        audit: Audit::No,
        target_effect: TargetEffect::None,
        read: |args| Ok(Command::Auth { name: args.word()?, password: args.text()? }),
    },
    Row {
        name: "ping",
        group: Group::Programs,
        aliases: &[],
        args: &[arg("[TOKEN]", ArgKind::Free)],
        help: "check that everything sent so far was processed",
        examples: &["/ping t1"],
        before_login: true,
        is_activity: false,
        changes: Changes::Nothing,
        audit: Audit::No,
        target_effect: TargetEffect::None,
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
        is_activity: false,
        changes: Changes::Nothing,
        audit: Audit::No,
        target_effect: TargetEffect::None,
        read: |_| Ok(Command::Version),
    },
    Row {
        name: "features",
        group: Group::Programs,
        aliases: &[],
        args: &[],
        help: "list what was added to the protocol since chatty 0.1.0",
        examples: &["/features"],
        before_login: true,
        is_activity: false,
        changes: Changes::Nothing,
        audit: Audit::No,
        target_effect: TargetEffect::None,
        read: |_| Ok(Command::Features),
    },
    Row {
        name: "op",
        group: Group::Moderation,
        aliases: &[],
        args: &[arg("NAME", ArgKind::Person)],
        help: "make someone an operator of this room",
        examples: &["/op bob"],
        before_login: false,
        is_activity: true,
        changes: Changes::Shared,
        audit: Audit::Room,
        target_effect: TargetEffect::Uses,
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
        is_activity: true,
        changes: Changes::Shared,
        audit: Audit::Room,
        target_effect: TargetEffect::Uses,
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
        is_activity: true,
        changes: Changes::Shared,
        audit: Audit::Room,
        target_effect: TargetEffect::Uses,
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
        is_activity: true,
        changes: Changes::Shared,
        audit: Audit::Room,
        target_effect: TargetEffect::Uses,
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
        is_activity: true,
        changes: Changes::Shared,
        audit: Audit::Room,
        target_effect: TargetEffect::Uses,
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
        is_activity: true,
        changes: Changes::Nothing,
        audit: Audit::No,
        target_effect: TargetEffect::Uses,
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
        is_activity: true,
        changes: Changes::Shared,
        audit: Audit::Room,
        target_effect: TargetEffect::Uses,
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
        is_activity: true,
        changes: Changes::Shared,
        audit: Audit::Room,
        target_effect: TargetEffect::Uses,
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
        is_activity: true,
        changes: Changes::Shared,
        audit: Audit::Room,
        target_effect: TargetEffect::Uses,
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
        is_activity: true,
        changes: Changes::Shared,
        audit: Audit::Room,
        target_effect: TargetEffect::Uses,
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
        is_activity: true,
        changes: Changes::Shared,
        audit: Audit::Room,
        target_effect: TargetEffect::Uses,
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
        is_activity: true,
        changes: Changes::Shared,
        audit: Audit::No,
        target_effect: TargetEffect::None,
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
        is_activity: true,
        changes: Changes::Nothing,
        audit: Audit::Server,
        target_effect: TargetEffect::None,
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
        is_activity: true,
        changes: Changes::Shared,
        audit: Audit::Server,
        target_effect: TargetEffect::None,
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
        is_activity: true,
        changes: Changes::Shared,
        audit: Audit::Server,
        target_effect: TargetEffect::None,
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
        is_activity: true,
        changes: Changes::Shared,
        audit: Audit::Server,
        target_effect: TargetEffect::None,
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
        is_activity: true,
        changes: Changes::Nothing,
        audit: Audit::No,
        target_effect: TargetEffect::None,
        read: |_| Ok(Command::Gbans),
    },
];

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
            | Self::Auth { password, .. }
            | Self::Oper { password } => Some(password),
            _ => None, // a test compares with the table
        }
    }
}

impl Command<'_> {
    /// Whether the command resets the idle time of `/whois`, see [`Row::is_activity`].
    #[must_use]
    pub fn is_activity(&self) -> bool {
        self.row().is_activity
    }

    /// What the command may change of what is stored. A command that only shows something
    /// changes nothing, whatever its row says.
    #[must_use]
    pub fn changes(&self) -> Changes {
        match self {
            Self::Topic { text: None }
            | Self::Set { change: None }
            | Self::Ignore { name: None } => Changes::Nothing,
            _ => self.row().changes,
        }
    }

    /// How the command relates to the target of plain text; a command that names its room
    /// does not depend on the target.
    #[must_use]
    pub fn target_effect(&self) -> TargetEffect {
        match self {
            Self::Who { room: Some(_), .. } | Self::History { thread: Some(_), .. } => {
                TargetEffect::None
            }
            _ => self.row().target_effect,
        }
    }

    /// What the audit log says about the command; `None` if it is not audited. The key of a
    /// room is left out.
    #[must_use]
    pub fn audited(&self) -> Option<(Audit, String)> {
        let audit = self.row().audit;
        let shown = if let Self::Lock { .. } = self { &Self::Lock { key: None } } else { self };
        (audit != Audit::No).then(|| (audit, shown.to_string()))
    }

    /// The command's row in [`TABLE`].
    #[must_use]
    pub fn row(&self) -> &'static Row {
        match self {
            Self::Help { .. } => const { row_named("help") },
            Self::Login { .. } => const { row_named("login") },
            Self::Msg { .. } => const { row_named("msg") },
            Self::Reply { .. } => const { row_named("reply") },
            Self::Query { .. } => const { row_named("query") },
            Self::Me { .. } => const { row_named("me") },
            Self::Who { .. } => const { row_named("who") },
            Self::Whois { .. } => const { row_named("whois") },
            Self::Join { .. } => const { row_named("join") },
            Self::Part { .. } => const { row_named("part") },
            Self::List => const { row_named("list") },
            Self::Topic { .. } => const { row_named("topic") },
            Self::History { .. } => const { row_named("history") },
            Self::Search { .. } => const { row_named("search") },
            Self::Post { .. } => const { row_named("post") },
            Self::Auth { .. } => const { row_named("auth") },
            Self::Nick { .. } => const { row_named("nick") },
            Self::Away { .. } => const { row_named("away") },
            Self::Back => const { row_named("back") },
            Self::Ignore { .. } => const { row_named("ignore") },
            Self::Unignore { .. } => const { row_named("unignore") },
            Self::Set { .. } => const { row_named("set") },
            Self::Ping { .. } => const { row_named("ping") },
            Self::Register { .. } => const { row_named("register") },
            Self::Passwd { .. } => const { row_named("passwd") },
            Self::Unregister { .. } => const { row_named("unregister") },
            Self::Op { .. } => const { row_named("op") },
            Self::Deop { .. } => const { row_named("deop") },
            Self::Kick { .. } => const { row_named("kick") },
            Self::Mute { .. } => const { row_named("mute") },
            Self::Unmute { .. } => const { row_named("unmute") },
            Self::Ban { .. } => const { row_named("ban") },
            Self::Unban { .. } => const { row_named("unban") },
            Self::Bans => const { row_named("bans") },
            Self::Lock { .. } => const { row_named("lock") },
            Self::Unlock => const { row_named("unlock") },
            Self::Invite { .. } => const { row_named("invite") },
            Self::Oper { .. } => const { row_named("oper") },
            Self::Wall { .. } => const { row_named("wall") },
            Self::Kill { .. } => const { row_named("kill") },
            Self::Gban { .. } => const { row_named("gban") },
            Self::Gunban { .. } => const { row_named("gunban") },
            Self::Gbans => const { row_named("gbans") },
            Self::Session => const { row_named("session") },
            Self::Resume { .. } => const { row_named("resume") },
            Self::Version => const { row_named("version") },
            Self::Features => const { row_named("features") },
            Self::Quit { .. } => const { row_named("quit") },
        }
    }
}

/// Finds a row at compile time: a command without a row does not compile.
const fn row_named(name: &str) -> &'static Row {
    let mut at = 0;
    while !is_same(TABLE[at].name.as_bytes(), name.as_bytes()) {
        at += 1;
    }
    &TABLE[at]
}

const fn is_same(one: &[u8], other: &[u8]) -> bool {
    match (one, other) {
        ([], []) => true,
        ([a, one @ ..], [b, other @ ..]) => *a == *b && is_same(one, other),
        _ => false,
    }
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
    fn audited_command_never_shows_a_secret() {
        let audited = |line| match parse(line) {
            Ok(Parsed::Command(command)) => command.audited(),
            other => panic!("{line}: {other:?}"),
        };
        for row in TABLE.iter().filter(|row| row.audit != Audit::No) {
            let secret = row.args.iter().position(|arg| arg.kind == ArgKind::Secret);
            for example in row.examples {
                let (audit, shown) = audited(example).expect(example);
                let count = secret.map_or(usize::MAX, |at| at + 1);
                let open: Vec<&str> = example.split(' ').take(count).collect();
                assert_eq!((audit, shown), (row.audit, open.join(" ")));
            }
        }
        assert_eq!(audited("/oper open sesame"), None);
    }

    #[test]
    fn command_that_only_shows_something_changes_nothing() {
        for (line, changes) in [
            ("/topic", Changes::Nothing),
            ("/topic -", Changes::Shared),
            ("/set", Changes::Nothing),
            ("/set echo on", Changes::User),
            ("/ignore", Changes::Nothing),
            ("/ignore bob", Changes::User),
            ("/query", Changes::User),
        ] {
            let Ok(Parsed::Command(command)) = parse(line) else { panic!("{line}") };
            assert_eq!(command.changes(), changes, "{line}");
        }
    }
}
