//! How long a typed letter takes to stand on the screen of `chatty join`, alone and
//! while others talk without a pause:
//!
//! ```text
//! cargo bench --bench keys
//! ```
//!
//! A real client runs on a pseudo-terminal. A letter counts as shown when the whole
//! draft up to it has been written to the terminal.

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

/// No word of the others looks like what is typed.
const LETTERS: &str = "qzjxkvbwypgmucflhdrnsiaote";

/// How often the letters are typed, and how fast: no typist is faster.
const ROUNDS: usize = 8;
const BETWEEN: Duration = Duration::from_millis(40);

/// A letter that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> anyhow::Result<()> {
    let (server, port) = serve()?;
    let mut typist = Typist::join(port)?;
    let alone = typist.types_all()?;
    let (is_over, said) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let talker = {
        let (is_over, said) = (is_over.clone(), said.clone());
        thread::spawn(move || talk(port, &is_over, &said))
    };
    while said.load(Ordering::Relaxed) == 0 {
        thread::yield_now();
    }
    let (start, before) = (Instant::now(), said.load(Ordering::Relaxed));
    let amid = typist.types_all()?;
    let count = u32::try_from(said.load(Ordering::Relaxed) - before)?;
    let rate = f64::from(count) / start.elapsed().as_secs_f64();
    is_over.store(true, Ordering::Relaxed);
    talker.join().expect("the talker")?;
    println!("from a key to the screen, {} keys each:", alone.len());
    report("alone", alone);
    report(&format!("amid {rate:.0} lines a second"), amid);
    drop((typist, server));
    Ok(())
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e3;
    println!("  {what}: median {:.1} ms, p99 {:.1} ms, longest {:.1} ms", at(50), at(99), at(100));
}

/// Ends with this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve() -> anyhow::Result<(Running, u16)> {
    let mut child = Command::new(CHATTY)
        .args(["serve", "--port", "0", "--bind", "127.0.0.1", "--ephemeral"])
        .stderr(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stderr.take().context("piped")?).read_line(&mut line)?;
    let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next());
    let port = port.and_then(|port| port.trim().parse().ok()).context(line.clone())?;
    Ok((Running(child), port))
}

/// Talks without a pause, but for that it waits until each hundred lines are heard.
fn talk(port: u16, is_over: &AtomicBool, said: &AtomicUsize) -> anyhow::Result<()> {
    let mut socket = TcpStream::connect(("127.0.0.1", port))?;
    let mut lines = BufReader::new(socket.try_clone()?).lines();
    socket.write_all(b"bob\n/set echo off\n")?;
    let hundred = "THE OTHERS HAVE A LOT TO SAY TODAY, LINE AFTER LINE OF IT\n".repeat(100);
    while !is_over.load(Ordering::Relaxed) {
        socket.write_all(format!("{hundred}/ping\n").as_bytes())?;
        while !lines.next().context("an answer")??.starts_with("[PONG") {}
        said.fetch_add(100, Ordering::Relaxed);
        // Twenty times as much as anybody could read, and less than a screen can draw.
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Somebody at a terminal.
struct Typist {
    terminal: File,
    shown: Receiver<(Instant, Vec<u8>)>,
    _client: Running,
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
        let (show, shown) = mpsc::channel();
        thread::spawn(move || {
            let mut bytes = [0; 1 << 13];
            while let Ok(count @ 1..) = screen.read(&mut bytes) {
                if show.send((Instant::now(), bytes[..count].to_vec())).is_err() {
                    return;
                }
            }
        });
        let mut typist = Self { terminal, shown, _client: Running(client) };
        typist.sees("#lobby> ")?;
        Ok(typist)
    }

    /// Types all the letters, again and again, and tells how long each took.
    fn types_all(&mut self) -> anyhow::Result<Vec<Duration>> {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            for end in 1..=LETTERS.len() {
                // What was drawn before is not the answer to this key.
                while self.shown.try_recv().is_ok() {}
                let start = Instant::now();
                self.terminal.write_all(&LETTERS.as_bytes()[end - 1..end])?;
                times.push(self.sees(&LETTERS[..end])? - start);
                thread::sleep(BETWEEN.saturating_sub(start.elapsed()));
            }
            // Ctrl-U: another draft.
            self.terminal.write_all(b"\x15")?;
            thread::sleep(BETWEEN);
        }
        ensure!(times.len() == ROUNDS * LETTERS.len());
        Ok(times)
    }

    /// When this was written to the terminal, from now on.
    fn sees(&mut self, text: &str) -> anyhow::Result<Instant> {
        let mut seen = Vec::new();
        loop {
            let Ok((at, bytes)) = self.shown.recv_timeout(PATIENCE) else {
                bail!("never on the screen: {text}")
            };
            seen.extend_from_slice(&bytes);
            if seen.windows(text.len()).any(|part| part == text.as_bytes()) {
                return Ok(at);
            }
        }
    }
}
