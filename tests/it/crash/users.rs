//! Simulated users who send and receive without pause and record every message. A user with a
//! session resumes it after a lost connection and resends unanswered lines.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::checker::{Event, EventKind, Message, Viewer};

/// A pseudorandom generator, reproducible from its seed (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn fork(&mut self) -> Self {
        Self(self.next())
    }
}

/// The recipient of a message.
pub(crate) enum Target {
    Room(&'static str),
    /// Another user, under the current name.
    User(Arc<Mutex<String>>),
}

/// The rooms every user joins.
pub(crate) const ROOMS: [&str; 2] = ["red", "blue"];

/// How long a reply may take; far longer than any does.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A simulated user, across all connections.
pub(crate) struct User {
    cid_prefix: &'static str,
    /// The name of the current session: a new one each time, since the last name may still be in
    /// use.
    name: Arc<Mutex<String>>,
    random: Random,
    targets: Vec<Target>,
    /// The number of lines that may await replies; 0 makes the user a listener.
    window: usize,
    /// Whether the user breaks the connection now and then.
    breaks: bool,
    visit: u64,
    token: Option<String>,
    last_id: u64,
    /// The number of messages sent so far.
    count: u64,
    unanswered: VecDeque<Message>,
    answered: Option<Message>,
    events: Vec<Event>,
}

impl User {
    /// Creates a user who only listens.
    pub(crate) fn new(cid_prefix: &'static str, random: Random) -> Self {
        Self {
            cid_prefix,
            name: Arc::new(Mutex::new(format!("{cid_prefix}.1"))),
            random,
            targets: Vec::new(),
            window: 0,
            breaks: false,
            visit: 0,
            token: None,
            last_id: 0,
            count: 0,
            unanswered: VecDeque::new(),
            answered: None,
            events: Vec::new(),
        }
    }

    pub(crate) fn writes_to(mut self, window: usize, targets: Vec<Target>) -> Self {
        (self.window, self.targets) = (window, targets);
        self
    }

    pub(crate) fn breaks_off(mut self) -> Self {
        self.breaks = true;
        self
    }

    pub(crate) fn name(&self) -> Arc<Mutex<String>> {
        self.name.clone()
    }

    pub(crate) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Sends and receives until the server ends.
    pub(crate) fn run(&mut self, port: u16, is_over: &AtomicBool) {
        while let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) {
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            stream.set_nodelay(true).expect("no delay");
            let broke_off = self.talk(BufReader::new(stream));
            if !broke_off || is_over.load(Ordering::SeqCst) {
                return;
            }
        }
    }

    /// Runs one connection to its end; returns whether the user ended it.
    fn talk(&mut self, mut lines: BufReader<TcpStream>) -> bool {
        let mut is_in = false;
        let mut to_come = self.random.below(2000);
        if lines.get_mut().write_all(self.opening().as_bytes()).is_err() {
            return false;
        }
        loop {
            let mut line = String::new();
            match lines.read_line(&mut line) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    panic!("{} received nothing for {PATIENCE:?}", self.cid_prefix)
                }
                Ok(_) if line.ends_with('\n') => {}
                _ => return false, // an incomplete line counts as not received
            }
            let mut out = String::new();
            if self.hear(line.trim_end_matches('\n')) {
                is_in = true;
                self.resend(&mut out);
            }
            to_come = to_come.saturating_sub(1);
            if self.breaks && to_come == 0 {
                return true;
            }
            // Replies first: pending input is read before more lines are sent.
            if is_in && !lines.buffer().contains(&b'\n') {
                self.send_lines(&mut out);
            }
            if !out.is_empty() && lines.get_mut().write_all(out.as_bytes()).is_err() {
                // The last replies may still be unread.
                is_in = false;
            }
        }
    }

    fn opening(&mut self) -> String {
        if let Some(token) = &self.token {
            return format!("/set tags on\n/resume {token} {}\n", self.last_id);
        }
        self.visit += 1;
        self.last_id = 0;
        self.unanswered.clear();
        self.answered = None;
        let name = format!("{}.{}", self.cid_prefix, self.visit);
        let opening =
            format!("/set tags on\n{name}\n/session\n/join {}\n/join {}\n", ROOMS[0], ROOMS[1]);
        *self.name.lock().expect("a name") = name;
        opening
    }

    /// Records a received line; returns whether the user may send lines from now on.
    fn hear(&mut self, line: &str) -> bool {
        let plain = plain(line);
        if let Some(id) = tag(line, "id") {
            self.handle_message(id.parse().expect(line), tag(line, "cid"), plain);
        } else if let Some(error) = plain.strip_prefix("[ERROR ") {
            self.handle_error(error, tag(line, "cid"));
        } else if let Some(token) = plain.strip_prefix("[SESSION ") {
            self.token = token.split([']', ' ']).next().map(str::to_owned);
        }
        match &self.token {
            Some(_) if plain.starts_with("[WELCOME ") => true,
            _ => plain.starts_with(&format!("[USERS #{} ", ROOMS[1])),
        }
    }

    fn handle_message(&mut self, id: u64, cid: Option<&str>, line: &str) {
        let name = self.name.lock().expect("a name").clone();
        let message = message(line, &name).unwrap_or_else(|| panic!("no message: {line}"));
        if let Some(cid) = cid {
            assert_eq!(
                (cid, &message.author),
                (message.cid(), &name),
                "another user's cid: {line}"
            );
            self.unanswered.retain(|waiting| *waiting != message);
            self.answered = Some(message.clone());
        }
        self.last_id = self.last_id.max(id);
        let viewer = Viewer { name, visit: self.visit };
        self.note(EventKind::Shown { viewer, id, message });
    }

    /// Handles an error: only lines to a user who is offline (not yet or not yet again logged in)
    /// may be refused.
    fn handle_error(&mut self, error: &str, cid: Option<&str>) {
        let is_fine =
            ["no-such-user]", "shutting-down]"].iter().any(|code| error.starts_with(code));
        let at = self.unanswered.iter().position(|waiting| Some(waiting.cid()) == cid);
        assert!(is_fine && at.is_some(), "{} got the error {error}", self.cid_prefix);
        if let Some(message) = at.and_then(|at| self.unanswered.remove(at)) {
            self.note(EventKind::Refused(message));
        }
    }

    /// Resends the lines that were unanswered when the connection broke.
    fn resend(&self, out: &mut String) {
        for message in &self.unanswered {
            write_line(out, message);
        }
    }

    /// Sends as many new lines as the window permits, and sometimes repeats an old one.
    fn send_lines(&mut self, out: &mut String) {
        if self.unanswered.len() > self.window / 2 || self.window == 0 {
            return;
        }
        if let Some(message) = &self.answered
            && self.random.below(20) == 0
        {
            write_line(out, message);
        }
        while self.unanswered.len() < self.window {
            self.count += 1;
            let message = self.next_message();
            write_line(out, &message);
            self.note(EventKind::Sent(message.clone()));
            self.unanswered.push_back(message);
        }
    }

    fn next_message(&mut self) -> Message {
        let target = self.random.below(self.targets.len() as u64);
        let to = match &self.targets[usize::try_from(target).expect("a few")] {
            Target::Room(room) => format!("#{room}"),
            Target::User(name) => name.lock().expect("a name").clone(),
        };
        let words = usize::try_from(self.random.below(100)).expect("a few");
        let text = format!("{}-{}{}", self.cid_prefix, self.count, " words".repeat(words));
        Message { author: self.name.lock().expect("a name").clone(), to, text }
    }

    fn note(&mut self, what: EventKind) {
        self.events.push(Event { at: Instant::now(), what });
    }
}

pub(super) fn write_line(out: &mut String, message: &Message) {
    use std::fmt::Write as _;
    let Message { to, text, .. } = message;
    writeln!(out, "@cid={} /msg {to} {text}", message.cid()).expect("a string");
}

/// Returns the value of a tag.
pub(super) fn tag<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let (tags, _) = line.strip_prefix('@')?.split_once(' ')?;
    tags.split(';').find_map(|tag| tag.strip_prefix(key)?.strip_prefix('='))
}

/// Returns a line without its tags.
pub(super) fn plain(line: &str) -> &str {
    match line.split_once(' ') {
        Some((tags, plain)) if tags.starts_with('@') => plain,
        _ => line,
    }
}

/// Parses a message as `reader` sees it.
pub(super) fn message(line: &str, reader: &str) -> Option<Message> {
    const TO: &str = "[PRIVATE MESSAGE to ";
    let (to, said) = if let Some(rest) = line.strip_prefix(TO) {
        rest.split_once("] ")?
    } else if let Some(said) = line.strip_prefix("[PRIVATE MESSAGE] ") {
        (reader, said)
    } else {
        line.starts_with('#').then_some(())?;
        line.split_once(' ')?
    };
    let (author, text) = said.split_once(": ")?;
    Some(Message { author: author.into(), to: to.into(), text: text.into() })
}
