//! The arguments of `chatty join`.

use std::path::PathBuf;
use std::time::Duration;

use super::net::address::Address;
use super::net::tls::TlsArgs;
use super::process::tty::is_on_terminal;
use super::terminal::notify::NotifyMethod;
use super::terminal::presence::Joins;
use super::terminal::screen::Times;
use super::text::theme::ColorChoice;
use crate::config::parse_switch;
use crate::protocol::text::is_blank_text;
use crate::protocol::units::parse_duration;
use crate::protocol::{DEFAULT_PORT, LOBBY, RoomName};

/// Join a chat: a prompt on a terminal, lines in and lines out in a pipe
///
/// On a terminal, incoming messages appear above the line you are typing. Tab completes
/// commands, names and rooms; /help lists the commands; Ctrl-D or /quit leaves. If the
/// connection is lost, chatty reconnects by itself.
///
/// In a pipe or a script, every line of standard input is sent as if you had typed it, and
/// everything the server sends is written to standard output.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[allow(clippy::doc_markdown, clippy::doc_link_with_quotes)] // the text of --help
#[allow(clippy::struct_excessive_bools)] // each is a flag
pub struct JoinArgs {
    /// Server to connect to: HOST, HOST:PORT, [IPV6]:PORT, or a server saved in the settings file
    #[arg(
        id = "host",
        index = 1,
        value_name = "HOST[:PORT]",
        default_value = "localhost",
        env = "CHATTY_HOST"
    )]
    pub(super) address: Address,

    /// Read lines from standard input, without a prompt, even on a terminal
    #[arg(index = 2, value_name = "-", value_parser = parse_stdin_marker)]
    pub(super) input: Option<String>,

    /// Your name in the chat [default: your login name]
    #[arg(short, long, env = "CHATTY_NAME", help_heading = "Identity")]
    pub(super) name: Option<String>,

    #[command(flatten)]
    pub(super) password: PasswordArgs,

    /// Rooms to join after login, separated by commas, or once per room
    ///
    /// Text goes to the first one. A room that does not exist is created.
    #[arg(short, long, env = "CHATTY_ROOM", value_parser = room_name, value_delimiter = ',')]
    #[arg(help_heading = "Connection")]
    pub(super) room: Vec<RoomName>,

    /// Join the rooms of the last time, too; at a prompt only [default: yes for accounts]
    ///
    /// The rooms are remembered per server and account, in chatty/rooms in $XDG_DATA_HOME or
    /// ~/.local/share.
    #[arg(long, value_name = "yes|no", env = "CHATTY_REJOIN", value_parser = parse_switch)]
    #[arg(help_heading = "Connection")]
    pub(super) rejoin: Option<bool>,

    /// Port of the server, unless HOST includes one
    #[arg(short, long, default_value_t = DEFAULT_PORT, env = "CHATTY_PORT")]
    #[arg(help_heading = "Connection")]
    pub(super) port: u16,

    /// How long to retry after the connection is lost, e.g. 10m; 0 never retries
    ///
    /// In a script, this is also how long to wait for a name that is in use. Default: without
    /// limit on a terminal, 10 minutes in a script.
    #[arg(long, value_name = "TIME", env = "CHATTY_RETRY_FOR", value_parser = retry_time)]
    #[arg(help_heading = "Connection")]
    pub(super) retry_for: Option<Duration>,

    /// Send a ping after the server has been silent for this time
    ///
    /// The connection counts as lost when two pings in a row get no answer within this time
    /// each.
    #[arg(long, value_name = "TIME", default_value = "30s", env = "CHATTY_PING_AFTER")]
    #[arg(value_parser = nonzero_time, help_heading = "Connection")]
    pub(super) ping_after: Duration,

    #[command(flatten)]
    pub(super) tls: TlsArgs,

    /// Send LINE as if typed, write its answer, and exit; may be repeated
    ///
    /// Standard input is read only if - is given. With --listen or --wait, everything that the
    /// server sends is written.
    #[arg(short, long, value_name = "LINE", conflicts_with = "raw", value_parser = one_line)]
    #[arg(help_heading = "Scripts")]
    pub(super) exec: Vec<String>,

    /// Send every input line as text, even if it starts with /
    #[arg(long, conflicts_with = "exec", help_heading = "Scripts")]
    pub(super) raw: bool,

    /// Write one JSON object per line (format: docs/json.md); no prompt
    #[arg(long, env = "CHATTY_JSON", value_parser = parse_switch, help_heading = "Scripts")]
    pub(super) json: bool,

    /// Use plain input and output on a terminal too: no prompt, no redrawing
    #[arg(long, env = "CHATTY_PLAIN", value_parser = parse_switch, help_heading = "Scripts")]
    pub(super) plain: bool,

    /// How long to stay connected after the end of input; inf stays forever
    #[arg(long, value_name = "TIME", env = "CHATTY_WAIT", value_parser = waiting_time)]
    #[arg(help_heading = "Scripts")]
    pub(super) wait: Option<Duration>,

    /// Write everything the server sends, also with --exec or --quiet
    #[arg(long, env = "CHATTY_LISTEN", value_parser = parse_switch, help_heading = "Scripts")]
    pub(super) listen: bool,

    /// Write nothing on success: no lines of the server, no notices that chatty waits
    ///
    /// Refused lines and lost connections are still reported on standard error. --json and
    /// --listen write all the same.
    #[arg(short, long, env = "CHATTY_QUIET", value_parser = parse_switch)]
    #[arg(help_heading = "Scripts")]
    pub(super) quiet: bool,

    /// When to use colors; auto: on a terminal
    ///
    /// auto follows FORCE_COLOR, NO_COLOR and CLICOLOR_FORCE if they are set.
    #[arg(long, value_enum, default_value_t, env = "CHATTY_COLOR", value_name = "WHEN")]
    #[arg(help_heading = "Display")]
    pub(super) color: ColorChoice,

    /// Number that selects other colors for the names
    #[arg(long, default_value_t, env = "CHATTY_COLOR_SEED", value_name = "NUMBER")]
    #[arg(help_heading = "Display")]
    pub(super) color_seed: u32,

    /// How to notify you of mentions and private messages: off, bell, osc9, osc777 or a program
    ///
    /// osc9 and osc777 are notification sequences of some terminals. A program is written as
    /// in '["notify-send"]' and gets the text as its last argument.
    #[arg(long, value_name = "HOW", default_value_t, env = "CHATTY_NOTIFY")]
    #[arg(help_heading = "Prompt")]
    pub(super) notify: NotifyMethod,

    /// Word that counts as a mention, in addition to your name; may be repeated
    #[arg(long, value_name = "WORD", env = "CHATTY_HIGHLIGHT", value_delimiter = ',')]
    #[arg(help_heading = "Prompt")]
    pub(super) highlight: Vec<String>,

    /// Which joins and departures to show
    ///
    /// smart hides, in rooms of more than 20 users, those of users who have not written.
    #[arg(long, value_enum, default_value_t, env = "CHATTY_JOINS", value_name = "WHICH")]
    #[arg(help_heading = "Prompt")]
    pub(super) joins: Joins,

    /// Omit the name if the line above is from the same user
    #[arg(long, env = "CHATTY_GROUP_NAMES", value_parser = parse_switch)]
    #[arg(help_heading = "Prompt")]
    pub(super) group_names: bool,

    /// When to show the time of a line; minute: only if it differs from the line above
    #[arg(long, value_enum, default_value_t, env = "CHATTY_TIMES", value_name = "WHEN")]
    #[arg(help_heading = "Prompt")]
    pub(super) times: Times,

    /// Do not change the title of the terminal
    #[arg(long, env = "CHATTY_NO_TITLE", value_parser = parse_switch, help_heading = "Prompt")]
    pub(super) no_title: bool,

    /// Settings file [default: chatty/config.toml in $XDG_CONFIG_HOME or ~/.config]
    #[arg(long, value_name = "FILE", env = "CHATTY_CONFIG", help_heading = "Files")]
    pub(super) config: Option<PathBuf>, // read before the arguments are parsed: src/config.rs

    /// Log the chat to files
    ///
    /// The files are chatty/log/HOST/ROOM/DATE.log in $XDG_DATA_HOME or ~/.local/share.
    #[arg(long, env = "CHATTY_LOG", value_parser = parse_switch, help_heading = "Files")]
    pub(super) log: bool,

    /// Do not save typed lines in the history file
    ///
    /// The file is chatty/history in $XDG_STATE_HOME or ~/.local/state. Passwords are never
    /// saved.
    #[arg(long, env = "CHATTY_NO_HISTORY", value_parser = parse_switch, help_heading = "Files")]
    pub(super) no_history: bool,

    /// Host of the saved server that HOST names
    #[arg(id = "saved-host", long, hide = true)]
    pub(super) saved_host: Option<Address>, // set by config.rs

    /// Panic at the first typed line
    #[arg(long, hide = true)]
    pub(super) debug_panic: bool,
}

impl JoinArgs {
    pub(super) fn reads_input(&self) -> bool {
        self.exec.is_empty() || self.input.is_some()
    }

    /// Whether to ask the server for a session that survives a lost connection. A job that only
    /// runs `--exec` lines does not ask: if it were killed, its name would stay in use.
    pub(super) fn wants_session(&self) -> bool {
        self.reads_input() || self.wait.is_some()
    }

    /// Whether to run the interactive mode.
    pub(super) fn is_interactive(&self) -> bool {
        let is_script = self.raw || self.input.is_some() || !self.exec.is_empty();
        is_on_terminal() && !is_script && !self.json && !self.plain
    }
}

/// The sources of an account's password.
#[derive(Debug, clap::Args)]
#[allow(clippy::doc_markdown)] // the text of --help
pub(super) struct PasswordArgs {
    /// File whose first line is the password of your account
    ///
    /// CHATTY_PASSWORD can hold the password itself. Without any of these, chatty asks for
    /// the password on a terminal if the name needs one.
    #[arg(long, value_name = "FILE", env = "CHATTY_PASSWORD_FILE", help_heading = "Identity")]
    #[arg(conflicts_with = "password_cmd")]
    pub(super) password_file: Option<PathBuf>,

    /// Shell command whose first line of output is the password of your account
    #[arg(long, value_name = "COMMAND", env = "CHATTY_PASSWORD_CMD", help_heading = "Identity")]
    #[arg(conflicts_with = "password_file")]
    pub(super) password_cmd: Option<String>,
}

/// Post to a room without logging in
///
/// Users in the room see the text as +LABEL: TEXT. The program is not a member of the room and
/// receives nothing of the chat. Without TEXT, every line of standard input is posted.
#[derive(Debug, clap::Args)]
#[command(after_help = SAY_EXAMPLES)]
#[allow(clippy::doc_markdown)] // the text of --help
pub struct SayArgs {
    /// What to post; several lines are several posts
    #[arg(value_parser = some_text)]
    pub(super) text: Option<String>,

    /// Label shown as the author, after a + [default: the account, or your login name]
    #[arg(long = "as", value_name = "LABEL", help_heading = "Identity")]
    pub(super) label: Option<String>,

    /// Account to post as; it needs a password
    #[arg(short, long, value_name = "ACCOUNT", help_heading = "Identity")]
    pub(super) name: Option<String>,

    #[command(flatten)]
    pub(super) password: PasswordArgs,

    /// Room to post to; it need not have members
    #[arg(short, long, env = "CHATTY_ROOM", value_parser = room_name, default_value = LOBBY)]
    #[arg(help_heading = "Connection")]
    pub(super) room: RoomName,

    /// Server to connect to: HOST, HOST:PORT or [IPV6]:PORT
    #[arg(long, value_name = "HOST[:PORT]", default_value = "localhost", env = "CHATTY_HOST")]
    #[arg(help_heading = "Connection")]
    pub(super) host: Address,

    /// Port of the server, unless HOST includes one
    #[arg(short, long, default_value_t = DEFAULT_PORT, env = "CHATTY_PORT")]
    #[arg(help_heading = "Connection")]
    pub(super) port: u16,

    /// How long to retry after the connection is lost, e.g. 30s; 0 never retries
    #[arg(long, value_name = "TIME", env = "CHATTY_RETRY_FOR", value_parser = retry_time)]
    #[arg(default_value = "10m", help_heading = "Connection")]
    pub(super) retry_for: Duration,

    /// Send a ping after the server has been silent for this time
    ///
    /// The connection counts as lost when two pings in a row get no answer within this time
    /// each.
    #[arg(long, value_name = "TIME", default_value = "30s", env = "CHATTY_PING_AFTER")]
    #[arg(value_parser = nonzero_time, help_heading = "Connection")]
    pub(super) ping_after: Duration,

    #[command(flatten)]
    pub(super) tls: TlsArgs,
}

const SAY_EXAMPLES: &str = "\
Examples:
  chatty say --room ops --as alerts 'disk full'
  df -h / | tail -1 | chatty say --room ops --as disk
  tail -f app.log | chatty say --room ops --as app
  chatty say --host chat.example.org --tls --name alice --password-file ~/.secret 'done'

Exit codes:
  0   everything was posted
  1   the server refused a line
  2   invalid arguments
  69  no connection, or connection lost, or standard input failed
  77  the password of the account is wrong";

const EXAMPLES: &str = "\
Examples:
  Chat:
    chatty join --name alice                   a server on this machine
    chatty join chat.example.org --room ops    another server, in #ops
    chatty join chat.example.org --tls         with encryption
  Script:
    chatty join --name ci --exec '/msg bob build 128 passed'
    make 2>&1 | tail -1 | chatty join --name ci --room ops --raw
    tail -f app.log | chatty join --name app --room ops --raw
    printf '/who\\n' | chatty join --name probe

Exit codes:
  0   success
  1   the server refused a line
  2   invalid arguments or settings
  69  no connection, or connection lost, or standard input or output failed
  77  the name was refused, or was still in use after --retry-for";

/// Parses `--wait`; `inf` is [`Duration::MAX`].
fn waiting_time(text: &str) -> Result<Duration, String> {
    if text == "inf" { Ok(Duration::MAX) } else { parse_duration(text) }
}

/// Parses `--ping-after`. With 0, every connection would count as lost.
fn nonzero_time(text: &str) -> Result<Duration, String> {
    let problem = || "must be at least 1s; with 0 every connection counts as lost".to_owned();
    parse_duration(text).and_then(|time| (!time.is_zero()).then_some(time).ok_or_else(problem))
}

fn retry_time(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { parse_duration(text) }
}

/// Parses the text of `say`. Without this check a script whose message is empty by mistake would
/// succeed without posting anything.
fn some_text(text: &str) -> Result<String, String> {
    if is_blank_text(text) { Err("there is nothing to post".into()) } else { Ok(text.to_owned()) }
}

fn room_name(text: &str) -> Result<RoomName, String> {
    RoomName::parse(text).map_err(|fault| fault.to_string())
}

/// Parses `--exec`. Rejects several lines: the second line of a private message would be sent
/// to the room.
fn one_line(text: &str) -> Result<String, String> {
    let line = text.strip_suffix('\n').unwrap_or(text);
    if line.contains(['\n', '\r']) {
        return Err("contains several lines; use one --exec per line, or a pipe".into());
    }
    Ok(line.to_owned())
}

/// Parses the argument after the host. Netcat users put the port there, which gets a hint.
fn parse_stdin_marker(text: &str) -> Result<String, String> {
    match text {
        "-" => Ok(text.to_owned()),
        port if port.parse::<u16>().is_ok() => {
            Err("write the port after the host with a colon, e.g. localhost:5555, or use --port"
                .into())
        }
        _ => Err("only - may follow the host".into()),
    }
}
