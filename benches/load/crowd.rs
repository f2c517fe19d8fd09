//! Many connections on one thread: they log in, say marked messages, and count
//! what arrives. In the hot path only a byte is counted; a few connections are
//! read in full, to find what is lost, doubled or out of order.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;

use crate::dialect::{Role, Target};
use crate::server::Server;

/// Begins the mark in every text, and occurs nowhere else on the wire.
const MARK: u8 = b'~';

/// The mark, the sender in 4 hexadecimal digits, the message's number in 8.
const MARK_SIZE: usize = 13;

/// The length of every text.
const TEXT_SIZE: usize = 64;

const READ_SIZE: usize = 256 << 10;

/// How long a turn waits for something to come.
const TURN: Duration = Duration::from_millis(10);

/// Nothing for this long: nothing more is on its way.
const QUIET: Duration = Duration::from_millis(100);

/// When a sender may say its next message.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// While fewer than so many of its own are on their way to its watchers.
    Window(u32),
    /// So many a second of all senders together, whatever has arrived.
    Rate(f64),
    /// When its partner has answered; the senders are pairs, each the other's
    /// watcher.
    PingPong,
}

struct Member {
    name: String,
    stream: TcpStream,
    out: Vec<u8>,
    /// Marks that came since the last [`PresenceSummary::reset`].
    got: u64,
    /// The beginning of a mark, or while logging in of a line.
    carry: Vec<u8>,
    /// What comes when it is in its room.
    ready: Option<String>,
    /// Read in full: the next number expected of each sender.
    expects: Option<Vec<u32>>,
    /// Its place among those a sender waits for.
    watcher: usize,
    /// It has said that it leaves, and then the server has closed.
    is_leaving: bool,
    is_gone: bool,
}

struct Sender {
    member: usize,
    to: Target,
    sent: u32,
    acknowledged: u32,
    /// When those were due that not all watchers have seen.
    due: VecDeque<Instant>,
    /// How many of its messages each watcher has seen.
    seen: Vec<u32>,
}

/// What a measurement found.
#[derive(Debug, Default, Clone)]
pub(crate) struct Findings {
    pub(crate) seconds: f64,
    pub(crate) cpu: f64,
    pub(crate) messages: u64,
    pub(crate) deliveries: u64,
    /// Lost, doubled or out of order.
    pub(crate) faults: u64,
    /// From when a message was due to a watcher's having it, in microseconds,
    /// sorted.
    pub(crate) latencies: Vec<u32>,
}

impl Findings {
    /// Such a part of the messages took no longer, in microseconds.
    pub(crate) fn percentile(&self, percent: usize) -> u32 {
        let at = (self.latencies.len() * percent / 100).min(self.latencies.len().max(1) - 1);
        self.latencies.get(at).copied().unwrap_or_default()
    }
}

/// See the head of this file.
pub(crate) struct Crowd<'s> {
    server: &'s Server,
    epoll: Epoll,
    members: Vec<Member>,
    senders: Vec<Sender>,
    buffer: Vec<u8>,
    faults: u64,
    latencies: Vec<u32>,
}

impl<'s> Crowd<'s> {
    pub(crate) fn new(server: &'s Server) -> anyhow::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::empty())?;
        let (members, senders) = (Vec::new(), Vec::new());
        let buffer = vec![0; READ_SIZE];
        Ok(Self { server, epoll, members, senders, buffer, faults: 0, latencies: Vec::new() })
    }

    /// So many connect, at most `at_once` of them at the same time, and are in
    /// their room when this is done.
    pub(crate) fn join(
        &mut self,
        count: usize,
        at_once: usize,
        room: impl Fn(usize) -> String,
        role: Role,
    ) -> anyhow::Result<()> {
        let first = self.members.len();
        for number in first..first + count {
            let name = self.server.next_name();
            let (hello, ready) = self.server.kind.log_in(&name, &room(number - first), role);
            let stream = TcpStream::connect(self.server.address)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let event = EpollEvent::new(EpollFlags::EPOLLIN, number as u64);
            self.epoll.add(stream.as_fd(), event)?;
            self.members.push(Member {
                name,
                stream,
                out: hello.into_bytes(),
                got: 0,
                carry: Vec::new(),
                ready: Some(ready),
                expects: None,
                watcher: 0,
                is_leaving: false,
                is_gone: false,
            });
            self.write(number)?;
            self.wait_until(|crowd| crowd.joining(first) < at_once)?;
        }
        self.wait_until(|crowd| crowd.joining(first) == 0)
    }

    fn joining(&self, first: usize) -> usize {
        self.members[first..].iter().filter(|member| member.ready.is_some()).count()
    }

    fn wait_until(&mut self, is_done: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let start = Instant::now();
        while !is_done(self) {
            if start.elapsed() > Duration::from_mins(1) {
                bail!("the server does not answer");
            }
            self.turn(Duration::from_millis(100))?;
        }
        Ok(())
    }

    /// All say goodbye at once, and are gone when this is done.
    pub(crate) fn leave(&mut self) -> anyhow::Result<()> {
        for at in 0..self.members.len() {
            self.members[at].is_leaving = true;
            self.members[at].out.extend_from_slice(self.server.kind.leave().as_bytes());
            self.write(at)?;
        }
        self.wait_until(|crowd| crowd.members.iter().all(|member| member.is_gone))
    }

    /// Waits until nothing has come for a while.
    pub(crate) fn listen_until_quiet(&mut self) -> anyhow::Result<()> {
        while self.turn(QUIET)? > 0 {}
        Ok(())
    }

    /// What a member is called.
    pub(crate) fn name(&self, member: usize) -> &str {
        &self.members[member].name
    }

    /// Whoever is to say something, to whom, and who has to have seen it before
    /// the next.
    pub(crate) fn add_sender(&mut self, member: usize, to: Target, watchers: &[usize]) {
        let seen = vec![0; watchers.len()];
        for (watcher, at) in watchers.iter().enumerate() {
            self.members[*at].watcher = watcher;
            self.members[*at].expects = Some(Vec::new());
        }
        let due = VecDeque::new();
        self.senders.push(Sender { member, to, sent: 0, acknowledged: 0, due, seen });
    }

    /// The senders talk; so many messages are expected to make so many deliveries.
    pub(crate) fn talk(
        &mut self,
        pace: Pace,
        warm_up: Duration,
        time: Duration,
        expected: impl Fn(u64) -> u64,
    ) -> anyhow::Result<Findings> {
        self.talk_for(pace, warm_up)?;
        self.settle(&expected)?;
        self.reset();
        let (start, cpu) = (Instant::now(), self.server.cpu());
        self.talk_for(pace, time)?;
        self.settle(&expected)?;
        let messages = self.senders.iter().map(|sender| u64::from(sender.sent)).sum();
        let deliveries: u64 = self.members.iter().map(|member| member.got).sum();
        let seconds = start.elapsed().as_secs_f64();
        let cpu = self.server.cpu().saturating_sub(cpu).as_secs_f64();
        let mut latencies = std::mem::take(&mut self.latencies);
        latencies.sort_unstable();
        let faults = self.faults + expected(messages).abs_diff(deliveries);
        Ok(Findings { seconds, cpu, messages, deliveries, faults, latencies })
    }

    fn reset(&mut self) {
        self.members.iter_mut().for_each(|member| member.got = 0);
        for sender in &mut self.senders {
            sender.sent = 0;
            sender.acknowledged = 0;
            sender.due.clear();
            sender.seen.iter_mut().for_each(|seen| *seen = 0);
        }
        for expects in self.members.iter_mut().filter_map(|member| member.expects.as_mut()) {
            expects.clear();
        }
        self.latencies.clear();
    }

    fn talk_for(&mut self, pace: Pace, time: Duration) -> anyhow::Result<()> {
        let start = Instant::now();
        while start.elapsed() < time {
            for at in 0..self.senders.len() {
                self.say_on(at, pace, start)?;
            }
            let next = match pace {
                Pace::Rate(rate) => (0..self.senders.len()).map(|at| self.offset(at, rate)).min(),
                _ => None,
            };
            let patience = next.map(|next| next.saturating_sub(start.elapsed()));
            self.turn(patience.unwrap_or(TURN))?;
        }
        Ok(())
    }

    /// Until everything said has arrived, or it is clear that it will not.
    fn settle(&mut self, expected: impl Fn(u64) -> u64) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            let messages = self.senders.iter().map(|sender| u64::from(sender.sent)).sum();
            let deliveries: u64 = self.members.iter().map(|member| member.got).sum();
            if deliveries >= expected(messages) || start.elapsed() > Duration::from_secs(10) {
                return Ok(());
            }
            self.turn(TURN)?;
        }
    }

    fn say_on(&mut self, at: usize, pace: Pace, start: Instant) -> anyhow::Result<()> {
        let sender = &mut self.senders[at];
        let acknowledged = sender.seen.iter().copied().min().unwrap_or_default();
        // A server that tells twice, or out of order, is at fault, and that is counted.
        let heard = acknowledged.saturating_sub(sender.acknowledged) as usize;
        sender.due.drain(..heard.min(sender.due.len()));
        sender.acknowledged = acknowledged;
        while let Some(due) = self.due(at, pace, start) {
            let sender = &mut self.senders[at];
            let mark = format!("{}{at:04x}{:08x}", char::from(MARK), sender.sent);
            let text = format!("{mark:x<TEXT_SIZE$}");
            let line = self.server.kind.say(&sender.to, &text);
            self.members[sender.member].out.extend_from_slice(line.as_bytes());
            sender.due.push_back(due);
            sender.sent += 1;
        }
        self.write(self.senders[at].member)
    }

    /// When a sender's next message was due; `None`: it is not yet.
    fn due(&self, at: usize, pace: Pace, start: Instant) -> Option<Instant> {
        let (now, sender) = (Instant::now(), &self.senders[at]);
        let due = match pace {
            Pace::Rate(rate) => start + self.offset(at, rate),
            _ => now,
        };
        let may = match pace {
            Pace::Window(window) => sender.sent - sender.acknowledged < window,
            Pace::Rate(_) => due <= now,
            Pace::PingPong => {
                let begins = u32::from(at.is_multiple_of(2));
                sender.sent < self.senders[at ^ 1].seen[0] + begins
            }
        };
        may.then_some(due)
    }

    /// At a fixed rate the senders take turns: how long after the start this one's
    /// next is due.
    #[allow(clippy::cast_precision_loss)] // of small numbers
    fn offset(&self, at: usize, rate: f64) -> Duration {
        let number = f64::from(self.senders[at].sent) * self.senders.len() as f64 + at as f64;
        Duration::from_secs_f64(number / rate)
    }

    fn write(&mut self, at: usize) -> anyhow::Result<()> {
        let member = &mut self.members[at];
        while !member.out.is_empty() {
            match member.stream.write(&member.out) {
                Ok(count) => drop(member.out.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("the server has closed"),
            }
        }
        Ok(())
    }

    /// Reads whatever is there, once for each connection; tells of how many.
    fn turn(&mut self, patience: Duration) -> anyhow::Result<usize> {
        // Waiting on the epoll itself, since its own clock ticks in milliseconds.
        let mut fds = [PollFd::new(self.epoll.0.as_fd(), PollFlags::POLLIN)];
        ppoll(&mut fds, Some(TimeSpec::from_duration(patience)), None)?;
        let mut events = [EpollEvent::empty(); 512];
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO)?;
        let mut buffer = std::mem::take(&mut self.buffer);
        for event in &events[..count] {
            let at = usize::try_from(event.data())?;
            let member = &mut self.members[at];
            match member.stream.read(&mut buffer) {
                Ok(count) if count > 0 => self.hear(at, &buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                _ if member.is_leaving => {
                    self.epoll.delete(member.stream.as_fd())?;
                    member.is_gone = true;
                }
                Ok(_) => bail!("the server has closed"),
                Err(error) => return Err(error).context("reading"),
            }
        }
        self.buffer = buffer;
        // Windows are small: what did not fit goes with the next turn.
        for at in 0..self.senders.len() {
            self.write(self.senders[at].member)?;
        }
        Ok(count)
    }

    fn hear(&mut self, at: usize, bytes: &[u8]) {
        let member = &mut self.members[at];
        if let Some(ready) = &member.ready {
            member.carry.extend_from_slice(bytes);
            if String::from_utf8_lossy(&member.carry).contains(ready) {
                member.ready = None;
                member.carry = Vec::new();
            }
            return;
        }
        member.got += memchr::memchr_iter(MARK, bytes).count() as u64;
        if member.expects.is_none() {
            return;
        }
        let mut carried = std::mem::take(&mut member.carry);
        carried.extend_from_slice(bytes);
        let mut rest = 0;
        for start in memchr::memchr_iter(MARK, &carried) {
            rest = start;
            let Some(mark) = carried.get(start..start + MARK_SIZE) else { break };
            rest = carried.len();
            self.note(at, mark);
        }
        if rest < carried.len() && carried[rest] == MARK {
            carried.drain(..rest);
            self.members[at].carry = carried;
        }
    }

    fn note(&mut self, at: usize, mark: &[u8]) {
        let number = |part: &[u8]| {
            std::str::from_utf8(part).ok().and_then(|part| u32::from_str_radix(part, 16).ok())
        };
        let (Some(sender), Some(number)) = (number(&mark[1..5]), number(&mark[5..])) else {
            self.faults += 1;
            return;
        };
        let member = &mut self.members[at];
        let (expects, watcher) = (member.expects.get_or_insert_default(), member.watcher);
        let sender = sender as usize;
        if expects.len() <= sender {
            expects.resize(sender + 1, 0);
        }
        if expects[sender] != number {
            self.faults += 1;
        }
        expects[sender] = number + 1;
        let Some(sender) = self.senders.get_mut(sender) else { return };
        let Some(seen) = sender.seen.get_mut(watcher) else { return };
        *seen = number + 1;
        let at = number.checked_sub(sender.acknowledged).map(|at| at as usize);
        if let Some(due) = at.and_then(|at| sender.due.get(at)) {
            self.latencies.push(u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX));
        }
    }
}
