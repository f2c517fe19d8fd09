//! Checks the documentation pages against the code: generated tables are current, and
//! every example is run.
//!
//! The info string of a fenced block says how it is checked:
//!
//! - `console`: lines after `$ ` are run by bash and their output is compared. Port 5555 stands for
//!   the port of the block's own server.
//! - `text session`: one user's netcat session is replayed. Lines that no server sends are typed by
//!   the user; messages of other users are sent by them. Without a login in the block, alice is in
//!   #lobby and bob joined before her.
//! - `text screen`: the same at a terminal.
//! - `sh`: not run, but its scripts and flags must exist.
//!
//! `UPDATE=1 cargo test readme` regenerates the tables.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use chatty::client::{JoinArgs, SayArgs};
use chatty::commands::{self, Setting};
use chatty::protocol::reply::Query;
use chatty::protocol::{ErrorCode, Event, Farewell, Feature, Message, Place, Reply, Stamp, Tags};
use chatty::server::ServeArgs;

use crate::support::{CHATTY, Server, Terminal, has_program};

const PAGES: [&str; 15] = [
    "README.md",
    "CHANGELOG.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/bots.md",
    "docs/client.md",
    "docs/glossary.md",
    "docs/json.md",
    "docs/operating.md",
    "docs/performance.md",
    "docs/privacy.md",
    "docs/protocol.md",
    "docs/reference.md",
    "docs/threats.md",
];

#[test]
fn tables_match_code() {
    for page in PAGES {
        let before = read(page);
        let after = tables().into_iter().fold(before.clone(), |text, (name, table)| {
            let (open, close) = (format!("<!-- {name} -->"), format!("<!-- /{name} -->"));
            let Some((head, rest)) = text.split_once(&open) else { return text };
            let (_, tail) = rest.split_once(&close).unwrap_or_else(|| panic!("{page}: no {close}"));
            format!("{head}{open}\n{table}{close}{tail}")
        });
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path(page), after).expect("writable");
        } else {
            assert!(before == after, "{page} is behind the code: UPDATE=1 cargo test readme");
        }
    }
    let reference = read("docs/reference.md");
    for (name, _) in tables() {
        assert!(
            reference.contains(&format!("<!-- {name} -->")),
            "reference.md has no table {name}"
        );
    }
    assert!(read("README.md").lines().count() <= 250, "README.md is too long");
}

#[test]
fn protocol_page_covers_every_word() {
    let page = read("docs/protocol.md");
    let commands = commands::TABLE.iter().flat_map(|row| {
        std::iter::once(&row.name).chain(row.aliases).map(|name| format!("`/{name}"))
    });
    for command in commands {
        let stands = |end| page.contains(&format!("{command}{end}"));
        assert!(stands("`") || stands(" "), "docs/protocol.md says nothing of {command}`");
    }
    let codes = ErrorCode::TABLE.iter().map(|row| format!("`{}`", row.1));
    let farewells = Farewell::TABLE.iter().map(|row| format!("`{}`", row.1));
    let settings = Setting::TABLE.iter().map(|row| format!("`{}`", row.1));
    let reserved = chatty::protocol::name::RESERVED.iter().map(|name| format!("`{name}`"));
    let features = Feature::TABLE.iter().map(|row| format!("`{}`", row.1));
    for word in codes.chain(farewells).chain(settings).chain(reserved).chain(features) {
        assert!(page.contains(&word), "docs/protocol.md says nothing of {word}");
    }
}

#[test]
fn every_console_block_runs_as_shown() {
    for block in blocks("console") {
        let is_missing = |&program: &&str| {
            block.text.contains(&format!("| {program} ")) && !has_program(program)
        };
        if !has_program("bash") || ["nc", "jq"].iter().any(is_missing) {
            continue;
        }
        let server = Server::start();
        let mut shown = String::new();
        for command in block.text.lines().filter_map(|line| line.strip_prefix("$ ")) {
            let output = if command.starts_with("chatty serve") {
                first_line_of_server(command)
            } else {
                run(command, server.port)
            };
            let _ = write!(shown, "$ {command}\n{}", normal(&output, server.port));
        }
        let mut expected = normal(&block.text, server.port);
        if !shown.contains("[::1]") {
            expected = expected.replace(" and [::1]:5555", ""); // a machine without IPv6
        }
        assert_eq!(shown, expected, "{}", block.place);
    }
}

#[test]
fn every_session_block_can_be_replayed() {
    for block in blocks("text session") {
        play(&block);
    }
}

#[test]
fn every_screen_block_can_be_replayed() {
    for block in blocks("text screen") {
        if !play_on_screen(&block) {
            return;
        }
    }
}

/// `scripts/record.sh` redraws the picture; all text of the recorded session must be in it.
#[test]
fn session_picture_shows_recorded_session() {
    if !["bash", "tmux", "nc"].iter().all(|program| has_program(program)) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let drawn = folder.path().join("session.svg");
    let script = path("scripts/record.sh");
    let done = clean_command("bash").arg(&script).arg(CHATTY).arg(&drawn).output().expect("bash");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let drawn = std::fs::read_to_string(drawn).expect("a picture");
    let script = std::fs::read_to_string(script).expect("the script");
    let said = script.lines().filter_map(|line| line.strip_prefix("says ")?.split_once('\''));
    let said: Vec<&str> = said.map(|(_, said)| said.trim_end_matches('\'')).collect();
    assert!(said.len() > 5);
    for picture in [drawn, read("docs/session.svg")] {
        // The text of the SVG without its tags.
        let words = picture.split('<').filter_map(|part| part.split_once('>'));
        let words: String = words.map(|(_, text)| text).collect();
        for said in &said {
            let said =
                said.rsplit_once("/msg ").map_or(*said, |(_, to)| &to[to.find(' ').unwrap()..]);
            assert!(words.contains(said.trim_start_matches("/me ")), "{said}: {words}");
        }
        assert!(words.contains("thank you carol, th"), "the draft: {words}");
        assert!(!picture.contains('\u{1b}'));
    }
}

#[test]
fn every_script_flag_link_and_variable_exists() {
    for page in PAGES {
        let text = read(page);
        let folder = path(page).parent().expect("a folder").to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')) {
            let file = link.0.split('#').next().unwrap_or_default();
            if !file.is_empty() && !file.contains("://") {
                assert!(folder.join(file).exists(), "{page}: link to {file}");
            }
        }
        for word in text.split(|c: char| c.is_whitespace() || "`()|,;:".contains(c)) {
            let word = word.trim_end_matches('.');
            if ["scripts/", "docs/", "tests/", "src/"].iter().any(|start| word.starts_with(start)) {
                assert!(path(word).exists(), "{page}: {word}");
            }
        }
    }
    let help = |command| run(&format!("chatty {command} --help"), 0);
    let helps = [
        ("chatty serve", help("serve")),
        ("chatty join", help("join")),
        ("chatty say", help("say")),
    ];
    for block in blocks("sh").chain(blocks("console")) {
        let text = block.text.replace("cargo run --release -- ", "chatty ");
        for line in text.lines() {
            for (command, help) in &helps {
                let Some((_, args)) = line.split_once(command) else { continue };
                let args = args.split(['|', ';', '>', '<', '&']).next().unwrap_or_default();
                for flag in args.split_whitespace().filter(|word| word.starts_with('-')) {
                    let exists = help.split([' ', ',', '\n']).any(|word| word == flag);
                    assert!(exists, "{}: {flag}", block.place);
                }
            }
        }
    }
}

// ---- pages, blocks, tables ----

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn read(page: &str) -> String {
    std::fs::read_to_string(path(page)).expect(page)
}

struct Block {
    place: String,
    text: String,
}

/// Returns every fenced block of the pages with this info string.
fn blocks(info: &str) -> impl Iterator<Item = Block> {
    let mut found = Vec::new();
    for page in PAGES {
        let text = read(page);
        let mut lines = text.lines().enumerate();
        while let Some((number, line)) = lines.next() {
            let Some(fence) = line.strip_prefix("```") else { continue };
            let inside = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```");
            let text: String = inside.flat_map(|line| [line, "\n"]).collect();
            if fence == info {
                found.push(Block { place: format!("{page}:{}", number + 1), text });
            }
        }
    }
    found.into_iter()
}

fn tables() -> [(&'static str, String); 7] {
    let commands = commands::TABLE.iter().map(|row| {
        let also: Vec<String> = row.aliases.iter().map(|alias| format!("`/{alias}`")).collect();
        let also = if also.is_empty() { String::new() } else { format!(" ({})", also.join(", ")) };
        [format!("`{}`{also}", row.usage()), row.help.to_owned()]
    });
    let errors = ErrorCode::TABLE.iter().map(|row| [format!("`{}`", row.1), row.2.to_owned()]);
    let farewells = Farewell::TABLE.iter().map(|row| [format!("`{}`", row.1), row.2.to_owned()]);
    let features = Feature::TABLE.iter().map(|row| [format!("`{}`", row.1), row.2.to_owned()]);
    let serve = <ServeArgs as clap::Args>::augment_args(clap::Command::new("serve"));
    let join = <JoinArgs as clap::Args>::augment_args(clap::Command::new("join"));
    let say = <SayArgs as clap::Args>::augment_args(clap::Command::new("say"));
    let options = ["option", "variable", "default", "meaning"];
    [
        ("commands", table(["command", "what it does"], commands)),
        ("serve", table(options, shown(&serve).map(option))),
        ("join", table(options, shown(&join).map(option))),
        ("say", table(options, shown(&say).map(option))),
        ("errors", table(["`[ERROR code]`", "meaning"], errors)),
        ("farewells", table(["`[BYE code]`", "said with it"], farewells)),
        ("features", table(["`[FEATURES word …]`", "meaning"], features)),
    ]
}

fn shown(command: &clap::Command) -> impl Iterator<Item = &clap::Arg> {
    command.get_arguments().filter(|arg| !arg.is_hide_set())
}

fn option(arg: &clap::Arg) -> [String; 4] {
    let value = arg.get_value_names().and_then(|names| names.first()).map(ToString::to_string);
    let value = value.filter(|_| arg.get_action().takes_values()).unwrap_or_default();
    let flag = match arg.get_long() {
        Some(long) => format!("`--{long} {value}`").replace(" `", "`"),
        None => format!("`{value}`"),
    };
    let variable = arg.get_env().map(|name| format!("`{}`", name.to_string_lossy()));
    let defaults = arg.get_default_values().iter().map(|value| value.to_string_lossy());
    let defaults = if arg.get_action().takes_values() {
        defaults.map(|value| format!("`{value}`")).collect::<Vec<_>>().join(" ")
    } else {
        String::new()
    };
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    [flag, variable.unwrap_or_default(), defaults, help]
}

fn table<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let row = |cells: &[String]| {
        let cell = |cell: &String| match cell.replace('|', "\\|") {
            empty if empty.is_empty() => " |".to_owned(),
            cell => format!(" {cell} |"),
        };
        format!("|{}\n", cells.iter().map(cell).collect::<String>())
    };
    let head = head.map(str::to_owned);
    let line = head.each_ref().map(|_| "---".to_owned());
    [row(&head), row(&line)].into_iter().chain(rows.map(|cells| row(&cells))).collect()
}

// ---- console ----

/// Creates a command that is isolated from the developer's settings.
fn clean_command(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CHATTY_")) {
        command.env_remove(name);
    }
    command.env("CHATTY_CONFIG", "/dev/null");
    command
}

/// Returns the output of a shell command as on a terminal.
fn run(command: &str, port: u16) -> String {
    // Some netcats resolve `localhost` through /etc/hosts, which not every machine has.
    let command = command.replace("nc localhost ", "nc 127.0.0.1 ");
    let folder = Path::new(CHATTY).parent().expect("a folder").display();
    let port = port.to_string();
    let output = clean_command("timeout")
        .args(["60", "bash", "-c", &format!("exec 2>&1; {}", command.replace("5555", &port))])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("PATH", format!("{folder}:{}", std::env::var("PATH").unwrap_or_default()))
        .env("CHATTY_PORT", &port)
        .stdin(Stdio::null())
        .output();
    String::from_utf8(output.expect("bash").stdout).expect("UTF-8")
}

/// Returns the first line of a server, which does not exit by itself.
fn first_line_of_server(command: &str) -> String {
    let args = command.split_whitespace().skip(1).chain(["--port", "0", "--ephemeral"]);
    let started = clean_command(CHATTY).args(args).stderr(Stdio::piped()).spawn();
    let mut child = started.expect("chatty serve");
    let mut line = String::new();
    let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
    stderr.read_line(&mut line).expect("a first line");
    let _ = child.kill();
    let _ = child.wait();
    match line.split_once("127.0.0.1:").and_then(|(_, rest)| rest.split_once([' ', ','])) {
        Some((port, _)) => line.replace(port, "5555"),
        None => line,
    }
}

/// Replaces parts that differ in each run, such as ports and times.
fn normal(text: &str, port: u16) -> String {
    const TIME: usize = "2026-11-23T06:16:00.123Z".len();
    let mut text = text.replace(&port.to_string(), "5555");
    let mut at = 0;
    while at + TIME <= text.len() {
        if text.get(at..at + TIME).and_then(Stamp::parse).is_some() {
            text.replace_range(at..at + TIME, "TIME");
        }
        at += 1;
    }
    if let Some((before, rest)) = text.split_once("[SESSION ") {
        let (_, after) = rest.split_once(']').expect("a token");
        text = format!("{before}[SESSION TOKEN]{after}");
    }
    text
}

// ---- sessions ----

/// A netcat-like client.
struct Netcat(BufReader<TcpStream>);

impl Netcat {
    fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("timeout");
        Self(BufReader::new(stream))
    }

    fn say(&mut self, line: &str) {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes()).expect("say");
    }

    /// `None` on a timeout or at the end of the connection.
    fn next(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.0.read_line(&mut line).ok()?;
        (read > 0).then(|| line.trim_end_matches('\n').to_owned())
    }

    /// Waits until all earlier lines have been handled.
    fn settle(&mut self) {
        self.say("/ping settled");
        while self.next().expect("an answer") != "[PONG settled]" {}
    }
}

/// The other users in a session block.
struct Others {
    port: u16,
    people: HashMap<String, Netcat>,
}

impl Others {
    /// Logs in the users that the session presupposes: members of a room, or away users.
    fn before(port: u16, lines: &[&str], me: &str) -> Self {
        let mut others = Self { port, people: HashMap::new() };
        let mut known_rooms = HashSet::new();
        for line in lines {
            match Event::parse(Tags::split(line).1) {
                Some(Event::Reply(Reply::Users { room, names: Some(names), .. }))
                    if known_rooms.insert(room) =>
                {
                    for name in names.iter().filter(|name| *name != me) {
                        others.does(name, &format!("/join {room}"));
                    }
                }
                Some(Event::Reply(Reply::IsAway { name, text })) => {
                    others.does(name, &format!("/away {text}"));
                }
                _ => {}
            }
        }
        others
    }

    fn does(&mut self, name: &str, line: &str) {
        let port = self.port;
        let person = self.people.entry(name.to_owned()).or_insert_with(|| {
            let mut netcat = Netcat::connect(port);
            netcat.say(name);
            netcat
        });
        // A new user is in #lobby already.
        if line != "/join lobby" {
            person.say(line);
        }
        person.settle();
    }

    /// Makes the other users do what leads to `line`.
    fn cause(&mut self, line: &str, me: &str) {
        match Event::parse(Tags::split(line).1) {
            Some(Event::Message(Message { place, from, is_action, text })) if from != me => {
                let line = match (place, is_action) {
                    (Place::ToMe, false) => format!("/msg {me} {text}"),
                    (Place::ToMe, true) => format!("/query {me}\n/me {text}"),
                    (Place::Room(_), true) => format!("/me {text}"),
                    (Place::Room(room), false) => format!("/msg #{room} {text}"),
                    (Place::ToPerson(_), _) => return,
                };
                self.does(from, &line);
            }
            Some(Event::Joined { room, name }) => self.does(name, &format!("/join {room}")),
            Some(Event::Left { room, name, reason }) => {
                self.does(name, &format!("/part #{room} {}", reason.unwrap_or_default()));
            }
            Some(Event::Quit { name, reason }) => self.quit(name, reason),
            Some(Event::Reply(Reply::Query(Query::Gone(name)))) => self.quit(name, None),
            Some(Event::Renamed { old, new }) if old != me => {
                self.does(old, &format!("/nick {new}"));
                let person = self.people.remove(old).expect("the renamed user is online");
                self.people.insert(new.to_owned(), person);
            }
            Some(Event::Topic { name, text, .. }) if name != me => {
                self.does(name, &format!("/topic {}", text.unwrap_or("-")));
            }
            _ => {}
        }
    }

    fn quit(&mut self, name: &str, reason: Option<&str>) {
        if let Some(mut person) = self.people.remove(name) {
            person.say(&format!("/quit {}", reason.unwrap_or_default()));
        }
    }
}

/// Whether a line of a session is sent by the server, not typed.
fn is_servers(line: &str) -> bool {
    !matches!(Event::parse(Tags::split(line).1), None | Some(Event::Help(_)))
}

fn play(block: &Block) {
    let server = Server::start();
    let lines: Vec<&str> = block.text.lines().filter(|line| !line.starts_with("$ ")).collect();
    let welcomed = lines.iter().find_map(|line| match Event::parse(line) {
        Some(Event::Reply(Reply::Welcome { name, .. })) => Some(name),
        _ => None,
    });
    let has_login = welcomed.is_some();
    let mut me = welcomed.unwrap_or("alice").to_owned();
    let mut others = Others::before(server.port, &lines, &me);
    if !has_login {
        others.does("bob", "/join lobby");
    }
    let mut netcat = Netcat::connect(server.port);
    if !has_login {
        netcat.say(&me);
        netcat.settle();
    }
    for line in lines {
        if !is_servers(line) {
            netcat.say(line);
            continue;
        }
        others.cause(line, &me);
        let received = netcat.next().unwrap_or_else(|| panic!("{}: no {line}", block.place));
        assert_eq!(normal(&received, server.port), normal(line, server.port), "{}", block.place);
        if let Some(Event::Renamed { old, new }) = Event::parse(line)
            && old == me
        {
            new.clone_into(&mut me);
        }
    }
    if block.text.lines().last().is_some_and(|line| line.starts_with("[BYE")) {
        let mut rest = String::new();
        netcat.0.read_to_string(&mut rest).expect("a clean end");
        assert_eq!(rest, "", "{}", block.place);
    }
}

/// Returns the line of the server that a row of the screen shows, as far as it is replayed.
fn wire_of(row: &str) -> String {
    let Some(sentence) = row.strip_prefix("-- ") else { return row.to_owned() };
    let (head, rest) = sentence.split_once([';', ':']).unwrap_or((sentence, ""));
    if let Some(name) = sentence.strip_prefix("welcome, ").and_then(|it| it.split(';').next()) {
        return format!("[WELCOME {name}] you are in #lobby");
    }
    if let Some((room, count)) = head.split_once(" has ") {
        let count = count.split(' ').next().unwrap_or_default();
        return format!("[USERS {room} {count}] {}", rest.trim().replace(", ", ","));
    }
    if let Some(room) = head.strip_prefix("you are in ") {
        return format!("[JOINED {room}] your messages now go to this room");
    }
    match head.strip_prefix("your messages now go to ") {
        Some(name) => format!("[QUERY {name}] your messages now go to {name}"),
        None => row.to_owned(),
    }
}

/// Returns `false` if there is no tmux.
fn play_on_screen(block: &Block) -> bool {
    let server = Server::start();
    let mut lines: Vec<&str> = block.text.lines().collect();
    let prompt = lines.pop().expect("a prompt");
    // Rows without their time: `06:16 alice: hi`.
    let rows: Vec<&str> = lines.iter().map(|row| &row["HH:MM ".len()..]).collect();
    let wires: Vec<String> = rows.iter().map(|row| wire_of(row)).collect();
    let wires: Vec<&str> = wires.iter().map(String::as_str).collect();
    let Some(Event::Reply(Reply::Welcome { name: me, .. })) = Event::parse(wires[0]) else {
        panic!("{}: begins with {}", block.place, rows[0]);
    };
    let mut others = Others::before(server.port, &wires, me);
    // Not a first session: the client would show hints for new users.
    let flags = format!("--name {me} --no-history");
    let Some(terminal) = Terminal::join(server.port, &flags) else { return false };
    let mut query = None;
    for (at, (row, wire)) in rows.iter().zip(wires).enumerate() {
        others.cause(wire, me);
        match Event::parse(wire) {
            Some(Event::Message(Message { place: Place::ToPerson(to), text, .. }))
                if query != Some(to) =>
            {
                terminal.types(&format!("/msg {to} {text}\r"));
            }
            Some(Event::Message(Message { from, text, .. })) if from == me => {
                terminal.types(&format!("{text}\r"));
            }
            Some(Event::Reply(Reply::Joined { room })) => {
                terminal.types(&format!("/join {room}\r"));
            }
            Some(Event::Reply(Reply::Query(Query::On(name)))) => {
                terminal.types(&format!("/query {name}\r"));
                query = Some(name);
            }
            _ => {}
        }
        terminal.shows(row, |shown| {
            let is_ready = shown.last().is_some_and(|last| last.ends_with('>'));
            is_ready && shown.get(at).is_some_and(|shown| shown.ends_with(row))
        });
    }
    let (target, draft) = prompt.trim_start().split_once("> ").unwrap_or((prompt.trim_start(), ""));
    terminal.shows_last(&format!("{}>", target.trim_end_matches('>')));
    terminal.types(draft);
    let shown = terminal.shows(prompt, |rows| rows.last().is_some_and(|last| last == prompt));
    assert_eq!(shown.len(), rows.len() + 1, "{}", block.place);
    true
}
