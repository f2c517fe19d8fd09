//! chatty/1, the wire protocol. People type the same lines into netcat that programs
//! parse. The server and the client share this module, so every line is encoded and
//! parsed by the same code. It knows no sockets, no clock and no chat rules.
//!
//! ```text
//! line       = event "\n"                    a line is exactly one event
//! event      = message | presence | reply | row | help
//! message    = [room " "] name ": " text     alice: hello        #ops alice: hello
//!            | [room " "] "** " name " " text             ** alice waves
//!            | "[PRIVATE MESSAGE] " name ": " text        to the recipient
//!            | "[PRIVATE MESSAGE to " name "] " name ": " text    the sender's echo
//! presence   = [room " "] "* " …             * bob joined        #ops * bob left (bye)
//! reply      = "[" WORD [" " args] "]" [" " text]         [PONG t1]  [ERROR no-target] …
//! row        = time " " message              a replayed line of /history
//! help       = "/" …                         a row of /help
//! room       = "#" name                      absent for #lobby; depends on the room only
//! name       = letter (letter | mark | digit | "_" | "-" | ".")*   1 to 32 characters
//! tagged     = "@" key "=" value (";" key "=" value)* " " event    /set tags on
//! ```
//!
//! A name contains none of `: [ ] * # @ /` and no blank. So the first byte determines the
//! type of a line, and a message cannot imitate a line of another type.
//!
//! ```text
//! server> [HELLO chatty/1] type your name and press Enter (/help lists commands)
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

pub mod when;

pub mod failure;

pub mod features;

pub mod fingerprint;

pub mod tags;

pub mod event;

pub mod reply;

pub mod dialect;

pub mod codec;

pub use dialect::{ClientLine, Dialect};
pub use event::{Event, Message, Place};
pub use failure::{ErrorCode, ErrorReason, Farewell, Refusal};
pub use features::Feature;
pub use fingerprint::Fingerprint;
pub use name::{Key, LOBBY, Name, RoomName};
pub use reply::{Moderation, Reply};
pub use tags::{Cid, Tags, UserId};
pub use units::Stamp;
pub use when::When;

/// The protocol's name and version, as in `[HELLO]` and `[VERSION]`.
pub const VERSION: &str = "chatty/1";

/// The longest line of a client, in bytes without the line end and a `@cid=… ` prefix.
/// Long enough for a paragraph, short enough not to fill a screen or a buffer.
pub const LINE_MAX: usize = 4096;

/// The longest line before login, in bytes. It fits a name and a password, and bounds
/// the memory of a connection that has not logged in.
pub const LOGIN_LINE_MAX: usize = 512;

/// The number of messages in `/history` without a number.
pub const HISTORY_DEFAULT: usize = 20;

/// The maximum number of messages in a `/history`; a larger number is clamped to it.
pub const HISTORY_MAX: usize = 1000;

/// The maximum number of matches in a `/search`.
pub const SEARCH_MAX: usize = 50;

/// The maximum number of different words in a `/search`.
pub const SEARCH_WORDS_MAX: usize = 16;

/// The longest reason of a moderation command, in characters.
pub const REASON_MAX: usize = 200;

/// The default port of `serve` and `join`.
pub const DEFAULT_PORT: u16 = 5555;
