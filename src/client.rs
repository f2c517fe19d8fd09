//! `chatty join`: the line client. It knows the wire (`protocol`) and the table
//! of commands, and nothing of the server.
//!
//! On a terminal (`interactive.rs`) three threads do one thing each, and text
//! flows between them over channels:
//!
//! ```text
//! prompt thread   rustyline: what is typed     --typed-->   main thread
//! main thread     socket, state, signals       --styled-->  printer thread
//! printer thread  lines above the prompt
//! ```
//!
//! In front of the prompt (`prompt_text.rs`) stands what is not seen otherwise: what is
//! unread elsewhere (`unread.rs`), and what the server has not answered (`latency.rs`).
//! What the client does itself is in `local.rs`.
//!
//! Without a terminal (`piped.rs`) lines go in and lines come out, for scripts, or
//! objects (`json.rs`). Beside the chat, `notify.rs` calls who looks elsewhere and
//! `log_files.rs` keeps what is said. `config.rs` is where settings come from.
//!
//! What goes over the network may be encrypted (`tls.rs`), and whom to trust there
//! is remembered (`known_hosts.rs`).
//!
//! How much of what a server sends is held at once stands in `limits.rs`.
//!
//! Both begin in `start.rs` and `login.rs`, and both go on over a lost connection: `heartbeat.rs` finds
//! out that it is, `resume.rs` and `outgoing.rs` know what is to be said and shown
//! then, `reconnect.rs` gets there.

mod address;
mod away_marker;
mod config;
mod connection;
mod ctrl_c;
mod draft;
mod happy_eyeballs;
mod heartbeat;
mod helper;
mod history;
mod interactive;
mod json;
mod known_hosts;
mod latency;
mod limits;
mod local;
mod log_files;
mod login;
mod mentions;
mod notify;
mod outgoing;
mod output;
mod password;
mod piped;
mod presence;
mod printer;
mod prompt;
mod prompt_text;
mod reconnect;
mod resume;
mod sanitize;
mod screen;
mod seen_messages;
mod signals;
mod start;
mod state;
mod submission;
mod suspend;
mod terminal;
mod theme;
mod tls;
mod unread;
mod width;
mod wrap;
mod writer;

use std::env;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use nix::unistd::{User, getuid};

use crate::protocol::name::{NameFault, RESERVED};
use crate::protocol::units::{parse_duration, parse_switch};
use crate::protocol::{DEFAULT_PORT, Key, Name, RoomName};
use crate::stdio;
use address::Address;
pub use config::configured;
use connection::Connection;
use history::History;
use interactive::Setup;
use log_files::LogFiles;
use login::{Identity, Session};
use mentions::Highlights;
use notify::{Notifier, NotifyMethod};
use outgoing::CidGenerator;
use output::Form;
pub use password::new_password;
use piped::Task;
use presence::Joins;
use reconnect::ReconnectConfig;
use sanitize::Clean;
use screen::{Screen, Times};
use signals::Signals;
use start::{Failure, start_session};
pub use theme::ColorChoice;
use theme::Theme;
use tls::TlsArgs;

/// Join a chat: a prompt on a terminal, lines in and lines out in a pipe.
///
/// On a terminal, lines that arrive appear above the one you are typing. Tab
/// completes commands, names and rooms; /help lists the commands; Ctrl-D or
/// /quit leaves. When the connection is lost it comes back by itself.
///
/// In a pipe or a script every line of standard input is sent as if typed, and
/// everything the server says goes to standard output.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[allow(clippy::doc_markdown, clippy::doc_link_with_quotes)] // for people, as they type it
#[allow(clippy::struct_excessive_bools)] // each is a flag
pub struct JoinArgs {
    /// Where the server is: HOST, HOST:PORT or [IPV6]:PORT
    #[arg(
        id = "host",
        index = 1,
        value_name = "HOST[:PORT]",
        default_value = "localhost",
        env = "CHATTY_HOST"
    )]
    address: Address,

    /// Who to be; without it, your login name
    #[arg(short, long, env = "CHATTY_NAME")]
    name: Option<String>,

    /// File whose first line is the password of a registered name
    ///
    /// CHATTY_PASSWORD can hold the password itself. Without any of them it is asked
    /// for on a terminal, where the name takes one.
    #[arg(long, value_name = "FILE", env = "CHATTY_PASSWORD_FILE")]
    #[arg(conflicts_with = "password_cmd")]
    password_file: Option<PathBuf>,

    /// Command whose first line of output is that password; sh runs it
    #[arg(long, value_name = "COMMAND", env = "CHATTY_PASSWORD_CMD")]
    #[arg(conflicts_with = "password_file")]
    password_cmd: Option<String>,

    /// A room to enter right away, made if there is none
    #[arg(short, long, env = "CHATTY_ROOM", value_parser = room_name)]
    room: Option<RoomName>,

    /// Read standard input, also where it is a terminal: no prompt
    #[arg(index = 2, value_name = "-", value_parser = parse_stdin_marker)]
    input: Option<String>,

    /// The server's port, where HOST does not name one
    #[arg(short, long, default_value_t = DEFAULT_PORT, env = "CHATTY_PORT")]
    port: u16,

    #[command(flatten)]
    tls: TlsArgs,

    /// When to use colour; auto means on a terminal, if FORCE_COLOR, NO_COLOR and
    /// CLICOLOR_FORCE say nothing else
    #[arg(long, value_enum, default_value_t, env = "CHATTY_COLOR", value_name = "WHEN")]
    color: ColorChoice,

    /// Another number gives the names other colours
    #[arg(long, default_value_t, env = "CHATTY_COLOR_SEED", value_name = "NUMBER")]
    color_seed: u32,

    /// Say every line of standard input as it is, commands included
    #[arg(long, conflicts_with = "exec")]
    raw: bool,

    /// Say this, or do it if it is a command, and leave when it is answered; may
    /// be given several times. Standard input is read only with -
    #[arg(short, long, value_name = "LINE", conflicts_with = "raw", value_parser = one_line)]
    exec: Vec<String>,

    /// Write an object for every line of the server and for what becomes of the
    /// connection, as docs/json.md describes; no prompt
    #[arg(long, env = "CHATTY_JSON", value_parser = parse_switch)]
    json: bool,

    /// Lines in and lines out on a terminal too: no prompt, nothing that moves
    #[arg(long, env = "CHATTY_PLAIN", value_parser = parse_switch)]
    plain: bool,

    /// How long to listen on after the end of the input, or inf
    #[arg(long, value_name = "TIME", env = "CHATTY_WAIT", value_parser = waiting_time)]
    wait: Option<Duration>,

    /// Print nothing on standard error about waiting for a name, or about the
    /// connection being lost and found again
    #[arg(short, long, env = "CHATTY_QUIET", value_parser = parse_switch)]
    quiet: bool,

    /// How long to try again when the connection is lost and, in a script, to wait
    /// for a name that is in use: 0 is not at all; without it, at a terminal for ever,
    /// in a script ten minutes
    #[arg(long, value_name = "TIME", env = "CHATTY_RETRY_FOR", value_parser = retry_time)]
    retry_for: Option<Duration>,

    /// A server that has said nothing for so long is asked whether it is there, and
    /// taken for lost after two more such silences
    #[arg(long, value_name = "TIME", default_value = "30s", env = "CHATTY_PING_AFTER")]
    #[arg(value_parser = silence)]
    ping_after: Duration,

    /// Keep what is said in files: chatty/log/HOST/ROOM/DATE.log in $XDG_DATA_HOME
    /// or ~/.local/share
    #[arg(long, env = "CHATTY_LOG", value_parser = parse_switch)]
    log: bool,

    /// How to call you when you are meant: off, bell, osc9 or osc777 (which
    /// terminals know), or a program as in '["notify-send"]', run with the text
    /// as its last argument. Only at a prompt
    #[arg(long, value_name = "HOW", default_value_t, env = "CHATTY_NOTIFY")]
    notify: NotifyMethod,

    /// A word that means you too, besides your name; may be given several times.
    /// Only at a prompt
    #[arg(long, value_name = "WORD", env = "CHATTY_HIGHLIGHT", value_delimiter = ',')]
    highlight: Vec<String>,

    /// Whose comings and goings are shown: all, off, or smart, which in a room of
    /// more than 20 people leaves out those who have said nothing. Only at a prompt
    #[arg(long, value_enum, default_value_t, env = "CHATTY_JOINS", value_name = "WHOSE")]
    joins: Joins,

    /// Leave a name out where the line above is of the same person. Only at a prompt
    #[arg(long, env = "CHATTY_GROUP_NAMES", value_parser = parse_switch)]
    group_names: bool,

    /// When a line shows its time: always, once a minute, or never. Only at a prompt
    #[arg(long, value_enum, default_value_t, env = "CHATTY_TIMES", value_name = "WHEN")]
    times: Times,

    /// Do not keep typed lines for the next visit. They are in
    /// chatty/history in $XDG_STATE_HOME or ~/.local/state; passwords never are
    #[arg(long, env = "CHATTY_NO_HISTORY", value_parser = parse_switch)]
    no_history: bool,

    /// Leave the terminal's title alone
    #[arg(long, env = "CHATTY_NO_TITLE", value_parser = parse_switch)]
    no_title: bool,

    /// Panic at the first line that is typed
    #[arg(long, hide = true)]
    debug_panic: bool,

    /// File with settings; without it, chatty/config.toml where settings are kept
    /// ($XDG_CONFIG_HOME or ~/.config), if it exists
    #[arg(long, value_name = "FILE", env = "CHATTY_CONFIG")]
    config: Option<PathBuf>, // of use before there are arguments: config.rs
}

impl JoinArgs {
    fn reads_input(&self) -> bool {
        self.exec.is_empty() || self.input.is_some()
    }

    /// Whether the server is to keep our place over a lost connection. A job that ends
    /// with its `--exec` lines has none: killed, it would leave its name taken.
    fn keeps_place(&self) -> bool {
        self.reads_input() || self.wait.is_some()
    }
}

const EXAMPLES: &str = "\
Examples:
  chatty join --name alice                      talk on this machine
  chatty join chat.example.org --room ops       enter #ops there
  chatty join chat.example.org --tls            encrypted
  make 2>&1 | tail -1 | chatty join --name ci --room ops --raw
  tail -f app.log | chatty join --name app --room ops --raw
  printf '/who\\n' | chatty join --name probe
  chatty join --name ci --exec '/msg bob build 128 passed'

Exit codes:
  0 all went well   1 a line was refused   2 wrong usage
  69 no connection, it was lost for good, or standard input or output fails
  77 the name was refused, or stayed in use for --retry-for";

/// How `chatty join` ends, as the shell sees it. The numbers are fixed: scripts
/// rely on them (69 and 77 are those of sysexits.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Left on purpose; in a pipe, every line was taken.
    Done = 0,
    /// In a pipe: the server refused a line.
    Refused = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// No connection, or it was lost; or a standard stream fails.
    Unavailable = 69,
    /// The server does not take the name.
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

/// Runs `chatty join` to its end.
#[must_use]
pub fn run(args: &JoinArgs) -> Exit {
    let identity = match identity(args) {
        Ok(identity) => identity,
        Err((exit, why)) => return Failure::new(exit, why).report(args),
    };
    // One thread is plenty for one socket; what blocks has its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => {
            let exit = runtime.block_on(join(args, &identity));
            // A name server that does not answer holds up nobody who has given up.
            runtime.shutdown_background();
            exit
        }
        Err(problem) => {
            print_error(&format!("cannot start: {problem}"));
            Exit::Unavailable
        }
    }
}

/// A visit that has begun, and all it takes to come back to it.
struct ActiveSession {
    connection: Connection,
    session: Session,
    cids: CidGenerator,
    road: ReconnectConfig,
    ping_after: Duration,
    log: LogFiles,
    is_to_panic: bool,
}

async fn join(args: &JoinArgs, identity: &Identity) -> Exit {
    // Before the login: from then on the server may keep our name until it is told
    // goodbye.
    let listening = Signals::listen().and_then(|signals| {
        if !is_interactive(args) {
            signals::insist()?;
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
    let visit = match start_session(args, identity, &mut signals).await {
        Ok(visit) => visit,
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
        interactive::run(visit, setup, signals).await
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
        piped::run(visit, task, signals).await
    }
}

/// Longer than anybody lives is for ever.
fn waiting_time(text: &str) -> Result<Duration, String> {
    if text == "inf" { Ok(Duration::MAX) } else { parse_duration(text) }
}

/// With no time at all every server would be taken for lost.
fn silence(text: &str) -> Result<Duration, String> {
    let problem = || "0 would take every server for lost; give it 1s or more".to_owned();
    parse_duration(text).and_then(|time| (!time.is_zero()).then_some(time).ok_or_else(problem))
}

fn retry_time(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { parse_duration(text) }
}

fn room_name(text: &str) -> Result<RoomName, String> {
    RoomName::parse(text).map_err(|fault| fault.to_string())
}

/// A line of `--exec`. What looks private must not become public with its second
/// line, so several are not taken for one each.
fn one_line(text: &str) -> Result<String, String> {
    let line = text.strip_suffix('\n').unwrap_or(text);
    if line.contains(['\n', '\r']) {
        return Err("these are several lines; give each its own --exec, or pipe them in".into());
    }
    Ok(line.to_owned())
}

/// What may stand behind the host. People who know netcat put the port there.
fn parse_stdin_marker(text: &str) -> Result<String, String> {
    match text {
        "-" => Ok(text.to_owned()),
        port if port.parse::<u16>().is_ok() => {
            Err("a port goes behind its host with a colon, as in localhost:5555, or to --port"
                .into())
        }
        _ => Err("one host at a time, and behind it nothing but -".into()),
    }
}

fn is_interactive(args: &JoinArgs) -> bool {
    let is_script = args.raw || args.input.is_some() || !args.exec.is_empty();
    is_on_terminal() && !is_script && !args.json && !args.plain
}

/// A prompt needs a terminal at both ends, and one that can move its cursor.
fn is_on_terminal() -> bool {
    let can_edit = !matches!(env::var("TERM").as_deref(), Ok("dumb" | "cons25" | "emacs"));
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal() && can_edit
}

/// Who to be and where to go first, checked before anything is sent: what is
/// no name could otherwise become a line of its own.
fn identity(args: &JoinArgs) -> Result<Identity, (Exit, String)> {
    let name = match args.name.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => read_name(name).map_err(|fault| {
            let problem =
                format!("\"{name}\" cannot be your name: {fault}; choose another with --name NAME");
            (Exit::NameRefused, problem)
        })?,
        None => login_name()?,
    };
    Ok(Identity { name, room: args.room.clone() })
}

/// Only the server knows which names were registered by the rules of an older version:
/// here a name is refused that never could be one.
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
    let in_the_books = || User::from_uid(getuid()).ok().flatten().map(|user| user.name);
    let Some(name) = found.or_else(in_the_books) else {
        return Err((Exit::Usage, "who are you? say it with --name NAME".to_owned()));
    };
    read_name(&name).map_err(|_| {
        let problem = format!(
            "your login name \"{name}\" is no name for a chat; choose one with --name NAME"
        );
        (Exit::Usage, problem)
    })
}

/// A folder of the XDG base directories, of which only absolute ones count.
fn home(variable: &str, in_home: &str) -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute(variable).or_else(|| Some(absolute("HOME")?.join(in_home)))
}

/// Says on standard error what went wrong. Parts of it may come from the
/// network, so it is cleaned like everything else; whether anybody reads it
/// does not matter any more.
fn print_error(problem: &str) {
    stdio::print_error(&format!("chatty: {}", Clean::of(problem)));
}
