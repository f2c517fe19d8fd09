//! A network link that can be pulled: a network namespace joined by a veth pair.

use std::fs::File;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{has_program, report_skipped, text};

/// A network namespace with one host, joined to this host by a veth pair.
pub(crate) struct Cable {
    name: String,
    /// The address of this end.
    pub(crate) here: String,
    there: String,
}

/// The number of links created by this process, for unique names.
static LAID: AtomicU32 = AtomicU32::new(0);

impl Cable {
    /// Creates the link; `None` without the permission to do so.
    pub(crate) fn lay() -> Option<Self> {
        if !has_program("ip") || !has_program("nc") {
            return None;
        }
        let id = (std::process::id() * 2 + LAID.fetch_add(1, Ordering::Relaxed)) % 250;
        let name = format!("chatty{id}");
        let cable = Self { name, here: format!("10.213.{id}.1"), there: format!("10.213.{id}.2") };
        let Self { name, here, there } = &cable;
        let script = format!(
            "ip netns add {name} && ip link add {name}a type veth peer name {name}b netns {name} &&
             ip addr add {here}/24 dev {name}a && ip link set {name}a up &&
             ip -n {name} addr add {there}/24 dev {name}b && ip -n {name} link set {name}b up"
        );
        let done = Command::new("sh").args(["-c", &script]).output().expect("sh");
        if !done.status.success() {
            let problem = String::from_utf8_lossy(&done.stderr);
            report_skipped(&format!("a network cannot be made: {}", problem.trim_end()));
        }
        done.status.success().then_some(cable)
    }

    /// Starts netcat at the other end.
    pub(crate) fn netcat(&self, port: u16, lines: &str) -> Child {
        let script = format!("(printf '{lines}'; sleep 600) | nc {} {port}", self.here);
        Command::new("ip")
            .args(["netns", "exec", &self.name, "sh", "-c", &script])
            .stdout(Stdio::null())
            .spawn()
            .expect("a netcat")
    }

    /// Connects from the other end.
    pub(crate) fn connect(&self, port: u16) -> TcpStream {
        let network = File::open(format!("/var/run/netns/{}", self.name)).expect("a network");
        let here = self.here.clone();
        // A network namespace belongs to a thread, and a socket to the namespace of its thread.
        let connecting = thread::spawn(move || {
            setns(network, CloneFlags::CLONE_NEWNET).expect("let in");
            TcpStream::connect((here, port)).expect("a connection")
        });
        connecting.join().expect("a connection")
    }

    pub(crate) fn pull(&self) {
        self.set("down");
    }

    /// Reconnects the link.
    pub(crate) fn mend(&self) {
        self.set("up");
    }

    fn set(&self, state: &str) {
        let end = format!("{}b", self.name);
        let mut ip = Command::new("ip");
        ip.args(["-n", &self.name, "link", "set", &end, state]);
        assert!(ip.status().expect("ip").success());
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        let pids = Command::new("ip").args(["netns", "pids", &self.name]).output();
        for pid in pids.map(|output| text(&output.stdout)).unwrap_or_default().lines() {
            // The process may have ended since it was listed.
            let _ = pid.parse().map(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM));
        }
        let script = format!("ip netns del {0}; ip link del {0}a", self.name);
        let _ = Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).status();
    }
}
