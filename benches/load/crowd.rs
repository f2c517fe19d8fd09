//! Many connections on one thread: they log in, send messages with a sequence number, and count
//! the deliveries. The hot path only counts a marker byte; the lines of a few connections are
//! parsed, to find lost, duplicate and reordered messages.

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

/// The first byte of the tag in every text; it occurs nowhere else on the wire.
const MARKER: u8 = b'~';

/// The size of a tag: the marker, the sender in 4 hexadecimal digits, the message's number in 8.
const TAG_SIZE: usize = 13;

/// The length of every text.
const TEXT_SIZE: usize = 64;

const READ_SIZE: usize = 256 << 10;

/// How long a turn waits for input.
const TURN_TIMEOUT: Duration = Duration::from_millis(10);

/// After this time without input, no more is expected.
const QUIET: Duration = Duration::from_millis(100);

/// When a sender may send its next message.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// While fewer than this number of its messages are not yet received by all its watchers.
    Window(u32),
    /// At a fixed rate, in messages per second of all senders together (an open loop).
    Rate(f64),
    /// When its partner has answered. The senders form pairs, and each is the watcher of the
    /// other.
    PingPong,
}

struct Member {
    name: String,
    stream: TcpStream,
    out: Vec<u8>,
    /// Markers received since the last [`Crowd::reset`].
    received: u64,
    /// An incomplete tag, or during the login an incomplete line.
    carry: Vec<u8>,
    /// The text that the server sends when the member is in its room; `None` after that.
    ready: Option<String>,
    /// For a watcher: the next expected number of each sender.
    expects: Option<Vec<u32>>,
    /// Its index among the watchers of a sender.
    watcher: usize,
    /// It has sent the command that ends the connection.
    is_leaving: bool,
    /// The server has closed the connection after that.
    is_closed: bool,
}

struct Sender {
    member: usize,
    to: Target,
    sent: u32,
    acknowledged: u32,
    /// When the messages were due that not all watchers have received.
    due: VecDeque<Instant>,
    /// How many of its messages each watcher has received.
    received: Vec<u32>,
}

/// The results of a measurement.
#[derive(Debug, Default, Clone)]
pub(crate) struct Findings {
    pub(crate) seconds: f64,
    pub(crate) cpu: f64,
    pub(crate) messages: u64,
    pub(crate) deliveries: u64,
    /// Lost, duplicate and reordered messages.
    pub(crate) faults: u64,
    /// From the time a message was due to its delivery to a watcher, in microseconds, sorted.
    pub(crate) latencies: Vec<u32>,
}

impl Findings {
    /// Returns a percentile of the latencies, in microseconds.
    pub(crate) fn percentile(&self, percent: usize) -> u32 {
        let at = (self.latencies.len() * percent / 100).min(self.latencies.len().max(1) - 1);
        self.latencies.get(at).copied().unwrap_or_default()
    }
}

/// The connections to a server.
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

    /// Connects `count` members, at most `at_once` at the same time, and waits until all are in
    /// their rooms.
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
                received: 0,
                carry: Vec::new(),
                ready: Some(ready),
                expects: None,
                watcher: 0,
                is_leaving: false,
                is_closed: false,
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
                bail!("the server has not answered within a minute");
            }
            self.turn(Duration::from_millis(100))?;
        }
        Ok(())
    }

    /// Ends all connections at once, and waits until the server has closed them.
    pub(crate) fn leave(&mut self) -> anyhow::Result<()> {
        for at in 0..self.members.len() {
            self.members[at].is_leaving = true;
            self.members[at].out.extend_from_slice(self.server.kind.leave().as_bytes());
            self.write(at)?;
        }
        self.wait_until(|crowd| crowd.members.iter().all(|member| member.is_closed))
    }

    /// Receives until there was no input for [`QUIET`].
    pub(crate) fn receive_until_quiet(&mut self) -> anyhow::Result<()> {
        while self.turn(QUIET)? > 0 {}
        Ok(())
    }

    /// Returns the name of a member.
    pub(crate) fn name(&self, member: usize) -> &str {
        &self.members[member].name
    }

    /// Makes a member a sender. Its messages count as acknowledged when all `watchers` have
    /// received them.
    pub(crate) fn add_sender(&mut self, member: usize, to: Target, watchers: &[usize]) {
        let received = vec![0; watchers.len()];
        for (watcher, at) in watchers.iter().enumerate() {
            self.members[*at].watcher = watcher;
            self.members[*at].expects = Some(Vec::new());
        }
        let due = VecDeque::new();
        self.senders.push(Sender { member, to, sent: 0, acknowledged: 0, due, received });
    }

    /// Sends messages for a `time`, and measures. `expected` returns the expected number of
    /// deliveries for a number of messages.
    pub(crate) fn measure(
        &mut self,
        pace: Pace,
        warm_up: Duration,
        time: Duration,
        expected: impl Fn(u64) -> u64,
    ) -> anyhow::Result<Findings> {
        self.send_for(pace, warm_up)?;
        self.await_deliveries(&expected)?;
        self.reset();
        let (start, cpu) = (Instant::now(), self.server.cpu());
        self.send_for(pace, time)?;
        self.await_deliveries(&expected)?;
        let messages = self.senders.iter().map(|sender| u64::from(sender.sent)).sum();
        let deliveries: u64 = self.members.iter().map(|member| member.received).sum();
        let seconds = start.elapsed().as_secs_f64();
        let cpu = self.server.cpu().saturating_sub(cpu).as_secs_f64();
        let mut latencies = std::mem::take(&mut self.latencies);
        latencies.sort_unstable();
        let faults = self.faults + expected(messages).abs_diff(deliveries);
        Ok(Findings { seconds, cpu, messages, deliveries, faults, latencies })
    }

    fn reset(&mut self) {
        self.members.iter_mut().for_each(|member| member.received = 0);
        for sender in &mut self.senders {
            sender.sent = 0;
            sender.acknowledged = 0;
            sender.due.clear();
            sender.received.fill(0);
        }
        for expects in self.members.iter_mut().filter_map(|member| member.expects.as_mut()) {
            expects.clear();
        }
        self.latencies.clear();
    }

    fn send_for(&mut self, pace: Pace, time: Duration) -> anyhow::Result<()> {
        let start = Instant::now();
        while start.elapsed() < time {
            for at in 0..self.senders.len() {
                self.send_due(at, pace, start)?;
            }
            let next = match pace {
                Pace::Rate(rate) => (0..self.senders.len()).map(|at| self.offset(at, rate)).min(),
                _ => None,
            };
            let timeout = next.map(|next| next.saturating_sub(start.elapsed()));
            self.turn(timeout.unwrap_or(TURN_TIMEOUT))?;
        }
        Ok(())
    }

    /// Waits until all messages are delivered, at most 10 seconds.
    fn await_deliveries(&mut self, expected: impl Fn(u64) -> u64) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            let messages = self.senders.iter().map(|sender| u64::from(sender.sent)).sum();
            let deliveries: u64 = self.members.iter().map(|member| member.received).sum();
            if deliveries >= expected(messages) || start.elapsed() > Duration::from_secs(10) {
                return Ok(());
            }
            self.turn(TURN_TIMEOUT)?;
        }
    }

    /// Sends the messages of a sender that are due.
    fn send_due(&mut self, at: usize, pace: Pace, start: Instant) -> anyhow::Result<()> {
        let sender = &mut self.senders[at];
        let acknowledged = sender.received.iter().copied().min().unwrap_or_default();
        // Duplicate or reordered messages may make the count decrease, or exceed the messages
        // that are due; they are counted as faults elsewhere.
        let newly_acknowledged = acknowledged.saturating_sub(sender.acknowledged) as usize;
        sender.due.drain(..newly_acknowledged.min(sender.due.len()));
        sender.acknowledged = acknowledged;
        while let Some(due) = self.due(at, pace, start) {
            let sender = &mut self.senders[at];
            let tag = format!("{}{at:04x}{:08x}", char::from(MARKER), sender.sent);
            let text = format!("{tag:x<TEXT_SIZE$}");
            let line = self.server.kind.message(&sender.to, &text);
            self.members[sender.member].out.extend_from_slice(line.as_bytes());
            sender.due.push_back(due);
            sender.sent += 1;
        }
        self.write(self.senders[at].member)
    }

    /// Returns when a sender's next message was due, or `None` if it is not due yet.
    fn due(&self, at: usize, pace: Pace, start: Instant) -> Option<Instant> {
        let (now, sender) = (Instant::now(), &self.senders[at]);
        let due = match pace {
            Pace::Rate(rate) => start + self.offset(at, rate),
            _ => now,
        };
        let is_due = match pace {
            Pace::Window(window) => sender.sent - sender.acknowledged < window,
            Pace::Rate(_) => due <= now,
            Pace::PingPong => {
                let is_first = u32::from(at.is_multiple_of(2));
                sender.sent < self.senders[at ^ 1].received[0] + is_first
            }
        };
        is_due.then_some(due)
    }

    /// Returns when a sender's next message is due at a fixed rate, as the time since the start.
    /// The senders alternate.
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
                Err(error) => return Err(error).context("the server closed the connection"),
            }
        }
        Ok(())
    }

    /// Waits for input and reads once from each readable connection. Returns their number.
    fn turn(&mut self, timeout: Duration) -> anyhow::Result<usize> {
        // `ppoll` on the epoll descriptor, since `epoll_wait` has a resolution of milliseconds.
        let mut fds = [PollFd::new(self.epoll.0.as_fd(), PollFlags::POLLIN)];
        ppoll(&mut fds, Some(TimeSpec::from_duration(timeout)), None)?;
        let mut events = [EpollEvent::empty(); 512];
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO)?;
        let mut buffer = std::mem::take(&mut self.buffer);
        for event in &events[..count] {
            let at = usize::try_from(event.data())?;
            let member = &mut self.members[at];
            match member.stream.read(&mut buffer) {
                Ok(count) if count > 0 => self.receive(at, &buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                _ if member.is_leaving => {
                    self.epoll.delete(member.stream.as_fd())?;
                    member.is_closed = true;
                }
                Ok(_) => bail!("the server closed the connection"),
                Err(error) => return Err(error).context("cannot read from the server"),
            }
        }
        self.buffer = buffer;
        // Windows are small, so the next turn is early enough for bytes that did not fit.
        for at in 0..self.senders.len() {
            self.write(self.senders[at].member)?;
        }
        Ok(count)
    }

    fn receive(&mut self, at: usize, bytes: &[u8]) {
        let member = &mut self.members[at];
        if let Some(ready) = &member.ready {
            member.carry.extend_from_slice(bytes);
            if String::from_utf8_lossy(&member.carry).contains(ready) {
                member.ready = None;
                member.carry = Vec::new();
            }
            return;
        }
        member.received += memchr::memchr_iter(MARKER, bytes).count() as u64;
        if member.expects.is_none() {
            return;
        }
        let mut carried = std::mem::take(&mut member.carry);
        carried.extend_from_slice(bytes);
        let mut rest = 0;
        for start in memchr::memchr_iter(MARKER, &carried) {
            rest = start;
            let Some(tag) = carried.get(start..start + TAG_SIZE) else { break };
            rest = carried.len();
            self.record_delivery(at, tag);
        }
        if rest < carried.len() && carried[rest] == MARKER {
            carried.drain(..rest);
            self.members[at].carry = carried;
        }
    }

    fn record_delivery(&mut self, at: usize, tag: &[u8]) {
        let number = |digits: &[u8]| {
            std::str::from_utf8(digits).ok().and_then(|text| u32::from_str_radix(text, 16).ok())
        };
        let (Some(sender), Some(number)) = (number(&tag[1..5]), number(&tag[5..])) else {
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
        let Some(received) = sender.received.get_mut(watcher) else { return };
        *received = number + 1;
        let at = number.checked_sub(sender.acknowledged).map(|at| at as usize);
        if let Some(due) = at.and_then(|at| sender.due.get(at)) {
            self.latencies.push(u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX));
        }
    }
}
