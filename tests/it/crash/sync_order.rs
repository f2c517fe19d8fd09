//! The order of system calls, observed with strace: a line is read, the log is synced, and only
//! then the line is delivered.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Peer, Server, has_program, is_ci, report_skipped};

const LINES: usize = 50;

#[test]
fn line_is_synced_before_delivery() {
    if !can_trace() {
        return;
    }
    let safe = trace_deliveries("commit");
    assert_eq!((safe.total, safe.too_early), (2 * LINES, 0));
    // With relaxed durability, delivery does not wait for the sync.
    let relaxed = trace_deliveries("relaxed");
    assert_eq!(relaxed.total, 2 * LINES);
    assert!(relaxed.too_early > 0);
}

/// Whether strace is installed and may trace. If not, the calling test is skipped or, if CI is set,
/// fails.
pub(super) fn can_trace() -> bool {
    if !has_program("strace") {
        return false;
    }
    let mut trial = Command::new("strace");
    trial.args(["-D", "-f", "-o", "/dev/null", "true"]).stderr(Stdio::null());
    let can = trial.status().is_ok_and(|status| status.success());
    if !can {
        assert!(!is_ci(), "strace may not trace");
        report_skipped("strace may not trace");
    }
    can
}

/// The number of deliveries, and the number of deliveries before the sync.
#[derive(Default)]
struct Deliveries {
    total: usize,
    too_early: usize,
}

/// Traces a server while one user sends lines and two receive them.
fn trace_deliveries(durability: &str) -> Deliveries {
    let folder = tempfile::tempdir().expect("a folder");
    let trace = folder.path().join("trace");
    let calls = "trace=read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg,fsync,fdatasync";
    let mut strace = Command::new("strace");
    strace.args(["-D", "-f", "-q", "-s", "256", "-e", calls, "-o"]).arg(&trace);
    let log = folder.path().join("log");
    let flags = ["--data", log.to_str().expect("a plain path"), "--durability", durability];
    let server = Server::spawn_under(strace, &flags);
    let mut bob = Peer::join(server.port, "bob");
    let mut alice = Peer::join(server.port, "alice");
    for number in 0..LINES {
        alice.say(&format!("says {number}."));
        let echo = format!("alice: says {number}.");
        alice.hears(|line| line == echo);
        bob.hears(|line| line == echo);
    }
    server.signal("TERM");
    assert_eq!(server.wait(), Some(0));
    read(&whole(&trace))
}

/// Returns the trace once it is complete; strace is not a child of this process.
fn whole(trace: &Path) -> String {
    let start = Instant::now();
    loop {
        let text = fs::read_to_string(trace).expect("a trace");
        if text.lines().last().is_some_and(|line| line.contains("+++ exited with 0 +++")) {
            return text;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "the trace has no end");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A system call is listed with its arguments where it began; an interrupted one is listed again as
/// resumed, with its result, where it ended.
fn read(trace: &str) -> Deliveries {
    let mut deliveries = Deliveries::default();
    let mut is_safe = true;
    for call in trace.lines() {
        if call.contains("alice: says ") {
            deliveries.total += 1;
            deliveries.too_early += usize::from(!is_safe);
        } else if call.contains("\"says ") {
            is_safe = false;
        } else if call.contains("sync") && call.ends_with("= 0") {
            is_safe = true;
        }
    }
    deliveries
}
