//! Test support: a running server, a netcat-like peer, a scripted server, and a real terminal
//! (tmux).
//!
//! Helpers wait for a condition until [`DEADLINE`]; they never sleep for a fixed time.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Once;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::signal::unix::SignalKind;

/// The program under test.
pub(crate) const CHATTY: &str = env!("CARGO_BIN_EXE_chatty");

/// [`CHATTY`] quoted for a shell command line: its path may contain spaces.
pub(crate) const CHATTY_WORD: &str = concat!("'", env!("CARGO_BIN_EXE_chatty"), "'");

/// A test password, and a file with its hash.
pub(crate) const SESAME: &str = "correct horse battery";
pub(crate) const SESAME_FILE: &str = "tests/passwords/sesame.hash";

/// Timeout of every wait; far longer than any operation takes, so only a missing event fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// The beginnings of the startup lines of a server after the first one.
const STARTUP: [&str; 2] = ["join with: chatty join", "messages are "];

/// A running `chatty serve`.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    log: Receiver<String>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with extra flags.
    pub(crate) fn start_with(flags: &[&str]) -> Self {
        Self::spawn(&[&["--ephemeral"], flags].concat())
    }

    /// Starts a server with its log in `folder`.
    pub(crate) fn start_in(folder: &Path, flags: &[&str]) -> Self {
        let folder = folder.to_str().expect("a plain path");
        Self::spawn(&[&["--data", folder], flags].concat())
    }

    /// Starts a server on the port of one that has ended.
    pub(crate) fn start_again(port: u16, flags: &[&str]) -> Self {
        Self::spawn(&[&["--port", &port.to_string()], flags].concat())
    }

    fn spawn(flags: &[&str]) -> Self {
        Self::spawn_by(Command::new(CHATTY), flags, &STARTUP)
    }

    /// Starts a server of another version, of which only the first startup line is known.
    pub(crate) fn start_program(program: &Path, flags: &[&str]) -> Self {
        Self::spawn_by(Command::new(program), flags, &[])
    }

    /// Starts a server under `program`, a wrapper such as `strace` that takes a command line.
    pub(crate) fn spawn_under(mut program: Command, flags: &[&str]) -> Self {
        program.arg(CHATTY);
        Self::spawn_by(program, flags, &STARTUP)
    }

    /// `startup` has the beginnings of the startup lines after the first one.
    fn spawn_by(mut command: Command, flags: &[&str], startup: &[&str]) -> Self {
        pass_no_ignored_signals_on();
        let mut child = command
            .args(["serve", "--bind", "127.0.0.1"])
            .args(flags)
            .env("CHATTY_PORT", "0")
            .stderr(Stdio::piped())
            .spawn()
            .expect("chatty serve");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let mut other_lines = lines.by_ref().map(|line| line.expect("readable"));
        let first = other_lines.find(|line| !line.starts_with("upgrad")).expect("a first line");
        for start in startup {
            let line = lines.next().expect("a startup line").expect("readable");
            assert!(line.starts_with(start), "{line}");
        }
        // Drain stderr so that the pipe never fills.
        let (write, log) = mpsc::channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = write.send(line); // the test may not read the log
            }
        });
        let port = first.split("127.0.0.1:").nth(1).expect(&first);
        let port = port.split(|c: char| !c.is_ascii_digit()).next().expect(&first);
        Self { port: port.parse().expect(&first), child, log }
    }

    /// Returns the next line of the server's log.
    pub(crate) fn logs(&self) -> String {
        self.log.recv_timeout(DEADLINE).expect("a line in the log in time")
    }

    /// Returns the certificate fingerprint that a server with `--tls` reports when it starts.
    pub(crate) fn fingerprint(&self) -> String {
        let said = self.logs();
        let (_, rest) = said.split_once("SHA-256 ").expect(&said);
        rest.split(' ').next().expect("a fingerprint").to_owned()
    }

    /// Returns the log lines that have not been read yet.
    pub(crate) fn logged(&self) -> Vec<String> {
        self.log.try_iter().collect()
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the server to exit; returns the exit code.
    pub(crate) fn wait(mut self) -> Option<i32> {
        self.child.wait().expect("an end").code()
    }

    /// Sends SIGTERM and waits; returns the exit code and the log lines not read yet.
    pub(crate) fn stops(mut self) -> (Option<i32>, Vec<String>) {
        self.signal("TERM");
        let code = self.child.wait().expect("an end").code();
        (code, self.log.iter().collect())
    }

    /// Returns the number of open sockets of the server.
    pub(crate) fn count_sockets(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.process_id());
        let files = std::fs::read_dir(folder).expect("descriptors").flatten();
        let links = files.filter_map(|file| std::fs::read_link(file.path()).ok());
        links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
    }

    /// Waits until the server holds fewer than `before` sockets.
    pub(crate) fn waits_for_fewer_sockets(&self, before: usize) {
        Terminal::waits("an end", || self.count_sockets() < before);
    }

    pub(crate) fn signal(&self, name: &str) {
        send_signal(self.process_id(), name);
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A client like netcat: sends and reads raw lines.
pub(crate) struct Peer {
    lines: BufReader<TcpStream>,
}

impl Peer {
    /// Connects and logs in; `None` if the connection is rejected.
    pub(crate) fn try_join(port: u16, name: &str) -> Option<Self> {
        Self::try_connect(port).map(|peer| peer.logged_in(name))
    }

    /// Connects and reads the greeting; `None` if the connection is rejected.
    pub(crate) fn try_connect(port: u16) -> Option<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
        stream.set_read_timeout(Some(DEADLINE)).expect("timeout");
        let mut peer = Self { lines: BufReader::new(stream) };
        let mut first = String::new();
        let is_in = peer.lines.read_line(&mut first).is_ok() && first.starts_with("[HELLO");
        is_in.then_some(peer)
    }

    pub(crate) fn join(port: u16, name: &str) -> Self {
        Self::on(TcpStream::connect(("127.0.0.1", port)).expect("connect"), name)
    }

    /// Logs in and registers the name as an account.
    pub(crate) fn register(port: u16, name: &str, password: &str) -> Self {
        let mut peer = Self::join(port, name);
        peer.say(&format!("/register {password}"));
        peer.hears(|line| line.starts_with(&format!("[REGISTERED {name}]")));
        peer
    }

    /// Logs in over an open connection.
    pub(crate) fn on(stream: TcpStream, name: &str) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).expect("timeout");
        Self { lines: BufReader::new(stream) }.logged_in(name)
    }

    /// Reads the greeting of an open connection, without logging in.
    pub(crate) fn greeted(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).expect("timeout");
        let mut peer = Self { lines: BufReader::new(stream) };
        peer.hears(|line| line.starts_with("[HELLO"));
        peer
    }

    fn logged_in(self, name: &str) -> Self {
        let mut peer = self;
        peer.say(name);
        peer.hears(|line| line.starts_with("[WELCOME"));
        peer.hears(|line| line.starts_with("[USERS"));
        peer
    }

    /// Connects and reads the greeting, without logging in.
    pub(crate) fn connect(port: u16) -> Self {
        Self::greeted(TcpStream::connect(("127.0.0.1", port)).expect("connect"))
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        self.lines.get_ref()
    }

    /// Returns the next line; `None` at the end of the stream or after an error.
    pub(crate) fn try_next(&mut self) -> Option<String> {
        let mut line = String::new();
        let count = self.lines.read_line(&mut line).ok()?;
        (count > 0).then(|| line.trim_end_matches('\n').to_owned())
    }

    /// Sends raw bytes.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.lines.get_mut().write_all(bytes).expect("send");
    }

    /// Reads exactly `count` bytes, which need not be a whole line.
    pub(crate) fn take(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.lines.read_exact(&mut bytes).expect("bytes in time");
        bytes
    }

    /// Sends a `/ping` barrier and returns every line received before its `[PONG]`.
    pub(crate) fn settles(&mut self) -> Vec<String> {
        self.say("/ping settled");
        let mut lines = Vec::new();
        loop {
            match self.next() {
                line if line == "[PONG settled]" => return lines,
                line => lines.push(line),
            }
        }
    }

    /// Like [`Self::settles`] for the tagged dialect; discards the lines.
    pub(crate) fn settles_tagged(&mut self) {
        self.say("/ping settled");
        self.hears(|line| line.ends_with("[PONG settled]"));
    }

    /// Returns every line until the server closes the connection without an error.
    pub(crate) fn rest(&mut self) -> Vec<String> {
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).expect("a clean end in time");
        rest.lines().map(str::to_owned).collect()
    }

    pub(crate) fn say(&mut self, line: &str) {
        // In one write: a separate write of the newline would be delayed by Nagle's algorithm.
        self.lines.get_mut().write_all(format!("{line}\n").as_bytes()).expect("say");
    }

    pub(crate) fn next(&mut self) -> String {
        let mut line = String::new();
        let read = self.lines.read_line(&mut line).expect("a line in time");
        assert_ne!(read, 0, "the server has closed");
        line.trim_end_matches('\n').to_owned()
    }

    /// Reads until a line matches and returns that line.
    pub(crate) fn hears(&mut self, fits: impl Fn(&str) -> bool) -> String {
        loop {
            let line = self.next();
            if fits(&line) {
                return line;
            }
        }
    }
}

/// Returns the messages of a room as `(id, message)`, oldest first, read page by page.
pub(crate) fn history(port: u16, room: &str) -> Vec<(u64, String)> {
    let mut reader = Peer::join(port, "historian");
    reader.say("/set tags on");
    reader.say(&format!("/join {room}"));
    let (mut rows, mut last) = (Vec::new(), 0);
    loop {
        reader.say(&format!("/history 1000 after {last} #{room}"));
        let header = reader.hears(|line| line.starts_with("[HISTORY "));
        let count: usize =
            header.trim_end_matches(']').rsplit(' ').next().unwrap().parse().unwrap();
        for _ in 0..count {
            let row = reader.hears(|line| line.starts_with("@id="));
            let (tags, row) = row["@id=".len()..].split_once(' ').unwrap();
            let id = tags.split(';').next().unwrap().parse().unwrap();
            assert!(id > last, "ids grow");
            last = id;
            rows.push((id, row.split_once(' ').unwrap().1.to_owned()));
        }
        if count == 0 {
            reader.say("/quit"); // the reply to /quit means that the name is free again
            reader.rest();
            return rows;
        }
    }
}

/// Starts a server that greets and logs in one client, sends `lines`, and closes the connection.
pub(crate) fn scripted_server(lines: &[u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("bound").port();
    let lines = lines.to_vec();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        let said = BufReader::new(stream.try_clone().expect("clone"));
        stream.write_all(b"[HELLO chatty/1] hi\n").expect("hello");
        for line in said.lines().map_while(Result::ok) {
            if line.starts_with("/set") {
                stream.write_all(b"[SET echo=on joins=on tags=on]\n").expect("set");
            } else if line.starts_with("/login") {
                stream.write_all(b"[WELCOME alice] hi\n").expect("welcome");
            } else if let Some(cid) = line.strip_suffix(" /session") {
                stream.write_all(format!("{cid} [SESSION abc]\n").as_bytes()).expect("session");
                stream.write_all(&lines).expect("lines");
                return;
            }
        }
    });
    port
}

/// Runs `chatty join` with piped input and output.
pub(crate) fn join(port: u16, args: &[&str], input: &[u8]) -> Output {
    join_by(Path::new(CHATTY), port, args, input)
}

/// Like [`join`] for a client of another version.
pub(crate) fn join_by(program: &Path, port: u16, args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(program)
        .args(["join", "127.0.0.1", "--port", &port.to_string()])
        .args(args)
        .env("CHATTY_CONFIG", "/dev/null")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("chatty join");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    // The client may exit before it has read all its input; the test checks its output.
    let writing = thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("an end");
    let _ = writing.join();
    output
}

/// Resets signals that this process ignores (`nohup`, a shell's `&`), because children inherit
/// ignored signals. A signal with a handler is reset to its default in a child.
fn pass_no_ignored_signals_on() {
    static DONE: Once = Once::new();
    DONE.call_once(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let _context = runtime.enter();
        for kind in [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::quit()] {
            if chatty::ignored_signals::is_ignored(kind.as_raw_value()) {
                drop(tokio::signal::unix::signal(kind).expect("a handler"));
            }
        }
    });
}

/// Sends a signal, named without `SIG`, by system call: not every machine has a `kill` program.
pub(crate) fn send_signal(process_id: u32, name: &str) {
    let signal: Signal = format!("SIG{name}").parse().expect(name);
    let process_id = Pid::from_raw(process_id.try_into().expect("a process id"));
    nix::sys::signal::kill(process_id, signal).expect("a running process");
}

/// Whether `scripts/test.sh` installs `program` if it is missing.
pub(crate) fn is_installed_by_script(program: &str) -> bool {
    include_str!("../../scripts/test.sh")
        .split_whitespace()
        .any(|word| word.split_once(':').is_some_and(|(listed, _)| listed == program))
}

/// Whether a program that the calling test needs is installed. If not, the test must return; it is
/// reported as skipped or, if CI is set, fails.
///
/// `scripts/test.sh` installs every program that tests require. Only the shell and coreutils may be
/// used without this check.
pub(crate) fn has_program(program: &str) -> bool {
    assert!(is_installed_by_script(program), "scripts/test.sh does not install {program}");
    let is_executable = |folder: PathBuf| {
        let file = folder.join(program).metadata();
        file.is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_installed = std::env::split_paths(&path).any(is_executable);
    if !is_installed {
        assert!(!is_ci(), "{program} is not installed; run scripts/test.sh");
        report_skipped(&format!("{program} is not installed"));
    }
    is_installed
}

/// Whether CI is set, by the same rule as `scripts/test.sh`.
pub(crate) fn is_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty())
}

/// Reports the calling test as skipped, wholly or in part, bypassing the output capture.
pub(crate) fn report_skipped(reason: &str) {
    let thread = thread::current();
    let test = thread.name().unwrap_or("a test");
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {reason}");
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// An 80-column tmux terminal running `chatty join`; after the client exits, the screen shows its
/// exit code and the terminal settings.
pub(crate) struct Terminal {
    /// Folder of a tmux socket of its own, so that a developer's tmux is not touched.
    folder: tempfile::TempDir,
}

impl Terminal {
    /// Runs `chatty join`, then prints the exit code and the terminal settings.
    pub(crate) fn join(port: u16, args: &str) -> Option<Self> {
        Self::join_by(CHATTY_WORD, port, args)
    }

    /// Like [`Self::join`] for a client of another version, quoted like [`CHATTY_WORD`].
    pub(crate) fn join_by(program: &str, port: u16, args: &str) -> Option<Self> {
        let mut script = format!("{program} join 127.0.0.1 --port {port} {args}; ");
        let _ = write!(script, "echo EXIT=$?; stty -a | tr ' ;' '\\n\\n' | grep -xE -- ");
        let _ = write!(script, "'-?(icanon|echo)' | tr '\\n' ' '; exec cat");
        Self::open(&script)
    }

    /// Runs a `/bin/sh` script, independent of the user's shell. `None` if tmux is missing, which
    /// fails the test if CI is set.
    pub(crate) fn open(script: &str) -> Option<Self> {
        Self::open_sized(script, (80, 24))
    }

    /// Like [`Self::join`] on a screen of this many columns and rows.
    pub(crate) fn join_sized(port: u16, args: &str, size: (usize, usize)) -> Option<Self> {
        Self::open_sized(&format!("{CHATTY_WORD} join 127.0.0.1 --port {port} {args}"), size)
    }

    fn open_sized(script: &str, (columns, rows): (usize, usize)) -> Option<Self> {
        if !has_program("tmux") {
            return None;
        }
        let terminal = Self { folder: tempfile::tempdir().expect("a folder") };
        // Ctrl-C is meant for the client; some shells would exit with it.
        let script = &format!("trap : INT; {script}");
        // The limit must be set before the session is created: a session keeps its initial limit.
        let limit = ["start-server", ";", "set-option", "-g", "history-limit", "5000", ";"];
        let (columns, rows) = (columns.to_string(), rows.to_string());
        let session = ["new-session", "-d", "-s", "it", "-x", &columns, "-y", &rows, script];
        terminal.tmux(&[&limit[..], &session[..]].concat());
        Some(terminal)
    }

    fn tmux(&self, args: &[&str]) -> String {
        let command = Command::new("tmux")
            .arg("-S")
            .arg(self.folder.path().join("tmux"))
            .args(["-f", "/dev/null", "-u"])
            .args(args)
            .env_remove("NO_COLOR")
            .env("SHELL", "/bin/sh")
            .env("CHATTY_CONFIG", "/dev/null")
            .env("XDG_STATE_HOME", self.folder.path())
            .env("XDG_DATA_HOME", self.folder.path())
            .output();
        String::from_utf8_lossy(&command.expect("tmux").stdout).into_owned()
    }

    /// Types text; `\r` is Enter.
    pub(crate) fn types(&self, text: &str) {
        self.tmux(&["send-keys", "-t", "it", "-l", text]);
    }

    /// Presses a key by its tmux name.
    pub(crate) fn presses(&self, key: &str) {
        self.tmux(&["send-keys", "-t", "it", key]);
    }

    /// Types raw bytes, which may be invalid UTF-8.
    pub(crate) fn presses_bytes(&self, bytes: &[u8]) {
        let codes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let codes: Vec<&str> = codes.iter().map(String::as_str).collect();
        self.tmux(&[&["send-keys", "-t", "it", "-H"], &codes[..]].concat());
    }

    /// Pastes with bracketed paste.
    pub(crate) fn pastes(&self, text: &str) {
        self.tmux(&["set-buffer", "-b", "it", text]);
        self.tmux(&["paste-buffer", "-p", "-b", "it", "-t", "it"]);
    }

    /// Pastes without bracketed paste: the client cannot tell the paste from typing.
    pub(crate) fn pastes_raw(&self, text: &str) {
        self.tmux(&["set-buffer", "-b", "it", text]);
        self.tmux(&["paste-buffer", "-b", "it", "-t", "it"]);
    }

    /// Resizes the terminal to `columns` columns.
    pub(crate) fn resizes(&self, columns: usize) {
        self.tmux(&["resize-window", "-t", "it", "-x", &columns.to_string()]);
    }

    /// Returns the non-empty rows, including the scrollback.
    pub(crate) fn rows(&self) -> Vec<String> {
        let screen = self.tmux(&["capture-pane", "-p", "-t", "it", "-S", "-"]);
        screen.lines().map(|row| row.trim_end().to_owned()).filter(|row| !row.is_empty()).collect()
    }

    /// Returns the rows of the visible screen up to the last non-empty row.
    pub(crate) fn screen(&self) -> Vec<String> {
        let screen = self.tmux(&["capture-pane", "-p", "-t", "it"]);
        screen.trim_end().lines().map(|row| row.trim_end().to_owned()).collect()
    }

    /// Returns the visible screen with its escape sequences.
    pub(crate) fn styled(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-e", "-t", "it"])
    }

    /// Returns the terminal title.
    pub(crate) fn title(&self) -> String {
        self.tmux(&["display-message", "-p", "-t", "it", "#{pane_title}"]).trim().to_owned()
    }

    /// Starts to record the bytes sent to the terminal in `file`.
    pub(crate) fn records(&self, file: &Path) {
        self.tmux(&["pipe-pane", "-t", "it", &format!("cat >> '{}'", file.display())]);
    }

    /// Returns the process id of the program that the terminal's shell runs.
    pub(crate) fn process_id(&self) -> u32 {
        let shell = self.tmux(&["display-message", "-p", "-t", "it", "#{pane_pid}"]);
        let processes = std::fs::read_dir("/proc").expect("processes").flatten();
        let mut ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let is_child = |id: &u32| {
            let status = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            // `ID (NAME) STATE PARENT …`; NAME may contain any character.
            let (_, fields) = status.rsplit_once(") ").unwrap_or_default();
            fields.split(' ').nth(1) == Some(shell.trim())
        };
        ids.find(is_child).expect("a child of the shell")
    }

    /// Sends a signal to the program that the terminal's shell runs.
    pub(crate) fn signal(&self, name: &str) {
        send_signal(self.process_id(), name);
    }

    /// Polls until a condition is true.
    pub(crate) fn waits(what: &str, mut is_so: impl FnMut() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < DEADLINE, "never: {what}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the rows match; returns the rows.
    pub(crate) fn shows(&self, what: &str, fits: impl Fn(&[String]) -> bool) -> Vec<String> {
        let start = Instant::now();
        loop {
            let rows = self.rows();
            if fits(&rows) {
                return rows;
            }
            assert!(start.elapsed() < DEADLINE, "never: {what}\n{}", rows.join("\n"));
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the last row, which holds the prompt, equals `row`, except for unread counts.
    pub(crate) fn shows_last(&self, row: &str) -> Vec<String> {
        self.shows(row, |rows| {
            let prompt = rows.last().map(|last| last.trim_start());
            let rest = prompt.and_then(|prompt| prompt.strip_suffix(row));
            rest.is_some_and(|counts| counts.split_whitespace().all(|word| word.contains('+')))
        })
    }

    /// Waits for the client to exit and checks that the terminal settings are restored.
    pub(crate) fn ends_with(&self, exit: u8) -> Vec<String> {
        let rows = self.shows_last("icanon echo");
        // Only at the start of a row: the client must leave the cursor in the first column.
        assert!(rows.contains(&format!("EXIT={exit}")), "{}", rows.join("\n"));
        rows
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

/// Returns the number of rows that end with `text`.
pub(crate) fn count(rows: &[String], text: &str) -> usize {
    rows.iter().filter(|row| row.ends_with(text)).count()
}
