//! Transcripts as specification: each file of `tests/transcripts` describes one behaviour and is
//! played three times: on the hub alone, with a simulated clock; on a hub that is restored from
//! what is stored between any two lines, and between a line and the log reads and password jobs
//! that it requests; and over sockets against the real server. All must produce the same lines.
//!
//! ```text
//! # The rule, in a sentence.
//! $ --quiet-above 3              flags of this server
//! alice+                         alice connects
//! alice< [HELLO chatty/1] …      alice receives this line
//! alice+ from 192.0.2.7          alice connects from this address; hub only
//! alice+ from 192.0.2.7 by TLS   the same over TLS
//! alice+ login                   alice connects and logs in; her own lines are not shown
//! alice> hi                      alice sends a line
//! alice-                         alice closes her sending side, like netcat at end of input
//! alice!                         alice's connection breaks
//! alice= closed                  the server has closed alice's connection
//! ~30s                           time passes; such a file is played on the hub only
//! bob> TOKEN(alice)              stands for the last session token that alice received
//! ```
//!
//! The lines that an action causes follow it: every line that any user receives, in order for each
//! user. An unexpected line fails the test. `[..]` matches any text. `UPDATE=1` rewrites the
//! received lines.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chatty::protocol::units::parse_duration;
use chatty::server::hub::{Input, Persisted};
use chatty::server::limits::Limits;
use chatty::server::net::peer::Peer;
use chatty::server::turn::ConnId;
use clap::{Args as _, FromArgMatches as _};

use crate::any_input::checks::relay::Relay;
use crate::hub_driver::{Driver, Storing};
use crate::support::Server;

/// The lines each user received since the last action, by name; a line `=` means that the server
/// has closed the connection.
type Received = BTreeMap<String, Vec<String>>;

/// The transcripts that differ if the hub is restored between lines, by reason.
const DIFFERENCES: &[(&str, &[&str])] = &[
    (
        "the target of `/reply` is not stored",
        &["mail_waits_for_offline_account", "reply_goes_to_last_private_sender"],
    ),
    ("idle times are not stored", &["only_user_activity_resets_idle_time"]),
    (
        "counters of password attempts and of new passwords are not stored",
        &[
            "password_hashing_is_rate_limited_per_address",
            "password_hashing_is_rate_limited_per_network",
            "wrong_room_keys_are_throttled",
        ],
    ),
    (
        "joins and quits that are being coalesced are not stored",
        &["large_room_coalesces_presence", "quit_is_shown_by_name_in_small_room"],
    ),
];

/// Where a transcript is played.
trait Stage {
    fn connect(&mut self, who: &str, from: Option<&str>);
    fn send(&mut self, who: &str, line: &str);
    fn finish(&mut self, who: &str);
    fn break_off(&mut self, who: &str);
    fn pass(&mut self, time: Duration);
    /// Returns all received lines when no more are on their way.
    fn received(&mut self) -> Received;
}

const CLOSED: &str = "=";

/// The hub without sockets.
struct HubStage {
    hub: Driver,
    people: BTreeMap<String, ConnId>,
    /// Whether the hub is replaced by a restored one before and after the work that lines request.
    is_restored: bool,
}

impl HubStage {
    fn new(flags: &[&str], is_restored: bool) -> Self {
        let command = Limits::augment_args(clap::Command::new("limits"));
        let flags = std::iter::once("limits").chain(flags.iter().copied());
        let limits = Limits::from_arg_matches(&command.get_matches_from(flags)).expect("limits");
        let mut hub = Driver::new(limits);
        hub.storing = Storing::Everything;
        if is_restored {
            hub.set_persisted(Persisted::Everyone);
        } else {
            Relay::attach(&mut hub);
        }
        Self { hub, people: BTreeMap::new(), is_restored }
    }

    fn settle(&mut self) {
        if self.is_restored {
            self.hub.take_over();
            self.hub.settle();
            self.hub.take_over();
        }
        self.hub.settle();
        self.hub.check_invariants();
    }
}

impl Stage for HubStage {
    fn connect(&mut self, who: &str, from: Option<&str>) {
        let from = from.unwrap_or("127.0.0.1");
        let encrypted_from = from.strip_suffix(" by TLS");
        let peer = Peer::new(encrypted_from.unwrap_or(from).parse().expect("an address"));
        let conn = if encrypted_from.is_some() {
            let conn = self.hub.connect(Input::Arrived(peer));
            self.hub.input(conn, Input::TransportKnown { is_encrypted: true });
            conn
        } else {
            self.hub.connect(Input::Opened(peer))
        };
        self.people.insert(who.to_owned(), conn);
        self.settle();
    }

    fn send(&mut self, who: &str, line: &str) {
        self.hub.send(self.people[who], format!("{line}\n").as_bytes());
        self.settle();
    }

    fn finish(&mut self, who: &str) {
        self.hub.finish(self.people[who]);
        self.settle();
    }

    fn break_off(&mut self, who: &str) {
        let conn = self.people.remove(who).expect("connected");
        self.hub.disconnect(conn);
        self.settle();
    }

    fn pass(&mut self, time: Duration) {
        self.hub.advance(time);
        self.hub.run_timers();
        self.settle();
    }

    fn received(&mut self) -> Received {
        let mut output: BTreeMap<ConnId, Vec<u8>> = BTreeMap::new();
        self.hub.flush(|conn, bytes| output.entry(conn).or_default().extend_from_slice(bytes));
        let closed = self.hub.take_closed();
        let mut received = Received::new();
        for (who, conn) in &self.people {
            let bytes = output.remove(conn).unwrap_or_default();
            let lines = String::from_utf8(bytes).expect("UTF-8");
            let end = closed.contains(conn).then_some(CLOSED);
            let lines = lines.lines().chain(end).map(str::to_owned).collect();
            received.insert(who.clone(), lines);
        }
        self.people.retain(|_, conn| !closed.contains(conn));
        received
    }
}

/// The real server with real sockets.
struct SocketStage {
    server: Server,
    people: BTreeMap<String, Wire>,
    barriers: usize,
}

struct Wire {
    stream: TcpStream,
    unread: Vec<u8>,
    /// The sending side is closed, so the server will close the connection.
    is_finished: bool,
    is_closed: bool,
}

impl SocketStage {
    fn new(flags: &[&str]) -> Self {
        Self { server: Server::start_with(flags), people: BTreeMap::new(), barriers: 0 }
    }
}

impl Wire {
    fn send(&mut self, line: &str) {
        // If the server has just closed, the following read detects it.
        let _ = self.stream.write_all(format!("{line}\n").as_bytes());
    }

    /// Reads lines up to one that matches, or to the end.
    fn read_until(&mut self, is_last: impl Fn(&str) -> bool, lines: &mut Vec<String>) {
        loop {
            while let Some(end) = self.unread.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                let line = String::from_utf8(line[..end].to_vec()).expect("UTF-8");
                if is_last(&line) {
                    return;
                }
                lines.push(line);
            }
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece).expect("a clean end in time") {
                0 => {
                    assert!(self.unread.is_empty(), "half a line at the end");
                    self.is_closed = true;
                    lines.push(CLOSED.to_owned());
                    return;
                }
                count => self.unread.extend_from_slice(&piece[..count]),
            }
        }
    }
}

impl Stage for SocketStage {
    fn connect(&mut self, who: &str, _: Option<&str>) {
        let stream = TcpStream::connect(("127.0.0.1", self.server.port)).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("timeout");
        stream.set_nodelay(true).expect("nodelay");
        let (unread, is_finished, is_closed) = (Vec::new(), false, false);
        self.people.insert(who.to_owned(), Wire { stream, unread, is_finished, is_closed });
    }

    fn send(&mut self, who: &str, line: &str) {
        self.people.get_mut(who).expect("connected").send(line);
    }

    fn finish(&mut self, who: &str) {
        let wire = self.people.get_mut(who).expect("connected");
        wire.is_finished = true;
        wire.stream.shutdown(Shutdown::Write).expect("shutdown");
    }

    /// To the server a closed socket is an end of input, too. The sending side is closed first, so
    /// that the server's end shows when it has noticed.
    fn break_off(&mut self, who: &str) {
        let mut wire = self.people.remove(who).expect("connected");
        wire.stream.shutdown(Shutdown::Write).expect("shutdown");
        wire.read_until(|_| false, &mut Vec::new());
    }

    fn pass(&mut self, _: Duration) {
        unreachable!("files in which time passes are played on the hub");
    }

    /// Two barriers: after the first, every line sent so far has been handled; after the second,
    /// all resulting lines have arrived.
    fn received(&mut self) -> Received {
        let mut received = Received::new();
        for _ in 0..2 {
            for (who, wire) in &mut self.people {
                let lines = received.entry(who.clone()).or_default();
                if wire.is_finished {
                    wire.read_until(|_| false, lines);
                } else {
                    self.barriers += 1;
                    let token = format!("barrier-{}", self.barriers);
                    wire.send(&format!("/ping {token}"));
                    let pong = format!("[PONG {token}]");
                    wire.read_until(|line| line == pong, lines);
                }
            }
            self.people.retain(|_, wire| !wire.is_closed);
        }
        received
    }
}

/// Plays a transcript and returns it with the lines received.
fn play(stage: &mut dyn Stage, script: &[&str]) -> String {
    let mut played = String::new();
    let mut tokens: BTreeMap<String, String> = BTreeMap::new();
    for line in script {
        if is_expectation(line) {
            continue; // replaced by the lines received
        }
        let _ = writeln!(played, "{line}");
        let said = tokens.iter().fold((*line).to_owned(), |said, (who, token)| {
            said.replace(&format!("TOKEN({who})"), token)
        });
        let Some(hidden) = act(stage, &said) else { continue };
        for (who, lines) in stage.received() {
            for line in lines {
                if let Some((token, _)) =
                    line.strip_prefix("[SESSION ").and_then(|l| l.split_once(']'))
                {
                    tokens.insert(who.clone(), token.to_owned());
                }
                let _ = match line.as_str() {
                    _ if hidden == Some(who.as_str()) => Ok(()),
                    CLOSED => writeln!(played, "{who}= closed"),
                    line => writeln!(played, "{who}< {line}"),
                };
            }
        }
    }
    played
}

/// `alice< …` or `alice= closed`.
fn is_expectation(line: &str) -> bool {
    let name = line.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or_default();
    line[name..].starts_with("< ") || line[name..].starts_with("= ")
}

/// Performs one line of a transcript. `None`: the line is no action. Otherwise the user whose lines
/// are hidden this time, if any.
#[allow(clippy::option_option)]
fn act<'a>(stage: &mut dyn Stage, line: &'a str) -> Option<Option<&'a str>> {
    if line.is_empty() || line.starts_with(['#', '$']) {
        return None;
    }
    if let Some(time) = line.strip_prefix('~') {
        stage.pass(parse_duration(time).expect("a time"));
        return Some(None);
    }
    let end = line.find(|c: char| !c.is_ascii_alphanumeric()).expect("an action");
    let (who, what) = line.split_at(end);
    match what {
        "+" => stage.connect(who, None),
        "+ login" => {
            stage.connect(who, None);
            stage.send(who, who);
            return Some(Some(who));
        }
        "-" => stage.finish(who),
        "!" => stage.break_off(who),
        from if from.starts_with("+ from ") => stage.connect(who, from.strip_prefix("+ from ")),
        _ => {
            let said = what.strip_prefix("> ").unwrap_or_else(|| panic!("{line}?"));
            stage.send(who, &unescape(said));
        }
    }
    Some(None)
}

/// Replaces `\u{1b}` and the like by the characters they stand for.
fn unescape(text: &str) -> String {
    let mut parts = text.split("\\u{");
    let mut said = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (code, rest) = part.split_once('}').expect("a closing brace");
        let code = u32::from_str_radix(code, 16).expect("a hexadecimal number");
        said.push(char::from_u32(code).expect("a character"));
        said.push_str(rest);
    }
    said
}

/// Whether a line matches the expectation; `[..]` matches any text.
fn fits(expected: &str, line: &str) -> bool {
    let mut parts = expected.split("[..]");
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

/// Compares the lines below each action, as each user sees them, in alphabetical order of users.
///
/// # Errors
/// The first difference.
fn check(expected: &str, played: &str) -> Result<(), String> {
    let (mut expected, mut played) = (sorted(expected).into_iter(), sorted(played).into_iter());
    loop {
        match (expected.next(), played.next()) {
            (None, None) => return Ok(()),
            (Some(expected), Some(played)) if fits(&expected, &played) => {}
            (expected, received) => {
                let [expected, received] =
                    [expected, received].map(|line| line.unwrap_or_else(|| "the end".to_owned()));
                return Err(format!("\n  expected  {expected}\n  received  {received}"));
            }
        }
    }
}

/// Sorts the lines below each action by user; the lines of one user keep their order.
fn sorted(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut block: Vec<String> = Vec::new();
    let who = |line: &String| line.split(['<', '=']).next().unwrap_or_default().to_owned();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if is_expectation(line) {
            block.push(line.to_owned());
        } else {
            block.sort_by_key(who);
            lines.append(&mut block);
            lines.push(line.to_owned());
        }
    }
    block.sort_by_key(who);
    lines.append(&mut block);
    lines
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts")
}

/// Returns the path of the file for a test's name, which has `_` for `-`.
fn path_of(name: &str) -> PathBuf {
    folder().join(name.replace('_', "-") + ".chat")
}

/// A file of the folder.
struct Transcript {
    name: &'static str,
    path: PathBuf,
    text: String,
}

impl Transcript {
    fn read(name: &'static str) -> Self {
        let path = path_of(name);
        let text = fs::read_to_string(&path).expect("readable");
        assert!(text.starts_with("# "), "say the rule first");
        Self { name, path, text }
    }

    fn script(&self) -> Vec<&str> {
        self.text.lines().collect()
    }

    /// The flags of the server.
    fn flags(&self) -> Vec<&str> {
        let lines = self.text.lines().filter_map(|line| line.strip_prefix("$ "));
        lines.flat_map(str::split_whitespace).collect()
    }

    /// Whether the file needs a simulated clock or other addresses.
    fn is_for_hub_only(&self) -> bool {
        self.text.lines().any(|line| line.starts_with('~') || line.contains("+ from "))
    }

    fn on_the_hub(&self) {
        let played = play(&mut HubStage::new(&self.flags(), false), &self.script());
        let result = check(&self.text, &played);
        if result.is_err() && std::env::var_os("UPDATE").is_some() {
            // Renamed into place: the same file is being read by other tests.
            let new = self.path.with_extension("new");
            fs::write(&new, played).expect("writable");
            fs::rename(&new, &self.path).expect("renamed");
        }
        result.unwrap_or_else(|fault| panic!("{fault}"));
    }

    fn restored_between_lines(&self) {
        let played = play(&mut HubStage::new(&self.flags(), true), &self.script());
        let mut reasons = DIFFERENCES.iter().filter(|(_, names)| names.contains(&self.name));
        match (check(&self.text, &played), reasons.next()) {
            (Err(fault), None) => panic!("{fault}"),
            (Ok(()), Some((reason, _))) => panic!("the same lines; not listed as {reason:?}"),
            _ => {}
        }
    }

    fn over_sockets(&self) {
        let played = play(&mut SocketStage::new(&self.flags()), &self.script());
        check(&self.text, &played).unwrap_or_else(|fault| panic!("{fault}"));
    }
}

/// Makes a module with the given tests of one transcript.
macro_rules! tests_of {
    ($name:ident: $($test:ident)*) => {
        mod $name {
            $(#[test]
            fn $test() {
                super::Transcript::read(stringify!($name)).$test();
            })*
        }
    };
}

/// Makes the tests of all transcripts, by file name with `_` for `-`.
macro_rules! transcripts {
    (
        on the hub and over sockets: $($both:ident)*;
        on the hub only: $($hub_only:ident)*;
    ) => {
        $(tests_of! { $both: on_the_hub restored_between_lines over_sockets })*
        $(tests_of! { $hub_only: on_the_hub restored_between_lines })*
        /// The name of each transcript, and whether it is played on the hub only.
        const TESTS: &[(&str, bool)] =
            &[$((stringify!($both), false),)* $((stringify!($hub_only), true),)*];
    };
}

transcripts! {
    on the hub and over sockets:
    account_login_replaces_older_connection
    announce_shows_every_presence_line
    away_message_is_shown_to_private_senders
    broken_connection_is_a_quit
    change_without_effect_is_not_announced
    cids_of_different_senders_are_independent
    commands_before_login_are_restricted
    confusable_name_is_refused
    control_characters_are_replaced
    documented_session
    dropped_session_is_not_announced
    echo_off_suppresses_own_lines
    empty_room_frees_room_limit
    end_of_input_is_a_quit
    first_line_is_the_name
    help_lists_every_command
    history_after_id_returns_next_messages
    history_of_a_range_of_ids_or_times
    history_returns_messages_without_events
    history_with_user_is_private_thread
    ignore_hides_messages_of_one_user
    ignore_needs_an_online_user
    ignored_messages_stay_hidden_on_resume
    indented_command_is_never_chat
    invalid_name_is_refused
    join_creates_room_and_lists_members
    join_ends_query
    joins_off_hides_presence
    kicked_user_has_no_target_until_join
    kill_ends_connection_and_session
    leaving_lobby_last_leaves_no_target
    list_shows_every_room
    locked_room_admits_key_and_invitation
    login_command_equals_plain_name
    longest_present_member_becomes_operator
    mail_waits_for_offline_account
    malformed_cid_is_refused
    me_sends_an_action
    message_to_room_requires_membership
    moderation_entries_are_limited
    muted_user_cannot_post_to_room
    name_of_banned_guest_cannot_be_taken
    name_taken_is_refused_and_connection_stays
    names_may_use_any_script
    oper_password_grants_server_operator
    operator_right_belongs_to_user_and_not_to_name
    overlong_line_before_login_closes_connection
    overlong_line_is_one_error
    part_leaves_a_room
    password_can_be_changed_and_account_deleted
    password_for_unregistered_name_is_refused
    ping_is_a_barrier
    posts_obey_bans_locks_and_passwords
    posting_needs_permission
    private_looking_line_is_never_posted_to_room
    private_message_reaches_one_user
    private_message_to_oneself_is_echoed_and_delivered
    label_can_be_ignored_and_muted
    program_posts_without_login
    query_follows_rename
    query_refuses_lines_when_user_left
    query_sends_plain_lines_to_one_user
    quit_announces_reason
    refused_name_reply_advises_login_command
    register_reserves_name
    rename_is_announced_once_per_user
    renamed_account_keeps_its_name_reserved
    repeated_cid_is_deduplicated
    reply_carries_cid_of_its_line
    reply_carries_cid_when_line_turns_tags_off
    reply_goes_to_last_private_sender
    resume_is_refused_when_ids_went_back
    resume_replaces_older_connection
    resume_replays_messages_after_id
    resumed_operator_keeps_rights
    reused_guest_name_cannot_read_old_private_messages
    room_ban_kicks_and_rejects_user
    room_creator_is_operator
    rooms_per_user_and_in_total_are_limited
    search_by_author_room_time_and_beginning
    search_finds_all_words_in_any_order
    server_ban_disconnects_and_rejects_user
    server_ban_of_account_ends_its_session
    server_bans_have_separate_limit
    server_password_is_required_for_login
    server_without_oper_password_has_no_operators
    session_restores_settings
    settings_are_shown_and_changed
    tags_precede_unchanged_line
    text_reaches_every_member_and_is_echoed
    topic_is_shown_set_and_cleared
    unknown_command_is_an_error_and_never_chat
    unknown_session_token_is_refused
    user_banned_from_lobby_logs_in_without_room
    wall_reaches_every_user
    who_describes_members
    who_lists_members_of_any_room
    whois_describes_user
    ;
    on the hub only:
    mail_is_repeated_until_confirmed
    mailbox_bounds_dropped_sessions
    banned_guest_cannot_return_under_another_name
    dropped_sessions_per_address_are_limited
    large_room_coalesces_presence
    idle_program_is_disconnected
    login_timeout_closes_connection
    network_ban_ends_dropped_sessions
    network_can_be_banned
    only_user_activity_resets_idle_time
    oper_password_over_plain_tcp_is_refused
    password_hashing_is_rate_limited_per_address
    password_hashing_is_rate_limited_per_network
    passwords_over_plain_tcp_are_refused
    passwords_over_tls_are_accepted_from_any_address
    quit_is_shown_by_name_in_small_room
    resume_from_banned_network_is_rejected
    rooms_per_address_are_limited
    server_ban_of_guest_includes_network
    timed_ban_expires
    timed_mute_expires
    unresumed_session_expires
    wrong_room_keys_are_throttled
    ;
}

#[test]
fn every_file_is_a_transcript_with_tests() {
    let files = fs::read_dir(folder()).expect("the transcripts");
    let files = files.map(|entry| entry.expect("a file").path());
    let files: BTreeSet<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|end| end == "chat")).collect();
    let tests = TESTS.iter().map(|(name, _)| path_of(name));
    assert_eq!(files, tests.clone().collect(), "the list of tests names every file");
    assert_eq!(files.len(), tests.count(), "a name is listed twice");
    let different: Vec<_> = DIFFERENCES.iter().flat_map(|(_, names)| *names).collect();
    for name in &different {
        assert_eq!(different.iter().filter(|other| *other == name).count(), 1, "{name}");
        assert!(TESTS.iter().any(|(test, _)| test == *name), "{name} is no transcript");
    }
    for (name, is_for_hub_only) in TESTS {
        let transcript = Transcript::read(name);
        assert_eq!(transcript.is_for_hub_only(), *is_for_hub_only, "{name} is in the wrong list");
    }
}
