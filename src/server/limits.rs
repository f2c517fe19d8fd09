//! The configurable limits of the server: an option, an environment variable and a default
//! each. The limits of the protocol itself (line length, name length) cannot be configured;
//! they are defined in `protocol.rs`.

pub mod admission;
pub mod fair_queue;
pub mod quota;
pub mod rate_limit;

use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::config::{parse_size, parse_switch};
use crate::protocol::units::parse_duration;
use crate::server::auth::passwords::HashFile;
use crate::server::limits::quota::Bounds;
use crate::server::net::peer::Peer;

/// Which programs may post without a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AllowPost {
    /// Any program; without an account from any address
    Any,
    /// Programs that have proven an account
    Account,
    /// Programs on this machine, and those that have proven an account
    Local,
    /// No program
    Off,
}

/// The limits of one server.
#[derive(Debug, Clone, Args)]
#[allow(clippy::struct_excessive_bools)] // each is a flag
pub struct Limits {
    /// Maximum number of connections; lowered to what the system allows
    #[arg(
        help_heading = "Limits of the server",
        long,
        value_name = "CONNECTIONS",
        default_value_t = 10_000,
        env = "CHATTY_MAX_CONNECTIONS",
        value_parser = parse_max_connections
    )]
    pub max_connections: usize,

    /// Maximum number of connections from one address or IPv6 /64, and of its sessions that
    /// wait to be resumed
    #[arg(
        help_heading = "Limits per address",
        long,
        value_name = "CONNECTIONS",
        default_value_t = 32,
        env = "CHATTY_MAX_PER_ADDRESS",
        value_parser = parse_max_connections
    )]
    pub max_per_address: usize,

    /// How many times the limits per address apply to each wider network (IPv4 /24; IPv6 /56,
    /// and its square to /48)
    #[arg(
        help_heading = "Limits per address",
        long,
        value_name = "TIMES",
        default_value_t = 4,
        env = "CHATTY_WIDER_NETWORKS",
        value_parser = parse_multiple
    )]
    pub wider_networks: usize,

    /// Maximum number of connections without a name; beyond it one of the network with the most
    /// is disconnected
    #[arg(
        help_heading = "Limits of the server",
        long,
        value_name = "CONNECTIONS",
        default_value_t = 512,
        env = "CHATTY_MAX_UNNAMED",
        value_parser = parse_max_connections
    )]
    pub max_unnamed: usize,

    /// New connections per second accepted from one address after a burst (0 = unlimited)
    #[arg(
        help_heading = "Limits per address",
        long,
        value_name = "CONNECTIONS",
        default_value_t = 10,
        env = "CHATTY_CONNECT_RATE"
    )]
    pub connect_rate: u32,

    /// New connections that one address may open at once before the rate applies
    #[arg(
        help_heading = "Limits per address",
        long,
        value_name = "CONNECTIONS",
        default_value_t = 64,
        env = "CHATTY_CONNECT_BURST"
    )]
    pub connect_burst: u32,

    /// Lines per second accepted per connection after a burst (0 = unlimited); excess waits
    #[arg(
        help_heading = "Limits per connection",
        long,
        value_name = "LINES",
        default_value_t = 10,
        env = "CHATTY_INPUT_RATE"
    )]
    pub input_rate: u32,

    /// Lines that a connection may send at once before the rate applies
    #[arg(
        help_heading = "Limits per connection",
        long,
        value_name = "LINES",
        default_value_t = 100,
        env = "CHATTY_INPUT_BURST"
    )]
    pub input_burst: u32,

    /// How many times the rate and burst of one connection all connections of one address may
    /// use together
    #[arg(
        help_heading = "Limits per address",
        long,
        value_name = "TIMES",
        default_value_t = 8,
        env = "CHATTY_ADDRESS_INPUT",
        value_parser = parse_multiple
    )]
    pub address_input: usize,

    /// Apply the limits on connections and rates to this machine, too
    #[arg(
        help_heading = "Limits per address",
        long,
        env = "CHATTY_LIMIT_LOOPBACK",
        value_parser = parse_switch
    )]
    pub limit_loopback: bool,

    /// Time after which a connection without a name is disconnected
    #[arg(
        help_heading = "Limits per connection",
        long,
        value_name = "TIME",
        default_value = "30s",
        env = "CHATTY_LOGIN_TIMEOUT",
        value_parser = parse_nonzero_duration
    )]
    pub login_timeout: Duration,

    /// Time after which a connection that uses /post is disconnected if it sends nothing
    #[arg(
        help_heading = "Limits per connection",
        long,
        value_name = "TIME",
        default_value = "10m",
        env = "CHATTY_POST_IDLE",
        value_parser = parse_nonzero_duration
    )]
    pub post_idle: Duration,

    /// Time after which a client that reads nothing while data waits is disconnected
    #[arg(
        help_heading = "Limits per connection",
        long,
        value_name = "TIME",
        default_value = "10s",
        env = "CHATTY_WRITE_STALL",
        value_parser = parse_nonzero_duration
    )]
    pub write_stall: Duration,

    /// Idle time before TCP keepalive probes a peer, and time it has to answer
    #[arg(
        help_heading = "Network",
        long,
        value_name = "TIME",
        default_value = "60s",
        env = "CHATTY_KEEPALIVE",
        value_parser = parse_duration
    )]
    pub keepalive: Duration,

    /// Time after which a peer that does not acknowledge sent data is disconnected
    #[arg(
        help_heading = "Network",
        long,
        value_name = "TIME",
        default_value = "60s",
        env = "CHATTY_USER_TIMEOUT",
        value_parser = parse_duration
    )]
    pub user_timeout: Duration,

    /// Data that may wait unread for one connection
    ///
    /// Beyond it the server stops reading from the connection (backpressure), and sends it the
    /// messages of others from the log, at the pace of the reader. Long answers are sent in
    /// pages of 64 KiB.
    #[arg(
        help_heading = "Limits per connection",
        long,
        value_name = "SIZE",
        default_value = "4MiB",
        env = "CHATTY_OUTBOX",
        value_parser = parse_buffer
    )]
    pub outbox: usize,

    /// Data that may wait unread for all connections; the share of each shrinks near it
    ///
    /// Beyond half of it long answers are sent in smaller pages, and clients that read less than
    /// 32 KiB in the time of --write-stall are disconnected. Near it the share of each connection
    /// shrinks, down to 64 KiB; messages beyond that are sent from the log later.
    #[arg(
        help_heading = "Limits of the server",
        long,
        value_name = "SIZE",
        default_value = "256MiB",
        env = "CHATTY_OUTBOX_TOTAL",
        value_parser = parse_buffer
    )]
    pub outbox_total: usize,

    /// Time during which a dropped session can be resumed
    #[arg(
        help_heading = "Sessions and rooms",
        long,
        value_name = "TIME",
        default_value = "60s",
        env = "CHATTY_SESSION_GRACE",
        value_parser = parse_duration
    )]
    pub session_grace: Duration,

    /// File with the password hash for server operators (/oper PASSWORD)
    ///
    /// `chatty hash-password` prints the argon2 hash. A changed password revokes the rights of
    /// everyone who used the old one.
    #[arg(
        help_heading = "Passwords and operators",
        long = "oper-password-file",
        value_name = "FILE",
        env = "CHATTY_OPER_PASSWORD_FILE",
        value_parser = HashFile::read
    )]
    pub oper_password: Option<HashFile>,

    /// File with the hash of the server password that guests need (/login NAME PASSWORD)
    ///
    /// Accounts log in with their own password instead. `chatty hash-password` prints the
    /// argon2 hash.
    #[arg(
        help_heading = "Passwords and operators",
        long = "password-file",
        value_name = "FILE",
        env = "CHATTY_SERVER_PASSWORD_FILE",
        value_parser = HashFile::read
    )]
    pub password: Option<HashFile>,

    /// Wrong attempts at one password or key from one address before delays begin
    ///
    /// Applies to wider networks, too (--wider-networks).
    #[arg(
        help_heading = "Passwords and operators",
        long,
        value_name = "TRIES",
        default_value_t = 4,
        env = "CHATTY_GUESSES"
    )]
    pub guesses: u32,

    /// Wrong attempts at any password or key from one address before delays begin
    ///
    /// Applies to wider networks, too, but not to connections from this machine.
    #[arg(
        help_heading = "Passwords and operators",
        long,
        value_name = "TRIES",
        default_value_t = 40,
        env = "CHATTY_GUESSES_PER_ADDRESS"
    )]
    pub guesses_per_address: u32,

    /// First delay of a throttled attempt; it doubles up to 16 times this value
    ///
    /// A quarter of it, without doubling, in the network from which the password was last given
    /// correctly: a neighbour who guesses there delays its owner by seconds.
    #[arg(
        help_heading = "Passwords and operators",
        long,
        value_name = "TIME",
        default_value = "1s",
        env = "CHATTY_GUESS_DELAY",
        value_parser = parse_duration
    )]
    pub guess_delay: Duration,

    /// Delayed attempts at one password or key that may wait per address; more are refused
    ///
    /// Unlimited in the network from which the password was last given correctly.
    #[arg(
        help_heading = "Passwords and operators",
        long,
        value_name = "TRIES",
        default_value_t = 8,
        env = "CHATTY_GUESSES_WAITING"
    )]
    pub guesses_waiting: usize,

    /// Passwords that may wait to be hashed, two at a time; more are refused
    #[arg(
        help_heading = "Passwords and operators",
        long,
        value_name = "PASSWORDS",
        default_value_t = 1024,
        env = "CHATTY_MAX_HASHING"
    )]
    pub max_hashing: usize,

    /// Passwords that may wait to be hashed per address; more are refused
    ///
    /// Networks take turns. Applies to wider networks, too, but not to this machine.
    #[arg(
        help_heading = "Passwords and operators",
        long,
        value_name = "PASSWORDS",
        default_value_t = 32,
        env = "CHATTY_HASHING_PER_ADDRESS"
    )]
    pub hashing_per_address: usize,

    /// Accept passwords over unencrypted connections from other machines
    #[arg(
        help_heading = "Passwords and operators",
        long,
        env = "CHATTY_ALLOW_INSECURE_PASSWORDS",
        value_parser = parse_switch
    )]
    pub allow_insecure_passwords: bool,

    /// Which programs may post with /post, without logging in
    #[arg(
        help_heading = "Limits of the server",
        long,
        value_name = "WHO",
        value_enum,
        default_value_t = AllowPost::Local,
        env = "CHATTY_ALLOW_POST"
    )]
    pub allow_post: AllowPost,

    /// Maximum number of accounts
    #[arg(
        help_heading = "Limits of the server",
        long,
        value_name = "ACCOUNTS",
        default_value_t = 100_000,
        env = "CHATTY_MAX_ACCOUNTS"
    )]
    pub max_accounts: usize,

    /// Registrations and password changes per address before one a minute (0 = unlimited)
    ///
    /// Does not apply to connections from this machine.
    #[arg(
        help_heading = "Limits per address",
        long,
        value_name = "ACCOUNTS",
        default_value_t = 40,
        env = "CHATTY_ACCOUNTS_PER_ADDRESS"
    )]
    pub accounts_per_address: u32,

    /// Private messages that may wait for an account that is offline or disconnected
    #[arg(
        help_heading = "Sessions and rooms",
        long,
        value_name = "MESSAGES",
        default_value_t = 500,
        env = "CHATTY_MAILBOX"
    )]
    pub mailbox: usize,

    /// Number of members above which joins and leaves are summed up once a second
    #[arg(
        help_heading = "Sessions and rooms",
        long,
        value_name = "PEOPLE",
        default_value_t = 500,
        env = "CHATTY_QUIET_ABOVE"
    )]
    pub quiet_above: usize,

    /// Announce each join and leave, in large rooms, too
    #[arg(
        help_heading = "Sessions and rooms",
        long,
        env = "CHATTY_ANNOUNCE",
        conflicts_with = "quiet_above",
        value_parser = parse_switch
    )]
    pub announce: bool,

    /// Maximum number of rooms that a user can be in
    #[arg(
        help_heading = "Sessions and rooms",
        long,
        value_name = "ROOMS",
        default_value_t = 50,
        env = "CHATTY_ROOMS_PER_PERSON"
    )]
    pub rooms_per_person: usize,

    /// Maximum number of rooms
    #[arg(
        help_heading = "Limits of the server",
        long,
        value_name = "ROOMS",
        default_value_t = 10_000,
        env = "CHATTY_MAX_ROOMS"
    )]
    pub max_rooms: usize,

    /// Maximum number of rooms that users of one address have created
    #[arg(
        help_heading = "Limits per address",
        long,
        value_name = "ROOMS",
        default_value_t = 200,
        env = "CHATTY_ROOMS_PER_ADDRESS"
    )]
    pub rooms_per_address: usize,

    /// Maximum number of operators of a room, and of the server
    #[arg(
        help_heading = "Sessions and rooms",
        long,
        value_name = "PEOPLE",
        default_value_t = 100,
        env = "CHATTY_MAX_OPERATORS"
    )]
    pub max_operators: usize,

    /// Maximum number of bans in a room
    #[arg(
        help_heading = "Sessions and rooms",
        long,
        value_name = "BANS",
        default_value_t = 100,
        env = "CHATTY_MAX_BANS"
    )]
    pub max_bans: usize,

    /// Maximum number of bans from the server
    #[arg(
        help_heading = "Limits of the server",
        long,
        value_name = "BANS",
        default_value_t = 1000,
        env = "CHATTY_MAX_SERVER_BANS"
    )]
    pub max_server_bans: usize,

    /// Maximum number of muted users in a room
    #[arg(
        help_heading = "Sessions and rooms",
        long,
        value_name = "PEOPLE",
        default_value_t = 100,
        env = "CHATTY_MAX_MUTES"
    )]
    pub max_mutes: usize,

    /// Maximum number of pending invitations to a room
    #[arg(
        help_heading = "Sessions and rooms",
        long,
        value_name = "PEOPLE",
        default_value_t = 1000,
        env = "CHATTY_MAX_INVITED"
    )]
    pub max_invited: usize,

    /// Maximum number of users that a user can ignore
    #[arg(
        help_heading = "Sessions and rooms",
        long,
        value_name = "PEOPLE",
        default_value_t = 100,
        env = "CHATTY_MAX_IGNORED"
    )]
    pub max_ignored: usize,

    /// Panic at the line /debug-panic; after /debug-panic later, at the next non-line input
    #[arg(long, hide = true)]
    pub debug_panic: bool,

    /// Messages that the history in memory holds
    #[arg(
        help_heading = "History in memory (--ephemeral)",
        long,
        value_name = "MESSAGES",
        default_value_t = 100_000,
        env = "CHATTY_HISTORY_MESSAGES"
    )]
    pub history_messages: usize,

    /// Text that the history in memory holds
    #[arg(
        help_heading = "History in memory (--ephemeral)",
        long,
        value_name = "SIZE",
        default_value = "64MiB",
        env = "CHATTY_HISTORY_SIZE",
        value_parser = parse_buffer
    )]
    pub history_size: usize,
}

/// The smallest accepted size of a buffer: several lines of maximum length.
pub const BUFFER_MIN: usize = 64 << 10;

/// Parses the size of a buffer. Rejects small values, because a number without a unit is
/// usually a mistake.
fn parse_buffer(text: &str) -> Result<usize, String> {
    let problem = || format!("{text} is too small; use {}KiB or more, e.g. 4MiB", BUFFER_MIN >> 10);
    parse_size(text).and_then(|size| (size >= BUFFER_MIN).then_some(size).ok_or_else(problem))
}

/// Parses a maximum number of connections; 0 would make the server useless.
fn parse_max_connections(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("0 would allow no connection; use 1 or more".to_owned()),
        Ok(places) => Ok(places),
        Err(_) => Err(format!("\"{text}\" is not a number; use e.g. 32")),
    }
}

/// Parses how many times a limit applies elsewhere.
fn parse_multiple(text: &str) -> Result<usize, String> {
    let times = text.parse().ok().filter(|times| *times > 0);
    times.ok_or_else(|| format!("\"{text}\" is not a number from 1; use e.g. 4"))
}

/// Parses a timeout that must not be 0, because no client could meet it.
fn parse_nonzero_duration(text: &str) -> Result<Duration, String> {
    let timeout = parse_duration(text)?;
    let problem = || "0 would disconnect every client; use 1s or more".to_owned();
    (!timeout.is_zero()).then_some(timeout).ok_or_else(problem)
}

impl Limits {
    /// Returns whether the limits per address apply to this peer.
    #[must_use]
    pub fn apply_to(&self, peer: Peer) -> bool {
        self.limit_loopback || !peer.is_local()
    }

    /// The bounds of a resource of which each address may hold this much.
    #[must_use]
    pub fn bounds(&self, per_address: usize, total: usize) -> Bounds {
        Bounds { per_address, wider: self.wider_networks, total }
    }

    /// The bounds of connections, and of sessions that wait to be resumed.
    #[must_use]
    pub fn connection_bounds(&self) -> Bounds {
        self.bounds(self.max_per_address, self.max_connections)
    }
}

impl Default for Limits {
    /// Returns the defaults that `--help` shows.
    fn default() -> Self {
        use clap::{Command, FromArgMatches};
        let matches = Self::augment_args(Command::new("limits")).get_matches_from(["limits"]);
        // Every limit has a default, so none can be missing.
        Self::from_arg_matches(&matches).expect("every limit has a default")
    }
}
