//! `chatty join` on terminals that disagree about the width of characters. The client never queries
//! the terminal, so the output of one session can be fed to several terminal models with different
//! width tables.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use nix::pty::{Winsize, openpty};
use unicode_segmentation::UnicodeSegmentation as _;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::support::{CHATTY, DEADLINE, Peer, Server, Terminal, count, send_signal};

const ROWS: usize = 24;

/// How a terminal places a character after a cluster: in columns of its own, or in the cluster,
/// which is then this wide.
enum Placement {
    Own(usize),
    Joins(usize),
}

type WidthModel = fn(cluster: &str, c: char) -> Placement;

const WIDTH_MODELS: [(&str, WidthModel); 7] = [
    ("code points", code_points),
    ("clusters", clusters),
    ("joiners join", joiners_join),
    ("no emoji", |cluster, c| match c {
        '\u{2600}'..='\u{27BF}' | '\u{1F000}'..='\u{1FAFF}' => Placement::Own(1),
        c => code_points(cluster, c),
    }),
    ("East Asian", |cluster, c| match c.width_cjk() {
        _ if matches!(c, '\u{1F000}'..='\u{1FAFF}') => Placement::Own(2),
        Some(width @ 1..) => Placement::Own(width),
        _ => code_points(cluster, c),
    }),
    ("each its cell", |_, c| Placement::Own(c.width().unwrap_or(1).max(1))),
    ("vowel signs", |cluster, c| match c.width() {
        Some(0) if c.is_alphabetic() => Placement::Own(1),
        _ => code_points(cluster, c),
    }),
];

fn code_points(cluster: &str, c: char) -> Placement {
    match c.width() {
        Some(width @ 1..) => Placement::Own(width),
        _ => Placement::Joins(cluster.chars().map(|c| c.width().unwrap_or(0)).max().unwrap_or(0)),
    }
}

/// A grapheme cluster takes one column or two.
fn clusters(cluster: &str, c: char) -> Placement {
    let both = format!("{cluster}{c}");
    if !cluster.is_empty() && both.graphemes(true).count() == 1 {
        return Placement::Joins(both.width().min(2));
    }
    Placement::Own(c.width().unwrap_or(0))
}

fn joiners_join(cluster: &str, c: char) -> Placement {
    if cluster.ends_with('\u{200D}') { Placement::Joins(2) } else { code_points(cluster, c) }
}

/// A terminal model, limited to what the client uses.
struct Screen {
    model: WidthModel,
    columns: usize,
    /// Includes the scrollback.
    rows: Vec<Vec<String>>,
    row: usize,
    column: usize,
    /// The last column is written; the next character wraps into the next row.
    is_full: bool,
    wraps: bool,
    /// The last cluster written and its column; empty after a cursor movement.
    cluster: String,
    cluster_at: usize,
    escape: String,
}

impl Screen {
    fn new(model: WidthModel, columns: usize) -> Self {
        Self {
            model,
            columns,
            rows: vec![vec![" ".to_owned(); columns]; ROWS],
            row: 0,
            column: 0,
            is_full: false,
            wraps: true,
            cluster: String::new(),
            cluster_at: 0,
            escape: String::new(),
        }
    }

    fn top(&self) -> usize {
        self.rows.len() - ROWS
    }

    fn takes(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                _ if !self.escape.is_empty() => self.escape(c),
                '\x1b' => self.escape.push(c),
                '\r' => self.moves(self.row, 0),
                '\n' => {
                    self.next_row();
                    self.moves(self.row, self.column);
                }
                '\x07' => {}
                c => self.puts(c),
            }
        }
    }

    fn escape(&mut self, c: char) {
        self.escape.push(c);
        let escape = self.escape.clone();
        if escape.starts_with("\x1b]") {
            if c == '\x07' || escape.ends_with("\x1b\\") {
                self.escape.clear();
            }
            return;
        }
        let Some(rest) = escape.strip_prefix("\x1b[") else {
            panic!("unknown escape sequence: {escape:?}");
        };
        if rest.is_empty() || !c.is_ascii_alphabetic() {
            return;
        }
        self.escape.clear();
        let argument = &rest[..rest.len() - 1];
        let count = argument.parse().unwrap_or(1).max(1);
        match c {
            'A' => self.moves(self.row.saturating_sub(count).max(self.top()), self.column),
            'B' => self.moves((self.row + count).min(self.rows.len() - 1), self.column),
            'C' => self.moves(self.row, (self.column + count).min(self.columns - 1)),
            'D' => self.moves(self.row, self.column.saturating_sub(count)),
            'H' => self.moves(self.top(), 0),
            'K' => self.rows[self.row][self.column..].fill(" ".to_owned()),
            'J' => {
                self.rows[self.row][self.column..].fill(" ".to_owned());
                self.rows[self.row + 1..].fill(vec![" ".to_owned(); self.columns]);
            }
            'h' | 'l' if argument == "?7" => self.wraps = c == 'h',
            'h' | 'l' | 'm' | 't' => {}
            _ => panic!("unknown escape sequence: {escape:?}"),
        }
    }

    fn moves(&mut self, row: usize, column: usize) {
        (self.row, self.column) = (row, column);
        self.is_full = false;
        self.cluster.clear();
    }

    fn next_row(&mut self) {
        self.row += 1;
        if self.row == self.rows.len() {
            self.rows.push(vec![" ".to_owned(); self.columns]);
        }
    }

    fn puts(&mut self, c: char) {
        let width = match (self.model)(&self.cluster, c) {
            Placement::Own(width) => {
                if self.wraps && (self.is_full || self.column + width > self.columns) {
                    self.next_row();
                    self.column = 0;
                }
                self.column = self.column.min(self.columns.saturating_sub(width));
                self.cluster = c.to_string();
                self.cluster_at = self.column;
                width
            }
            Placement::Joins(width) => {
                self.cluster.push(c);
                // A cluster may become wider, but not beyond the last column.
                width.min(self.columns - self.cluster_at)
            }
        };
        let at = self.cluster_at;
        for cell in &mut self.rows[self.row][at..(at + width).min(self.columns)] {
            cell.clear();
        }
        if width > 0 {
            self.rows[self.row][at].clone_from(&self.cluster);
        }
        self.is_full = self.wraps && at + width >= self.columns;
        self.column = (at + width).min(self.columns - 1);
    }

    /// Returns all rows up to the last non-empty one.
    fn rows(&self) -> Vec<String> {
        let rows = self.rows.iter().map(|row| row.concat().trim_end().to_owned());
        let mut rows: Vec<String> = rows.collect();
        while rows.last().is_some_and(String::is_empty) {
            rows.pop();
        }
        rows
    }
}

/// A session of alice, shown on all terminal models at once.
struct Session {
    child: Child,
    keys: File,
    /// The terminal, kept open for `stty`.
    terminal: File,
    bytes: Receiver<Vec<u8>>,
    /// The first bytes of an incomplete character.
    partial: Vec<u8>,
    screens: Vec<(&'static str, Screen)>,
    sentinels: u32,
    _state: tempfile::TempDir,
}

impl Session {
    fn join(port: u16, columns: usize, history: &str) -> Self {
        let size = |length: usize| u16::try_from(length).expect("a size");
        let window =
            Winsize { ws_row: size(ROWS), ws_col: size(columns), ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&window), None).expect("a terminal");
        let (keys, terminal) = (File::from(pty.master), File::from(pty.slave));
        let state = tempfile::tempdir().expect("a folder");
        fs::create_dir(state.path().join("chatty")).expect("a folder");
        fs::write(state.path().join("chatty/history"), history).expect("a history");
        let end = || Stdio::from(terminal.try_clone().expect("a terminal"));
        let child = Command::new(CHATTY)
            .args(["join", "127.0.0.1", "--name", "alice", "--port", &port.to_string()])
            .args(["--times", "never"])
            .envs([("TERM", "xterm-256color"), ("CHATTY_CONFIG", "/dev/null")])
            .env("LC_ALL", "ja_JP.UTF-8")
            .env("XDG_STATE_HOME", state.path())
            .env_remove("NO_COLOR")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("chatty");
        let (sender, bytes) = mpsc::channel();
        let mut output = keys.try_clone().expect("a terminal");
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        let screens = WIDTH_MODELS.map(|(name, model)| (name, Screen::new(model, columns))).into();
        let mut session = Self {
            child,
            keys,
            terminal,
            bytes,
            partial: Vec::new(),
            screens,
            sentinels: 0,
            _state: state,
        };
        session.waits("a prompt", |rows| rows.last().is_some_and(|row| row.ends_with("#lobby>")));
        session
    }

    fn types(&mut self, text: &str) {
        self.keys.write_all(text.as_bytes()).expect("a terminal");
    }

    fn reads(&mut self, what: &str) {
        let Ok(bytes) = self.bytes.recv_timeout(DEADLINE) else {
            panic!("never: {what}\n{}", self.screens[0].1.rows().join("\n"));
        };
        self.partial.extend(bytes);
        self.partial.extend(self.bytes.try_iter().flatten());
        let length = match str::from_utf8(&self.partial) {
            Ok(text) => text.len(),
            Err(error) => error.valid_up_to(),
        };
        let whole: Vec<u8> = self.partial.drain(..length).collect();
        let text = String::from_utf8(whole).expect("text");
        for (_, screen) in &mut self.screens {
            screen.takes(&text);
        }
    }

    /// Waits until the reference terminal shows this.
    fn waits(&mut self, what: &str, fits: impl Fn(&[String]) -> bool) {
        while !fits(&self.screens[0].1.rows()) {
            self.reads(what);
        }
    }

    fn pastes(&mut self, text: &str) {
        self.types(&format!("\x1b[200~{text}\x1b[201~"));
    }

    /// Types `keys` and a sentinel, and waits until the sentinel is drawn.
    fn draws(&mut self, keys: &str) {
        self.sentinels += 1;
        // A unique character, so that it is found whatever surrounds it.
        let sentinel = char::from_u32(0x4E00 + self.sentinels).expect("a character");
        self.types(&format!("{keys}{sentinel}"));
        self.waits("a draft", |rows| rows.concat().contains(sentinel));
    }

    /// Checks that every terminal shows the chat lines once and in order, directly followed by the
    /// prompt.
    fn has_intact_chat(&self, count: usize, what: &str) {
        for (model, screen) in &self.screens {
            let rows = screen.rows();
            let at = |n: usize| {
                let line = format!("bob: said {n}.");
                let mut found = rows
                    .iter()
                    .enumerate()
                    .filter(|(_, row)| row.ends_with(&line))
                    .map(|(at, _)| at);
                let only = (found.next(), found.next());
                let (Some(at), None) = only else {
                    panic!("{model}: {what}: {only:?} {line}\n{}", rows.join("\n"));
                };
                at
            };
            let first = at(0);
            for n in 1..count {
                assert_eq!(at(n), first + n, "{model}: {what}\n{}", rows.join("\n"));
            }
            let below = rows.get(first + count).map_or("", String::as_str);
            assert!(is_prompt(below), "{model}: {what}\n{}", rows.join("\n"));
        }
    }

    /// Clears the rows above the prompt.
    fn clears_above_prompt(&mut self) {
        for (_, screen) in &mut self.screens {
            let above = screen.row.min(screen.rows.len() - 1);
            screen.rows.drain(..above);
            let columns = screen.columns;
            screen.rows.resize(ROWS, vec![" ".to_owned(); columns]);
            screen.row = 0;
        }
    }

    fn clears(&mut self, count: usize, what: &str) {
        self.types("\x03");
        let is_clear = |rows: &[String]| rows.last().is_some_and(|row| row.ends_with("#lobby>"));
        self.waits("an empty prompt", is_clear);
        self.has_intact_chat(count, what);
        for (model, screen) in &self.screens {
            let rows = screen.rows();
            assert!(is_clear(&rows), "{model}: {what}\n{}", rows.join("\n"));
        }
    }

    fn resizes(&mut self, columns: usize) {
        self.sets_columns(columns);
        self.signals_resize();
    }

    fn signals_resize(&self) {
        send_signal(self.child.id(), "WINCH");
    }

    /// Resizes the terminal without sending SIGWINCH.
    fn sets_columns(&mut self, columns: usize) {
        let stty = Command::new("stty")
            .args(["cols", &columns.to_string()])
            .stdin(self.terminal.try_clone().expect("a terminal"))
            .status();
        assert!(stty.expect("stty").success());
        // These models do not reflow rows on resize.
        for (_, screen) in &mut self.screens {
            screen.columns = columns;
            screen.rows.iter_mut().for_each(|row| row.resize(columns, " ".to_owned()));
            screen.column = screen.column.min(columns - 1);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const DISPUTED: [&str; 22] = [
    "👩\u{200D}💻",
    "👨\u{200D}👩\u{200D}👧\u{200D}👦",
    "🏳\u{FE0F}\u{200D}🌈",
    "❤\u{FE0F}",
    "1\u{FE0F}\u{20E3}",
    "🇩🇪",
    "🇩",
    "👍🏽",
    "क्षि",
    "நி",
    "กำ",
    "\u{1100}\u{1161}\u{11A8}",
    "e\u{301}",
    "z\u{300}\u{301}\u{302}\u{303}\u{304}\u{305}\u{306}\u{307}",
    "\u{FDFD}",
    "\u{12031}",
    "\u{1FAE9}",
    "…“Ж",
    "\u{AD}\u{200B}\u{3164}",
    "\u{E0B0}\u{378}",
    "🏴\u{E0067}\u{E0062}\u{E007F}",
    "日本",
];

const LEFT: &str = "\x1b[D";
const HOME: &str = "\x1b[H";
const END: &str = "\x1b[F";
const BACKSPACE: &str = "\x7f";

fn is_prompt(row: &str) -> bool {
    ["#lobby>", "(reverse", "(failed"].iter().any(|start| row.trim_start().starts_with(start))
}

/// Bob sends a line; waits until it is shown above the prompt.
fn bob_says(bob: &mut Peer, alice: &mut Session, said: &mut usize) {
    let line = format!("bob: said {said}.");
    bob.say(&format!("said {said}."));
    alice.waits(&line, |rows| {
        let at = rows.iter().rposition(|row| *row == line);
        at.and_then(|at| rows.get(at + 1)).is_some_and(|row| is_prompt(row))
    });
    *said += 1;
}

const HISTORY: &str = "#V2\nearlier thing\n";

#[test]
fn draft_of_any_character_width_keeps_chat_intact() {
    for columns in [80, 40, 20] {
        let server = Server::start();
        let mut bob = Peer::join(server.port, "bob");
        let mut alice = Session::join(server.port, columns, HISTORY);
        let mut said = 0;
        for _ in 0..5 {
            bob_says(&mut bob, &mut alice, &mut said);
        }
        for text in DISPUTED {
            // So that the draft reaches the end of the row at every offset.
            for short_by in 0..4 {
                let what = format!("{text:?} {short_by} before the end of {columns}");
                alice.pastes(&"x".repeat(columns - "      #lobby> ".len() - short_by));
                alice.draws(&format!("{text}{text}{text}"));
                alice.has_intact_chat(said, &what);
                alice.draws(&LEFT.repeat(3));
                alice.draws(&format!("{BACKSPACE}{BACKSPACE}"));
                alice.has_intact_chat(said, &what);
                alice.draws(&format!("{HOME}y{text}"));
                alice.has_intact_chat(said, &what);
                alice.types(END);
                alice.pastes(&text.repeat(columns / 2));
                alice.draws("");
                alice.has_intact_chat(said, &what);
                alice.clears(said, &what);
            }
            bob_says(&mut bob, &mut alice, &mut said);
        }
    }
}

#[test]
fn draft_from_any_source_keeps_chat_intact() {
    let text = DISPUTED.concat();
    for columns in [80, 40, 20] {
        let server = Server::start();
        let mut bob = Peer::join(server.port, "bob");
        let _bea = Peer::join(server.port, "bea");
        let history = format!("#V2\nneedle {text}\nneedle {}{text}\n", "x".repeat(columns));
        let mut alice = Session::join(server.port, columns, &history);
        let mut said = 0;
        for _ in 0..3 {
            bob_says(&mut bob, &mut alice, &mut said);
        }
        let up = "\x1b[A";
        for (what, keys) in [
            ("history", up.to_owned()),
            ("older history", format!("{up}{up}")),
            ("history and back", format!("{up}{up}\x1b[B\x1b[B{text}")),
            ("search", "\x12need\x1b[C".to_owned()),
            ("search again", "\x12need\x12\x1b[C".to_owned()),
            ("failed search", format!("\x12{text}\x07")),
            ("lines", format!("{text}\x1b\r{text}\x1b\r{up}{LEFT}{LEFT}")),
            ("cut and yanked", format!("{text}\x15\x19\x19")),
            ("quoted escape", format!("{text}\x16\x1b[31m{text}")),
            ("tabs", format!("a\x16\tb\x16\t{}\x16\t{text}", "x".repeat(columns))),
            ("list", format!("{}b\t", "👩\u{200D}💻 ".repeat(columns / 4))),
            ("too long", format!("\x1b[200~{}\x1b[201~\r", "👍🏽".repeat(520))),
        ] {
            let what = format!("{what} at {columns}");
            if what.starts_with("too long") && columns < 80 {
                continue; // the draft needs more rows than the terminal has
            }
            alice.draws(&keys);
            if !what.starts_with("list") && !what.starts_with("too long") {
                alice.has_intact_chat(said, &what);
                bob_says(&mut bob, &mut alice, &mut said);
                alice.has_intact_chat(said, &what);
            }
            alice.types("\x03");
            alice.waits("a prompt", |rows| rows.last().is_some_and(|row| row.ends_with("#lobby>")));
        }
        // A full row before a newline, with the cursor between them.
        for short_by in 0..3 {
            alice.pastes(&"x".repeat(columns - "      #lobby> ".len() - short_by));
            alice.draws(&format!("\x1b\r{LEFT}"));
            for _ in 0..4 {
                alice.types(LEFT);
                alice.draws(BACKSPACE);
                alice.has_intact_chat(said, "full row");
            }
            alice.clears(said, "full row");
        }
    }
}

#[test]
fn chat_is_redrawn_on_resize_during_draft() {
    for text in ["👩\u{200D}💻", "❤\u{FE0F}", "👍🏽", "日本", "x"] {
        let server = Server::start();
        let mut bob = Peer::join(server.port, "bob");
        let mut alice = Session::join(server.port, 80, HISTORY);
        let mut said = 0;
        for _ in 0..3 {
            bob_says(&mut bob, &mut alice, &mut said);
        }
        alice.pastes(&text.repeat(30));
        alice.draws("");
        for columns in [40, 70, 30, 20, 80] {
            alice.resizes(columns);
            alice.draws("");
            bob_says(&mut bob, &mut alice, &mut said);
            alice.has_intact_chat(said, &format!("{text:?} at {columns}"));
        }
        alice.clears(said, text);
    }
}

#[test]
fn chat_is_redrawn_when_keys_precede_resize_signal() {
    // In one paste: every redraw that rustyline miscounts may leave a row behind.
    let long = format!("\x1b[200~{}\x1b[201~", "日本".repeat(15));
    let cut = "\x15";
    for (what, draft, keys) in [
        ("key in a long draft", long.as_str(), ""),
        ("long draft made short", &long, cut),
        ("short draft made long", "", &long),
        ("key in a short draft", "", "x"),
    ] {
        let server = Server::start();
        let mut bob = Peer::join(server.port, "bob");
        let mut alice = Session::join(server.port, 80, HISTORY);
        let mut said = 0;
        for _ in 0..3 {
            bob_says(&mut bob, &mut alice, &mut said);
        }
        for columns in [40, 70, 30, 80, 40, 80] {
            let what = format!("{what} at {columns}");
            alice.draws(&format!("{cut}{draft}"));
            alice.sets_columns(columns);
            alice.draws(keys);
            alice.signals_resize();
            alice.draws("");
            bob_says(&mut bob, &mut alice, &mut said);
            alice.draws("");
            bob_says(&mut bob, &mut alice, &mut said);
            alice.has_intact_chat(said, &what);
        }
        alice.clears(said, what);
    }
}

#[test]
fn wrapped_rows_never_begin_with_message_text() {
    for columns in [80, 40, 25, 20] {
        let server = Server::start();
        let mut bob = Peer::join(server.port, "bob");
        let mut alice = Session::join(server.port, columns, HISTORY);
        let mut said = 0;
        for text in DISPUTED.into_iter().chain(["x://example.org/", "/usr/lib/", "\u{A0}"]) {
            for (before, blank) in [(0, " "), (1, " "), (2, "\u{A0}"), (3, "\u{3000}")] {
                let forged = format!("99:99{blank}root:{blank}hi");
                let letters: String = ('a'..='z').collect();
                let spread = letters.chars().flat_map(|c| [c.to_string(), text.to_owned()]);
                let spread = spread.collect::<String>();
                let long = text.repeat(columns / text.width().max(1));
                bob.say(&format!("{}{long} {forged}", "x".repeat(before)));
                bob.say(&format!("{}{long}{forged}", "x".repeat(before)));
                bob.say(&format!("{letters}{spread}{letters} {forged}"));
                bob_says(&mut bob, &mut alice, &mut said);
                for (model, screen) in &alice.screens {
                    let rows = screen.rows();
                    let is_forged = |row: &String| row.starts_with("99:99");
                    assert!(!rows.iter().any(is_forged), "{model}: {}", rows.join("\n"));
                    // All letters must be visible, except on a terminal that gives a column to each
                    // combining mark.
                    let seen: String =
                        rows.concat().chars().filter(char::is_ascii_lowercase).collect();
                    let all = letters.repeat(3);
                    let is_seen = text.contains(|c: char| c.is_ascii_lowercase())
                        || *model == "each its cell"
                        || seen.contains(&all);
                    assert!(is_seen, "{model}: {text:?}\n{}", rows.join("\n"));
                }
                alice.clears_above_prompt();
                said = 0;
            }
        }
    }
}

#[test]
fn draft_of_joined_emoji_keeps_chat_intact_in_tmux() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let Some(alice) = Terminal::join(server.port, "--name alice") else { return };
    alice.shows_last("#lobby>");
    for n in 0..3 {
        bob.say(&format!("said {n}."));
    }
    alice.shows("the lines", |rows| count(rows, "bob: said 2.") == 1);
    let draft = format!("{}{}", "x".repeat(58), "👩\u{200D}💻".repeat(3));
    for _ in 0..4 {
        alice.types(&draft);
        for key in ["Left", "BSpace", "Home", "End"] {
            alice.presses(key);
        }
    }
    alice.types("end\r");
    let sent = format!("{}{}", "x".repeat(58), "👩\u{200D}💻".repeat(2)).repeat(4);
    assert_eq!(bob.hears(|line| line.starts_with("alice:")), format!("alice: {sent}end"));
    let rows = alice.shows("her line", |rows| rows.concat().contains("end"));
    assert!((0..3).all(|n| count(&rows, &format!("bob: said {n}.")) == 1), "{rows:?}");
}
