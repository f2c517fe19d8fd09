//! `chatty join`: the line client. It knows the wire protocol (`protocol`) and the table of
//! commands, and nothing about the server.
//!
//! On a terminal (`terminal/`) three threads communicate over channels:
//!
//! ```text
//! prompt thread   rustyline: line editing      --typed-->   main thread
//! main thread     socket, state, signals       --styled-->  printer thread
//! printer thread  output above the prompt
//! ```
//!
//! Without a terminal (`script/`) the client reads lines and writes lines, or JSON objects, for
//! scripts. Both modes log in through `start.rs`, and both survive a lost connection (`session/`).
//! They share what they know of the chat (`model/`), the connection (`net/`), the chat logs
//! (`log_files.rs`) and the limits of how much data of a server the client holds in memory
//! (`limits.rs`). `config.rs` reads the settings file.

mod config;
mod limits;
mod log_files;
mod model;
mod net;
mod process;
mod script;
mod session;
mod start;
mod terminal;
mod text;

use std::env;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use nix::unistd::{User, getuid};

use crate::commands::Command;
use crate::config::parse_switch;
use crate::protocol::name::{NameFault, RESERVED};
use crate::protocol::units::parse_duration;
use crate::protocol::{DEFAULT_PORT, Key, Name, RoomName};
use crate::stdio;
pub use config::configured;
use log_files::LogFiles;
use model::mentions::Highlights;
use net::address::Address;
use net::connection::Connection;
use net::tls::TlsArgs;
use process::signals::Signals;
use script::output::Form;
use script::piped::Task;
use session::login::{Identity, Session};
use session::outgoing::CidGenerator;
pub use session::password::new_password;
use session::reconnect::ReconnectConfig;
use start::{Failure, start_session};
use terminal::history::History;
use terminal::interactive::Setup;
use terminal::notify::{Notifier, NotifyMethod};
use terminal::presence::Joins;
use terminal::screen::{Screen, Times};
use text::sanitize::Clean;
pub use text::theme::ColorChoice;
use text::theme::Theme;

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
    /// Server to connect to: HOST, HOST:PORT or [IPV6]:PORT
    #[arg(
        id = "host",
        index = 1,
        value_name = "HOST[:PORT]",
        default_value = "localhost",
        env = "CHATTY_HOST"
    )]
    address: Address,

    /// Read lines from standard input, without a prompt, even on a terminal
    #[arg(index = 2, value_name = "-", value_parser = parse_stdin_marker)]
    input: Option<String>,

    /// Your name in the chat [default: your login name]
    #[arg(short, long, env = "CHATTY_NAME", help_heading = "Identity")]
    name: Option<String>,

    /// File whose first line is the password of your account
    ///
    /// CHATTY_PASSWORD can hold the password itself. Without any of these, chatty asks for
    /// the password on a terminal if the name needs one.
    #[arg(long, value_name = "FILE", env = "CHATTY_PASSWORD_FILE", help_heading = "Identity")]
    #[arg(conflicts_with = "password_cmd")]
    password_file: Option<PathBuf>,

    /// Shell command whose first line of output is the password of your account
    #[arg(long, value_name = "COMMAND", env = "CHATTY_PASSWORD_CMD", help_heading = "Identity")]
    #[arg(conflicts_with = "password_file")]
    password_cmd: Option<String>,

    /// Room to join after login; created if it does not exist
    #[arg(short, long, env = "CHATTY_ROOM", value_parser = room_name)]
    #[arg(help_heading = "Connection")]
    room: Option<RoomName>,

    /// Port of the server, unless HOST includes one
    #[arg(short, long, default_value_t = DEFAULT_PORT, env = "CHATTY_PORT")]
    #[arg(help_heading = "Connection")]
    port: u16,

    /// How long to retry after the connection is lost, e.g. 10m; 0 never retries
    ///
    /// In a script, this is also how long to wait for a name that is in use. Default: without
    /// limit on a terminal, 10 minutes in a script.
    #[arg(long, value_name = "TIME", env = "CHATTY_RETRY_FOR", value_parser = retry_time)]
    #[arg(help_heading = "Connection")]
    retry_for: Option<Duration>,

    /// Send a ping after the server has been silent for this time
    ///
    /// The connection counts as lost when two pings in a row get no answer within this time
    /// each.
    #[arg(long, value_name = "TIME", default_value = "30s", env = "CHATTY_PING_AFTER")]
    #[arg(value_parser = nonzero_time, help_heading = "Connection")]
    ping_after: Duration,

    #[command(flatten)]
    tls: TlsArgs,

    /// Send LINE as if typed, wait for the answer, and exit; may be repeated
    ///
    /// Standard input is read only if - is given.
    #[arg(short, long, value_name = "LINE", conflicts_with = "raw", value_parser = one_line)]
    #[arg(help_heading = "Scripts")]
    exec: Vec<String>,

    /// Send every input line as text, even if it starts with /
    #[arg(long, conflicts_with = "exec", help_heading = "Scripts")]
    raw: bool,

    /// Write one JSON object per line (format: docs/json.md); no prompt
    #[arg(long, env = "CHATTY_JSON", value_parser = parse_switch, help_heading = "Scripts")]
    json: bool,

    /// Use plain input and output on a terminal too: no prompt, no redrawing
    #[arg(long, env = "CHATTY_PLAIN", value_parser = parse_switch, help_heading = "Scripts")]
    plain: bool,

    /// How long to stay connected after the end of input; inf stays forever
    #[arg(long, value_name = "TIME", env = "CHATTY_WAIT", value_parser = waiting_time)]
    #[arg(help_heading = "Scripts")]
    wait: Option<Duration>,

    /// Do not report on standard error that chatty waits for a name or reconnects
    #[arg(short, long, env = "CHATTY_QUIET", value_parser = parse_switch)]
    #[arg(help_heading = "Scripts")]
    quiet: bool,

    /// When to use colors; auto: on a terminal
    ///
    /// auto follows FORCE_COLOR, NO_COLOR and CLICOLOR_FORCE if they are set.
    #[arg(long, value_enum, default_value_t, env = "CHATTY_COLOR", value_name = "WHEN")]
    #[arg(help_heading = "Display")]
    color: ColorChoice,

    /// Number that selects other colors for the names
    #[arg(long, default_value_t, env = "CHATTY_COLOR_SEED", value_name = "NUMBER")]
    #[arg(help_heading = "Display")]
    color_seed: u32,

    /// How to notify you of mentions and private messages: off, bell, osc9, osc777 or a program
    ///
    /// osc9 and osc777 are notification sequences of some terminals. A program is written as
    /// in '["notify-send"]' and gets the text as its last argument.
    #[arg(long, value_name = "HOW", default_value_t, env = "CHATTY_NOTIFY")]
    #[arg(help_heading = "Prompt")]
    notify: NotifyMethod,

    /// Word that counts as a mention, in addition to your name; may be repeated
    #[arg(long, value_name = "WORD", env = "CHATTY_HIGHLIGHT", value_delimiter = ',')]
    #[arg(help_heading = "Prompt")]
    highlight: Vec<String>,

    /// Which joins and departures to show
    ///
    /// smart hides, in rooms of more than 20 users, those of users who have not written.
    #[arg(long, value_enum, default_value_t, env = "CHATTY_JOINS", value_name = "WHICH")]
    #[arg(help_heading = "Prompt")]
    joins: Joins,

    /// Omit the name if the line above is from the same user
    #[arg(long, env = "CHATTY_GROUP_NAMES", value_parser = parse_switch)]
    #[arg(help_heading = "Prompt")]
    group_names: bool,

    /// When to show the time of a line; minute: only if it differs from the line above
    #[arg(long, value_enum, default_value_t, env = "CHATTY_TIMES", value_name = "WHEN")]
    #[arg(help_heading = "Prompt")]
    times: Times,

    /// Do not change the title of the terminal
    #[arg(long, env = "CHATTY_NO_TITLE", value_parser = parse_switch, help_heading = "Prompt")]
    no_title: bool,

    /// Settings file [default: chatty/config.toml in $XDG_CONFIG_HOME or ~/.config]
    #[arg(long, value_name = "FILE", env = "CHATTY_CONFIG", help_heading = "Files")]
    config: Option<PathBuf>, // read before the arguments are parsed: src/config.rs

    /// Log the chat to files
    ///
    /// The files are chatty/log/HOST/ROOM/DATE.log in $XDG_DATA_HOME or ~/.local/share.
    #[arg(long, env = "CHATTY_LOG", value_parser = parse_switch, help_heading = "Files")]
    log: bool,

    /// Do not save typed lines in the history file
    ///
    /// The file is chatty/history in $XDG_STATE_HOME or ~/.local/state. Passwords are never
    /// saved.
    #[arg(long, env = "CHATTY_NO_HISTORY", value_parser = parse_switch, help_heading = "Files")]
    no_history: bool,

    /// Panic at the first typed line
    #[arg(long, hide = true)]
    debug_panic: bool,
}

impl JoinArgs {
    fn reads_input(&self) -> bool {
        self.exec.is_empty() || self.input.is_some()
    }

    /// Whether to ask the server for a session that survives a lost connection. A job that only
    /// runs `--exec` lines does not ask: if it were killed, its name would stay in use.
    fn wants_session(&self) -> bool {
        self.reads_input() || self.wait.is_some()
    }
}

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

/// The exit code of `chatty join`. The numbers are stable because scripts rely on them; 69 and
/// 77 are those of sysexits.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The user left; in a pipe, the server accepted every line.
    Done = 0,
    /// In a pipe: the server refused a line.
    Refused = 1,
    /// Invalid arguments or settings.
    Usage = 2,
    /// No connection, or a lost one, or a standard stream failed.
    Unavailable = 69,
    /// The server refused the name.
    NameRefused = 77,
    /// Ended by SIGHUP.
    HungUp = 129,
    /// Ended by SIGINT.
    Interrupted = 130,
    /// Ended by SIGTERM.
    Terminated = 143,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The command with which the client leaves on its own.
const QUIT: Command<'static> = Command::Quit { reason: None };

/// Returns the usage and the help of each command that the client executes itself.
pub fn own_commands() -> impl Iterator<Item = (String, &'static str)> {
    model::local::TABLE.iter().map(|row| (row.usage(), row.help))
}

/// Runs `chatty join` until it exits.
#[must_use]
pub fn run(args: &JoinArgs) -> Exit {
    let identity = match identity(args) {
        Ok(identity) => identity,
        Err((exit, why)) => return Failure::new(exit, why).report(args),
    };
    // One thread is enough for one socket; blocking work runs on threads of its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => {
            let exit = runtime.block_on(join(args, &identity));
            // Does not wait for a name lookup that is still running.
            runtime.shutdown_background();
            exit
        }
        Err(problem) => {
            print_error(&format!("cannot start: {problem}"));
            Exit::Unavailable
        }
    }
}

/// A session after login, with everything needed to resume it.
struct ActiveSession {
    connection: Connection,
    session: Session,
    cids: CidGenerator,
    reconnect: ReconnectConfig,
    ping_after: Duration,
    log: LogFiles,
    debug_panic: bool,
}

async fn join(args: &JoinArgs, identity: &Identity) -> Exit {
    // Before the login: afterwards the server reserves our name until we log out.
    let listening = Signals::listen().and_then(|signals| {
        if !is_interactive(args) {
            process::signals::exit_on_second_signal()?;
        }
        Ok(signals)
    });
    let mut signals = match listening {
        Ok(signals) => signals,
        Err(problem) => {
            let why = format!("cannot start: {problem}");
            return Failure::new(Exit::Unavailable, why).report(args);
        }
    };
    let session = match start_session(args, identity, &mut signals).await {
        Ok(session) => session,
        Err(failure) => return failure.report(args),
    };
    if is_interactive(args) {
        let words = Highlights::new(&args.highlight);
        let theme = Theme::new(args.color, args.color_seed);
        let setup = Setup {
            screen: Screen::new(theme, args.times, args.group_names, words.clone()),
            attention: Notifier::new(args.notify.clone(), words.clone(), !args.no_title),
            history: History::new(!args.no_history),
            joins: args.joins,
            words,
        };
        terminal::interactive::run(session, setup, signals).await
    } else {
        let room = identity.room.as_ref().map_or_else(RoomName::lobby, Clone::clone);
        let task = Task {
            lines: args.exec.clone(),
            reads_input: args.reads_input(),
            raw_room: args.raw.then_some(room),
            form: Form::of(args),
            wait: args.wait.unwrap_or_default(),
            is_quiet: args.quiet,
        };
        script::piped::run(session, task, signals).await
    }
}

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

fn is_interactive(args: &JoinArgs) -> bool {
    let is_script = args.raw || args.input.is_some() || !args.exec.is_empty();
    is_on_terminal() && !is_script && !args.json && !args.plain
}

/// Whether both standard streams are a terminal that can move its cursor, as a prompt needs.
fn is_on_terminal() -> bool {
    let can_edit = !matches!(env::var("TERM").as_deref(), Ok("dumb" | "cons25" | "emacs"));
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal() && can_edit
}

/// Returns the name and the first room. The name is validated before anything is sent, so that
/// it cannot inject another line.
fn identity(args: &JoinArgs) -> Result<Identity, (Exit, String)> {
    let name = match args.name.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => read_name(name).map_err(|fault| {
            let problem =
                format!("\"{name}\" is not a valid name: {fault}; choose another with --name NAME");
            (Exit::NameRefused, problem)
        })?,
        None => login_name()?,
    };
    Ok(Identity { name, room: args.room.clone() })
}

/// Rejects names that were invalid in every version. Names that only newer rules reject may be
/// accounts of an older version, which only the server knows.
fn read_name(text: &str) -> Result<Name, NameFault> {
    Name::parse(text).or_else(|fault| match fault {
        NameFault::Grammar | NameFault::TooLong => Err(fault),
        NameFault::Reserved if RESERVED.contains(&Key::fold(text).as_str()) => Err(fault),
        NameFault::Letters | NameFault::Scripts | NameFault::Reserved => Name::known(text),
    })
}

fn login_name() -> Result<Name, (Exit, String)> {
    let from_environment = |key: &&str| env::var(key).ok().filter(|name| !name.is_empty());
    let found = ["USER", "LOGNAME"].iter().find_map(from_environment);
    let from_user_database = || User::from_uid(getuid()).ok().flatten().map(|user| user.name);
    let Some(name) = found.or_else(from_user_database) else {
        return Err((Exit::Usage, "cannot determine your name; use --name NAME".to_owned()));
    };
    read_name(&name).map_err(|_| {
        let problem = format!(
            "your login name \"{name}\" is not a valid chat name; choose one with --name NAME"
        );
        (Exit::Usage, problem)
    })
}

/// Writes a problem to standard error. The text may contain input from the network, so it is
/// sanitized.
fn print_error(problem: &str) {
    stdio::print_error(&format!("chatty: {}", Clean::of(problem)));
}
