//! The layers of the arguments of `chatty join`: its settings file, and how its two positions
//! and its two ports relate. `src/config.rs` holds what is not specific to `join`.

use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

use super::arguments::JoinArgs;
use crate::config::{base_folder, with_settings};

/// The arguments for the server: as given, and the one that a saved server sets.
const HOST: &str = "host";
const SAVED_HOST: &str = "saved-host";

/// Returns `chatty join` with the settings of its file as its defaults. `given` is the
/// command line parsed without them.
///
/// # Errors
/// The problems for the user, with the name of the file and the line.
pub fn configured(join: Command, given: &ArgMatches) -> Result<Command, Vec<String>> {
    let configured = with_settings(join, given, default_file(), &["input"], HOST)?;
    let mut join = configured.command;
    // The name may have been given as HOST: the host of the saved server replaces it.
    if let Some(host) = default_of(&join, HOST).filter(|_| configured.has_group) {
        join = join.mut_arg(SAVED_HOST, |arg| arg.default_value(host));
    }
    Ok(with_stdin_marker(join, given))
}

fn default_of(command: &Command, id: &str) -> Option<String> {
    let arg = command.get_arguments().find(|arg| arg.get_id() == id)?;
    arg.get_default_values().first()?.to_str().map(str::to_owned)
}

/// Returns the settings file that is read without `--config`.
pub(super) fn default_file() -> Option<PathBuf> {
    let folder = base_folder("XDG_CONFIG_HOME", ".config");
    folder.map(|folder| folder.join("chatty/config.toml"))
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
    /// Replaces the name of a saved server by its host, and drops the port in HOST if `--port`
    /// comes from a higher layer.
    pub fn settle_host(&mut self, given: &ArgMatches) {
        if let Some(saved) = self.saved_host.take() {
            self.address = saved;
            if given.value_source("port") > Some(ValueSource::DefaultValue) {
                self.address.drop_port();
            }
            return;
        }
        if given.value_source("port") > given.value_source("host") {
            self.address.drop_port();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::builder::Resettable;
    use clap::{Args as _, FromArgMatches as _};

    use super::*;

    /// Parses these arguments of `chatty join` with a settings file, without any variable.
    fn join(settings: &str, args: &[&str]) -> JoinArgs {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("settings");
        fs::write(&file, settings).unwrap();
        let args = [&["--config", file.to_str().unwrap()], args].concat();
        let join = JoinArgs::augment_args(Command::new("join")).no_binary_name(true);
        let join = join.mut_args(|arg| arg.env(Resettable::Reset));
        let given = join.clone().try_get_matches_from(&args).unwrap();
        let matches = configured(join, &given).unwrap().try_get_matches_from(&args).unwrap();
        let mut join = JoinArgs::from_arg_matches(&matches).unwrap();
        join.settle_host(&matches);
        join
    }

    fn server(settings: &str, args: &[&str]) -> String {
        let join = join(settings, args);
        join.address.with_default_port(join.port).to_string()
    }

    #[test]
    fn port_option_overrides_port_of_host_from_a_lower_layer() {
        for (settings, args, expected) in [
            ("", &[][..], "localhost:5555"),
            ("host = 'a:1'", &[], "a:1"),
            ("host = 'a:1'", &["--port", "2"], "a:2"),
            ("host = '[::1]:1'", &["--port", "2"], "[::1]:2"),
            ("host = 'a:1'", &["b"], "b:5555"),
            ("host = 'a'\nport = 3", &[], "a:3"),
            ("host = 'a:1'\nport = 3", &[], "a:1"),
            ("port = 3", &["a"], "a:3"),
            ("port = 3", &["a:1"], "a:1"),
            ("", &["a:1", "--port", "2"], "a:1"),
        ] {
            assert_eq!(server(settings, args), expected, "{settings:?} {args:?}");
        }
    }

    #[test]
    fn saved_server_is_chosen_by_its_name() {
        let settings = "host = 'home'\nname = 'al'\nport = 3\n[server.work]\nhost = 'a:1'\n\
                        name = 'alice'\n[server.home]\nhost = 'b'\nport = 2\n[server.\"c.d\"]\n\
                        name = 'carol'";
        for (args, expected, name) in [
            (&["work"][..], "a:1", "alice"),
            (&[], "b:2", "al"),
            (&["home"], "b:2", "al"),
            (&["-"], "b:2", "al"),
            (&["work", "-"], "a:1", "alice"),
            (&["work", "--port", "9"], "a:9", "alice"),
            (&["work", "--name", "x"], "a:1", "x"),
            (&["c.d"], "c.d:3", "carol"),
            (&["elsewhere"], "elsewhere:3", "al"),
        ] {
            assert_eq!(server(settings, args), expected, "{args:?}");
            assert_eq!(join(settings, args).name.as_deref(), Some(name), "{args:?}");
        }
    }

    #[test]
    fn dash_is_the_input_and_leaves_the_host_to_the_file() {
        let settings = "host = 'a:1'";
        for (args, expected) in
            [(&["-"][..], "a:1"), (&["-", "--port", "2"], "a:2"), (&["b", "-"], "b:5555")]
        {
            assert_eq!(server(settings, args), expected, "{args:?}");
            assert_eq!(join(settings, args).input.as_deref(), Some("-"), "{args:?}");
        }
        assert_eq!(join(settings, &["b"]).input, None);
    }

    #[test]
    fn input_argument_is_not_a_setting() {
        let join = join("input = '-'\nname = 'alice'\nwait = 'inf'", &[]);
        assert_eq!((join.input, join.name.as_deref()), (None, Some("alice")));
        assert_eq!(join.wait, Some(std::time::Duration::MAX));
    }
}
