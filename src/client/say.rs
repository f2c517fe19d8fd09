//! `chatty say`: posts lines to a room without logging in. A line stays in the queue until the
//! server has answered it, and is sent again with the same random cid over the next connection,
//! so that it is posted exactly once.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use super::net::address::Endpoint;
use super::net::connection::{Connection, Progress, Unreachable, connect};
use super::net::tls::Tls;
use super::process::exit::Exit;
use super::process::signals::Signals;
use super::script::input::{Input, Line, read_input, text_of};
use super::session::QUIT;
use super::session::heartbeat::{Heartbeat, HeartbeatAction};
use super::session::login::{self, Refused};
use super::session::password::Password;
use super::session::resume::{Backoff, should_reconnect};
use super::text::sanitize::print_error;
use crate::commands::Command;
use crate::protocol::text::is_blank_text;
use crate::protocol::{ErrorCode, Event, Name, RoomName, Tags};
use crate::stdio;

/// The number of lines that are sent before the first of them is answered.
const WINDOW: usize = 64;

/// How long the answer to `/auth` may take: the server may delay attempts after wrong ones.
const AUTH_TIMEOUT: Duration = Duration::from_mins(1);

/// The cid of `/auth`.
const AUTH_CID: &str = "auth";

/// What to post, and where.
pub(super) struct Task {
    pub(super) endpoint: Endpoint,
    /// `None`: no encryption.
    pub(super) tls: Option<Tls>,
    pub(super) room: RoomName,
    pub(super) label: Name,
    /// The account to prove, with its password.
    pub(super) account: Option<(Name, Password)>,
    /// `None`: the lines of standard input.
    pub(super) text: Option<String>,
    pub(super) retry_for: Duration,
    pub(super) ping_after: Duration,
}

/// A line without an answer.
struct Post {
    cid: String,
    number: u64,
    text: String,
}

/// Why there is no connection that may post.
enum Problem {
    Unreachable(Unreachable),
    Refused(Refused),
    /// The server refused the account.
    Account {
        code: String,
        text: String,
    },
}

impl Problem {
    /// Whether another attempt may succeed.
    fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable(problem) => !problem.is_final,
            Self::Refused(problem) => problem.is_transient(),
            Self::Account { code, .. } => code == ErrorCode::RateLimited.as_str(),
        }
    }

    fn report(&self, endpoint: &Endpoint) -> Exit {
        match self {
            Self::Unreachable(problem) => {
                print_error(&problem.why);
                Exit::Unavailable
            }
            Self::Refused(problem) => {
                print_error(&problem.sentence(endpoint));
                Exit::Unavailable
            }
            Self::Account { code, text } => {
                print_error(&format!("{code}: {text}"));
                let is_password = ErrorCode::parse(code) == Some(ErrorCode::BadPassword);
                if is_password { Exit::NameRefused } else { Exit::Refused }
            }
        }
    }
}

/// Posts everything; returns when it is answered.
pub(super) async fn run(task: Task, mut signals: Signals) -> Exit {
    let first = task.text.iter().flat_map(|text| text.lines()).map(str::to_owned).collect();
    let mut input = read_input(first, task.text.is_none());
    let connection = tokio::select! {
        connection = open(&task) => connection,
        exit = signals.next() => return exit,
    };
    let connection = match connection {
        Ok(connection) => connection,
        Err(problem) => return problem.report(&task.endpoint),
    };
    let heartbeat = Heartbeat::new(task.ping_after, Instant::now());
    let mut posting = Posting {
        task,
        connection,
        heartbeat,
        since: Instant::now(),
        backoff: Backoff::new(),
        unanswered: VecDeque::new(),
        sent: 0,
        count: 0,
        is_over: false,
        farewell: None,
        exit: Exit::Done,
    };
    tokio::select! {
        result = posting.run(&mut input) => return result.unwrap_or_else(|exit| exit),
        exit = signals.next() => posting.exit = exit,
    }
    posting.quit().await;
    posting.report_unanswered();
    posting.exit
}

/// Connects, and proves the account.
async fn open(task: &Task) -> Result<Connection, Problem> {
    let connected = connect(&task.endpoint, task.tls.as_ref()).await;
    let mut connection = connected.map_err(Problem::Unreachable)?;
    login::greet(&mut connection).await.map_err(Problem::Refused)?;
    if let Some((name, password)) = &task.account {
        let auth = Command::Auth { name: name.as_str(), password: password.as_str() };
        connection.send(&format!("@cid={AUTH_CID} {auth}"));
        let answer = timeout(AUTH_TIMEOUT, read_auth(&mut connection)).await;
        answer.map_err(|_| Problem::Refused(Refused::Silent))??;
    }
    Ok(connection)
}

/// Reads the answer to `/auth`.
async fn read_auth(connection: &mut Connection) -> Result<(), Problem> {
    while let Some(line) = connection.line().await {
        let (tags, line) = Tags::split(&line);
        match Event::parse(line) {
            Some(Event::Bye { code, text }) => {
                return Err(Problem::Refused(Refused::farewell(code, text)));
            }
            Some(Event::Error { code, text, .. }) if tags.cid == Some(AUTH_CID) => {
                return Err(Problem::Account { code: code.to_owned(), text: text.to_owned() });
            }
            _ if tags.cid == Some(AUTH_CID) => return Ok(()),
            _ => {}
        }
    }
    Err(Problem::Refused(Refused::Closed))
}

/// The state of a run.
struct Posting {
    task: Task,
    connection: Connection,
    heartbeat: Heartbeat,
    /// When the connection was established.
    since: Instant,
    backoff: Backoff,
    unanswered: VecDeque<Post>,
    /// How many of them were sent over this connection.
    sent: usize,
    /// The number of lines of input so far.
    count: u64,
    /// Whether the input is over.
    is_over: bool,
    /// The code and text of the server's farewell.
    farewell: Option<(String, String)>,
    exit: Exit,
}

impl Posting {
    /// Posts the input. `Err`: the connection is lost for good.
    async fn run(&mut self, input: &mut Input) -> Result<Exit, Exit> {
        loop {
            self.send();
            if self.is_over && self.unanswered.is_empty() {
                self.quit().await;
                return Ok(self.exit);
            }
            let wants_input = !self.is_over && self.unanswered.len() < WINDOW;
            let progress = tokio::select! {
                line = input.recv(), if wants_input => {
                    self.take(line)?;
                    continue;
                }
                progress = self.connection.progress() => progress,
                () = sleep_until(self.heartbeat.due()) => {
                    match self.heartbeat.beat(Instant::now()) {
                        HeartbeatAction::Wait => {}
                        HeartbeatAction::Ping => {
                            self.connection.send(&Command::Ping { token: None }.to_string());
                        }
                        HeartbeatAction::Dead => self.reconnect().await?,
                    }
                    continue;
                }
            };
            if progress == Progress::Read {
                self.heartbeat.received(Instant::now());
            }
            while let Some(line) = self.connection.next_line() {
                self.hear(&line);
            }
            if progress == Progress::Closed {
                self.reconnect().await?;
            }
        }
    }

    /// Sends the lines that were not sent over this connection.
    fn send(&mut self) {
        for Post { cid, text, .. } in self.unanswered.iter().skip(self.sent) {
            let (room, label) = (self.task.room.as_str(), self.task.label.as_str());
            self.connection.send(&format!("@cid={cid} {}", Command::Post { room, label, text }));
        }
        self.sent = self.unanswered.len();
    }

    /// Takes a line of input, or its end.
    fn take(&mut self, line: Option<Line>) -> Result<(), Exit> {
        let line = match line {
            Some(Ok(line)) => line,
            Some(Err(problem)) => {
                print_error(&format!("cannot read standard input: {}", stdio::reason(&problem)));
                (self.is_over, self.exit) = (true, Exit::Unavailable);
                return Ok(());
            }
            None => {
                self.is_over = true;
                return Ok(());
            }
        };
        self.count += 1;
        let text = match text_of(&line) {
            Ok(text) => text,
            Err(why) => {
                self.refuse(self.count, ErrorCode::BadEncoding.as_str(), why);
                return Ok(());
            }
        };
        if is_blank_text(text) {
            return Ok(());
        }
        let cid = random_cid().ok_or_else(|| {
            print_error("the system provides no random numbers");
            Exit::Unavailable
        })?;
        self.unanswered.push_back(Post { cid, number: self.count, text: text.to_owned() });
        Ok(())
    }

    /// Handles a line of the server.
    fn hear(&mut self, line: &str) {
        let (tags, line) = Tags::split(line);
        let event = Event::parse(line);
        if let Some(Event::Bye { code, text }) = event {
            self.farewell = Some((code.to_owned(), text.to_owned()));
            return;
        }
        let Some(cid) = tags.cid else { return };
        let Some(at) = self.unanswered.iter().position(|post| post.cid == cid) else { return };
        if let Some(post) = self.unanswered.remove(at) {
            self.sent -= 1;
            if let Some(Event::Error { code, text, .. }) = event {
                self.refuse(post.number, code, text);
            }
        }
    }

    /// Reports a line that was not posted.
    fn refuse(&mut self, number: u64, code: &str, why: &str) {
        let place =
            if self.task.text.is_some() { String::new() } else { format!("line {number}: ") };
        print_error(&format!("{place}{code}: {why}"));
        if self.exit == Exit::Done {
            self.exit = Exit::Refused;
        }
    }

    /// Replaces the lost connection, within `--retry-for`.
    async fn reconnect(&mut self) -> Result<(), Exit> {
        let (lost, why) = (Instant::now(), self.farewell.take());
        let code = why.as_ref().map(|(code, _)| code.as_str());
        if !should_reconnect(code) && code != Some("login-timeout") {
            let text = why.map_or_else(String::new, |(code, text)| format!("{text} ({code})"));
            print_error(&format!("{} ended the connection: {text}", self.task.endpoint));
            self.report_unanswered();
            return Err(Exit::Unavailable);
        }
        self.backoff.held(self.since.elapsed());
        loop {
            let wait = self.backoff.wait(getrandom::u32().unwrap_or(u32::MAX));
            if lost.elapsed() + wait > self.task.retry_for {
                print_error(&format!("the connection to {} was lost", self.task.endpoint));
                self.report_unanswered();
                return Err(Exit::Unavailable);
            }
            tokio::time::sleep(wait).await;
            match open(&self.task).await {
                Ok(connection) => {
                    (self.connection, self.sent) = (connection, 0);
                    self.since = Instant::now();
                    self.heartbeat.received(self.since);
                    return Ok(());
                }
                Err(problem) if problem.is_transient() => {}
                Err(problem) => {
                    let exit = problem.report(&self.task.endpoint);
                    self.report_unanswered();
                    return Err(exit);
                }
            }
        }
    }

    async fn quit(&mut self) {
        let unanswered = &mut self.unanswered;
        let answered = |line: String| {
            let cid = Tags::split(&line).0.cid.map(str::to_owned);
            unanswered.retain(|post| Some(&post.cid) != cid.as_ref());
        };
        self.connection.quit(&QUIT.to_string(), answered).await;
    }

    /// Reports the lines that have no answer: they may have been posted.
    fn report_unanswered(&self) {
        let lines = match self.unanswered.len() {
            0 => return,
            1 => "1 line was".to_owned(),
            count => format!("{count} lines were"),
        };
        print_error(&format!("{lines} not confirmed and may not have been posted"));
    }
}

/// Returns 128 random bits: all programs without an account share one space of cids.
fn random_cid() -> Option<String> {
    let (high, low) = (getrandom::u64().ok()?, getrandom::u64().ok()?);
    Some(format!("{high:016x}{low:016x}"))
}
