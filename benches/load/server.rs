//! The measured servers: starting them, and reading their CPU time and memory.

use std::cell::Cell;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use tempfile::TempDir;

use crate::dialect::COMMON;

/// A kind of server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// chatty with `--ephemeral`
    Chatty,
    /// chatty with its log on disk
    ChattyLog,
    /// Redis publish/subscribe without persistence
    Redis,
    /// ngIRCd without its limits
    Ngircd,
}

/// A running server. If it was started here, it is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Option<Child>,
    pid: u32,
    pub(crate) kind: Kind,
    pub(crate) address: SocketAddr,
    /// The folder of its log and configuration.
    folder: TempDir,
    /// How many names were assigned.
    names: Cell<usize>,
}

impl Server {
    /// Returns a chatty server that already runs on this machine.
    pub(crate) fn running(address: SocketAddr, pid: u32) -> anyhow::Result<Self> {
        let (child, kind, folder) = (None, Kind::Chatty, tempfile::tempdir()?);
        let server = Self { child, pid, kind, address, folder, names: Cell::new(0) };
        anyhow::ensure!(server.memory() > 0, "no process {pid} on this machine");
        Ok(server)
    }

    fn started(child: Child, kind: Kind, address: SocketAddr, folder: TempDir) -> Self {
        let pid = child.id();
        Self { child: Some(child), pid, kind, address, folder, names: Cell::new(0) }
    }

    /// Starts a new server on a free port; `flags` are further flags for chatty.
    pub(crate) fn start(kind: Kind, flags: &[&str]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        match kind {
            Kind::Chatty => Self::start_chatty(kind, &[&["--ephemeral"], flags].concat(), folder),
            Kind::ChattyLog => {
                let data = folder.path().join("log").display().to_string();
                Self::start_chatty(kind, &[&["--data", &data], flags].concat(), folder)
            }
            Kind::Redis => Self::start_peer(kind, folder, |port, _| {
                let mut command = Command::new("redis-server");
                command.args(["--port", &port.to_string(), "--save", "", "--appendonly", "no"]);
                command.args(["--tcp-backlog", "4096", "--maxclients", "50000"]);
                command.args(["--client-output-buffer-limit", "pubsub 0 0 0"]);
                Ok(command)
            }),
            Kind::Ngircd => Self::start_peer(kind, folder, |port, folder| {
                let path = folder.join("ngircd.conf");
                fs::write(&path, ngircd_conf(port))?;
                let mut command = Command::new("ngircd");
                command.arg("-n").arg("-f").arg(path);
                Ok(command)
            }),
        }
    }

    fn start_chatty(kind: Kind, flags: &[&str], folder: TempDir) -> anyhow::Result<Self> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_chatty"))
            .args(["serve", "--port", "0", "--bind", "127.0.0.1"])
            .args(flags)
            .stderr(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stderr.take().context("piped")?).read_line(&mut line)?;
        let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next());
        let port = port.and_then(|port| port.trim().parse().ok()).context(line.clone())?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Ok(Self::started(child, kind, address, folder))
    }

    fn start_peer(
        kind: Kind,
        folder: TempDir,
        command: impl Fn(u16, &Path) -> anyhow::Result<Command>,
    ) -> anyhow::Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut command = command(port, folder.path())?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().with_context(|| format!("{kind:?} is not installed"))?;
        let server = Self::started(child, kind, address, folder);
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            if start.elapsed() > Duration::from_secs(10) {
                bail!("{kind:?} has not opened its port within 10 s");
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// Returns the CPU time of all its threads.
    pub(crate) fn cpu(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid));
        let nanos = tasks.into_iter().flatten().filter_map(|task| {
            let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanos.sum())
    }

    /// Returns its resident memory, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid));
        let text = text.unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        kilobytes.unwrap_or(0_u64) * 1024
    }

    /// Returns the room of all members. On a server that was not started here it is not the
    /// lobby, where other users may be.
    pub(crate) fn room(&self) -> &'static str {
        if self.child.is_some() { COMMON } else { "bench" }
    }

    /// Returns an unused name.
    pub(crate) fn next_name(&self) -> String {
        let number = self.names.get();
        self.names.set(number + 1);
        format!("n{number}")
    }

    /// Returns the folder of its log, to measure that disk.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn ngircd_conf(port: u16) -> String {
    format!(
        "[Global]\nName = bench.example\nInfo = bench\nListen = 127.0.0.1\nPorts = {port}\n\
         [Limits]\nMaxConnections = 0\nMaxConnectionsIP = 0\nMaxJoins = 0\nMaxPenaltyTime = 0\n\
         MaxNickLength = 20\nPingTimeout = 3600\nPongTimeout = 3600\n\
         [Options]\nDNS = no\nIdent = no\nPAM = no\nMorePrivacy = no\n"
    )
}
