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
//! (`limits.rs`). `arguments.rs` has the options, `config.rs` reads the settings file.

mod arguments;
mod config;
mod limits;
mod log_files;
mod model;
mod net;
mod process;
mod remembered_rooms;
mod say;
mod script;
mod session;
mod start;
mod terminal;
mod text;

use std::env;
use std::io::IsTerminal as _;

use nix::unistd::{User, getuid};

use crate::protocol::name::{LABEL, NameFault, RESERVED};
use crate::protocol::{Key, Name, RoomName};
pub use arguments::{JoinArgs, SayArgs};
pub use config::configured;
use model::mentions::Highlights;
pub use process::exit::Exit;
use process::signals::Signals;
use process::tty::is_on_terminal;
use script::output::{Extent, Form, Typing};
use script::piped::Task;
use session::login::Identity;
use session::password::Password;
pub use session::password::new_password;
use start::{Failure, PASSWORD_HINT, read_password, start_session};
use terminal::history::History;
use terminal::interactive::Setup;
use terminal::notify::{Notifier, NotifyMethod};
use terminal::screen::{Screen, Times};
use text::sanitize::print_error;
pub use text::theme::ColorChoice;
use text::theme::Theme;

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
    run_to_end(join(args, &identity))
}

/// Runs a command on one thread, which is enough for one socket; blocking work runs on threads of
/// its own.
fn run_to_end(command: impl Future<Output = Exit>) -> Exit {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let exit = runtime.block_on(command);
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

/// Runs `chatty say` until everything is posted.
#[must_use]
pub fn say(args: &SayArgs) -> Exit {
    run_to_end(async {
        let task = match say_task(args).await {
            Ok(task) => task,
            Err((exit, why)) => {
                print_error(&why);
                return exit;
            }
        };
        match Signals::listen() {
            Ok(signals) => say::run(task, signals).await,
            Err(problem) => {
                print_error(&format!("cannot start: {problem}"));
                Exit::Unavailable
            }
        }
    })
}

/// Returns what to post as whom.
async fn say_task(args: &SayArgs) -> Result<say::Task, (Exit, String)> {
    let invalid = |what: &str, name: &str, fault| {
        (Exit::Usage, format!("\"{name}\" is not a valid {what}: {fault}"))
    };
    let account = args
        .name
        .as_deref()
        .map(|name| read_name(name).map_err(|fault| invalid("name", name, fault)));
    let account = account.transpose()?;
    let label = match (&args.label, &account) {
        (Some(label), _) => {
            let name = label.strip_prefix(LABEL).unwrap_or(label);
            Name::parse(name).map_err(|fault| invalid("label", label, fault))?
        }
        (None, Some(account)) => account.clone(),
        (None, None) => login_name("--as LABEL")?,
    };
    let account = match account {
        Some(name) => Some((name.clone(), say_password(args, &name).await?)),
        None => None,
    };
    let tls = args.tls.open(false).map_err(|problem| (Exit::Usage, problem))?;
    let endpoint = args.host.with_default_port(args.port);
    let (room, text) = (args.room.clone(), args.text.clone());
    let (retry_for, ping_after) = (args.retry_for, args.ping_after);
    Ok(say::Task { endpoint, tls, room, label, account, text, retry_for, ping_after })
}

async fn say_password(args: &SayArgs, name: &Name) -> Result<Password, (Exit, String)> {
    let given = read_password(&args.password).await.map_err(|problem| (Exit::Usage, problem))?;
    match given {
        Some(password) => Ok(password),
        None if is_on_terminal() => Password::ask(name.as_str(), "")
            .await
            .map_err(|exit| (exit, "nothing is posted: no password given".to_owned())),
        None => {
            let why = format!("the account {name} needs its password{PASSWORD_HINT}");
            Err((Exit::NameRefused, why))
        }
    }
}

async fn join(args: &JoinArgs, identity: &Identity) -> Exit {
    // Before the login: afterwards the server reserves our name until we log out.
    let listening = Signals::listen().and_then(|signals| {
        if !args.is_interactive() {
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
    if args.is_interactive() {
        let words = Highlights::new(&args.highlight);
        let theme = Theme::new(args.color, args.color_seed);
        let setup = Setup {
            screen: Screen::new(theme, args.times, args.group_names, words.clone()),
            attention: Notifier::new(args.notify.clone(), words.clone(), !args.no_title),
            history: History::new(!args.no_history),
            joins: args.joins,
            words,
            settings_file: settings_file(args),
        };
        terminal::interactive::run(session, setup, signals).await
    } else {
        let room = identity.rooms.first().map_or_else(RoomName::lobby, Clone::clone);
        let task = Task {
            lines: args.exec.clone(),
            reads_input: args.reads_input(),
            raw_room: args.raw.then_some(room),
            form: form(args),
            extent: extent(args),
            wait: args.wait.unwrap_or_default(),
            is_quiet: args.quiet,
        };
        script::piped::run(session, task, signals).await
    }
}

/// Returns the settings file, for the user.
fn settings_file(args: &JoinArgs) -> Option<String> {
    let file = args.config.clone().or_else(config::default_file);
    file.map(|file| file.display().to_string())
}

/// Returns which lines the piped mode writes.
fn extent(args: &JoinArgs) -> Extent {
    if args.listen {
        Extent::All
    } else if args.quiet && !args.json {
        Extent::Nothing
    } else if !args.exec.is_empty() && args.wait.is_none() {
        Extent::Answers
    } else {
        Extent::All
    }
}

/// Returns the output format of the piped mode.
fn form(args: &JoinArgs) -> Form {
    let theme = Theme::new(args.color, args.color_seed);
    if args.json {
        Form::Json
    } else if args.reads_input()
        && args.input.is_none()
        && std::io::stdin().is_terminal()
        && std::io::stdout().is_terminal()
    {
        let bell = (args.notify != NotifyMethod::Off).then(|| Highlights::new(&args.highlight));
        Form::Typed(theme, Typing { has_times: args.times != Times::Never, bell })
    } else if theme.has_color() || std::io::stdout().is_terminal() {
        Form::Shown(theme)
    } else {
        Form::Plain
    }
}

/// Returns the name and the first rooms. The name is validated before anything is sent, so that
/// it cannot inject another line.
fn identity(args: &JoinArgs) -> Result<Identity, (Exit, String)> {
    let name = match args.name.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => read_name(name).map_err(|fault| {
            let problem =
                format!("\"{name}\" is not a valid name: {fault}; choose another with --name NAME");
            (Exit::NameRefused, problem)
        })?,
        None => login_name("--name NAME")?,
    };
    Ok(Identity { name, rooms: args.room.clone() })
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

/// Returns the login name of the user; `option` sets another one.
fn login_name(option: &str) -> Result<Name, (Exit, String)> {
    let from_environment = |key: &&str| env::var(key).ok().filter(|name| !name.is_empty());
    let found = ["USER", "LOGNAME"].iter().find_map(from_environment);
    let from_user_database = || User::from_uid(getuid()).ok().flatten().map(|user| user.name);
    let Some(name) = found.or_else(from_user_database) else {
        return Err((Exit::Usage, format!("cannot determine your name; use {option}")));
    };
    read_name(&name).map_err(|_| {
        let problem = format!(
            "your login name \"{name}\" is not a valid chat name; choose one with {option}"
        );
        (Exit::Usage, problem)
    })
}
