//! chatty's command line: flags in, an exit code out. What the flags mean is the
//! business of `server` and `client`.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use chatty::client::{self, Exit, JoinArgs};
use chatty::server::passwords;
use chatty::server::{self, ServeArgs};
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use clap_complete::Shell;
use clap_mangen::Man;

/// A chat you start with one command and can talk to with netcat.
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
  chatty serve --port 0             on any free port; the first line says which
  nc localhost 5555                 talk to it without a client

Exit codes: 0 told to stop (SIGTERM, SIGINT), 1 cannot listen, 2 usage")]
    Serve(ServeArgs),
    // Its help is written beside its flags.
    Join(JoinArgs),
    /// Make a password's hash for a file of the server
    #[command(after_help = "Examples:
  chatty hash-password > oper.hash                    asks twice, without showing it
  chatty hash-password < password > oper.hash         takes the first line
  chatty serve --oper-password-file oper.hash

Exit codes: 0 done, 1 no password")]
    HashPassword,
    /// Write the completions for a shell, to be sourced by it
    #[command(hide = true)]
    Completions {
        shell: Shell,
    },
    /// Write the manual page, or that of one command
    #[command(hide = true)]
    Man {
        #[arg(value_parser = ["serve", "join", "hash-password"])]
        command: Option<String>,
    },
}

/// From the terminal, or the first line of what comes in.
fn hash_password() -> anyhow::Result<()> {
    let password = client::new_password()?;
    let hash = passwords::hash(&password).context("cannot make a hash")?;
    writeln!(io::stdout(), "{hash}").context("cannot write the hash")
}

fn main() -> ExitCode {
    let cli = match parse() {
        Ok(cli) => cli,
        Err(problem) => {
            let _ = writeln!(io::stderr(), "chatty: {problem}");
            return Exit::Usage.into();
        }
    };
    let result = match cli.command {
        Command::Serve(args) => server::run(args),
        Command::Join(args) => return client::run(&args).into(),
        Command::Completions { shell } => write_out(&completions(shell)).map_err(Into::into),
        Command::Man { command } => manual(command.as_deref()).map_err(Into::into),
        Command::HashPassword => hash_password(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, from what was wanted down to what went wrong.
            let _ = writeln!(std::io::stderr(), "chatty: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The command line, over the settings file of `join`. Does not come back from a
/// command line that makes no sense.
fn parse() -> Result<Cli, String> {
    let mut cli = Cli::command();
    let mut matches = cli.clone().get_matches();
    if let Some(given) = matches.subcommand_matches("join")
        && let Some(join) = cli.find_subcommand_mut("join")
    {
        *join = client::configured(join.clone(), given)?;
        matches = cli.get_matches();
    }
    Cli::from_arg_matches(&matches).map_err(|problem| problem.to_string())
}

fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "chatty", &mut script);
    script
}

fn manual(command: Option<&str>) -> io::Result<()> {
    let mut cli = Cli::command();
    cli.build(); // a subcommand then knows that its page is chatty-join(1)
    let cli = cli.mut_subcommand("help", |help| help.hide(true)); // has no page
    let page = command.and_then(|name| cli.find_subcommand(name)).unwrap_or(&cli).clone();
    let mut text = Vec::new();
    Man::new(page).render(&mut text)?;
    write_out(&text)
}

/// Writes everything; a reader who has seen enough of it is no error.
fn write_out(text: &[u8]) -> io::Result<()> {
    let written = io::stdout().write_all(text);
    written.or_else(|e| if e.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(e) })
}
