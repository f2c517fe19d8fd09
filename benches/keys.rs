//! Latency of typing in `chatty join`, from a key to its letter on the screen, in a silent room
//! and while another user sends messages continuously:
//!
//! ```text
//! cargo bench --bench keys
//! ```
//!
//! A real client runs on a pseudo-terminal. A letter counts as shown when the whole draft up to
//! it has been written to the terminal.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nix::pty::{Winsize, openpty};

const CHATTY: &str = env!("CARGO_BIN_EXE_chatty");

/// The typed letters; no message contains such a sequence.
const LETTERS: &str = "qzjxkvbwypgmucflhdrnsiaote";

/// How often the letters are typed.
const ROUNDS: usize = 8;

/// The time between two keys, shorter than that of a fast typist.
const KEY_INTERVAL: Duration = Duration::from_millis(40);

/// The longest time to wait for a letter before the benchmark fails.
const TIMEOUT: Duration = Duration::from_secs(10);

fn main() -> anyhow::Result<()> {
    let (server, port) = serve()?;
    let mut typist = Typist::join(port)?;
    let silent = typist.type_all()?;
    let (is_over, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let sender = {
        let (is_over, sent) = (is_over.clone(), sent.clone());
        thread::spawn(move || send_messages(port, &is_over, &sent))
    };
    while sent.load(Ordering::Relaxed) == 0 {
        thread::yield_now();
    }
    let (start, before) = (Instant::now(), sent.load(Ordering::Relaxed));
    let busy = typist.type_all()?;
    let count = u32::try_from(sent.load(Ordering::Relaxed) - before)?;
    let rate = f64::from(count) / start.elapsed().as_secs_f64();
    is_over.store(true, Ordering::Relaxed);
    sender.join().expect("the sender does not panic")?;
    println!("from a key to the screen, {} keys each:", silent.len());
    report("silent room", silent);
    report(&format!("{rate:.0} lines per second"), busy);
    drop((typist, server));
    Ok(())
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e3;
    println!("  {what}: median {:.1} ms, p99 {:.1} ms, longest {:.1} ms", at(50), at(99), at(100));
}

/// A process that is killed when this is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve() -> anyhow::Result<(Process, u16)> {
    let mut child = Command::new(CHATTY)
        .args(["serve", "--port", "0", "--bind", "127.0.0.1", "--ephemeral"])
        .stderr(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stderr.take().context("piped")?).read_line(&mut line)?;
    let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next());
    let port = port.and_then(|port| port.trim().parse().ok()).context(line.clone())?;
    Ok((Process(child), port))
}

/// Sends messages continuously, in batches of 100 lines, each acknowledged before the next.
fn send_messages(port: u16, is_over: &AtomicBool, sent: &AtomicUsize) -> anyhow::Result<()> {
    let mut socket = TcpStream::connect(("127.0.0.1", port))?;
    let mut lines = BufReader::new(socket.try_clone()?).lines();
    socket.write_all(b"bob\n/set echo off\n")?;
    let hundred = "THE OTHERS HAVE A LOT TO SAY TODAY, LINE AFTER LINE OF IT\n".repeat(100);
    while !is_over.load(Ordering::Relaxed) {
        socket.write_all(format!("{hundred}/ping\n").as_bytes())?;
        while !lines.next().context("an answer")??.starts_with("[PONG") {}
        sent.fetch_add(100, Ordering::Relaxed);
        // At most 2000 lines per second: more than a person can read, less than a terminal can
        // draw.
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// A client on a pseudo-terminal.
struct Typist {
    terminal: File,
    output: Receiver<(Instant, Vec<u8>)>,
    _client: Process,
}

impl Typist {
    fn join(port: u16) -> anyhow::Result<Self> {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None)?;
        let end = || anyhow::Ok(Stdio::from(pty.slave.try_clone()?));
        let client = Command::new(CHATTY)
            .args(["join", "127.0.0.1", "--name", "alice", "--no-history", "--no-title"])
            .args(["--config", "/dev/null", "--port", &port.to_string()])
            .env("TERM", "xterm-256color")
            .stdin(end()?)
            .stdout(end()?)
            .spawn()?;
        let terminal = File::from(pty.master);
        let mut screen = terminal.try_clone()?;
        let (sender, output) = mpsc::channel();
        thread::spawn(move || {
            let mut bytes = [0; 1 << 13];
            while let Ok(count @ 1..) = screen.read(&mut bytes) {
                if sender.send((Instant::now(), bytes[..count].to_vec())).is_err() {
                    return;
                }
            }
        });
        let mut typist = Self { terminal, output, _client: Process(client) };
        typist.wait_for("#lobby> ")?;
        Ok(typist)
    }

    /// Types all letters [`ROUNDS`] times. Returns the latency of each.
    fn type_all(&mut self) -> anyhow::Result<Vec<Duration>> {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            for end in 1..=LETTERS.len() {
                // Discard output that was drawn before this key.
                while self.output.try_recv().is_ok() {}
                let start = Instant::now();
                self.terminal.write_all(&LETTERS.as_bytes()[end - 1..end])?;
                times.push(self.wait_for(&LETTERS[..end])? - start);
                thread::sleep(KEY_INTERVAL.saturating_sub(start.elapsed()));
            }
            // Ctrl-U clears the draft.
            self.terminal.write_all(b"\x15")?;
            thread::sleep(KEY_INTERVAL);
        }
        ensure!(times.len() == ROUNDS * LETTERS.len());
        Ok(times)
    }

    /// Waits until the client writes this text to the terminal. Returns the time.
    fn wait_for(&mut self, text: &str) -> anyhow::Result<Instant> {
        let mut received = Vec::new();
        loop {
            let Ok((at, bytes)) = self.output.recv_timeout(TIMEOUT) else {
                bail!("not on the screen after {} s: {text}", TIMEOUT.as_secs())
            };
            received.extend_from_slice(&bytes);
            if received.windows(text.len()).any(|window| window == text.as_bytes()) {
                return Ok(at);
            }
        }
    }
}
