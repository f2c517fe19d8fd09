//! chatty's command line: flags in, an exit code out. What the flags mean is the
//! business of `server` and `client`.

use std::io::Write as _;
use std::process::ExitCode;

use chatty::client::{self, JoinArgs};
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
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Serve(args) => server::run(args),
        Command::Join(args) => return client::run(&args).into(),
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
