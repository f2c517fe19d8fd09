//! The layers of the arguments of `chatty join`: its settings file, and how its two positions
//! and its two ports relate. `src/config.rs` holds what is not specific to `join`.

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

use super::arguments::JoinArgs;
use crate::config::{base_folder, with_settings};

/// Returns `chatty join` with the settings of its file as its defaults. `given` is the
/// command line parsed without them.
///
/// # Errors
/// The problems for the user, with the name of the file and the line.
pub fn configured(join: Command, given: &ArgMatches) -> Result<Command, Vec<String>> {
    let folder = base_folder("XDG_CONFIG_HOME", ".config");
    let file = folder.map(|folder| folder.join("chatty/config.toml"));
    Ok(with_stdin_marker(with_settings(join, given, file, &["input"])?, given))
}

/// Handles `chatty join -`, where the dash is not the host: swaps the two positions, so
/// that the host comes from its variable, the file or its default.
fn with_stdin_marker(join: Command, given: &ArgMatches) -> Command {
    let is_given = given.value_source("host") == Some(ValueSource::CommandLine);
    let mut host = given.get_raw("host").into_iter().flatten();
    if is_given && host.any(|host| host == "-") {
        return join.mut_arg("input", |arg| arg.index(1)).mut_arg("host", |arg| arg.index(2));
    }
    join
}

impl JoinArgs {
    /// Drops the port in HOST if `--port` comes from a higher layer.
    pub fn drop_overridden_port(&mut self, given: &ArgMatches) {
        if given.value_source("port") > given.value_source("host") {
            self.address.drop_port();
        }
    }
}
