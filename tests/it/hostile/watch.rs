//! The checks for every hostile input. Two canaries exchange messages in their own room: no message
//! is lost, duplicated or late. A third client, the witness, sits in the lobby and receives only
//! clean lines that the test expects. Afterwards the server is idle, its memory and open files are
//! as before, and its log contains only lines that the test expects.

use std::io::Write as _;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{env, fs};

use crate::support::{Peer, Server, Terminal};

/// The interval between canary messages.
const BEAT: Duration = Duration::from_millis(50);

/// The interval over which the server's CPU time is measured after an attack.
const WINDOW: Duration = Duration::from_millis(500);

/// The unit of CPU time in `/proc`.
const TICK: Duration = Duration::from_millis(10);

/// Selects the full size and narrow limits under `scripts/hostile.sh`, and otherwise the small size
/// and wide limits for a test suite that shares the machine.
pub(super) fn scale<T>(full: T, quick: T) -> T {
    if env::var_os("CHATTY_STRICT").is_some() { full } else { quick }
}

/// A server under observation.
pub(crate) struct Watch {
    server: Server,
    /// The port for attackers.
    port: u16,
    before: Vitals,
    canaries: Canaries,
    witness: TcpStream,
    witnessing: JoinHandle<Vec<String>>,
    may_log: Box<dyn Fn(&str) -> bool>,
    /// How soon the server must be idle after the attack.
    patience: Duration,
    /// The permitted growth of memory, in bytes.
    growth_max: usize,
}

/// The memory growth permitted for any input, in bytes; two thirds of it are used by password
/// hashing.
const GROWTH_MAX: usize = 64 << 20;

/// The memory growth permitted for input that needs no storage, in bytes.
pub(super) const GROWTH_WITHOUT_STORAGE: usize = 2 << 20;

/// Resource use of the server, from `/proc`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Vitals {
    pub(super) descriptors: usize,
    /// Peak resident memory in bytes.
    pub(super) peak: usize,
    /// CPU time used, in ticks.
    ticks: u32,
}

impl Vitals {
    pub(super) fn of(process: u32) -> Self {
        let folder = format!("/proc/{process}");
        let status = fs::read_to_string(format!("{folder}/status")).expect("a status");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        let peak: usize = peak.trim().trim_end_matches(" kB").parse().expect("a number");
        let stat = fs::read_to_string(format!("{folder}/stat")).expect("a stat");
        let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
        let ticks = |at: usize| fields[at].parse::<u32>().expect("ticks");
        let descriptors = fs::read_dir(format!("{folder}/fd")).expect("descriptors").count();
        Self { descriptors, peak: peak << 10, ticks: ticks(11) + ticks(12) }
    }

    /// Returns the CPU time used since `earlier`.
    pub(super) fn worked_since(self, earlier: Self) -> Duration {
        TICK * (self.ticks - earlier.ticks)
    }
}

impl Watch {
    pub(crate) fn begin(flags: &[&str]) -> Self {
        Self::over(Server::start_with(flags))
    }

    /// Watches a server that stores its log in a folder.
    pub(crate) fn begin_in(folder: &Path, flags: &[&str]) -> Self {
        let server = Server::start_in(folder, flags);
        // Files that are opened once and stay open are opened before the measurement.
        for ask in ["/history", "/search x"] {
            let mut peer = Peer::join(server.port, "first");
            peer.say("first");
            peer.say(ask);
            peer.say("/quit");
            peer.rest();
        }
        Self::over(server)
    }

    /// Watches a running server.
    pub(super) fn over(server: Server) -> Self {
        let port = server.port;
        Self::through(server, port)
    }

    /// Watches a server that the canaries reach through another port.
    pub(super) fn through(server: Server, port: u16) -> Self {
        let mut peer = Peer::join(port, "first");
        // Measured after login: by then the server has opened all its own descriptors.
        let mut before = Vitals::of(server.process_id());
        before.descriptors -= 1;
        peer.say("/quit");
        peer.rest();
        let canaries = Canaries::begin(port);
        let mut peer = Peer::join(port, "canary-c");
        let witness = peer.socket().try_clone().expect("a socket");
        witness.set_read_timeout(None).expect("a socket");
        let witnessing = thread::spawn(move || std::iter::from_fn(|| peer.try_next()).collect());
        let port = server.port;
        let (may_log, patience) = (Box::new(|_: &str| false), Duration::from_secs(scale(2, 20)));
        let growth_max = GROWTH_MAX;
        Self { server, port, before, canaries, witness, witnessing, may_log, patience, growth_max }
    }

    /// Sets which log lines are permitted.
    pub(crate) fn may_log(self, may_log: impl Fn(&str) -> bool + 'static) -> Self {
        Self { may_log: Box::new(may_log), ..self }
    }

    /// Sets how long the server may keep working after the attack, such as for indexing messages.
    pub(super) fn allow_work_for(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Sets the permitted memory growth, in bytes.
    pub(super) fn allow_growth(self, growth_max: usize) -> Self {
        Self { growth_max, ..self }
    }

    /// Waits until only the canaries and the witness are connected.
    pub(super) fn waits_for_disconnects(&self) {
        Terminal::waits("the disconnect of all attackers", || {
            Vitals::of(self.process_id()).descriptors <= self.before.descriptors + 3
        });
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.server.process_id()
    }

    /// Ends the observation after the attackers have disconnected. Every line the witness received
    /// must satisfy `may_hear`; the lines are returned.
    pub(crate) fn end(self, may_hear: impl Fn(&str) -> bool) -> Vec<String> {
        self.canaries.is_over.store(true, Ordering::Relaxed);
        self.waits_until_idle();
        let Self { server, before, canaries, witness, witnessing, may_log, growth_max, .. } = self;
        let latencies = canaries.end();
        (&witness).write_all(b"/quit\n").expect("a socket");
        let heard = witnessing.join().expect("a witness");
        check_heard(&heard, may_hear);
        let process = server.process_id();
        Terminal::waits("descriptors as before", || {
            Vitals::of(process).descriptors <= before.descriptors + 2
        });
        let grown = Vitals::of(process).peak.saturating_sub(before.peak);
        report(&latencies, grown);
        assert!(grown <= growth_max, "{grown} bytes more than {before:?}");
        let (code, logged) = server.stops();
        assert_eq!(code, Some(0), "{logged:?}");
        let other = logged.iter().find(|line| line.contains("panic") || !may_log(line));
        assert_eq!(other, None, "of {} lines in the log", logged.len());
        heard
    }

    /// Waits until the server is idle: less than 5 % of a core, with the canaries still active.
    fn waits_until_idle(&self) {
        let end = Instant::now();
        loop {
            let (start, before) = (Instant::now(), Vitals::of(self.process_id()));
            thread::sleep(WINDOW); // the sampling window
            let worked = Vitals::of(self.process_id()).worked_since(before);
            if worked < start.elapsed() / 20 {
                return;
            }
            let since = start - end;
            assert!(since < self.patience, "{worked:?} of {WINDOW:?}, {since:?} after the end");
        }
    }
}

/// Two clients; the first sends messages and both receive them.
struct Canaries {
    is_over: Arc<AtomicBool>,
    speaking: JoinHandle<()>,
    /// Each thread collects the latency of every message.
    hearing: [JoinHandle<(Peer, Vec<Duration>)>; 2],
}

impl Canaries {
    fn begin(port: u16) -> Self {
        let mut pair = ["canary-a", "canary-b"].map(|name| Self::in_own_room(port, name));
        pair[0].settles(); // canary-b's join
        let speaker = pair[0].socket().try_clone().expect("a socket");
        let is_over = Arc::new(AtomicBool::new(false));
        let (over, ((to_a, of_a), (to_b, of_b))) =
            (is_over.clone(), (mpsc::channel(), mpsc::channel()));
        let speaking = thread::spawn(move || {
            beat(&speaker, &over, |said| to_a.send(said).is_ok() && to_b.send(said).is_ok());
        });
        let [a, b] = pair;
        Self { is_over, speaking, hearing: [Self::hear(a, of_a), Self::hear(b, of_b)] }
    }

    /// Puts a canary into its own room, so that traffic in the lobby does not delay its messages.
    fn in_own_room(port: u16, name: &str) -> Peer {
        let mut canary = Peer::join(port, name);
        canary.say("/join cage");
        canary.say("/part lobby");
        canary.hears(|line| line.starts_with("[PARTED #lobby]"));
        canary
    }

    /// Checks that every message is the next line received; collects the latencies.
    fn hear(mut canary: Peer, beats: Receiver<Instant>) -> JoinHandle<(Peer, Vec<Duration>)> {
        thread::spawn(move || {
            let hear = |(number, said): (usize, Instant)| {
                assert_eq!(canary.next(), format!("#cage canary-a: beat {number}"));
                said.elapsed()
            };
            let latencies = beats.iter().enumerate().map(hear).collect();
            (canary, latencies)
        })
    }

    /// Waits for the last message; returns all latencies.
    fn end(self) -> Vec<Duration> {
        self.speaking.join().expect("the sending canary");
        let mut all = Vec::new();
        let canaries = self.hearing.map(|hearing| {
            let (mut canary, latencies) = hearing.join().expect("a receiving canary");
            assert_eq!(canary.settles(), [""; 0], "nothing comes twice");
            all.extend(latencies);
            canary
        });
        for mut canary in canaries {
            canary.say("/quit");
            canary.rest();
        }
        all
    }
}

/// Sends at fixed times, however late the replies are, and for a while after the attack.
fn beat(mut speaker: &TcpStream, is_over: &AtomicBool, tell: impl Fn(Instant) -> bool) {
    let after = Duration::from_millis(scale(5000, 400));
    let start = Instant::now();
    let mut end = None;
    for number in 0.. {
        if is_over.load(Ordering::Relaxed)
            && Instant::now() > *end.get_or_insert_with(|| Instant::now() + after)
        {
            return;
        }
        if !tell(Instant::now()) {
            return; // a receiver has failed and reports why
        }
        speaker.write_all(format!("beat {number}\n").as_bytes()).expect("said");
        thread::sleep((start + BEAT * (number + 1)).saturating_duration_since(Instant::now()));
    }
}

/// Prints the latencies and memory growth and checks them against the limits.
fn report(latencies: &[Duration], grown: usize) {
    let mut latencies = latencies.to_vec();
    latencies.sort_unstable();
    let p99 = latencies[latencies.len() * 99 / 100];
    let longest = *latencies.last().expect("beats");
    let test = thread::current().name().unwrap_or_default().to_owned();
    println!(
        "{test}: of {} lines 99 in 100 within {p99:.1?}, all within {longest:.1?}; {} KiB more",
        latencies.len(),
        grown >> 10
    );
    let (most, max) = scale((250, 1000), (5000, 10_000));
    assert!(p99 <= Duration::from_millis(most), "p99 {p99:?} of {}", latencies.len());
    assert!(longest <= Duration::from_millis(max), "longest {longest:?}");
}

/// Checks every line the witness received, up to the farewell.
fn check_heard(heard: &[String], may_hear: impl Fn(&str) -> bool) {
    for line in heard {
        check_clean(line);
    }
    let (last, heard) = heard.split_last().expect("a farewell");
    assert_eq!(last, "[BYE quit] goodbye");
    // The witness receives a member list after it had to catch up.
    let other = |line: &&String| !may_hear(line) && !line.starts_with("[USERS #lobby ");
    assert_eq!(heard.iter().find(other), None, "of {} lines", heard.len());
}

/// Checks that a line is clean text and no longer than a line that a client can send. The length
/// counts a replaced control character as one byte, as it was sent, instead of three.
pub(super) fn check_clean(line: &str) {
    let replaced = line.matches('\u{FFFD}').count();
    assert!(line.len() <= 4352 + 2 * replaced, "{} bytes", line.len());
    let is_unclean = |c: char| {
        let is_bidi = matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
        (c.is_control() && c != '\t') || matches!(c, '\u{2028}' | '\u{2029}') || is_bidi
    };
    assert!(!line.contains(is_unclean), "{line:?}");
}

/// Whether a line is a presence line of one of these names, with or without a numeric suffix, or a
/// coalesced presence line.
pub(super) fn is_presence(line: &str, names: &[&str]) -> bool {
    let Some((who, what)) = line.strip_prefix("* ").and_then(|rest| rest.split_once(' ')) else {
        return false;
    };
    let is_sum = who.parse::<usize>().is_ok() && what.ends_with(" here)");
    let name = who.trim_end_matches(|c: char| c.is_ascii_digit());
    is_sum || (["joined", "left", "quit"].contains(&what) && names.contains(&name))
}
