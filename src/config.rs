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
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
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
    let names = |one: &Arg, other: &Arg| {
        command.get_arg_conflicts_with(one).iter().any(|found| found.get_id() == other.get_id())
    };
    let is_set = |other: &&Arg| given.value_source(other.get_id().as_str()) >= Some(lowest);
    command.get_arguments().filter(is_set).any(|other| names(arg, other) || names(other, arg))
}

/// Returns a command with the settings of its file as its defaults. The file is the one that
/// `--config` names, or else `default`. `given` is the command line parsed without it, and
/// `excluded` the arguments that are not settings.
///
/// # Errors
/// The problems for the user, with the name of the file and the line.
pub fn with_settings(
    mut command: Command,
    given: &ArgMatches,
    default: Option<PathBuf>,
    excluded: &[&str],
) -> Result<Command, Vec<String>> {
    let file = read(given, default).map_err(|problem| vec![problem])?;
    let Some((path, text)) = file else { return Ok(command) };
    let place = |at: usize| {
        let line = text[..at].bytes().filter(|&byte| byte == b'\n').count() + 1;
        format!("{}:{line}", path.display())
    };
    let table = DeTable::parse(&text).map_err(|problem| {
        let at = problem.span().map_or(0, |span| span.start.min(text.len()));
        vec![format!("{}: {}", place(at), problem.message())]
    })?;
    let mut settings: Vec<_> = table.get_ref().iter().collect();
    settings.sort_by_key(|(key, _)| key.span().start);
    let mut problems = Vec::new();
    for (key, value) in settings {
        let (place, name) = (place(key.span().start), key.get_ref().as_ref());
        let is_named = |arg: &&Arg| key_of(arg, excluded) == Some(name);
        let Some(arg) = command.get_arguments().find(is_named) else {
            print_problem(&format!("{place}: {}", unknown(&command, excluded, name)));
            continue;
        };
        match values(arg, value.get_ref()).and_then(|values| check(&command, arg, values)) {
            Err(why) => problems.push(format!("{place}: {name}: {why}")),
            Ok(_) if is_overridden(&command, arg, given, ValueSource::EnvVariable) => {}
            Ok(values) => {
                let id = arg.get_id().clone();
                command = command.mut_arg(id, |arg| arg.default_values(values));
            }
        }
    }
    if problems.is_empty() { Ok(command) } else { Err(problems) }
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
        let configured = with_settings(command(), &given, Some(file.clone()), &["input"]);
        let prefix = format!("{}:", file.display());
        let configured = configured.map_err(|problems| {
            problems.iter().map(|text| text.strip_prefix(&prefix).unwrap().to_owned()).collect()
        });
        configured.map(|command| command.try_get_matches_from(args).unwrap())
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
