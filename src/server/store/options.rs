//! The storage options: the folder of the log, its durability and its retention.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use crate::config::{base_folder, parse_switch};
use crate::protocol::units::parse_duration;
use crate::server::store::Snapshot;
use crate::server::store::sqlite::{Durability, Options, Retention, SqliteLog};

/// The options of message storage.
#[derive(Debug, Args)]
#[command(next_help_heading = "Storage")]
pub struct StorageArgs {
    /// Folder for messages and accounts; only one server can use it at a time
    ///
    /// By default each port has a folder in the user's data folder:
    /// ~/.local/share/chatty/5555. With --port 0 and without this option nothing is stored.
    #[arg(long, value_name = "DIR", env = "CHATTY_DATA", conflicts_with = "ephemeral")]
    data: Option<PathBuf>,

    /// Keep messages in memory only; they are lost when the server stops
    #[arg(long, env = "CHATTY_EPHEMERAL", value_parser = parse_switch)]
    ephemeral: bool,

    /// When a message is considered stored
    #[arg(long, value_enum, default_value_t = Durability::Commit, env = "CHATTY_DURABILITY")]
    durability: Durability,

    /// Delete messages older than this number of days
    #[arg(long, value_name = "DAYS", env = "CHATTY_KEEP_DAYS", value_parser = parse_days)]
    keep_days: Option<Duration>,

    /// Delete the oldest messages beyond this number
    #[arg(long, value_name = "MESSAGES", env = "CHATTY_KEEP_MESSAGES")]
    keep_messages: Option<u64>,
}

impl StorageArgs {
    /// Returns the folder of a server on `port`, or `None` if messages are kept in memory only.
    ///
    /// # Errors
    /// Neither `XDG_DATA_HOME` nor `HOME` is an absolute path.
    pub fn folder(&self, port: u16) -> anyhow::Result<Option<PathBuf>> {
        match &self.data {
            _ if self.ephemeral => Ok(None),
            Some(folder) => Ok(Some(folder.clone())),
            // The port differs at each start, so the log could not be found again.
            None if port == 0 => Ok(None),
            None => Ok(Some(data_home()?.join("chatty").join(port.to_string()))),
        }
    }

    /// Opens the log in a folder; returns it with the stored server state.
    ///
    /// # Errors
    /// The folder or its database cannot be used.
    pub fn open(&self, folder: &Path) -> anyhow::Result<(SqliteLog, Snapshot)> {
        let retention = Retention { age: self.keep_days, messages: self.keep_messages };
        let options = Options { durability: self.durability, retention };
        SqliteLog::open(folder, options)
    }
}

fn data_home() -> anyhow::Result<PathBuf> {
    base_folder("XDG_DATA_HOME", ".local/share")
        .context("cannot find a home folder for the messages; use --data DIR or --ephemeral")
}

fn parse_days(text: &str) -> Result<Duration, String> {
    parse_duration(&format!("{text}d")).map_err(|_| format!("\"{text}\" is not a number of days"))
}
