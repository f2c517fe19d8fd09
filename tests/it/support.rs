//! What the tests stand on: a server, somebody to talk to, a server
//! that says what it is told to, and a terminal (tmux) to sit at.
//!
//! Everything waits for a condition, with a deadline; nothing waits for time to
//! pass.

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

/// The same as one word of a shell's command line: its path may contain blanks.
pub(crate) const CHATTY_WORD: &str = concat!("'", env!("CARGO_BIN_EXE_chatty"), "'");

/// A password, and a file with its hash.
pub(crate) const SESAME: &str = "correct horse battery";
pub(crate) const SESAME_FILE: &str = "tests/passwords/sesame.hash";

/// Far longer than anything takes, so that only what never comes fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

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

    /// One with further flags.
    pub(crate) fn start_with(flags: &[&str]) -> Self {
        Self::spawn(&[&["--ephemeral"], flags].concat())
    }

    /// One that keeps its log in a folder.
    pub(crate) fn start_in(folder: &Path, flags: &[&str]) -> Self {
        let folder = folder.to_str().expect("a plain path");
        Self::spawn(&[&["--data", folder], flags].concat())
    }

    /// One in place of another that is gone.
    pub(crate) fn start_again(port: u16, flags: &[&str]) -> Self {
        Self::spawn(&[&["--port", &port.to_string()], flags].concat())
    }

    fn spawn(flags: &[&str]) -> Self {
        Self::spawn_by(Command::new(CHATTY), flags)
    }

    /// One that a program runs which is given the command line to run.
    pub(crate) fn spawn_under(mut program: Command, flags: &[&str]) -> Self {
        program.arg(CHATTY);
        Self::spawn_by(program, flags)
    }

    fn spawn_by(mut command: Command, flags: &[&str]) -> Self {
        pass_no_ignored_signals_on();
        let mut child = command
            .args(["serve", "--bind", "127.0.0.1"])
            .args(flags)
            .env("CHATTY_PORT", "0")
            .stderr(Stdio::piped())
            .spawn()
            .expect("chatty serve");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let first = lines.next().expect("a first line").expect("readable");
        for start in ["join with: chatty join", "messages are "] {
            let line = lines.next().expect("a line of the start").expect("readable");
            assert!(line.starts_with(start), "{line}");
        }
        // Its later words must not fill the pipe.
        let (write, log) = mpsc::channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = write.send(line); // nobody may ask for it
            }
        });
        let port = first.split("127.0.0.1:").nth(1).expect(&first);
        let port = port.split(|c: char| !c.is_ascii_digit()).next().expect(&first);
        Self { port: port.parse().expect(&first), child, log }
    }

    /// The next line it writes to its log.
    pub(crate) fn logs(&self) -> String {
        self.log.recv_timeout(DEADLINE).expect("a line in the log in time")
    }

    /// The fingerprint that it says at its start, with `--tls`.
    pub(crate) fn fingerprint(&self) -> String {
        let said = self.logs();
        let (_, rest) = said.split_once("SHA-256 ").expect(&said);
        rest.split(' ').next().expect("a fingerprint").to_owned()
    }

    /// All that it has written to its log and nobody has read yet.
    pub(crate) fn logged(&self) -> Vec<String> {
        self.log.try_iter().collect()
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end, and gives the exit code.
    pub(crate) fn wait(mut self) -> Option<i32> {
        self.child.wait().expect("an end").code()
    }

    /// Stops it as an operator does; gives the exit code, and what it wrote to its log
    /// that nobody has read yet.
    pub(crate) fn stops(mut self) -> (Option<i32>, Vec<String>) {
        self.signal("TERM");
        let code = self.child.wait().expect("an end").code();
        (code, self.log.iter().collect())
    }

    /// How many sockets it holds.
    pub(crate) fn count_sockets(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.process_id());
        let files = std::fs::read_dir(folder).expect("descriptors").flatten();
        let links = files.filter_map(|file| std::fs::read_link(file.path()).ok());
        links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
    }

    /// Waits until it holds fewer sockets than before what makes it end a connection.
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

/// Somebody with netcat.
pub(crate) struct Peer {
    lines: BufReader<TcpStream>,
}

impl Peer {
    /// Joins where it is let in.
    pub(crate) fn try_join(port: u16, name: &str) -> Option<Self> {
        Self::try_connect(port).map(|peer| peer.logged_in(name))
    }

    /// Connects where it is let in.
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

    /// Joins, and makes the name an account.
    pub(crate) fn register(port: u16, name: &str, password: &str) -> Self {
        let mut peer = Self::join(port, name);
        peer.say(&format!("/register {password}"));
        peer.hears(|line| line.starts_with(&format!("[REGISTERED {name}]")));
        peer
    }

    /// Joins over a connection that is there.
    pub(crate) fn on(stream: TcpStream, name: &str) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).expect("timeout");
        Self { lines: BufReader::new(stream) }.logged_in(name)
    }

    /// Somebody whose connection is there, and who has been greeted.
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

    /// Somebody who has connected and been greeted, and no more.
    pub(crate) fn connect(port: u16) -> Self {
        Self::greeted(TcpStream::connect(("127.0.0.1", port)).expect("connect"))
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        self.lines.get_ref()
    }

    /// The next line, unless it has ended.
    pub(crate) fn try_next(&mut self) -> Option<String> {
        let mut line = String::new();
        let count = self.lines.read_line(&mut line).ok()?;
        (count > 0).then(|| line.trim_end_matches('\n').to_owned())
    }

    /// Bytes, whatever they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.lines.get_mut().write_all(bytes).expect("send");
    }

    /// So many bytes, which may be no line.
    pub(crate) fn take(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.lines.read_exact(&mut bytes).expect("bytes in time");
        bytes
    }

    /// Every line up to the barrier that is set now.
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

    /// The same in the tagged dialect.
    pub(crate) fn settles_tagged(&mut self) {
        self.say("/ping settled");
        self.hears(|line| line.ends_with("[PONG settled]"));
    }

    /// Every line up to the server's closing, which has to be orderly.
    pub(crate) fn rest(&mut self) -> Vec<String> {
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).expect("an orderly end in time");
        rest.lines().map(str::to_owned).collect()
    }

    pub(crate) fn say(&mut self, line: &str) {
        // In one piece: a line end of its own would wait for an acknowledgement.
        self.lines.get_mut().write_all(format!("{line}\n").as_bytes()).expect("say");
    }

    pub(crate) fn next(&mut self) -> String {
        let mut line = String::new();
        let read = self.lines.read_line(&mut line).expect("a line in time");
        assert_ne!(read, 0, "the server has closed");
        line.trim_end_matches('\n').to_owned()
    }

    /// Reads on to the line that fits.
    pub(crate) fn hears(&mut self, fits: impl Fn(&str) -> bool) -> String {
        loop {
            let line = self.next();
            if fits(&line) {
                return line;
            }
        }
    }
}

/// The rows of a room, as `(id, message)`, oldest first, page by page.
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
            reader.say("/quit"); // the name is free again when this is answered
            reader.rest();
            return rows;
        }
    }
}

/// A server that greets whoever comes, says `lines`, and closes.
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

/// Runs `chatty join` in a pipe.
pub(crate) fn join(port: u16, args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(CHATTY)
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
    // It may end before it has read everything; what it said then counts.
    let writing = thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("an end");
    let _ = writing.join();
    output
}

/// `nohup` and a script's `&` have this process ignore signals, which its children would inherit.
/// One that has a handler is at its default in a child.
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

/// Sends a process a signal by its name without `SIG`, by system call: the program `kill`
/// is not on every machine.
pub(crate) fn send_signal(process_id: u32, name: &str) {
    let signal: Signal = format!("SIG{name}").parse().expect(name);
    let process_id = Pid::from_raw(process_id.try_into().expect("a process id"));
    nix::sys::signal::kill(process_id, signal).expect("a running process");
}

/// Whether `scripts/test.sh` installs a program where it is missing.
pub(crate) fn is_installed_by_script(program: &str) -> bool {
    include_str!("../../scripts/test.sh")
        .split_whitespace()
        .any(|word| word.split_once(':').is_some_and(|(listed, _)| listed == program))
}

/// Whether a program that the calling test needs is installed. If not, the test is to return;
/// it is then reported as skipped or, if CI is set, it fails.
///
/// `scripts/test.sh` installs every program that a test asks for here. Only the shell and
/// coreutils are used without asking.
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

/// Whether CI is set, as `scripts/test.sh` sees it.
pub(crate) fn is_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty())
}

/// Reports that the calling test is skipped, wholly or in part, past the harness's capture.
pub(crate) fn report_skipped(reason: &str) {
    let thread = thread::current();
    let test = thread.name().unwrap_or("a test");
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {reason}");
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// A terminal of 80 columns with `chatty join` in it; after its end it shows
/// the exit code and the terminal's settings.
pub(crate) struct Terminal {
    /// Where its tmux listens: not the one a developer sits at.
    folder: tempfile::TempDir,
}

impl Terminal {
    /// Runs `chatty join` and then tells how it left the terminal.
    pub(crate) fn join(port: u16, args: &str) -> Option<Self> {
        let mut script = format!("{CHATTY_WORD} join 127.0.0.1 --port {port} {args}; ");
        let _ = write!(script, "echo EXIT=$?; stty -a | tr ' ;' '\\n\\n' | grep -xE -- ");
        let _ = write!(script, "'-?(icanon|echo)' | tr '\\n' ' '; exec cat");
        Self::open(&script)
    }

    /// Runs a script of `/bin/sh`, whatever shell the user has. `None` where there is no tmux,
    /// which is an error only where CI is set.
    pub(crate) fn open(script: &str) -> Option<Self> {
        if !has_program("tmux") {
            return None;
        }
        let terminal = Self { folder: tempfile::tempdir().expect("a folder") };
        // Ctrl-C is for the program; some shells would end with it.
        let script = &format!("trap : INT; {script}");
        // Before the session: it keeps the limit it is made with.
        let limit = ["start-server", ";", "set-option", "-g", "history-limit", "5000", ";"];
        let session = ["new-session", "-d", "-s", "it", "-x", "80", "-y", "24", script];
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
            .output();
        String::from_utf8_lossy(&command.expect("tmux").stdout).into_owned()
    }

    /// Types text as it is; `\r` is Enter.
    pub(crate) fn types(&self, text: &str) {
        self.tmux(&["send-keys", "-t", "it", "-l", text]);
    }

    /// Presses a key by tmux's name for it.
    pub(crate) fn presses(&self, key: &str) {
        self.tmux(&["send-keys", "-t", "it", key]);
    }

    /// Types bytes that may be no text.
    pub(crate) fn presses_bytes(&self, bytes: &[u8]) {
        let codes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let codes: Vec<&str> = codes.iter().map(String::as_str).collect();
        self.tmux(&[&["send-keys", "-t", "it", "-H"], &codes[..]].concat());
    }

    /// Pastes as a terminal does that tells a paste from typing.
    pub(crate) fn pastes(&self, text: &str) {
        self.tmux(&["set-buffer", "-b", "it", text]);
        self.tmux(&["paste-buffer", "-p", "-b", "it", "-t", "it"]);
    }

    /// Pastes as a terminal does that does not tell a paste from typing.
    pub(crate) fn pastes_raw(&self, text: &str) {
        self.tmux(&["set-buffer", "-b", "it", text]);
        self.tmux(&["paste-buffer", "-b", "it", "-t", "it"]);
    }

    /// Makes it so many columns wide.
    pub(crate) fn resizes(&self, columns: usize) {
        self.tmux(&["resize-window", "-t", "it", "-x", &columns.to_string()]);
    }

    /// The rows that are not empty, scrolled-off ones too.
    pub(crate) fn rows(&self) -> Vec<String> {
        let screen = self.tmux(&["capture-pane", "-p", "-t", "it", "-S", "-"]);
        screen.lines().map(|row| row.trim_end().to_owned()).filter(|row| !row.is_empty()).collect()
    }

    /// The rows of the screen, to the last that is not empty.
    pub(crate) fn screen(&self) -> Vec<String> {
        let screen = self.tmux(&["capture-pane", "-p", "-t", "it"]);
        screen.trim_end().lines().map(|row| row.trim_end().to_owned()).collect()
    }

    /// The screen with its escape sequences.
    pub(crate) fn styled(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-e", "-t", "it"])
    }

    /// The title that was set last.
    pub(crate) fn title(&self) -> String {
        self.tmux(&["display-message", "-p", "-t", "it", "#{pane_title}"]).trim().to_owned()
    }

    /// From now on the bytes for the terminal are in this file too.
    pub(crate) fn records(&self, file: &Path) {
        self.tmux(&["pipe-pane", "-t", "it", &format!("cat >> '{}'", file.display())]);
    }

    /// The id of the program that the terminal's shell has started.
    pub(crate) fn process_id(&self) -> u32 {
        let shell = self.tmux(&["display-message", "-p", "-t", "it", "#{pane_pid}"]);
        let processes = std::fs::read_dir("/proc").expect("processes").flatten();
        let mut ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let is_child = |id: &u32| {
            let status = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            // `ID (NAME) STATE PARENT …`, where NAME may contain anything.
            let (_, fields) = status.rsplit_once(") ").unwrap_or_default();
            fields.split(' ').nth(1) == Some(shell.trim())
        };
        ids.find(is_child).expect("a child of the shell")
    }

    /// Sends a signal to that program.
    pub(crate) fn signal(&self, name: &str) {
        send_signal(self.process_id(), name);
    }

    /// Waits for something to become true.
    pub(crate) fn waits(what: &str, mut is_so: impl FnMut() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < DEADLINE, "never: {what}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the screen fits.
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

    /// Waits for the last row, where the prompt is.
    pub(crate) fn shows_last(&self, row: &str) -> Vec<String> {
        self.shows(row, |rows| rows.last().is_some_and(|last| last.trim_start() == row))
    }

    /// Waits for the end, and for a terminal that is as it was before.
    pub(crate) fn ends_with(&self, exit: u8) -> Vec<String> {
        let rows = self.shows_last("icanon echo");
        // At the start of a row: the cursor was left in the first column.
        assert!(rows.contains(&format!("EXIT={exit}")), "{}", rows.join("\n"));
        rows
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

/// How many rows end with `text`.
pub(crate) fn count(rows: &[String], text: &str) -> usize {
    rows.iter().filter(|row| row.ends_with(text)).count()
}
