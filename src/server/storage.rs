//! Where the log is kept and for how long: the flags, and the folder they mean.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use super::log::Snapshot;
use super::log::sqlite::{Durability, Options, Retention, SqliteLog};
use crate::protocol::units::{parse_duration, parse_switch};

/// What can be told about keeping messages.
#[derive(Debug, Args)]
#[command(next_help_heading = "Storage")]
pub struct StorageArgs {
    /// Folder for the log; one server at a time
    ///
    /// Without it the log lies in the user's data folder, one for each port:
    /// ~/.local/share/chatty/5555. With --port 0 and no folder nothing is kept.
    #[arg(long, value_name = "DIR", env = "CHATTY_DATA", conflicts_with = "ephemeral")]
    data: Option<PathBuf>,

    /// Keep nothing: what was said ends with the server
    #[arg(long, env = "CHATTY_EPHEMERAL", value_parser = parse_switch)]
    ephemeral: bool,

    /// When a message counts as safe, and is shown
    #[arg(long, value_enum, default_value_t = Durability::Commit, env = "CHATTY_DURABILITY")]
    durability: Durability,

    /// Forget messages older than so many days
    #[arg(long, value_name = "DAYS", env = "CHATTY_KEEP_DAYS", value_parser = parse_days)]
    keep_days: Option<Duration>,

    /// Forget all but so many of the latest messages
    #[arg(long, value_name = "MESSAGES", env = "CHATTY_KEEP_MESSAGES")]
    keep_messages: Option<u64>,
}

impl StorageArgs {
    /// The folder of a server that was told to listen on `port`; `None` if nothing
    /// is to be kept.
    ///
    /// # Errors
    /// There is no home to keep it in.
    pub fn folder(&self, port: u16) -> anyhow::Result<Option<PathBuf>> {
        match &self.data {
            _ if self.ephemeral => Ok(None),
            Some(folder) => Ok(Some(folder.clone())),
            // Another port each time: nobody could come back to that log.
            None if port == 0 => Ok(None),
            None => Ok(Some(data_home()?.join("chatty").join(port.to_string()))),
        }
    }

    /// Opens the log in this folder, with what is in it.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub fn open(&self, folder: &Path) -> anyhow::Result<(SqliteLog, Snapshot)> {
        let retention = Retention { age: self.keep_days, messages: self.keep_messages };
        let options = Options { durability: self.durability, retention };
        SqliteLog::open(folder, options)
    }
}

/// The user's data folder, by the XDG base directory rules.
fn data_home() -> anyhow::Result<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .context("there is no home to keep the log in; say where with --data DIR, or --ephemeral")
}

fn parse_days(text: &str) -> Result<Duration, String> {
    parse_duration(&format!("{text}d")).map_err(|_| format!("\"{text}\" is no number of days"))
}
