//! chatty/1, the wire: what a person types into netcat and what a program
//! parses are the same lines. This module knows no socket, no clock and no
//! rule of the chat; both ends use it, so a line is written and read by one
//! piece of code.
//!
//! ```text
//! line       = event "\n"                    one line is one event, always
//! event      = message | presence | reply | row | help
//! message    = [room " "] name ": " text     alice: hello        #ops alice: hello
//!            | [room " "] "** " name " " text             ** alice waves
//!            | "[PRIVATE MESSAGE] " name ": " text        to the one it is for
//!            | "[PRIVATE MESSAGE to " name "] " name ": " text    the sender's echo
//! presence   = [room " "] "* " …             * bob joined        #ops * bob left (bye)
//! reply      = "[" WORD [" " args] "]" [" " text]         [PONG t1]  [ERROR no-target] …
//! row        = time " " message              a replayed line of /history
//! help       = "/" …                         a row of /help
//! room       = "#" name                      absent for #lobby, by the room alone
//! name       = letter (letter | mark | digit | "_" | "-" | ".")*   1 to 32 characters
//! tagged     = "@" key "=" value (";" key "=" value)* " " event    /set tags on
//! ```
//!
//! No name can begin with or hold any of `: [ * # @ /` or a blank, so the
//! first byte decides what a line is and no text can forge another kind.
//!
//! ```text
//! server> [HELLO chatty/1] type a name to join, or /help
//! client> alice
//! server> [WELCOME alice] you are in #lobby
//! server> [USERS #lobby 2] alice,bob
//! client> hi all
//! server> alice: hi all
//! ```

pub mod name;

pub mod text;

pub mod words;

pub mod units;

pub mod failure;

pub mod fingerprint;

pub mod tags;

pub mod event;

pub mod codec;

pub use event::{Event, Message, Place};
pub use failure::{ErrorCode, Farewell, Refusal};
pub use fingerprint::Fingerprint;
pub use name::{Key, LOBBY, Name, RoomName};
pub use tags::{Cid, Tags};
pub use units::Stamp;

/// The protocol's name and version, as `[HELLO]` and `[VERSION]` say it.
pub const VERSION: &str = "chatty/1";

/// The longest line a client may send, in bytes, not counting its line end
/// and a `@cid=… ` prefix. Long enough for a paragraph, short enough that one
/// line never fills a screen or a buffer.
pub const LINE_MAX: usize = 4096;

/// The longest line before login: a name or a short command fits, a stranger
/// gets to occupy no more.
pub const LOGIN_LINE_MAX: usize = 512;

/// Rows of `/history` when no number is given.
pub const HISTORY_DEFAULT: usize = 20;

/// The most rows one `/history` gives; a larger number means this one.
pub const HISTORY_MAX: usize = 1000;

/// The most rows one `/search` gives.
pub const SEARCH_MAX: usize = 50;

/// The longest reason of what an operator does, in characters.
pub const REASON_MAX: usize = 200;

/// The port `serve` listens on and `join` looks for when none is said.
pub const DEFAULT_PORT: u16 = 5555;
