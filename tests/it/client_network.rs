//! `chatty join` and the network below it: hosts with unreachable addresses, link-local addresses,
//! and servers that flood the client.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{CHATTY, Server, Terminal, has_program, text};

const MIB: usize = 1 << 20;

/// The client's memory limit, in bytes, whatever the server sends.
const MEMORY_MAX: usize = 64 * MIB;

/// Timeout of every wait, far longer than any operation takes.
const DEADLINE: Duration = Duration::from_mins(3);

/// A listener with a full backlog: new connections are not answered until it is dropped.
struct Silent {
    address: SocketAddr,
    _listener: socket2::Socket,
    _queue: Vec<TcpStream>,
}

impl Silent {
    /// Listens on this address and a free port.
    fn listen(ip: &str) -> Self {
        let address: SocketAddr = format!("{ip}:0").parse().expect(ip);
        let domain = socket2::Domain::for_address(address);
        let listener = socket2::Socket::new(domain, socket2::Type::STREAM, None).expect("a socket");
        listener.bind(&address.into()).expect("bound");
        listener.listen(0).expect("listening");
        let address = listener.local_addr().expect("bound").as_socket().expect("an address");
        let patience = Duration::from_millis(300);
        let connections =
            std::iter::from_fn(|| TcpStream::connect_timeout(&address, patience).ok());
        let queue = connections.take(16).collect();
        Self { address, _listener: listener, _queue: queue }
    }
}

/// Runs `chatty join` with these lines as `/etc/hosts`; `None` without the permission to mount.
fn join_with_hosts(hosts: &str, args: &[&str]) -> Option<Output> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("hosts");
    fs::write(&path, hosts).expect("written");
    let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
    let may =
        Command::new("unshare").args(["-m", "sh", "-c", script]).arg(&path).arg("true").output();
    if !may.is_ok_and(|output| output.status.success()) {
        let _ = writeln!(std::io::stderr(), "skipped: no file system of its own for a test");
        return None;
    }
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script]).arg(&path).args([CHATTY, "join"]).args(args);
    command.env("CHATTY_CONFIG", "/dev/null").stdin(Stdio::null());
    Some(command.output().expect("chatty join"))
}

#[test]
fn unreachable_address_does_not_delay_connection() {
    for ip in ["[::1]", "127.0.0.2"] {
        let silent = Silent::listen(ip);
        let port = silent.address.port();
        let server = Server::start_again(port, &["--ephemeral"]);
        let hosts = format!("{} raced.test\n127.0.0.1 raced.test\n", silent.address.ip());
        let start = Instant::now();
        let args = [&format!("raced.test:{port}"), "--name", "alice", "--exec", "hi"];
        let Some(output) = join_with_hosts(&hosts, &args) else { return };
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert!(text(&output.stdout).ends_with("alice: hi\n"));
        assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
        drop(server);
    }
}

#[test]
fn most_specific_connection_error_is_reported() {
    let silent = Silent::listen("127.0.0.2");
    let port = silent.address.port();
    let hosts = "127.0.0.2 raced.test\n127.0.0.1 raced.test\n";
    let args = [&format!("raced.test:{port}"), "--name", "alice", "--retry-for", "0"];
    let Some(output) = join_with_hosts(hosts, &args) else { return };
    assert_eq!(output.status.code(), Some(69));
    let said = text(&output.stderr);
    assert!(said.contains("connection refused"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

/// A link-local address of this machine and its interface.
fn link_local() -> Option<(String, String)> {
    let table = fs::read_to_string("/proc/net/if_inet6").ok()?;
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [digits, _, _, "20", _, interface] = fields[..] else { return None };
        let groups: Vec<&str> = (0..8).map(|at| &digits[4 * at..4 * at + 4]).collect();
        Some((groups.join(":"), interface.to_owned()))
    })
}

#[test]
fn link_local_address_accepts_interface() {
    let bind = |address: &str| {
        let mut serve = Command::new(CHATTY);
        serve.args(["serve", "--ephemeral", "--port", "0", "--bind", address]);
        serve.env_remove("CHATTY_BIND").stderr(Stdio::piped()).spawn().expect("chatty serve")
    };
    let refused = |address: &str| {
        let output = bind(address).wait_with_output().expect("an end");
        (output.status.code(), text(&output.stderr))
    };
    let (code, said) = refused("fe80::1%nosuch");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("this machine has no network interface \"nosuch\""), "{said}");
    let (code, said) = refused("nowhere");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("invalid IP address \"nowhere\""), "{said}");
    let Some((address, interface)) = link_local() else {
        let _ = writeln!(std::io::stderr(), "skipped: no link-local address here");
        return;
    };
    let (code, said) = refused(&address);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("a link-local address needs its interface"), "{said}");
    let mut server = Running(bind(&format!("{address}%{interface}")));
    let stderr = server.0.stderr.take().expect("piped");
    let first = BufReader::new(stderr).lines().next().expect("a line").expect("text");
    let port = first.split("]:").nth(1).expect(&first).split(' ').next().expect(&first);
    for host in [format!("[{address}%{interface}]:{port}"), format!("{address}%{interface}")] {
        let mut join = Command::new(CHATTY);
        join.args(["join", &host, "--port", port, "--name", "alice", "--exec", "hi"]);
        let output = join.env("CHATTY_CONFIG", "/dev/null").output().expect("chatty join");
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert!(text(&output.stdout).ends_with("alice: hi\n"));
    }
}

/// A child process that is killed when the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// When the server begins to flood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Instead of the greeting, with an endless line.
    Greeting,
    /// Between `[WELCOME]` and `[SESSION]`.
    Login,
    /// After the login.
    Chat,
    /// In reply to a line, with endless rows.
    Answer,
    /// Instead of the farewell.
    Quit,
    /// While the client resumes its session, before `[WELCOME]`.
    Resume,
    /// While the client resumes its session, after `[WELCOME]`.
    Missed,
    /// In the history of a new session, after the old session has expired.
    History,
}

/// Starts a server that floods in this phase with `line` for each number, until `limit` bytes are
/// sent or the client has closed the connection. Returns its port and the number of bytes sent.
fn flooding_server(
    phase: Phase,
    limit: usize,
    line: impl Fn(usize, &str) -> String + Send + Sync + 'static,
) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("bound").port();
    let sent = Arc::new(AtomicUsize::new(0));
    let (line, count) = (Arc::new(line), sent.clone());
    thread::spawn(move || {
        for (visit, stream) in listener.incoming().map_while(Result::ok).enumerate() {
            let (line, count) = (line.clone(), count.clone());
            thread::spawn(move || {
                let flood = Flood { phase, visit, limit, line: &*line, count: &count };
                let _ = flood.serve(stream); // the client may disconnect at any time
            });
        }
    });
    (port, sent)
}

struct Flood<'a> {
    phase: Phase,
    visit: usize,
    limit: usize,
    line: &'a (dyn Fn(usize, &str) -> String + Send + Sync),
    count: &'a AtomicUsize,
}

impl Flood<'_> {
    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let said = BufReader::new(stream.try_clone()?);
        if self.phase == Phase::Greeting {
            return self.flood(&mut stream, "");
        }
        stream.write_all(b"[HELLO chatty/1] hi\n")?;
        let is_reconnecting = matches!(self.phase, Phase::Resume | Phase::Missed | Phase::History);
        for line in said.lines().map_while(Result::ok) {
            let (cid, command) = match line.strip_prefix('@') {
                Some(_) => line.split_once(' ').unwrap_or(("", &line)),
                None => ("", line.as_str()),
            };
            let word = command.split(' ').next().unwrap_or_default();
            match word {
                "/set" => stream.write_all(b"[SET echo=on joins=on tags=on]\n")?,
                "/login" => {
                    stream.write_all(b"[WELCOME alice] hi\n")?;
                    if self.phase == Phase::Login {
                        return self.flood(&mut stream, "");
                    }
                }
                "/session" => {
                    stream.write_all(format!("{cid} [SESSION abc]\n").as_bytes())?;
                    if is_reconnecting && self.visit == 0 {
                        // A message, so that the client has a position to resume from.
                        stream.write_all(b"@id=1;time=2026-11-23T06:16:00.123Z bob: hi\n")?;
                        return Ok(());
                    }
                    if self.phase == Phase::Chat {
                        self.flood(&mut stream, "")?;
                    }
                }
                "/resume" if self.phase == Phase::History => {
                    stream.write_all(b"[ERROR bad-password] over\n")?;
                }
                "/resume" => {
                    if self.phase == Phase::Missed {
                        stream.write_all(b"[WELCOME alice] hi\n")?;
                    }
                    self.flood(&mut stream, "")?;
                }
                "/history" => self.flood(&mut stream, cid)?,
                "/quit" => {
                    if self.phase == Phase::Quit {
                        return self.flood(&mut stream, "");
                    }
                    return stream
                        .write_all(format!("{cid} [BYE quit] bye\n").trim_start().as_bytes());
                }
                "/ping" => stream.write_all(format!("{cid} [PONG]\n").as_bytes())?,
                _ if self.phase == Phase::Answer && !cid.is_empty() => {
                    stream.write_all(format!("{cid} [HELP 99999999999]\n").as_bytes())?;
                    self.flood(&mut stream, cid)?;
                }
                _ if cid.is_empty() => {}
                _ => stream.write_all(format!("{cid} [PONG]\n").as_bytes())?,
            }
        }
        Ok(())
    }

    fn flood(&self, stream: &mut TcpStream, cid: &str) -> std::io::Result<()> {
        let (mut number, mut sent) = (0, 0);
        while sent < self.limit {
            let mut batch = String::new();
            while batch.len() < 64 << 10 {
                batch.push_str(&(self.line)(number, cid));
                number += 1;
            }
            stream.write_all(batch.as_bytes())?;
            sent += batch.len();
            self.count.fetch_add(batch.len(), Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Returns the peak resident memory of a process, in bytes.
fn memory_peak(process: u32) -> Option<usize> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(peak.trim().strip_suffix(" kB")?.trim().parse::<usize>().ok()? * 1024)
}

/// The outcome of a client.
struct Ended {
    code: Option<i32>,
    complaints: String,
    bytes_out: usize,
    memory: usize,
}

/// Waits until a flood has paused for two seconds; returns how many bytes were sent by then.
fn waits_for_pause(sent: &AtomicUsize) -> usize {
    let mut before = (0, Instant::now());
    Terminal::waits("a pause", || {
        let sent = sent.load(Ordering::Relaxed);
        if sent != before.0 {
            before = (sent, Instant::now());
        }
        before.0 > 0 && before.1.elapsed() > Duration::from_secs(2)
    });
    before.0
}

/// Runs `chatty join` against a flood; reads its output and measures its memory until it exits.
fn measured(port: u16, args: &[&str], input: &str) -> Ended {
    let mut child = Command::new(CHATTY)
        .args(["join", "127.0.0.1", "--port", &port.to_string(), "--name", "alice"])
        .args(args)
        .env("CHATTY_CONFIG", "/dev/null")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("chatty join");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).expect("written");
    drop(stdin);
    let mut stdout = child.stdout.take().expect("piped");
    let reading = thread::spawn(move || {
        let (mut count, mut buffer) = (0, vec![0; MIB]);
        while let Ok(read @ 1..) = stdout.read(&mut buffer) {
            count += read;
        }
        count
    });
    let mut stderr = child.stderr.take().expect("piped");
    let (complain, complaints) = mpsc::channel();
    thread::spawn(move || {
        let mut text = String::new();
        let _ = stderr.read_to_string(&mut text);
        let _ = complain.send(text);
    });
    let mut running = Running(child);
    let (start, mut memory) = (Instant::now(), 0);
    let status = loop {
        memory = memory.max(memory_peak(running.0.id()).unwrap_or(0));
        if let Some(status) = running.0.try_wait().expect("a child") {
            break status;
        }
        assert!(start.elapsed() < DEADLINE, "it neither ends nor gives up");
        thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(status.signal(), None);
    let bytes_out = reading.join().expect("read");
    let complaints = complaints.recv_timeout(DEADLINE).expect("an end");
    Ended { code: status.code(), complaints, bytes_out, memory }
}

/// Returns a long chat line: a debug build handles more bytes per second in long lines.
fn long_line(number: usize, _cid: &str) -> String {
    format!("@id={};time=2026-11-23T06:16:00.123Z bob: {}\n", number + 2, "x".repeat(30_000))
}

fn short_line(number: usize, _cid: &str) -> String {
    format!("@id={} bob: hi\n", number + 2)
}

#[test]
fn client_disconnects_when_flooded_before_login() {
    let endless = |_: usize, _: &str| "x".repeat(1000);
    for (phase, line, words) in [
        (Phase::Greeting, endless as fn(usize, &str) -> String, ""),
        (Phase::Login, long_line, "sent more than 4 MiB during the login"),
        (Phase::Login, short_line, "sent more than 4 MiB during the login"),
        (Phase::Resume, long_line, "sent more than 4 MiB during the login"),
    ] {
        let limit = if phase == Phase::Greeting { 100 * MIB } else { usize::MAX };
        let (port, _) = flooding_server(phase, limit, line);
        let ended = measured(port, &["--retry-for", "30s"], "hi\n");
        assert_eq!(ended.code, Some(69), "{phase:?}: {}", ended.complaints);
        assert!(ended.complaints.contains(words), "{phase:?}: {}", ended.complaints);
        assert!(ended.memory < MEMORY_MAX, "{phase:?}: {}", ended.memory);
    }
}

#[test]
fn client_streams_flood_after_login_in_bounded_memory() {
    const SIZE: usize = 100 * MIB;
    let row = |number: usize, cid: &str| format!("{cid} /x{number}  {}\n", "x".repeat(30_000));
    for (phase, line, args, input) in [
        (Phase::Chat, long_line as fn(usize, &str) -> String, &[][..], "hi\n"),
        (Phase::Chat, long_line, &["--json"], "hi\n"),
        (Phase::Answer, row, &[], "/help\n"),
        (Phase::Missed, long_line, &[], "hi\n"),
    ] {
        let (port, sent) = flooding_server(phase, SIZE, line);
        let ended = measured(port, args, input);
        let sent = sent.load(Ordering::Relaxed);
        assert!(sent >= SIZE, "{phase:?}: {sent}");
        assert!(ended.bytes_out > SIZE * 9 / 10, "{phase:?}: {} of {sent}", ended.bytes_out);
        assert!(ended.memory < MEMORY_MAX, "{phase:?} {args:?}: {}", ended.memory);
        assert!(matches!(ended.code, Some(0 | 69)), "{phase:?}: {:?}", ended.code);
    }
}

#[test]
fn endless_member_list_uses_bounded_memory() {
    let joins = |number: usize, _: &str| {
        format!(
            "#r{number} * name{number} joined\n* name{number}{} joined\n[JOINED #room{number}] x\n\
             [ROOM #other{number} 3] x\n[IGNORE ign{number}]\n[INVITATION #inv{number}] x\n",
            "n".repeat(20)
        )
    };
    let (port, sent) = flooding_server(Phase::Chat, 24 * MIB, joins);
    let ended = measured(port, &[], "hi\n");
    assert!(sent.load(Ordering::Relaxed) >= 24 * MIB);
    assert!(ended.memory < MEMORY_MAX, "{}", ended.memory);
}

#[test]
fn flood_on_quit_or_resume_uses_bounded_memory() {
    for phase in [Phase::Quit, Phase::History] {
        let row = |number: usize, cid: &str| {
            let prefix = if cid.is_empty() { String::new() } else { format!("{cid};") };
            let (head, rest) = (prefix, "2026-11-23T06:16:00.123Z bob: ");
            format!(
                "{}id={} {rest}{}\n",
                if head.is_empty() { "@" } else { &head },
                number + 2,
                "x".repeat(30_000)
            )
        };
        let (port, _) = flooding_server(phase, usize::MAX, row);
        let ended = measured(port, &[], "hi\n");
        assert!(ended.memory < MEMORY_MAX, "{phase:?}: {}", ended.memory);
        let code = if phase == Phase::Quit { Some(0) } else { Some(69) };
        assert_eq!(ended.code, code, "{phase:?}: {}", ended.complaints);
    }
}

#[test]
fn paused_output_applies_backpressure_to_server() {
    let (port, sent) = flooding_server(Phase::Chat, 300 * MIB, long_line);
    let child = Command::new(CHATTY)
        .args(["join", "127.0.0.1", "--port", &port.to_string(), "--name", "alice"])
        .args(["--wait", "inf", "--ping-after", "200ms"])
        .env("CHATTY_CONFIG", "/dev/null")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("chatty join");
    let running = Running(child);
    // Backpressure must outlast the interval after which the client sends a heartbeat.
    let sent = waits_for_pause(&sent);
    assert!(sent < 100 * MIB, "{sent}");
    let memory = memory_peak(running.0.id()).expect("it runs");
    assert!(memory < MEMORY_MAX, "{memory}");
}

#[test]
fn stopped_terminal_applies_backpressure_to_server() {
    if !has_program("tmux") {
        return;
    }
    let (port, sent) = flooding_server(Phase::Chat, 300 * MIB, long_line);
    // During a search of the input history all keys go to the search, and no chat is printed.
    let Some(alice) = Terminal::join(port, "--name alice --ping-after 300ms") else { return };
    alice.shows("the flood", |rows| rows.iter().any(|row| row.contains("xxxx")));
    alice.types("hi\r"); // the history must not be empty
    alice.presses("C-r");
    alice.shows("the search", |rows| rows.iter().any(|row| row.contains("i-search")));
    let sent = waits_for_pause(&sent);
    assert!(sent < 40 * MIB, "{sent}");
    let memory = memory_peak(alice.process_id()).expect("it runs");
    assert!(memory < MEMORY_MAX, "{memory}");
}
