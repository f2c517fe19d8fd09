//! The start of `join`, shared by both modes: connects, finds the password, logs in and, in
//! a script, waits for a name that is in use. It does not know what happens after the
//! login.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::arguments::{JoinArgs, PasswordArgs};
use super::log_files::LogFiles;
use super::net::address::Endpoint;
use super::net::connection::{Connection, Unreachable};
use super::net::tls::Tls;
use super::process::exit::Exit;
use super::process::question::{Unanswered, ask};
use super::process::signals::Signals;
use super::process::tty::is_on_terminal;
use super::remembered_rooms::RememberedRooms;
use super::script::json::{self, Status};
use super::session::first_contact::connect_or_ask;
use super::session::login::{self, Identity, Refused, Session};
use super::session::outgoing::CidGenerator;
use super::session::password::Password;
use super::session::reconnect::ReconnectConfig;
use super::session::resume::humanize;
use super::session::{ActiveSession, QUIT};
use super::text::sanitize::print_error;
use crate::protocol::Name;
use crate::stdio;

/// The ways to give a password without a prompt.
pub(super) const PASSWORD_HINT: &str = " (use --password-file, --password-cmd or CHATTY_PASSWORD)";

/// How many times a password may be typed.
const PASSWORD_ATTEMPTS: usize = 3;

/// How long a script tries to reconnect, and waits for a name in use.
const RETRY_FOR: Duration = Duration::from_mins(10);

/// The minimum and maximum delay before a login is retried. The maximum is higher with a
/// password, because each such attempt costs the server a password hash.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(1);
const PAUSE_MAX_WITH_PASSWORD: Duration = Duration::from_secs(4);

/// Why the start failed.
pub(super) struct Failure {
    pub(super) exit: Exit,
    /// `None` for a signal, which needs no message.
    pub(super) why: Option<String>,
}

impl Failure {
    pub(super) fn new(exit: Exit, why: impl Into<String>) -> Self {
        Self { exit, why: Some(why.into()) }
    }

    /// Reports the failure on standard error and, with `--json`, as a status object.
    pub(super) fn report(self, args: &JoinArgs) -> Exit {
        if let Some(why) = &self.why {
            print_error(why);
        }
        if args.json {
            write_status(Status::Failed, self.why.as_deref().unwrap_or("ended by a signal"));
        }
        self.exit
    }
}

/// Writes a status object before an `Output` exists.
fn write_status(status: Status, text: &str) {
    let mut object = Vec::new();
    // A write error will show up again with the first line of the server.
    let _ = json::status(&mut object, status, None, text)
        .and_then(|()| stdio::stdout().write_all(&object));
}

/// Why one attempt failed.
enum Problem {
    Unreachable(Unreachable),
    Refused(Refused),
    /// The file, command or variable has no password.
    NoPassword(String),
    /// The user left the password prompt.
    Left(Exit),
    /// The user gave no other name.
    NoName,
    /// A signal arrived.
    Stopped(Exit),
}

/// Connects and logs in. On a signal it logs out first if the login may have succeeded: an
/// open session would keep the name in use.
pub(super) async fn start_session(
    args: &JoinArgs,
    identity: &Identity,
    signals: &mut Signals,
) -> Result<ActiveSession, Failure> {
    let endpoint = args.address.with_default_port(args.port);
    let tls = args
        .tls
        .open(args.is_interactive())
        .map_err(|problem| Failure::new(Exit::Usage, problem))?;
    let run_id = getrandom::u64()
        .map_err(|_| Failure::new(Exit::Unavailable, "the system provides no random numbers"))?;
    let mut log = LogFiles::of(&endpoint);
    log.turn(args.log).map_err(|why| Failure::new(Exit::Usage, format!("--log: {why}")))?;
    // On a terminal the user decides when to stop.
    let default = if args.is_interactive() { Duration::MAX } else { RETRY_FOR };
    let retry_for = args.retry_for.unwrap_or(default);
    let mut pending = PendingLogin {
        args,
        name: identity.name.clone(),
        first: identity.first(),
        endpoint,
        tls,
        cids: CidGenerator::new(run_id),
        wants_session: args.wants_session(),
        connection: None,
        password: None,
        has_read_password: false,
        attempts_left: 0,
        is_just_typed: false,
    };
    let mut waiting = NameWait::new(if args.is_interactive() { Duration::ZERO } else { retry_for });
    let mut session = loop {
        let problem = match pending.attempt_unless_stopped(signals).await {
            Ok(session) => break session,
            Err(problem) => problem,
        };
        // The server may have timed out while the password was typed: retry once with it.
        if pending.is_just_typed
            && matches!(&problem, Problem::Refused(refused) if refused.is_login_timeout())
        {
            (pending.is_just_typed, pending.connection) = (false, None);
            continue;
        }
        if let Some(why) = pending.name_problem(&problem) {
            let asked = pending.ask_for_name(why).await;
            asked.map_err(|problem| pending.fail(problem))?;
            continue;
        }
        let Some(pause) = waiting.pause(&problem, &pending) else {
            return Err(pending.fail(problem));
        };
        if !matches!(&problem, Problem::Refused(refused) if refused.is_name_taken()) {
            pending.connection = None;
        }
        tokio::select! {
            () = sleep(pause) => {}
            exit = signals.next() => return Err(pending.fail(Problem::Stopped(exit))),
        }
    };
    let PendingLogin { endpoint, tls, cids, connection, password, wants_session, .. } = pending;
    let rooms = if args.is_interactive() {
        RememberedRooms::of(&endpoint, &session.me, password.is_some(), args.rejoin)
    } else {
        RememberedRooms::none()
    };
    let Some(mut connection) = connection else {
        return Err(Failure::new(Exit::Unavailable, "the connection was lost"));
    };
    if let Some(why) = &session.refused {
        connection.quit(&QUIT.to_string(), drop).await;
        return Err(Failure::new(Exit::Refused, format!("cannot join the room: {why}")));
    }
    let rejoin = rooms.rejoin(&identity.rooms);
    if !rejoin.is_empty() {
        // A remembered room that is refused now is reported like any other.
        let joined = session.send_and_wait(&mut connection, &rejoin, &cids).await;
        let fail = |problem: Refused| Failure::new(problem.exit(), problem.sentence(&endpoint));
        joined.map_err(fail)?;
    }
    let (retry_now, since) = (Arc::default(), Instant::now());
    let may_rename = args.is_interactive();
    let reconnect = ReconnectConfig {
        endpoint,
        tls,
        retry_for,
        password,
        may_rename,
        wants_session,
        retry_now,
        since,
    };
    let (ping_after, debug_panic) = (args.ping_after, args.debug_panic);
    Ok(ActiveSession { connection, session, cids, reconnect, ping_after, log, rooms, debug_panic })
}

/// A login in progress.
struct PendingLogin<'a> {
    args: &'a JoinArgs,
    name: Name,
    /// The first commands after the login.
    first: Vec<String>,
    endpoint: Endpoint,
    /// `None`: no encryption.
    tls: Option<Tls>,
    cids: CidGenerator,
    wants_session: bool,
    /// The connection after the server's greeting.
    connection: Option<Connection>,
    password: Option<Password>,
    /// Whether the file, command and variable were read.
    has_read_password: bool,
    /// How many more times the user may be asked for the password.
    attempts_left: usize,
    /// The password or the name was just typed, so the server may have timed out meanwhile.
    is_just_typed: bool,
}

impl PendingLogin<'_> {
    async fn attempt_unless_stopped(&mut self, signals: &mut Signals) -> Result<Session, Problem> {
        let exit = tokio::select! {
            biased; // the password prompt handles the signal first and restores the terminal
            attempted = self.attempt() => return attempted,
            exit = signals.next() => exit,
        };
        if let Some(connection) = &mut self.connection {
            connection.quit(&QUIT.to_string(), drop).await;
        }
        Err(Problem::Stopped(exit))
    }

    async fn attempt(&mut self) -> Result<Session, Problem> {
        if self.connection.is_none() {
            let connected = connect_or_ask(&self.endpoint, self.tls.as_ref()).await;
            let mut connection = connected.map_err(Problem::Unreachable)?;
            login::greet(&mut connection).await.map_err(Problem::Refused)?;
            self.connection = Some(connection);
        }
        if !self.has_read_password {
            let password = read_password(&self.args.password).await;
            self.password = password.map_err(Problem::NoPassword)?;
            self.has_read_password = true;
            if self.password.is_none() && is_on_terminal() {
                self.attempts_left = PASSWORD_ATTEMPTS;
            }
        }
        self.log_in().await
    }

    /// Logs in. On a terminal it asks for the password if the name needs one.
    async fn log_in(&mut self) -> Result<Session, Problem> {
        let Some(connection) = &mut self.connection else {
            return Err(Problem::Refused(Refused::Closed));
        };
        let (name, first) = (self.name.as_str(), &self.first);
        loop {
            let password = self.password.as_ref();
            let (cids, wants_session) = (&self.cids, self.wants_session);
            let logged_in = login::login(connection, name, password, first, cids, wants_session);
            let problem = match logged_in.await {
                Ok(session) => return Ok(session),
                Err(problem) => problem,
            };
            let Some(why) = problem.password_problem().filter(|_| self.attempts_left > 0) else {
                return Err(Problem::Refused(problem));
            };
            // The first prompt needs no explanation.
            let why = if self.password.is_some() { why } else { "" };
            self.password = Some(Password::ask(name, why).await.map_err(Problem::Left)?);
            self.attempts_left -= 1;
            self.is_just_typed = true;
        }
    }

    /// Returns why the server refused the name, if another can be asked for: at a prompt.
    fn name_problem<'p>(&self, problem: &'p Problem) -> Option<&'p str> {
        match problem {
            Problem::Refused(refused) if self.args.is_interactive() => refused.name_problem(),
            _ => None,
        }
    }

    /// Asks for another name. Its password is asked for when it needs one.
    async fn ask_for_name(&mut self, why: &str) -> Result<(), Problem> {
        print_error(why);
        let other = login::alternative_name(self.name.as_str());
        self.name = loop {
            let typed = ask(&format!("another name [{other}]: "), false).await;
            let typed = typed.map_err(|unanswered| match unanswered {
                Unanswered::Stopped(exit) => Problem::Stopped(exit),
                Unanswered::Ended | Unanswered::Failed(_) => Problem::NoName,
            })?;
            let name = if typed.trim().is_empty() { other.as_str() } else { typed.trim() };
            match Name::parse(name) {
                Ok(name) => break name,
                Err(fault) => print_error(&format!("\"{name}\" is not a valid name: {fault}")),
            }
        };
        (self.password, self.attempts_left) = (None, PASSWORD_ATTEMPTS);
        self.is_just_typed = true;
        Ok(())
    }

    fn fail(&self, problem: Problem) -> Failure {
        match problem {
            Problem::Unreachable(problem) => Failure::new(Exit::Unavailable, problem.why),
            Problem::Refused(problem) => {
                let lacks_password =
                    self.password.is_none() && problem.password_problem().is_some();
                let mut why = problem.sentence(&self.endpoint);
                if lacks_password {
                    why += PASSWORD_HINT;
                }
                Failure::new(problem.exit(), why)
            }
            Problem::NoPassword(problem) => Failure::new(Exit::Usage, problem),
            Problem::NoName => Failure::new(Exit::NameRefused, "not logged in: no name given"),
            Problem::Left(exit) => Failure::new(exit, "not logged in: no password given"),
            Problem::Stopped(exit) => Failure { exit, why: None },
        }
    }
}

/// Returns the password of the file, command or variable. A thread reads it, because files
/// and commands may block.
pub(super) async fn read_password(args: &PasswordArgs) -> Result<Option<Password>, String> {
    let (file, command) = (args.password_file.clone(), args.password_cmd.clone());
    let (done, given) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = done.send(Password::from_sources(file.as_deref(), command.as_deref()));
    });
    given.await.map_err(|_| "the password could not be read".to_owned())?
}

/// Decides, in a script, how long to wait for a name in use: jobs that share a name run one
/// after the other.
struct NameWait {
    /// The total waiting time.
    limit: Duration,
    since: Option<Instant>,
    pause: Duration,
}

impl NameWait {
    fn new(limit: Duration) -> Self {
        Self { limit, since: None, pause: PAUSE_MIN }
    }

    /// Returns the delay before the next attempt, `None` to give up. Reports the first wait.
    fn pause(&mut self, problem: &Problem, pending: &PendingLogin<'_>) -> Option<Duration> {
        let begins = match problem {
            Problem::Refused(refused) => {
                refused.is_name_taken()
                    || refused.is_busy()
                    || (!pending.wants_session && refused.is_replaced())
            }
            _ => false,
        };
        let continues = match problem {
            Problem::Refused(refused) => refused.is_transient(),
            Problem::Unreachable(unreachable) => !unreachable.is_final,
            Problem::NoPassword(_) | Problem::Left(_) | Problem::NoName | Problem::Stopped(_) => {
                false
            }
        };
        if self.limit.is_zero() || !(begins || (self.since.is_some() && continues)) {
            return None;
        }
        let since = match self.since {
            Some(since) => since,
            None => {
                self.announce(problem, pending);
                *self.since.insert(Instant::now())
            }
        };
        let left = self.limit.checked_sub(since.elapsed()).filter(|left| !left.is_zero())?;
        let jitter = f64::from(getrandom::u32().unwrap_or(u32::MAX)) / f64::from(u32::MAX);
        let pause = self.pause.mul_f64(0.5 + jitter / 2.0);
        let has_password = pending.password.is_some();
        let longest = if has_password { PAUSE_MAX_WITH_PASSWORD } else { PAUSE_MAX };
        self.pause = (self.pause * 2).min(longest);
        Some(pause.min(left))
    }

    fn announce(&self, problem: &Problem, pending: &PendingLogin<'_>) {
        let limit = match self.limit {
            Duration::MAX => String::new(),
            limit => format!(" for up to {}", humanize(limit)),
        };
        let text = match problem {
            Problem::Refused(refused) if !refused.is_name_taken() => {
                format!("{}; retrying{limit}", refused.sentence(&pending.endpoint))
            }
            _ => format!("the name {} is in use; waiting for it{limit}", pending.name),
        };
        if !pending.args.quiet {
            print_error(&text);
        }
        if pending.args.json {
            write_status(Status::Waiting, &text);
        }
    }
}
