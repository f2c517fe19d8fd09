//! Options in layers: the command line overrides the environment, the environment overrides
//! the settings file, and the file overrides the defaults. The keys of the file are the long
//! names of the options, so there is no separate list. Also the types of values that options
//! share, and the folders of a user's files. It does not know what an option means.

use std::env;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, Id, value_parser};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::protocol::text::{clean, nearest};
use crate::protocol::units::split_unit;
use crate::{stdio, text_file};

/// The argument that names the settings file.
const FILE: &str = "config";

/// Ignores environment variables that are empty, and those of options that conflict with an
/// option on the command line.
#[must_use]
pub fn without_overridden_variables(mut cli: Command) -> Command {
    // Errors are reported by the actual parsing, after this. Values are not parsed here: a
    // parser may read a file, which can be a pipe.
    let unparsed = |arg: Arg| {
        let has_value = arg.get_action().takes_values();
        if has_value { arg.value_parser(value_parser!(OsString)) } else { arg }
    };
    let any = cli.clone().mut_subcommands(|command| command.mut_args(unparsed));
    let Ok(matches) = any.ignore_errors(true).try_get_matches() else { return cli };
    let Some((name, given)) = matches.subcommand() else { return cli };
    let Some(command) = cli.find_subcommand_mut(name) else { return cli };
    let all = command.clone();
    *command = all.clone().mut_args(|arg| {
        let is_empty = arg.get_env().and_then(env::var_os).is_some_and(|value| value.is_empty());
        let is_ignored = is_empty || is_overridden(&all, &arg, given, ValueSource::CommandLine);
        if is_ignored { arg.env(Resettable::Reset) } else { arg }
    });
    cli
}

/// Whether an option conflicts with one that is set in the layer `lowest` or above.
fn is_overridden(command: &Command, arg: &Arg, given: &ArgMatches, lowest: ValueSource) -> bool {
    let is_set = |other: &Id| given.value_source(other.as_str()) >= Some(lowest);
    conflicting(command, arg).iter().any(is_set)
}

/// The table of a settings file that holds named groups of settings, like `[server.work]`.
const GROUPS: &str = "server";

/// Headings of options without which the command does the same: it goes on if their value in the
/// file is invalid. With another option it might connect elsewhere, or without encryption.
const HARMLESS: [&str; 2] = ["Display", "Prompt"];

/// A command whose defaults are the settings of a file.
#[derive(Debug)]
pub struct Configured {
    /// The command.
    pub command: Command,
    /// Whether a group of settings was chosen, whose name the chooser may still have.
    pub has_group: bool,
}

/// Returns a command with the settings of its file as its defaults. The file is the one that
/// `--config` names, or else `default`. `given` is the command line parsed without it, and
/// `excluded` the arguments that are not settings. The settings of the group that the argument
/// `chooser` names override those outside of groups.
///
/// # Errors
/// The problems for the user, with the name of the file and the line.
pub fn with_settings(
    command: Command,
    given: &ArgMatches,
    default: Option<PathBuf>,
    excluded: &[&str],
    chooser: &str,
) -> Result<Configured, Vec<String>> {
    let file = read(given, default).map_err(|problem| vec![problem])?;
    let Some((path, text)) = file else { return Ok(Configured { command, has_group: false }) };
    let place = |at: usize| {
        let line = text[..at].bytes().filter(|&byte| byte == b'\n').count() + 1;
        format!("{}:{line}", path.display())
    };
    let table = DeTable::parse(&text).map_err(|problem| {
        let at = problem.span().map_or(0, |span| span.start.min(text.len()));
        vec![format!("{}: {}", place(at), problem.message())]
    })?;
    let mut settings = Settings { command, given, excluded, place: &place, problems: Vec::new() };
    settings.apply(table.get_ref());
    let group = settings.chosen(table.get_ref(), chooser);
    if let Some((name, table)) = &group {
        // A group without the setting has it as its name.
        let name = name.clone();
        settings.command = settings.command.mut_arg(chooser, |arg| arg.default_value(name));
        settings.apply(table);
    }
    let Settings { command, problems, .. } = settings;
    let has_group = group.is_some();
    if problems.is_empty() { Ok(Configured { command, has_group }) } else { Err(problems) }
}

/// The settings of a file on their way into a command.
struct Settings<'a> {
    command: Command,
    given: &'a ArgMatches,
    excluded: &'a [&'a str],
    /// Returns the name of the file and the line of an offset.
    place: &'a dyn Fn(usize) -> String,
    problems: Vec<String>,
}

impl Settings<'_> {
    /// Sets the defaults of the options in a table, in the order of the file.
    fn apply(&mut self, table: &DeTable<'_>) {
        let mut settings: Vec<_> = table.iter().collect();
        settings.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in settings {
            let (place, name) = ((self.place)(key.span().start), key.get_ref().as_ref());
            if name != GROUPS {
                self.set(name, value.get_ref(), &place);
            } else if groups(value.get_ref()).is_none() {
                let problem = format!("{name}: must be tables like [{GROUPS}.work]");
                self.problems.push(format!("{place}: {problem}"));
            }
        }
    }

    fn set(&mut self, name: &str, value: &DeValue<'_>, place: &str) {
        let is_named = |arg: &&Arg| key_of(arg, self.excluded) == Some(name);
        let Some(arg) = self.command.get_arguments().find(is_named) else {
            let problem = unknown(&self.command, self.excluded, name);
            return print_problem(&format!("{place}: {problem}"));
        };
        match values(arg, value).and_then(|values| check(&self.command, arg, values)) {
            Err(why) if arg.get_help_heading().is_some_and(|it| HARMLESS.contains(&it)) => {
                print_problem(&format!("{place}: {name}: {why} (ignored)"));
            }
            Err(why) => self.problems.push(format!("{place}: {name}: {why}")),
            Ok(_) if is_overridden(&self.command, arg, self.given, ValueSource::EnvVariable) => {}
            Ok(values) => {
                let (id, others) = (arg.get_id().clone(), conflicting(&self.command, arg));
                let mut command = std::mem::take(&mut self.command);
                // A setting outside of groups that this one replaces.
                for other in others {
                    command = command.mut_arg(other, |arg| arg.default_values(Vec::<&str>::new()));
                }
                self.command = command.mut_arg(id, |arg| arg.default_values(values));
            }
        }
    }

    /// Returns the name and the table of the group that an argument names.
    fn chosen<'t>(
        &self,
        table: &'t DeTable<'t>,
        chooser: &str,
    ) -> Option<(String, &'t DeTable<'t>)> {
        let groups = groups(table.get(GROUPS)?.get_ref())?;
        let is_given = self.given.value_source(chooser) >= Some(ValueSource::EnvVariable);
        let raw = self.given.get_raw(chooser).into_iter().flatten().next();
        let name = match raw.filter(|_| is_given).and_then(|raw| raw.to_str()) {
            // `chatty join -`, where the dash is no host.
            Some("-") | None => table.get(chooser)?.get_ref().as_str()?,
            Some(name) => name,
        };
        let (_, group) = groups.iter().find(|(key, _)| key.get_ref() == name)?;
        Some((name.to_owned(), group.get_ref().as_table()?))
    }
}

/// Returns the named groups of settings; `None` if the value is none.
fn groups<'t>(value: &'t DeValue<'t>) -> Option<&'t DeTable<'t>> {
    let groups = value.as_table()?;
    groups.iter().all(|(_, group)| group.get_ref().as_table().is_some()).then_some(groups)
}

/// Returns the options that conflict with this one, in either direction.
fn conflicting(command: &Command, arg: &Arg) -> Vec<Id> {
    let named = |one: &Arg, other: &Arg| {
        command.get_arg_conflicts_with(one).iter().any(|found| found.get_id() == other.get_id())
    };
    let others = command.get_arguments().filter(|other| named(arg, other) || named(other, arg));
    others.map(|other| other.get_id().clone()).collect()
}

/// Reads the settings file. A default file that cannot be reached is not an error.
fn read(given: &ArgMatches, default: Option<PathBuf>) -> Result<Option<(PathBuf, String)>, String> {
    let named = given.get_one::<PathBuf>(FILE).cloned();
    let is_named = named.is_some();
    let Some(path) = named.or(default) else { return Ok(None) };
    match text_file::read(&path) {
        Ok(text) => Ok(Some((path, text))),
        Err(problem) if !is_named && is_out_of_reach(&problem) => {
            if path.symlink_metadata().is_ok() {
                print_problem(&format!("ignoring {}: {problem}", path.display()));
            }
            Ok(None)
        }
        Err(problem) => Err(format!("cannot read the settings in {}: {problem}", path.display())),
    }
}

/// Whether the file does not exist or cannot be reached, e.g. with HOME=/dev/null.
fn is_out_of_reach(problem: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(problem.kind(), K::NotFound | K::NotADirectory | K::PermissionDenied)
}

/// Writes a problem of the settings to standard error, without the control characters that the
/// file may contain.
pub fn print_problem(problem: &str) {
    stdio::print_error(&format!("chatty: {}", clean(problem)));
}

/// Returns the key of an argument in the file, if it is a setting.
fn key_of<'a>(arg: &'a Arg, excluded: &[&str]) -> Option<&'a str> {
    let id = arg.get_id().as_str();
    let is_setting = id != FILE && !excluded.contains(&id) && !arg.is_hide_set();
    is_setting.then(|| arg.get_long().unwrap_or(id))
}

fn unknown(command: &Command, excluded: &[&str], name: &str) -> String {
    let keys: Vec<&str> = command.get_arguments().filter_map(|arg| key_of(arg, excluded)).collect();
    match nearest(name, keys.iter().copied()) {
        Some(near) => format!("unknown setting \"{name}\"; did you mean \"{near}\"?"),
        None => format!("unknown setting \"{name}\"; known settings: {}", keys.join(", ")),
    }
}

/// Converts a value of the file to the values of its option.
fn values(arg: &Arg, value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let is_switch = !arg.get_action().takes_values();
    match value {
        DeValue::Boolean(is_on) if is_switch => Ok(vec![is_on.to_string()]),
        _ if is_switch => Err("must be true or false".to_owned()),
        DeValue::Array(items) => {
            let items: Result<Vec<_>, _> = items.iter().map(Spanned::get_ref).map(scalar).collect();
            if matches!(arg.get_action(), ArgAction::Append) {
                return items;
            }
            // A program and its arguments, in the JSON form that the option accepts.
            Ok(vec![serde_json::to_string(&items?).map_err(|problem| problem.to_string())?])
        }
        _ => Ok(vec![scalar(value)?]),
    }
}

fn scalar(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) => Ok(number.to_string()),
        DeValue::Boolean(is_on) => Ok(is_on.to_string()),
        other => Err(format!("{} is not allowed here", other.type_str())),
    }
}

/// Validates the values with the parser of the option.
fn check(command: &Command, arg: &Arg, values: Vec<String>) -> Result<Vec<String>, String> {
    if !arg.get_action().takes_values() {
        return Ok(values);
    }
    for value in &values {
        let line = match arg.get_long() {
            Some(long) => vec![format!("--{long}={value}")],
            None => vec!["--".to_owned(), value.clone()],
        };
        // Alone: a variable may conflict with the option.
        let alone = command.clone().mut_args(|arg| arg.env(Resettable::Reset));
        let parsed = alone.no_binary_name(true).try_get_matches_from(line);
        parsed.map_err(|problem| {
            let text = problem.to_string();
            let sentence = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
            match problem.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(valid)) if !valid.is_empty() => {
                    format!("{sentence}; possible values: {}", valid.join(", "))
                }
                _ => sentence.to_owned(),
            }
        })?;
    }
    Ok(values)
}

/// Returns a folder of the XDG base directories: that of the variable, or else the one in the
/// home folder. Relative ones are ignored, as the specification demands.
#[must_use]
pub fn base_folder(variable: &str, in_home: &str) -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute(variable).or_else(|| Some(absolute("HOME")?.join(in_home)))
}

/// Parses a size in bytes: a whole number and `B`, `KiB`, `MiB` or `GiB`. Without a unit
/// the number is in bytes.
///
/// # Errors
/// The text is invalid; the error describes the problem for the user.
pub fn parse_size(text: &str) -> Result<usize, String> {
    let problem =
        || format!("invalid size \"{text}\": needs a number and a unit, like 64KiB or 4MiB");
    let (number, unit) = split_unit(text);
    let number: usize = number.parse().map_err(|_| problem())?;
    let factor = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(problem()),
    };
    number.checked_mul(factor).ok_or_else(problem)
}

/// Parses a boolean of an environment variable.
///
/// # Errors
/// The text is invalid; the error describes the problem for the user.
pub fn parse_switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "y" | "t" | "1" => Ok(true),
        "off" | "false" | "no" | "n" | "f" | "0" => Ok(false),
        _ => Err(format!(
            "\"{text}\" is neither on nor off; use on, true, yes or 1, or off, false, no or 0"
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A command with each kind of option. The variable of `--path` is always set.
    fn command() -> Command {
        Command::new("test").no_binary_name(true).args([
            Arg::new(FILE).long(FILE).value_parser(value_parser!(PathBuf)),
            Arg::new("port").long("port").value_parser(value_parser!(u16)).default_value("1"),
            Arg::new("path").long("path").env("PATH"),
            Arg::new("quiet").long("quiet").action(ArgAction::SetTrue),
            Arg::new("exec").long("exec").action(ArgAction::Append),
            Arg::new("notify").long("notify"),
            Arg::new("key-file").long("key-file").conflicts_with("key-cmd"),
            Arg::new("key-cmd").long("key-cmd"),
            Arg::new("unkey").long("unkey").conflicts_with_all(["path", "quiet"]),
            Arg::new("input").long("input"),
            Arg::new("hidden").long("hidden").hide(true),
        ])
    }

    /// Parses these arguments with a settings file.
    fn parse(settings: &str, args: &[&str]) -> Result<ArgMatches, Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("settings");
        fs::write(&file, settings).unwrap();
        let given = command().try_get_matches_from(args).unwrap();
        let configured = with_settings(command(), &given, Some(file.clone()), &["input"], "notify");
        let prefix = format!("{}:", file.display());
        let configured = configured.map_err(|problems| {
            problems.iter().map(|text| text.strip_prefix(&prefix).unwrap().to_owned()).collect()
        });
        configured.map(|configured| configured.command.try_get_matches_from(args).unwrap())
    }

    fn value(settings: &str, args: &[&str], name: &str) -> Option<String> {
        parse(settings, args).unwrap().get_one::<String>(name).cloned()
    }

    #[test]
    fn flag_overrides_variable_variable_overrides_file_and_file_overrides_default() {
        let port = |settings, args: &[&str]| -> u16 {
            *parse(settings, args).unwrap().get_one("port").unwrap()
        };
        assert_eq!(port("", &[]), 1);
        assert_eq!(port("port = 2", &[]), 2);
        assert_eq!(port("port = '2'", &[]), 2);
        assert_eq!(port("port = 2", &["--port", "3"]), 3);
        assert_eq!(value("path = 'file'", &[], "path"), env::var("PATH").ok());
        assert_eq!(value("path = 'file'", &["--path", "flag"], "path").unwrap(), "flag");
        for is_on in [true, false] {
            let settings = format!("quiet = {is_on}");
            assert_eq!(parse(&settings, &[]).unwrap().get_flag("quiet"), is_on);
        }
    }

    #[test]
    fn array_is_several_values_or_a_program_with_arguments() {
        let matches = parse("exec = ['a b', 'c']\nnotify = ['notify-send', '-u']", &[]).unwrap();
        let exec: Vec<&String> = matches.get_many("exec").unwrap().collect();
        assert_eq!(exec, ["a b", "c"]);
        assert_eq!(matches.get_one::<String>("notify").unwrap(), r#"["notify-send","-u"]"#);
        assert_eq!(value("exec = 'one'", &[], "exec").unwrap(), "one");
    }

    #[test]
    fn setting_yields_to_options_that_conflict_with_it() {
        let settings = "key-file = 'x'\nunkey = 'y'";
        assert_eq!(value("key-file = 'x'", &[], "key-file").unwrap(), "x");
        assert_eq!(value(settings, &["--key-cmd", "z"], "key-file"), None);
        // In both directions: here the conflict is declared by the other option.
        assert_eq!(value("key-cmd = 'x'", &["--key-file", "z"], "key-cmd"), None);
        assert_eq!(value(settings, &[], "unkey"), None, "conflicts with a variable");
    }

    #[test]
    fn settings_of_a_chosen_group_override_others() {
        let settings = "port = 2\nkey-file = 'x'\nnotify = 'work'\n[server.work]\nport = 3\n\
                        key-cmd = 'y'\n[server.home]\nport = 4";
        let port = |settings, args: &[&str]| -> u16 {
            *parse(settings, args).unwrap().get_one("port").unwrap()
        };
        assert_eq!(port(settings, &[]), 3);
        assert_eq!(port(settings, &["--notify", "home"]), 4);
        assert_eq!(port(settings, &["--notify", "elsewhere"]), 2);
        assert_eq!(port(settings, &["--notify", "-"]), 3);
        assert_eq!(port(settings, &["--port", "5"]), 5);
        assert_eq!(value(settings, &[], "key-file"), None, "replaced by key-cmd of the group");
        for wrong in ["server = 3", "[server]\nport = 3"] {
            let problems = parse(wrong, &[]).unwrap_err();
            assert_eq!(problems, ["1: server: must be tables like [server.work]"]);
        }
        let problems = parse("notify = 'w'\n[server.w]\nport = 'x'", &[]).unwrap_err();
        assert!(problems[0].starts_with("3: port: invalid value 'x'"), "{problems:?}");
    }

    #[test]
    fn all_problems_are_reported_in_the_order_of_the_file() {
        let settings = "quiet = 1\n\nport = 70000\nunknown = true\nexec = [[1]]\nnotify = {}";
        let problems = parse(settings, &[]).unwrap_err();
        let problems: Vec<&str> = problems.iter().map(String::as_str).collect();
        assert_eq!(problems[0], "1: quiet: must be true or false");
        assert!(problems[1].starts_with("3: port: invalid value '70000'"), "{problems:?}");
        assert_eq!(problems[2], "5: exec: array is not allowed here");
        assert_eq!(problems[3..], ["6: notify: table is not allowed here"]);
        let problems = parse("port = 2\nport = 3", &[]).unwrap_err();
        assert_eq!(problems, ["2: duplicate key"]);
        let problems = parse("port = 2\n\n[", &[]).unwrap_err();
        assert!(problems.len() == 1 && problems[0].starts_with("3: "), "{problems:?}");
    }

    #[test]
    fn unknown_hidden_and_excluded_settings_are_ignored() {
        let settings = "input = 'x'\nhidden = 'x'\nconfig = 'x'\nprot = 2\nnotify = 'on'";
        let matches = parse(settings, &[]).unwrap();
        for name in ["input", "hidden"] {
            assert!(!matches.contains_id(name), "{name}");
        }
        assert!(!matches.contains_id(FILE));
        assert_eq!(matches.get_one::<String>("notify").unwrap(), "on");
        assert!(unknown(&command(), &["input"], "prot").ends_with("did you mean \"port\"?"));
        let known = "port, path, quiet, exec, notify, key-file, key-cmd, unkey";
        assert!(unknown(&command(), &["input"], "zzz").ends_with(&format!(": {known}")));
    }

    #[test]
    fn only_a_named_file_must_exist() {
        let given = |args: &[&str]| command().try_get_matches_from(args).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (missing, file) = (folder.path().join("missing"), folder.path().join("file"));
        fs::write(&file, "port = 2").unwrap();
        for default in [None, Some(missing.clone()), Some(file.join("below a file"))] {
            assert!(read(&given(&[]), default).unwrap().is_none());
        }
        let named = |path: &std::path::Path| given(&["--config", path.to_str().unwrap()]);
        let problem = read(&named(&missing), Some(file.clone())).unwrap_err();
        let start = format!("cannot read the settings in {}: ", missing.display());
        assert!(problem.starts_with(&start), "{problem}");
        let found = read(&named(&file), Some(missing)).unwrap();
        assert_eq!(found, Some((file.clone(), "port = 2".to_owned())));
        // A default file that is there, but no text.
        fs::write(&file, b"\xff").unwrap();
        assert!(read(&given(&[]), Some(file)).unwrap_err().contains("not UTF-8"));
    }

    #[test]
    fn sizes_parse_with_their_units() {
        assert_eq!(parse_size("4MiB"), Ok(4 << 20));
        assert_eq!(parse_size("17"), Ok(17));
        for bad in ["", "MiB", "4MB", "99999999999GiB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
