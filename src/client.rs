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
mod script;
mod session;
mod start;
mod terminal;
mod text;

use std::env;
use std::io::IsTerminal as _;

use nix::unistd::{User, getuid};

use crate::protocol::name::{NameFault, RESERVED};
use crate::protocol::{Key, Name, RoomName};
pub use arguments::JoinArgs;
pub use config::configured;
use model::mentions::Highlights;
pub use process::exit::Exit;
use process::signals::Signals;
use script::output::Form;
use script::piped::Task;
use session::login::Identity;
pub use session::password::new_password;
use start::{Failure, start_session};
use terminal::history::History;
use terminal::interactive::Setup;
use terminal::notify::Notifier;
use terminal::screen::Screen;
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
        };
        terminal::interactive::run(session, setup, signals).await
    } else {
        let room = identity.rooms.first().map_or_else(RoomName::lobby, Clone::clone);
        let task = Task {
            lines: args.exec.clone(),
            reads_input: args.reads_input(),
            raw_room: args.raw.then_some(room),
            form: form(args),
            wait: args.wait.unwrap_or_default(),
            is_quiet: args.quiet,
        };
        script::piped::run(session, task, signals).await
    }
}

/// Returns the output format of the piped mode.
fn form(args: &JoinArgs) -> Form {
    let theme = Theme::new(args.color, args.color_seed);
    if args.json {
        Form::Json
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
        None => login_name()?,
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
