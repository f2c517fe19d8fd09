//! The command line of chatty: parses flags and environment, runs a command and returns its
//! exit code. It does not know what the flags mean; `server` and `client` do.

mod manual;

use std::env;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use chatty::client::{self, Exit, JoinArgs, SayArgs};
use chatty::config;
use chatty::server::auth::passwords;
use chatty::server::{self, ServeArgs};
use chatty::stdio;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use clap_complete::Shell;

/// A chat server and client for the terminal that also works with netcat.
#[derive(Debug, Parser)]
#[command(version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a server
    #[command(after_help = "Examples:
  chatty serve                      for this machine only
  chatty serve --bind 0.0.0.0       for the network
  chatty serve --port 0             on any free port; the first line shows it
  nc localhost 5555                 talk to it without a client

Signals: SIGTERM and SIGINT stop the server, SIGHUP reloads its TLS certificate

Exit codes: 0 stopped by SIGTERM or SIGINT, 1 cannot listen or store, 2 usage")]
    Serve(ServeArgs),
    // Its help is defined with its flags.
    Join(JoinArgs),
    // So is its help.
    Say(SayArgs),
    /// Hash a password for a password file of the server
    #[command(after_help = "Examples:
  chatty hash-password > oper.hash                    asks twice, without showing it
  chatty hash-password < password > oper.hash         reads the first line
  chatty serve --oper-password-file oper.hash

Exit codes: 0 done, 1 no password")]
    HashPassword,
    /// Print the completion script for a shell
    #[command(hide = true)]
    Completions {
        shell: Shell,
    },
    /// Print the manual page of chatty or of a command
    #[command(hide = true)]
    Man {
        #[arg(value_parser = ["serve", "join", "say", "hash-password"])]
        command: Option<String>,
    },
}

/// Hashes a password from the terminal or from the first line of standard input.
fn hash_password() -> anyhow::Result<()> {
    let password = client::new_password()?;
    let hash = passwords::hash(&password).context("cannot hash the password")?;
    stdio::stdout().write_all(format!("{hash}\n").as_bytes()).context("cannot write the hash")
}

fn main() -> ExitCode {
    let cli = match parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let result = match cli.command {
        Command::Serve(args) => server::run(args),
        Command::Join(args) => return client::run(&args).into(),
        Command::Say(args) => return client::say(&args).into(),
        Command::Completions { shell } => print_stdout(&completions(shell)).map_err(Into::into),
        Command::Man { command } => print_manual(command.as_deref()).map_err(Into::into),
        Command::HashPassword => hash_password(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A single line, from the operation to the cause.
            stdio::print_error(&format!("chatty: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Parses the command line. For `join` the settings file provides defaults. A problem is
/// printed, and so is the help.
fn parse() -> Result<Cli, ExitCode> {
    let answer = |error: clap::Error| print_answer(&error);
    let mut cli = config::without_overridden_variables(Cli::command());
    let mut matches = cli.clone().try_get_matches().map_err(answer)?;
    if let Some(given) = matches.subcommand_matches("join")
        && let Some(join) = cli.find_subcommand_mut("join")
    {
        *join = client::configured(join.clone(), given).map_err(|problems| {
            for problem in &problems {
                config::print_problem(problem);
            }
            Exit::Usage
        })?;
        matches = cli.try_get_matches().map_err(answer)?;
    }
    let mut cli = Cli::from_arg_matches(&matches).map_err(answer)?;
    if let (Command::Join(args), Some((_, given))) = (&mut cli.command, matches.subcommand()) {
        args.settle_host(given);
    }
    Ok(cli)
}

/// Prints clap's output, the help or an error. Clap's own printing fails if the stream is
/// non-blocking and full.
fn print_answer(answer: &clap::Error) -> ExitCode {
    let is_terminal =
        if answer.use_stderr() { io::stderr().is_terminal() } else { io::stdout().is_terminal() };
    let is_set = |variable| env::var_os(variable).is_some_and(|value| !value.is_empty());
    let has_color =
        is_terminal && !is_set("NO_COLOR") && env::var_os("TERM") != Some("dumb".into());
    let text = answer.render();
    let text = if has_color { text.ansi().to_string() } else { text.to_string() };
    if answer.use_stderr() {
        let _ = stdio::stderr().write_all(text.as_bytes());
        return Exit::Usage.into();
    }
    match print_stdout(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            stdio::print_error(&format!("chatty: cannot write: {}", stdio::reason(&problem)));
            ExitCode::FAILURE
        }
    }
}

fn completions(shell: Shell) -> Vec<u8> {
    let (cli, mut script) = (Cli::command(), Vec::new());
    // clap_complete would offer hidden commands and arguments, too.
    let shown = |command: &clap::Command| {
        let about = command.get_about().cloned().unwrap_or_default();
        let args = command.get_arguments().filter(|arg| !arg.is_hide_set()).cloned();
        clap::Command::new(command.get_name().to_owned()).about(about).args(args)
    };
    let commands = cli.get_subcommands().filter(|command| !command.is_hide_set());
    let mut cli = shown(&cli).version(env!("CARGO_PKG_VERSION")).subcommands(commands.map(shown));
    clap_complete::generate(shell, &mut cli, "chatty", &mut script);
    script
}

fn print_manual(command: Option<&str>) -> io::Result<()> {
    let mut cli = Cli::command();
    cli.build(); // sets the page names of subcommands, like chatty-join(1)
    let cli = cli.mut_subcommand("help", |help| help.hide(true)); // has no page
    let page = command.and_then(|name| cli.find_subcommand(name)).unwrap_or(&cli).clone();
    print_stdout(&manual::render(page)?)
}

/// Writes to standard output. A closed pipe is not an error, so that `| head` works.
fn print_stdout(text: &[u8]) -> io::Result<()> {
    let written = stdio::stdout().write_all(text);
    written.or_else(|e| if e.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(e) })
}
