//! The settings file of `chatty join`. Its keys are the long names of the flags, and `host`
//! for HOST; there is no separate list. A value replaces the default of its flag, so flags
//! and environment variables take precedence. It does not know what the settings mean.

use std::io;
use std::path::PathBuf;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::address::without_port;
use super::print_error;
use crate::protocol::text::nearest;
use crate::text_file;

/// The argument that names the file, and the arguments that are not settings.
const FILE: &str = "config";
const COMMAND_LINE_ONLY: [&str; 4] = [FILE, "input", "help", "version"];

/// Returns `chatty join` with the settings of the file as its defaults. `given` is the
/// command line parsed without them.
///
/// # Errors
/// A message for the user, with the name of the file and the line.
pub fn configured(join: clap::Command, given: &ArgMatches) -> Result<clap::Command, String> {
    Ok(with_stdin_marker(with_effective_port(with_settings(join, given)?, given), given))
}

fn with_settings(mut join: clap::Command, given: &ArgMatches) -> Result<clap::Command, String> {
    let Some((path, text)) = read(given)? else { return Ok(join) };
    let place = |at: usize| {
        let line = text[..at].bytes().filter(|&byte| byte == b'\n').count() + 1;
        format!("{}:{line}", path.display())
    };
    let table = DeTable::parse(&text).map_err(|problem| {
        let at = problem.span().map_or(0, |span| span.start.min(text.len()));
        format!("{}: {}", place(at), problem.message())
    })?;
    let mut settings: Vec<_> = table.get_ref().iter().collect();
    settings.sort_by_key(|(key, _)| key.span().start);
    let mut problems = Vec::new();
    for (key, value) in settings {
        let (place, name) = (place(key.span().start), key.get_ref().as_ref());
        let Some(arg) = join.get_arguments().find(|arg| key_of(arg).is_some_and(|k| k == name))
        else {
            print_error(&format!("{place}: {}", unknown(&join, name)));
            continue;
        };
        let values = values(arg, value.get_ref())
            .and_then(|values| check(&join, arg, &values).map(|()| values));
        let values = match values {
            Ok(values) => values,
            Err(why) => {
                problems.push(format!("{place}: {name}: {why}"));
                continue;
            }
        };
        // A conflicting flag or variable overrides the setting.
        if join.get_arg_conflicts_with(arg).iter().any(|other| is_given(given, other)) {
            continue;
        }
        let id = arg.get_id().clone();
        join = join.mut_arg(id, |arg| arg.default_values(values));
    }
    // Reports all problems at once; the caller reports the last one.
    let Some(last) = problems.pop() else { return Ok(join) };
    for problem in problems {
        print_error(&problem);
    }
    Err(last)
}

/// Drops the port in HOST if `--port` has a higher precedence: a flag overrides a variable,
/// and a variable overrides the file.
fn with_effective_port(join: clap::Command, given: &ArgMatches) -> clap::Command {
    let rank = |id: &str| match given.value_source(id) {
        Some(ValueSource::CommandLine) => 2,
        Some(ValueSource::EnvVariable) => 1,
        _ => 0,
    };
    if rank("port") <= rank("host") {
        return join;
    }
    let host = match given.get_raw("host").and_then(|mut host| host.next()) {
        Some(host) if rank("host") > 0 => Some(host.to_owned()),
        _ => {
            let host = join.get_arguments().find(|arg| arg.get_id() == "host");
            host.and_then(|host| host.get_default_values().first().map(Into::into))
        }
    };
    let Some(host) = host.and_then(|host| host.into_string().ok()) else { return join };
    let host = without_port(&host).to_owned();
    join.mut_arg("host", |arg| arg.env(Resettable::Reset).default_value(host))
}

fn is_given(given: &ArgMatches, arg: &Arg) -> bool {
    let source = given.value_source(arg.get_id().as_str());
    matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
}

/// Handles `chatty join -`, where the dash is not the host: swaps the two positions, so
/// that the host comes from its variable, the file or its default.
fn with_stdin_marker(join: clap::Command, given: &ArgMatches) -> clap::Command {
    let is_given = given.value_source("host") == Some(ValueSource::CommandLine);
    let mut host = given.get_raw("host").into_iter().flatten();
    if is_given && host.any(|host| host == "-") {
        return join.mut_arg("input", |arg| arg.index(1)).mut_arg("host", |arg| arg.index(2));
    }
    join
}

/// Reads the file named by `--config` or else the default file. An unreadable default file
/// is not an error.
fn read(given: &ArgMatches) -> Result<Option<(PathBuf, String)>, String> {
    let named = given.get_one::<PathBuf>(FILE).cloned();
    let is_named = named.is_some();
    let Some(path) = named.or_else(default_path) else { return Ok(None) };
    match text_file::read(&path) {
        Ok(text) => Ok(Some((path, text))),
        Err(problem) if !is_named && is_out_of_reach(&problem) => {
            if path.symlink_metadata().is_ok() {
                print_error(&format!("ignoring {}: {problem}", path.display()));
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

fn default_path() -> Option<PathBuf> {
    Some(super::home("XDG_CONFIG_HOME", ".config")?.join("chatty/config.toml"))
}

/// Returns the key of an argument in the file, if it is a setting.
fn key_of(arg: &Arg) -> Option<&str> {
    let id = arg.get_id().as_str();
    (!COMMAND_LINE_ONLY.contains(&id) && !arg.is_hide_set()).then(|| arg.get_long().unwrap_or(id))
}

fn unknown(join: &clap::Command, name: &str) -> String {
    let keys: Vec<&str> = join.get_arguments().filter_map(key_of).collect();
    match nearest(name, keys.iter().copied()) {
        Some(near) => format!("unknown setting \"{name}\"; did you mean \"{near}\"?"),
        None => format!("unknown setting \"{name}\"; known settings: {}", keys.join(", ")),
    }
}

/// Converts a value of the file to the values of its flag.
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
            // A program and its arguments, in the JSON form that the flag accepts.
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

/// Validates the values with the parser of the flag.
fn check(join: &clap::Command, arg: &Arg, values: &[String]) -> Result<(), String> {
    if !arg.get_action().takes_values() {
        return Ok(());
    }
    for value in values {
        let line = match arg.get_long() {
            Some(long) => vec![format!("--{long}={value}")],
            None => vec!["--".to_owned(), value.clone()],
        };
        let parsed = join.clone().no_binary_name(true).try_get_matches_from(line);
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
    Ok(())
}
