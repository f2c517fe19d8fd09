//! Soak test: a crowd of clients connects, disconnects, renames, floods, reads slowly, drops,
//! guesses passwords and leaves mail, with and without TLS and above the connection limits, for any
//! duration (`scripts/soak.sh`; a few seconds under `cargo test`). Two canaries keep talking, and
//! the server's memory must stay constant.

mod visitor;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{env, fs};

use rcgen::{CertifiedKey, KeyPair};
use tokio_rustls::rustls::ClientConfig;

use self::visitor::{Counts, Visitor};
use crate::hostile::Watch;
use crate::support::Peer;

/// The number of concurrent clients.
const CROWD: u8 = 12;

/// Visits per second. The rate is bounded, so that the server is measured and not the speed of a
/// crowd on the same machine.
const VISITS_A_SECOND: u32 = 30;

/// The interval between latency probes.
const PAUSE: Duration = Duration::from_millis(20);

/// The number of samples.
const SAMPLES: u32 = 60;

fn duration() -> Duration {
    let seconds = env::var("CHATTY_SOAK_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(4))
}

/// Two seconds stand for a minute: every timeout is a thirtieth of its default.
const FAST_FORWARD: &str = "--login-timeout 1s --write-stall 333ms --session-grace 2s \
    --guess-delay 33ms --keepalive 2s --user-timeout 2s";

/// Small limits, so that they are reached soon.
const SMALL: &str = "--keep-messages 20000 --outbox 64KiB --mailbox 20 --max-accounts 10";

/// The crowd exceeds these limits now and then; the canaries do not.
const LIMITS: &str = "--limit-loopback --max-connections 40 --max-per-address 6 \
    --max-unnamed 4 --connect-rate 8 --connect-burst 20 --input-rate 200 --input-burst 400";

#[test]
fn crowd_at_accelerated_time_leaks_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let identity = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
    let tls = tls(&identity, folder.path());
    let flags = [FAST_FORWARD, SMALL, LIMITS].into_iter().flat_map(str::split_whitespace);
    let flags: Vec<&str> = flags.chain(tls.iter().map(String::as_str)).collect();
    let watch = Watch::begin_in(&folder.path().join("data"), &flags).may_log(is_log_of_crowd);
    // Before the crowd, which evicts pending logins.
    let mut prober = Peer::join(watch.port(), "prober");
    for line in ["/set joins off", "/join pulse", "/part lobby"] {
        prober.say(line);
    }
    prober.settles();
    let is_over = Arc::new(AtomicBool::new(false));
    let crowd = start_crowd(watch.port(), &visitor::trust(&identity.cert), &is_over);
    let (samples, echoes) = observe(&watch, &mut prober, duration());
    drop(prober);
    is_over.store(true, Ordering::Relaxed);
    let mut done = Counts::new();
    for (what, count) in crowd.into_iter().flat_map(|member| member.join().expect("the crowd")) {
        *done.entry(what).or_insert(0) += count;
    }
    report(&samples, &echoes, &done);
    watch.end(is_from_crowd);
    if duration() >= Duration::from_mins(1) {
        check_memory(&samples);
        check_crowd(&done);
    }
}

/// Whether a line in the lobby is by or about the crowd.
fn is_from_crowd(line: &str) -> bool {
    let line = line.strip_prefix("* ").unwrap_or(line);
    let names = ["soak", "holder", "slow", "prober"];
    names.iter().any(|name| line.starts_with(name)) || line.ends_with(" here)")
}

/// Whether a log line is about the server's identity or the crowd's moderation.
fn is_log_of_crowd(line: &str) -> bool {
    let is_act = line.split_once(' ').is_some_and(|(time, act)| {
        time.starts_with("20")
            && (act.starts_with("soak")
                || act.starts_with("holder")
                || act.ends_with(" actions not logged (rate limit)"))
    });
    is_act || line.starts_with("TLS, certificate ")
}

/// Writes a certificate and returns the server flags for it.
fn tls(identity: &CertifiedKey<KeyPair>, folder: &Path) -> [String; 4] {
    let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    fs::write(&certificate, identity.cert.pem()).expect("written");
    fs::write(&key, identity.signing_key.serialize_pem()).expect("written");
    let [certificate, key] = [certificate, key].map(|file| file.display().to_string());
    ["--tls-cert".to_owned(), certificate, "--tls-key".to_owned(), key]
}

/// Starts the threads of the crowd, which return their counts when it is over.
fn start_crowd(
    port: u16,
    trust: &Arc<ClientConfig>,
    is_over: &Arc<AtomicBool>,
) -> Vec<JoinHandle<Counts>> {
    let one = |number| {
        let visitor = Visitor::new(port, number, trust.clone());
        let is_over = is_over.clone();
        thread::spawn(move || visit_repeatedly(visitor, &is_over))
    };
    (0..CROWD).map(one).collect()
}

/// Visits again and again, so that the whole crowd reaches its visit rate.
fn visit_repeatedly(mut visitor: Visitor, is_over: &AtomicBool) -> Counts {
    let pause = Duration::from_secs(1) * u32::from(CROWD) / VISITS_A_SECOND;
    while !is_over.load(Ordering::Relaxed) {
        let start = Instant::now();
        // Errors are expected: broken connections are part of the test.
        let _ = visitor.visit();
        thread::sleep(pause.saturating_sub(start.elapsed()));
    }
    visitor.done()
}

/// A measurement of the server.
struct Sample {
    /// The memory in use, in bytes.
    memory: u64,
    /// How long the server loop has run, and how long it was ready without CPU, since it started.
    worked: Duration,
    waited: Duration,
}

/// Samples the server regularly, and measures the time from a message to its echo, the latency that
/// the canaries also see.
fn observe(watch: &Watch, prober: &mut Peer, time: Duration) -> (Vec<Sample>, Vec<Duration>) {
    let start = Instant::now();
    let (mut samples, mut echoes) = (Vec::new(), Vec::new());
    for number in 1..=SAMPLES {
        while start.elapsed() < time * number / SAMPLES {
            let asked = Instant::now();
            prober.say("beat");
            prober.hears(|line| line == "#pulse prober: beat");
            echoes.push(asked.elapsed());
            thread::sleep(PAUSE);
        }
        samples.push(sample(watch.process_id()));
    }
    echoes.sort();
    (samples, echoes)
}

fn sample(process: u32) -> Sample {
    let read = |file| fs::read_to_string(format!("/proc/{process}/{file}")).expect("readable");
    let status = read("status");
    let used = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let used = used.expect("memory").trim().trim_end_matches(" kB");
    let schedule = read("schedstat");
    let mut times = schedule.split_whitespace().map(|time| time.parse().expect("a number"));
    let mut next = || Duration::from_nanos(times.next().expect("a time"));
    let (worked, waited) = (next(), next());
    Sample { memory: used.parse::<u64>().expect("a number") << 10, worked, waited }
}

/// Checks that a long run has covered every kind of visit.
fn check_crowd(done: &Counts) {
    let reported = visitor::ANSWERS.iter().map(|(_, what)| *what);
    for what in reported.chain(["refused", "of them TLS", "returns", "slow readers"]) {
        assert!(done.contains_key(what), "never done: {what}: {done:?}");
    }
}

fn check_memory(samples: &[Sample]) {
    let quarter = samples.len() / 4;
    let median = |samples: &[Sample]| {
        let mut memory: Vec<u64> = samples.iter().map(|sample| sample.memory).collect();
        memory.sort_unstable();
        memory[memory.len() / 2]
    };
    let (second, last) = (&samples[quarter..2 * quarter], &samples[3 * quarter..]);
    let (second, last) = (median(second), median(last));
    assert!(
        last <= second + second / 7 + (4 << 20),
        "memory grows: {second} bytes in the second quarter, {last} in the last"
    );
}

fn report(samples: &[Sample], echoes: &[Duration], done: &Counts) {
    let mebibytes: Vec<_> = samples.iter().map(|s| (s.memory >> 20).to_string()).collect();
    println!("memory in MiB: {}", mebibytes.join(" "));
    let [median, p99, longest] =
        [50, 99, 100].map(|percent| echoes[(echoes.len() - 1) * percent / 100]);
    println!(
        "a message came back after {median:.1?}, 99 % after {p99:.1?}, all after {longest:.1?}"
    );
    let (first, last) = (&samples[0], &samples[samples.len() - 1]);
    let time = duration() * (SAMPLES - 1) / SAMPLES;
    let share =
        |from: Duration, to: Duration| to.saturating_sub(from).as_millis() * 100 / time.as_millis();
    let (worked, waited) = (share(first.worked, last.worked), share(first.waited, last.waited));
    println!("the server's loop worked {worked} % of the time and waited {waited} % for a core");
    println!("{done:?}");
}
