//! Every limit of the server that can be set, in one table: a flag, an
//! environment variable and a default each. The wire's own limits, which are
//! part of the contract and cannot be set, stand in `protocol.rs`.

use std::time::Duration;

use clap::Args;

use super::passwords::HashFile;
use super::peer::Peer;
use crate::protocol::units::{parse_duration, parse_size, parse_switch};

/// The limits of one server.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits")]
#[allow(clippy::struct_excessive_bools)] // each is a flag
pub struct Limits {
    /// How many connections there may be; less where the system allows less
    #[arg(
        long,
        value_name = "CONNECTIONS",
        default_value_t = 10_000,
        env = "CHATTY_MAX_CONNECTIONS",
        value_parser = parse_places
    )]
    pub max_connections: usize,

    /// How many of them from one address, or from one /64 of IPv6; and how many of
    /// those that dropped keep their place
    #[arg(
        long,
        value_name = "CONNECTIONS",
        default_value_t = 32,
        env = "CHATTY_MAX_PER_ADDRESS",
        value_parser = parse_places
    )]
    pub max_per_address: usize,

    /// How many may have given no name yet; past it the one that has waited
    /// longest gives way
    #[arg(
        long,
        value_name = "CONNECTIONS",
        default_value_t = 512,
        env = "CHATTY_MAX_UNNAMED",
        value_parser = parse_places
    )]
    pub max_unnamed: usize,

    /// How many new connections a second from one address, after a burst; 0 is as
    /// many as there are
    #[arg(long, value_name = "CONNECTIONS", default_value_t = 10, env = "CHATTY_CONNECT_RATE")]
    pub connect_rate: u32,

    /// How many new ones of an address may come at once before that counts
    #[arg(long, value_name = "CONNECTIONS", default_value_t = 64, env = "CHATTY_CONNECT_BURST")]
    pub connect_burst: u32,

    /// How many lines a second of one connection are heard, after a burst; what
    /// comes faster waits, nothing is lost. 0 is as many as there are
    #[arg(long, value_name = "LINES", default_value_t = 10, env = "CHATTY_INPUT_RATE")]
    pub input_rate: u32,

    /// How many lines may come at once before that counts
    #[arg(long, value_name = "LINES", default_value_t = 100, env = "CHATTY_INPUT_BURST")]
    pub input_burst: u32,

    /// Hold connections of this machine to the limits above too
    #[arg(long, env = "CHATTY_LIMIT_LOOPBACK", value_parser = parse_switch)]
    pub limit_loopback: bool,

    /// Who gives no name within this time is disconnected
    #[arg(
        long,
        value_name = "TIME",
        default_value = "30s",
        env = "CHATTY_LOGIN_TIMEOUT",
        value_parser = parse_nonzero_duration
    )]
    pub login_timeout: Duration,

    /// Who reads nothing for this time while something waits is disconnected
    #[arg(
        long,
        value_name = "TIME",
        default_value = "10s",
        env = "CHATTY_WRITE_STALL",
        value_parser = parse_nonzero_duration
    )]
    pub write_stall: Duration,

    /// After so long a silence TCP asks whether a peer is still there; without an
    /// answer it is gone after as long again
    #[arg(
        long,
        value_name = "TIME",
        default_value = "60s",
        env = "CHATTY_KEEPALIVE",
        value_parser = parse_duration
    )]
    pub keepalive: Duration,

    /// A peer that has not confirmed for so long what it was sent is gone
    #[arg(
        long,
        value_name = "TIME",
        default_value = "60s",
        env = "CHATTY_USER_TIMEOUT",
        value_parser = parse_duration
    )]
    pub user_timeout: Duration,

    /// How much may wait unread for one connection; past it, it is not read from
    /// and gets what others say from the log, at its own pace
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "4MiB",
        env = "CHATTY_OUTBOX",
        value_parser = parse_buffer
    )]
    pub outbox: usize,

    /// How much may wait unread for all connections together; the nearer it is,
    /// the less may wait for each
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "256MiB",
        env = "CHATTY_OUTBOX_TOTAL",
        value_parser = parse_buffer
    )]
    pub outbox_total: usize,

    /// How long a connection that asked for a session and dropped keeps its place
    #[arg(
        long,
        value_name = "TIME",
        default_value = "60s",
        env = "CHATTY_SESSION_GRACE",
        value_parser = parse_duration
    )]
    pub session_grace: Duration,

    /// Who says this password is an operator of the server: /oper PASSWORD
    ///
    /// The file holds its argon2 hash, which `chatty hash-password` makes.
    /// Another password ends the rights of all who gave the old one.
    #[arg(
        long = "oper-password-file",
        value_name = "FILE",
        env = "CHATTY_OPER_PASSWORD_FILE",
        value_parser = HashFile::read
    )]
    pub oper_password: Option<HashFile>,

    /// Let in nobody but accounts and who says this password: /login NAME PASSWORD
    ///
    /// The file holds its argon2 hash, which `chatty hash-password` makes.
    #[arg(
        long = "password-file",
        value_name = "FILE",
        env = "CHATTY_SERVER_PASSWORD_FILE",
        value_parser = HashFile::read
    )]
    pub password: Option<HashFile>,

    /// How many wrong tries at a password or key from one address wait for nothing
    #[arg(long, value_name = "TRIES", default_value_t = 4, env = "CHATTY_GUESSES")]
    pub guesses: u32,

    /// The same of all tries from one address other than this machine's, at whatever
    #[arg(long, value_name = "TRIES", default_value_t = 40, env = "CHATTY_GUESSES_PER_ADDRESS")]
    pub guesses_per_address: u32,

    /// Each further one waits this long, then twice as long, and so on up to 16 times
    #[arg(
        long,
        value_name = "TIME",
        default_value = "1s",
        env = "CHATTY_GUESS_DELAY",
        value_parser = parse_duration
    )]
    pub guess_delay: Duration,

    /// How many tries at the same may wait so; more are refused
    #[arg(long, value_name = "TRIES", default_value_t = 8, env = "CHATTY_GUESSES_WAITING")]
    pub guesses_waiting: usize,

    /// How many passwords may wait to be hashed, two at a time; more are refused
    #[arg(long, value_name = "PASSWORDS", default_value_t = 256, env = "CHATTY_MAX_HASHING")]
    pub max_hashing: usize,

    /// Take passwords also from where somebody could read along
    #[arg(
        long,
        env = "CHATTY_ALLOW_INSECURE_PASSWORDS",
        value_parser = parse_switch
    )]
    pub allow_insecure_passwords: bool,

    /// How many accounts there may be
    #[arg(long, value_name = "ACCOUNTS", default_value_t = 100_000, env = "CHATTY_MAX_ACCOUNTS")]
    pub max_accounts: usize,

    /// How many accounts and new passwords there may be at once from one address other
    /// than this machine's, then one a minute; 0 is as many as there are
    #[arg(
        long,
        value_name = "ACCOUNTS",
        default_value_t = 40,
        env = "CHATTY_ACCOUNTS_PER_ADDRESS"
    )]
    pub accounts_per_address: u32,

    /// How many messages may wait for an account that is not here
    #[arg(long, value_name = "MESSAGES", default_value_t = 500, env = "CHATTY_MAILBOX")]
    pub mailbox: usize,

    /// In a room of more people than this, comings and goings are summed up
    /// once a second
    #[arg(long, value_name = "PEOPLE", default_value_t = 500, env = "CHATTY_QUIET_ABOVE")]
    pub quiet_above: usize,

    /// Tell every coming and going singly, in large rooms too
    #[arg(
        long,
        env = "CHATTY_ANNOUNCE",
        conflicts_with = "quiet_above",
        value_parser = parse_switch
    )]
    pub announce: bool,

    /// How many rooms one person may be in
    #[arg(long, value_name = "ROOMS", default_value_t = 50, env = "CHATTY_ROOMS_PER_PERSON")]
    pub rooms_per_person: usize,

    /// How many rooms there may be
    #[arg(long, value_name = "ROOMS", default_value_t = 10_000, env = "CHATTY_MAX_ROOMS")]
    pub max_rooms: usize,

    /// How many operators a room may have, and the server
    #[arg(long, value_name = "PEOPLE", default_value_t = 100, env = "CHATTY_MAX_OPERATORS")]
    pub max_operators: usize,

    /// How many may be banned from a room
    #[arg(long, value_name = "BANS", default_value_t = 100, env = "CHATTY_MAX_BANS")]
    pub max_bans: usize,

    /// How many may be banned from the server
    #[arg(long, value_name = "BANS", default_value_t = 1000, env = "CHATTY_MAX_SERVER_BANS")]
    pub max_server_bans: usize,

    /// How many may be muted in a room
    #[arg(long, value_name = "PEOPLE", default_value_t = 100, env = "CHATTY_MAX_MUTES")]
    pub max_mutes: usize,

    /// How many may be invited into a room and not have come
    #[arg(long, value_name = "PEOPLE", default_value_t = 1000, env = "CHATTY_MAX_INVITED")]
    pub max_invited: usize,

    /// How many people one person may ignore
    #[arg(long, value_name = "PEOPLE", default_value_t = 100, env = "CHATTY_MAX_IGNORED")]
    pub max_ignored: usize,

    /// Panic at the line /debug-panic; after /debug-panic later, over what is not a line
    #[arg(long, hide = true)]
    pub debug_panic: bool,

    /// How many messages the history in memory holds
    #[arg(
        long,
        value_name = "MESSAGES",
        default_value_t = 100_000,
        env = "CHATTY_HISTORY_MESSAGES"
    )]
    pub history_messages: usize,

    /// How much text the history in memory holds
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "64MiB",
        env = "CHATTY_HISTORY_SIZE",
        value_parser = parse_buffer
    )]
    pub history_size: usize,
}

/// The smallest size of a buffer: some lines of full length, so that it is of any use.
pub const BUFFER_MIN: usize = 64 << 10;

/// A size without its unit is mostly a mistake, and far too small.
fn parse_buffer(text: &str) -> Result<usize, String> {
    let problem =
        || format!("{text} is too small; give it {}KiB or more, as in 4MiB", BUFFER_MIN >> 10);
    parse_size(text).and_then(|size| (size >= BUFFER_MIN).then_some(size).ok_or_else(problem))
}

/// How many may be somewhere where nobody being there is no server.
fn parse_places(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("0 would let nobody in; give it 1 or more".to_owned()),
        Ok(places) => Ok(places),
        Err(_) => Err(format!("\"{text}\" is no number; write one like 32")),
    }
}

/// With no time at all nobody could read, or give a name.
fn parse_nonzero_duration(text: &str) -> Result<Duration, String> {
    let patience = parse_duration(text)?;
    let problem = || "0 would part with everybody; give them 1s or more".to_owned();
    (!patience.is_zero()).then_some(patience).ok_or_else(problem)
}

impl Limits {
    /// Whether what one address may do is limited for somebody from there.
    #[must_use]
    pub fn apply_to(&self, peer: Peer) -> bool {
        self.limit_loopback || !peer.is_local()
    }
}

impl Default for Limits {
    /// The defaults that `--help` shows.
    fn default() -> Self {
        use clap::{Command, FromArgMatches};
        let matches = Self::augment_args(Command::new("limits")).get_matches_from(["limits"]);
        // Every limit has a default, so none can be missing.
        Self::from_arg_matches(&matches).expect("every limit has a default")
    }
}
