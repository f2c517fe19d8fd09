//! A proxy that breaks connections, on demand or after random times.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// The size of a forwarded chunk in bytes.
const PIECE: usize = 601;

/// How long a connection that is due to be cut may stay silent before it is cut anyway.
const SILENCE_MAX: Duration = Duration::from_millis(20);

/// The network between clients and a server.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    state: Arc<Mutex<State>>,
}

struct State {
    is_cut: bool,
    /// Server output is discarded.
    is_mute: bool,
    /// Draws the lifetime of a connection; `None` for unlimited lifetimes.
    lifetimes: Option<Lifetimes>,
    streams: Vec<TcpStream>,
    cuts: usize,
}

impl Proxy {
    /// Forwards connections to the server at port `server`.
    pub(crate) fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("bound").port();
        let state =
            State { is_cut: false, is_mute: false, lifetimes: None, streams: Vec::new(), cuts: 0 };
        let state = Arc::new(Mutex::new(state));
        let shared = state.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // If the server refuses the connection, close ours.
                if !shared.lock().expect("state").is_cut
                    && let Ok(server) = TcpStream::connect(("127.0.0.1", server))
                {
                    pass_on(&client, &server, &shared);
                }
            }
        });
        Self { port, state }
    }

    /// Cuts every connection, and rejects new ones until [`Self::mend`].
    pub(crate) fn cut(&self) {
        let mut state = self.state.lock().expect("state");
        state.is_cut = true;
        state.streams.drain(..).for_each(cut);
    }

    /// Starts to discard server output; client input is still forwarded.
    pub(crate) fn mute(&self) {
        self.state.lock().expect("state").is_mute = true;
    }

    pub(crate) fn mend(&self) {
        let mut state = self.state.lock().expect("state");
        (state.is_cut, state.is_mute) = (false, false);
    }

    /// Starts to cut each connection after 200 to 800 ms.
    pub(crate) fn turn_flaky(&self, seed: u64) {
        let mut state = self.state.lock().expect("state");
        state.lifetimes = Some(Lifetimes(seed));
        state.streams.drain(..).for_each(cut);
    }

    /// Stops cutting connections; returns the number of connections cut.
    pub(crate) fn turn_reliable(&self) -> usize {
        let mut state = self.state.lock().expect("state");
        state.lifetimes = None;
        state.cuts
    }
}

fn pass_on(client: &TcpStream, server: &TcpStream, shared: &Arc<Mutex<State>>) {
    let clone = |stream: &TcpStream| stream.try_clone().expect("clone");
    let is_due = Arc::new(AtomicBool::new(false));
    for (from, to, is_answer) in [(client, server, false), (server, client, true)] {
        let (from, to, is_due) = (clone(from), clone(to), is_due.clone());
        let _ = to.set_nodelay(true);
        let shared = shared.clone();
        let is_muted = move || is_answer && shared.lock().expect("state").is_mute;
        thread::spawn(move || copy(from, to, &is_due, is_muted));
    }
    let mut state = shared.lock().expect("state");
    state.streams.extend([clone(client), clone(server)]);
    let Some(life) = state.lifetimes.as_mut().map(Lifetimes::life) else { return };
    let (client, server, shared) = (clone(client), clone(server), shared.clone());
    thread::spawn(move || {
        thread::sleep(life);
        let mut state = shared.lock().expect("state");
        if state.lifetimes.is_some() {
            state.cuts += 1;
            drop(state);
            is_due.store(true, Ordering::SeqCst);
            thread::sleep(SILENCE_MAX);
            [client, server].into_iter().for_each(cut);
        }
    });
}

/// Forwards bytes. A connection due to be cut forwards half a chunk more, so that the cut falls
/// within a line.
fn copy(mut from: TcpStream, mut to: TcpStream, is_due: &AtomicBool, is_muted: impl Fn() -> bool) {
    let mut piece = [0; PIECE];
    while let Ok(size @ 1..) = from.read(&mut piece) {
        if is_muted() {
            continue;
        }
        let is_last = is_due.load(Ordering::SeqCst);
        let size = if is_last { size.div_ceil(2) } else { size };
        if to.write_all(&piece[..size]).is_err() || is_last {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[expect(clippy::needless_pass_by_value, reason = "it is of no more use")]
fn cut(stream: TcpStream) {
    let _ = stream.shutdown(Shutdown::Both);
}

/// A generator of lifetimes, reproducible from its seed.
struct Lifetimes(u64);

impl Lifetimes {
    fn life(&mut self) -> Duration {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        Duration::from_millis(200 + (self.0 >> 33) % 600)
    }
}
