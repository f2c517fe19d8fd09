//! The settings file of `chatty join`: its keys, precedence, and errors.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use chatty::client::JoinArgs;

use crate::support::{CHATTY, Peer, Server, text};

/// Runs `chatty join` with this settings file at the default path.
fn join(settings: &str, variables: &[(&str, &str)], args: &[&str]) -> Output {
    let home = tempfile::tempdir().expect("a folder");
    fs::create_dir_all(home.path().join("chatty")).expect("a folder");
    fs::write(home.path().join("chatty/config.toml"), settings).expect("writable");
    let output = joining(home.path()).envs(variables.iter().copied()).args(args).output();
    output.expect("chatty join")
}

fn joining(home: &Path) -> Command {
    let mut command = Command::new(CHATTY);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CHATTY_")) {
        command.env_remove(name);
    }
    command.arg("join").env("XDG_CONFIG_HOME", home).stdin(Stdio::null());
    command
}

/// Returns the keys of `chatty join`, taken from its flags.
fn keys() -> Vec<String> {
    let join = <JoinArgs as clap::Args>::augment_args(clap::Command::new("join"));
    let shown = join.get_arguments().filter(|arg| !arg.is_hide_set());
    let keys = shown.map(|arg| arg.get_long().unwrap_or(arg.get_id().as_str()));
    keys.filter(|key| !["config", "input"].contains(key)).map(str::to_owned).collect()
}

#[test]
fn flag_overrides_variable_and_variable_overrides_file() {
    let server = Server::start();
    let settings = format!("host = \"127.0.0.1\"\nport = {}\nname = \"file\"\n", server.port);
    let welcomed = |variables: &[(&str, &str)], args: &[&str]| {
        let done = join(&settings, variables, args);
        assert_eq!(text(&done.stderr), "");
        let first = text(&done.stdout).lines().next().unwrap_or_default().to_owned();
        first.split([' ', ']']).nth(1).expect("a name").to_owned()
    };
    assert_eq!(welcomed(&[], &[]), "file");
    assert_eq!(welcomed(&[("CHATTY_NAME", "variable")], &[]), "variable");
    assert_eq!(welcomed(&[("CHATTY_NAME", "variable")], &["--name", "flag"]), "flag");
    assert_eq!(welcomed(&[], &["-"]), "file", "a dash is not the host");
    assert_eq!(
        welcomed(
            &[("CHATTY_CONFIG", "/dev/null")],
            &["127.0.0.1", "-p", &server.port.to_string(), "-n", "none"]
        ),
        "none"
    );
    let done = join(&settings, &[], &["--port", "1"]);
    assert_eq!(done.status.code(), Some(69), "the flag goes before the file");
    // With a byte order mark and CRLF, as editors on Windows write it.
    let settings = format!("\u{FEFF}{}", settings.replace('\n', "\r\n"));
    let done = join(&settings, &[], &[]);
    assert_eq!((done.status.code(), text(&done.stderr)), (Some(0), String::new()));
    // The port from a flag also overrides the port of a host from the file.
    for host in ["127.0.0.1:1", "[127.0.0.1]:1"] {
        let port = server.port.to_string();
        let settings = format!("host = \"{host}\"\nname = \"file\"\n");
        for (variables, args) in [
            (&[][..], &["--port", &port][..]),
            (&[("CHATTY_PORT", &*port)], &[]),
            (&[("CHATTY_HOST", host)], &["--port", &port]),
            (&[], &["-", "--port", &port]),
        ] {
            let done = join(&settings, variables, args);
            assert!(done.status.success(), "{host} {args:?}: {}", text(&done.stderr));
        }
    }
    let port = server.port.to_string();
    let done = join("", &[], &["127.0.0.1:1", "--port", &port, "--name", "alice"]);
    assert_eq!(done.status.code(), Some(69), "as the flag's help says");
    let empty = ["CHATTY_NAME", "CHATTY_ROOM", "CHATTY_PORT", "CHATTY_HOST", "CHATTY_JSON"];
    let empty = empty.map(|variable| (variable, ""));
    let done = join(&settings, &empty, &[]);
    assert!(done.status.success(), "what is empty says nothing: {}", text(&done.stderr));
}

#[test]
fn every_flag_is_a_config_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let password = folder.path().join("password");
    fs::write(&password, "x\n").expect("writable");
    for key in keys() {
        // Whatever type the value must have, the key itself is known.
        let done = join(&format!("{key} = 1979-05-27\n"), &[], &["--retry-for", "0"]);
        let said = text(&done.stderr);
        let is_ignored = said.lines().next().is_some_and(|line| line.ends_with(" (ignored)"));
        let code = if is_ignored { 69 } else { 2 };
        assert_eq!(done.status.code(), Some(code), "{key}: {said}");
        assert!(said.contains(&format!("config.toml:1: {key}: ")), "{key}: {said}");
    }
}

#[test]
fn config_values_have_types_of_their_flags() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let settings = format!(
        "host = \"127.0.0.1\"\nport = {}\nname = 'alice'\njson = true\nplain = false\n\
         room = [\"lobby\", \"ops\"]\nexec = [\"one\", \"/msg bob two\"]\nretry-for = \"2s\"\n",
        server.port
    );
    let done = join(&settings, &[], &[]);
    assert_eq!((done.status.code(), text(&done.stderr)), (Some(0), String::new()));
    assert!(text(&done.stdout).starts_with("{\"v\":2"));
    for line in ["* alice joined", "alice: one", "[PRIVATE MESSAGE] alice: two"] {
        assert_eq!(bob.next(), line);
    }
}

#[test]
fn unknown_setting_is_reported_with_line_and_suggestion() {
    let server = Server::start();
    let port = server.port.to_string();
    let settings = "# mine\n\nnmae = \"alice\"\ncolour = \"never\"\nwhat-is-this = 1\n";
    let done = join(settings, &[], &["127.0.0.1", "--port", &port, "--name", "carol"]);
    assert_eq!(done.status.code(), Some(0), "no reason not to chat");
    let said = text(&done.stderr);
    let said: Vec<&str> = said.lines().collect();
    let ends = [
        "config.toml:3: unknown setting \"nmae\"; did you mean \"name\"?",
        "config.toml:4: unknown setting \"colour\"; did you mean \"color\"?",
    ];
    for (line, end) in said.iter().zip(ends) {
        assert!(line.starts_with("chatty: ") && line.ends_with(end), "{line}");
    }
    assert!(said[2].contains(":5: unknown setting \"what-is-this\"; known settings: host, "));
    assert_eq!(said.len(), 3);
}

#[test]
fn invalid_config_is_reported_with_line_before_connecting() {
    for (settings, problem) in [
        ("port = \"many\"\n", ":1: port: invalid value 'many' for '--port <PORT>': "),
        ("\nport = 70000\n", ":2: port: invalid value '70000' for '--port <PORT>': "),
        ("port = \"x\"\njson = 1\n", ":1: port: invalid value 'x' for '--port <PORT>': "),
        ("port = \"x\"\njson = 1\n", ":2: json: must be true or false"),
        ("json = \"yes\"\n", ":1: json: must be true or false"),
        ("host = \"a b\"\n", ":1: host: invalid value 'a b' for '[HOST[:PORT]]': "),
        ("[name]\nx = 1\n", ":1: name: table is not allowed here"),
        ("name = \n", ":1: "),
        ("name = \"a\"\nname = \"b\"\n", ":2: duplicate key"),
        ("\n\nname = \"\u{1b}[2J\"\n", ":3: "),
    ] {
        let done = join(settings, &[], &["--retry-for", "0"]);
        let said = text(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{settings:?}: {said}");
        assert!(said.contains(&format!("config.toml{problem}")), "{settings:?}: {said}");
        assert!(!said.contains('\u{1b}'));
    }
    // Settings of the display do not keep anyone from chatting.
    let server = Server::start();
    let port = server.port.to_string();
    for (settings, problem) in [
        (
            "color = \"pink\"\n",
            ":1: color: invalid value 'pink' for '--color <WHEN>'; possible values: auto, always, ",
        ),
        (
            "joins = \"none\"\n",
            ":1: joins: invalid value 'none' for '--joins <WHICH>'; possible values: all, smart",
        ),
        (
            "times = \"\"\n",
            ":1: times: a value is required for '--times <WHEN>' but none was supplied; possible \
             values: always, minute, never (ignored)",
        ),
        (
            "notify = \"loud\"\n",
            ":1: notify: invalid value 'loud' for '--notify <HOW>': use off, bell, ",
        ),
    ] {
        let done = join(settings, &[], &["127.0.0.1", "--port", &port, "--name", "alice"]);
        let said = text(&done.stderr);
        assert_eq!(done.status.code(), Some(0), "{settings:?}: {said}");
        assert!(said.contains(&format!("config.toml{problem}")), "{settings:?}: {said}");
    }
    let done = joining(Path::new("/nowhere")).args(["--config", "/nowhere/x"]).output();
    let done = done.expect("chatty join");
    assert_eq!(done.status.code(), Some(2));
    assert!(text(&done.stderr).starts_with("chatty: cannot read the settings in /nowhere/x: "));
}

#[test]
fn setting_yields_to_conflicting_flag() {
    let server = Server::start();
    let settings = "password-file = \"/nowhere\"\nraw = true\n";
    let port = server.port.to_string();
    let args = ["127.0.0.1", "--port", &port, "--name", "alice"];
    let done = join(settings, &[], &args);
    assert_eq!(done.status.code(), Some(2), "the file is not there");
    let args = [&args[..], &["--password-cmd", "echo x", "--exec", "/who"]].concat();
    let done = join(settings, &[], &args);
    // The command ran; the later failure, that alice is not registered, does not matter here.
    assert_ne!(done.status.code(), Some(2), "{}", text(&done.stderr));
    let done = join(settings, &[("CHATTY_PASSWORD_FILE", "/nowhere")], &args);
    assert_ne!(done.status.code(), Some(2), "{}", text(&done.stderr));
    let args = [&args[..], &["--password-file", "/dev/null"]].concat();
    let done = join(settings, &[], &args);
    assert!(text(&done.stderr).contains("cannot be used with"), "{}", text(&done.stderr));
}

#[test]
fn switch_variable_accepts_documented_words_only() {
    let server = Server::start();
    let port = server.port.to_string();
    let args = ["127.0.0.1", "--port", &port, "--name", "alice", "--retry-for", "0"];
    for word in ["on", "off", "TRUE", "no", "1", "0", ""] {
        let done = join("", &[("CHATTY_JSON", word)], &args);
        assert_eq!(done.status.code(), Some(0), "{word}: {}", text(&done.stderr));
        let is_on = ["on", "TRUE", "1"].contains(&word);
        assert_eq!(text(&done.stdout).starts_with('{'), is_on, "{word}");
    }
    for (variable, word) in [
        ("CHATTY_LOG", "maybe"),
        ("CHATTY_TLS", "nope"),
        ("CHATTY_TLS_VERIFY", "2"),
        ("CHATTY_PLAIN", "yess"),
        ("CHATTY_QUIET", " on"),
        ("CHATTY_GROUP_NAMES", "x"),
        ("CHATTY_NO_HISTORY", "-1"),
        ("CHATTY_NO_TITLE", "none"),
    ] {
        let done = join("", &[(variable, word)], &args);
        let said = text(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{variable}: {said}");
        assert!(said.contains("is neither on nor off; use on, true, yes or 1"), "{said}");
    }
}

#[test]
fn saved_server_is_joined_by_its_name() {
    let server = Server::start();
    let settings = format!(
        "name = 'alice'\nport = 1\n[server.work]\nhost = '127.0.0.1:{}'\nname = 'worker'\n",
        server.port
    );
    for (variables, args) in
        [(&[][..], &["work"][..]), (&[("CHATTY_HOST", "work")], &[]), (&[], &["work", "-"])]
    {
        let done = join(&settings, variables, args);
        assert_eq!((done.status.code(), text(&done.stderr)), (Some(0), String::new()), "{args:?}");
        assert!(text(&done.stdout).contains("[WELCOME worker]"), "{args:?}");
    }
    let done = join(&settings, &[], &["127.0.0.1", "--retry-for", "0"]);
    assert_eq!(done.status.code(), Some(69), "the port of no saved server");
}

/// The example in the README.
#[test]
fn readme_example_config_is_valid() {
    let server = Server::start();
    let readme = include_str!("../../docs/client.md");
    let (_, example) = readme.split_once("```toml\n").expect("an example");
    let (example, _) = example.split_once("```").expect("its end");
    let args = ["127.0.0.1", "--port", &server.port.to_string(), "--password-file", "/dev/null"];
    let done = join(example, &[("CHATTY_NAME", "alice")], &args);
    // The empty password is an error of this test, reported after the settings were read.
    let said = text(&done.stderr);
    assert_eq!(said, "chatty: the first line of /dev/null is empty; it must be the password\n");
}
