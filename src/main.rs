//! chatty's command line: flags in, an exit code out. What the flags mean is the
//! business of `server` and `client`.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use chatty::client::{self, JoinArgs};
use chatty::server::passwords;
use chatty::server::{self, ServeArgs};
use clap::{Parser, Subcommand};

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
}

/// From the terminal, or the first line of what comes in.
fn hash_password() -> anyhow::Result<()> {
    let password = client::new_password()?;
    let hash = passwords::hash(&password).context("cannot make a hash")?;
    writeln!(std::io::stdout(), "{hash}").context("cannot write the hash")
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Serve(args) => server::run(args),
        Command::Join(args) => return client::run(&args).into(),
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
