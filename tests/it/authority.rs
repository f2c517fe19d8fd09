//! Permissions: every command, sent by a user who is not logged in, by a guest and an account in
//! another user's room, by the room's operator and by a server operator. A permitted command gets
//! its own reply, the witnesses receive the expected lines, and the visible state changes as the
//! table says. A refused command gets one error, no witness receives anything, and the visible
//! state is unchanged.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::Shutdown;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use chatty::commands::{self, Parsed};

use crate::support::{Peer, SESAME, Server};

/// A cheap hash of [`SESAME`], since the test starts many servers.
const QUICK_FILE: &str = "tests/passwords/quick.hash";

/// The sender's role, in ascending order; a command needs a minimum role.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Role {
    /// Connected, but not logged in.
    Stranger,
    /// carol, a guest in #ops.
    Guest,
    /// dave, an account in #ops.
    Account,
    /// alice, who created #ops.
    RoomOperator,
    /// erin, a server operator in #ops.
    ServerOperator,
}

use Role::{Account, Guest, RoomOperator, ServerOperator, Stranger};

const ROLES: [Role; 5] = [Stranger, Guest, Account, RoomOperator, ServerOperator];

impl Role {
    fn name(self) -> &'static str {
        match self {
            Stranger => "a stranger",
            Guest => "carol",
            Account => "dave",
            RoomOperator => "alice",
            ServerOperator => "erin",
        }
    }
}

/// One command: its line and its effects. `{me}` is the sender's name.
struct Row {
    needs: Role,
    line: &'static str,
    answer: &'static str,
    /// Lines sent beforehand, by user name.
    before: Vec<(&'static str, &'static str)>,
    /// The line each witness receives: wanda and bob in the room, zoe in the lobby.
    heard: BTreeMap<&'static str, &'static str>,
    /// Facts that appear and facts that disappear in an operator's view.
    brings: Vec<&'static str>,
    ends: Vec<&'static str>,
    /// Roles with another reply, without effect on witnesses and state.
    but: Vec<(Role, &'static str)>,
}

/// Creates a row: a sender with role `needs` or higher is answered with `answer`.
fn row(needs: Role, line: &'static str, answer: &'static str) -> Row {
    let (heard, before) = (BTreeMap::new(), Vec::new());
    Row { needs, line, answer, before, heard, brings: vec![], ends: vec![], but: vec![] }
}

impl Row {
    fn before(mut self, who: &'static str, line: &'static str) -> Self {
        self.before.push((who, line));
        self
    }

    /// The witnesses in the room receive `line`.
    fn room(self, line: &'static str) -> Self {
        self.one("wanda", line).one("bob", line)
    }

    /// All witnesses receive `line`.
    fn all(self, line: &'static str) -> Self {
        self.room(line).one("zoe", line)
    }

    /// One witness receives `line` instead of the common line.
    fn one(mut self, who: &'static str, line: &'static str) -> Self {
        self.heard.insert(who, line);
        self
    }

    fn brings(mut self, fact: &'static str) -> Self {
        self.brings.push(fact);
        self
    }

    fn ends(mut self, fact: &'static str) -> Self {
        self.ends.push(fact);
        self
    }

    fn but(mut self, who: Role, answer: &'static str) -> Self {
        self.but.push((who, answer));
        self
    }

    fn command(&self) -> &'static str {
        match commands::parse(self.line) {
            Ok(Parsed::Command(command)) => command.row().name,
            other => panic!("{}: {other:?}", self.line),
        }
    }
}

/// The table of all commands; a missing command fails the test.
#[rustfmt::skip] // one row per command, its effects below
fn table() -> Vec<Row> {
    const ALREADY: &str = "[ERROR bad-argument]";
    const NO_ACCOUNT: &str = "[ERROR bad-password]";
    vec![
        row(Stranger, "/help", "[HELP "),
        row(Stranger, "/login zed", "[WELCOME zed]").all("* zed joined").brings("#lobby has zed")
            .but(Guest, ALREADY).but(Account, ALREADY)
            .but(RoomOperator, ALREADY).but(ServerOperator, ALREADY),
        row(Stranger, "/set joins off", "[SET echo=on joins=off tags=off]"),
        row(Stranger, "/ping t1", "[PONG t1]"),
        row(Stranger, "/resume {token} 0", "[WELCOME gone]").brings("gone address=")
            .but(Guest, ALREADY).but(Account, ALREADY)
            .but(RoomOperator, ALREADY).but(ServerOperator, ALREADY),
        row(Stranger, "/post lobby alerts hi", "+alerts: hi").all("+alerts: hi")
            .but(Guest, ALREADY).but(Account, ALREADY)
            .but(RoomOperator, ALREADY).but(ServerOperator, ALREADY),
        row(Stranger, "/auth nobody sesame", "[ERROR bad-password]")
            .but(Guest, ALREADY).but(Account, ALREADY)
            .but(RoomOperator, ALREADY).but(ServerOperator, ALREADY),
        row(Stranger, "/version", "[VERSION chatty/1]"),
        row(Stranger, "/features", "[FEATURES "),
        row(Stranger, "/quit good night", "[BYE quit]").all("* {me} quit (good night)")
            .ends("#ops has {me}").ends("#lobby has {me}")
            .but(Stranger, "[BYE quit]"),

        row(Guest, "/msg bob psst", "[PRIVATE MESSAGE to bob] {me}: psst")
            .one("bob", "[PRIVATE MESSAGE] {me}: psst"),
        row(Guest, "/reply on my way", "[PRIVATE MESSAGE to bob] {me}: on my way")
            .before("bob", "/msg {me} come").one("bob", "[PRIVATE MESSAGE] {me}: on my way"),
        row(Guest, "/query bob", "[QUERY bob]"),
        row(Guest, "/me waves", "#ops ** {me} waves").room("#ops ** {me} waves"),
        row(Guest, "/who", "[USERS #ops "),
        row(Guest, "/whois bob", "[WHOIS bob] "),
        row(Guest, "/join #art", "[JOINED #art]").brings("[ROOM #art 1]"),
        row(Guest, "/part", "[PARTED #ops]").room("#ops * {me} left").ends("#ops has {me}"),
        row(Guest, "/list", "[ROOMS 2]"),
        row(Guest, "/topic at noon", "#ops * {me} set the topic: at noon")
            .room("#ops * {me} set the topic: at noon").brings("[TOPIC #ops] at noon"),
        row(Guest, "/history", "[HISTORY #ops "),
        row(Guest, "/search deploy failed", "[SEARCH 0]"),
        row(Guest, "/nick pat", "* {me} is now pat").all("* {me} is now pat")
            .brings("#ops has pat").ends("#ops has {me}"),
        row(Guest, "/away lunch", "[AWAY on] lunch").brings("{me} away=lunch"),
        row(Guest, "/back", "[AWAY off]").before("{me}", "/away lunch").ends("{me} away=lunch"),
        row(Guest, "/ignore bob", "[IGNORE bob]"),
        row(Guest, "/unignore bob", "[UNIGNORE bob]").before("{me}", "/ignore bob"),
        row(Guest, "/register a secret", "[REGISTERED {me}]").brings("{me} account={me}")
            .but(Account, ALREADY),
        row(Guest, "/passwd another secret", "[PASSWD {me}]")
            .but(Guest, NO_ACCOUNT).but(RoomOperator, NO_ACCOUNT).but(ServerOperator, NO_ACCOUNT),
        row(Guest, "/unregister open sesame", "[UNREGISTERED {me}]").ends("{me} account={me}")
            .but(Guest, NO_ACCOUNT).but(RoomOperator, NO_ACCOUNT).but(ServerOperator, NO_ACCOUNT),
        row(Guest, "/session", "[SESSION "),
        row(Guest, "/oper correct horse battery", "[OPER {me}]").brings("{me} operator=*")
            .but(ServerOperator, "[OPER erin]"),

        row(RoomOperator, "/op bob", "#ops * {me} made bob an operator")
            .room("#ops * {me} made bob an operator").brings("bob operator=#ops"),
        row(RoomOperator, "/deop bob", "#ops * bob is no longer an operator")
            .before("alice", "/op bob")
            .room("#ops * bob is no longer an operator").ends("bob operator=#ops"),
        row(RoomOperator, "/kick bob", "#ops * bob was kicked by {me}")
            .room("#ops * bob was kicked by {me}").one("bob", "[KICKED #ops] {me}")
            .ends("#ops has bob").ends("bob speaks: #ops bob:"),
        row(RoomOperator, "/ban bob", "[BANNED #ops bob]")
            .room("#ops * bob was kicked by {me}").one("bob", "[KICKED #ops] {me}")
            .brings("[BAN #ops bob] by {me}").ends("#ops has bob"),
        row(RoomOperator, "/unban bob", "[UNBANNED #ops bob]")
            .before("alice", "/ban bob").ends("[BAN #ops bob] by alice"),
        row(RoomOperator, "/bans", "[BANS #ops 0]"),
        row(RoomOperator, "/mute bob", "[MUTED #ops bob]").brings("bob speaks: [ERROR muted]"),
        row(RoomOperator, "/unmute bob", "[UNMUTED #ops bob]")
            .before("alice", "/mute bob").ends("bob speaks: [ERROR muted]"),
        row(RoomOperator, "/lock", "[LOCKED #ops]").brings("zoe enters: [ERROR forbidden]"),
        row(RoomOperator, "/unlock", "[UNLOCKED #ops]")
            .before("alice", "/lock").ends("zoe enters: [ERROR forbidden]"),
        row(RoomOperator, "/invite zoe", "[INVITED #ops zoe]")
            .before("alice", "/lock").one("zoe", "[INVITATION #ops] {me}")
            .ends("zoe enters: [ERROR forbidden]"),

        row(ServerOperator, "/wall move", "[WALL] {me}: move").all("[WALL] {me}: move"),
        row(ServerOperator, "/kill bob", "[KILLED bob]")
            .all("* bob quit (killed by {me})").one("bob", "[BYE kicked]").ends("#lobby has bob"),
        row(ServerOperator, "/gban bob", "[BANNED * bob]")
            .all("* bob quit (banned by {me})").one("bob", "[BYE banned]")
            .brings("[BAN * bob] by {me}").ends("#lobby has bob"),
        row(ServerOperator, "/gunban bob", "[UNBANNED * bob]")
            .before("olga", "/gban bob").ends("[BAN * bob] by olga"),
        row(ServerOperator, "/gbans", "[BANS * 0]"),
    ]
}

/// A server with alice's room #ops, joined by bob and wanda, zoe in the lobby, and olga, a server
/// operator who observes the state.
struct World {
    server: Server,
    people: BTreeMap<&'static str, Peer>,
    /// The session token of a user whose connection dropped.
    token: String,
}

/// The state visible to an operator, and what other users can do: one line per fact.
type Facts = BTreeSet<String>;

impl World {
    fn new() -> Self {
        let server = Server::start_with(&["--oper-password-file", QUICK_FILE]);
        let mut world = Self { server, people: BTreeMap::new(), token: String::new() };
        world.add("zoe", Peer::join(world.server.port, "zoe"));
        for name in ["alice", "bob", "wanda", "olga"] {
            world.join_ops(name);
        }
        world.expect_reply("olga", &format!("/oper {SESAME}"), "[OPER olga]");
        let mut gone = Peer::join(world.server.port, "gone");
        gone.say("/session");
        let session = gone.hears(|line| line.starts_with("[SESSION "));
        let token = session["[SESSION ".len()..].split(']').next();
        token.expect("a token").clone_into(&mut world.token);
        // After the end of the stream the server has registered the drop.
        gone.socket().shutdown(Shutdown::Write).expect("shutdown");
        gone.rest();
        world
    }

    fn add(&mut self, name: &'static str, peer: Peer) {
        self.people.insert(name, peer);
    }

    fn join_ops(&mut self, name: &'static str) {
        self.add(name, Peer::join(self.server.port, name));
        self.expect_reply(name, "/join ops", "[JOINED #ops]");
    }

    /// Logs in the user of role `who`, unless already there.
    fn log_in_sender(&mut self, who: Role) {
        match who {
            Stranger => self.add(who.name(), Peer::connect(self.server.port)),
            RoomOperator => {}
            Guest | Account | ServerOperator => self.join_ops(who.name()),
        }
        match who {
            Account => self.expect_reply(who.name(), "/register open sesame", "[REGISTERED dave]"),
            ServerOperator => {
                self.expect_reply(who.name(), &format!("/oper {SESAME}"), "[OPER erin]");
            }
            Stranger | Guest | RoomOperator => {}
        }
    }

    fn expect_reply(&mut self, name: &str, line: &str, answer: &str) {
        let replies_to = self.replies_to(name, line);
        assert!(replies_to.iter().any(|line| line.starts_with(answer)), "{line}: {replies_to:?}");
    }

    /// Returns the lines a user receives up to and including the reply; after a farewell the user
    /// is removed.
    fn replies_to(&mut self, name: &str, line: &str) -> Vec<String> {
        self.receive_after(name, &format!("{line}\n"))
    }

    /// Returns the lines a user has received so far.
    fn hears(&mut self, name: &str) -> Vec<String> {
        self.receive_after(name, "")
    }

    fn receive_after(&mut self, name: &str, lines: &str) -> Vec<String> {
        let peer = self.people.get_mut(name).expect("a user who is online");
        // The write fails if the server has closed the connection.
        let _ = peer.socket().write_all(format!("{lines}/ping settled\n").as_bytes());
        let mut heard = Vec::new();
        loop {
            match peer.next() {
                line if line == "[PONG settled]" => return heard,
                line if line.starts_with("[BYE ") => {
                    heard.push(line);
                    self.people.remove(name);
                    return heard;
                }
                line => heard.push(line),
            }
        }
    }

    /// Discards the pending lines of every user.
    fn settle(&mut self) {
        let names: Vec<&str> = self.people.keys().copied().collect();
        for name in names {
            self.hears(name);
        }
    }

    /// Collects the facts without changing the state.
    fn collect_facts(&mut self) -> Facts {
        self.hears("olga");
        let mut facts = Facts::new();
        let mut names = BTreeSet::new();
        for room in ["#lobby", "#ops"] {
            let users = self.replies_to("olga", &format!("/who {room}"));
            let lists = users.iter().filter_map(|line| line.split_once("] "));
            let here: Vec<&str> = lists.flat_map(|(_, list)| list.split(',')).collect();
            facts.extend(here.iter().map(|name| format!("{room} has {name}")));
            names.extend(here.iter().map(|&name| name.to_owned()));
        }
        for name in names {
            let whois = self.replies_to("olga", &format!("/whois {name}"));
            let reported = whois[0].split(' ').skip(2);
            let lasts =
                reported.filter(|fact| !fact.starts_with("idle=") && !fact.starts_with("since="));
            facts.extend(lasts.map(|fact| format!("{name} {fact}")));
        }
        for line in ["/list", "/topic", "/bans", "/gbans"] {
            facts.extend(self.replies_to("olga", line));
        }
        if self.people.contains_key("bob") {
            let said = self.replies_to("bob", "hello");
            facts.insert(format!("bob speaks: {}", said[0]));
        }
        let entered = self.replies_to("zoe", "/join ops");
        facts.insert(format!("zoe enters: {}", entered[0]));
        self.replies_to("zoe", "/part ops");
        self.settle();
        facts
    }

    /// Logs in the senders and sends the row's preparatory lines.
    fn prepare(&mut self, row: &Row, who: &[Role]) {
        for who in who {
            self.log_in_sender(*who);
        }
        for (name, line) in &row.before {
            let is_of_each = name.contains("{me}") || line.contains("{me}");
            let named = who.iter().filter(|who| **who != Stranger);
            for who in named.take(if is_of_each { usize::MAX } else { 1 }) {
                self.replies_to(&fill(name, *who, ""), &fill(line, *who, ""));
            }
        }
        self.settle();
    }

    /// Sends a row's line; returns the facts from before and the sender's reply.
    fn send_row(&mut self, row: &Row, who: Role) -> (Facts, Vec<String>) {
        let before = self.collect_facts();
        let line = fill(row.line, who, &self.token);
        (before, self.replies_to(who.name(), &line))
    }

    fn check_refusal(&mut self, row: &Row, who: Role) {
        let (before, replies_to) = self.send_row(row, who);
        let code = if who == Stranger { "not-logged-in" } else { "forbidden" };
        let at = format!("{} for {who:?}", row.line);
        assert_eq!(replies_to.len(), 1, "{at}: {replies_to:?}");
        assert!(replies_to[0].starts_with(&format!("[ERROR {code}] ")), "{at}: {replies_to:?}");
        self.check_witnesses(&at, who, &BTreeMap::new());
        assert_unchanged(&at, &before, &self.collect_facts());
    }

    fn check_permitted(&mut self, row: &Row, who: Role) {
        self.prepare(row, &[who]);
        let (before, replies_to) = self.send_row(row, who);
        let at = format!("{} for {who:?}", row.line);
        let but = row.but.iter().find(|(but, _)| *but == who).map(|(_, answer)| *answer);
        let answer = fill(but.unwrap_or(row.answer), who, "");
        let is_refused = replies_to.iter().any(|line| line.starts_with("[ERROR "));
        assert_eq!(is_refused, answer.starts_with("[ERROR "), "{at}: {replies_to:?}");
        let count = replies_to.iter().filter(|line| line.starts_with(&answer)).count();
        assert_eq!(count, 1, "{at}: {replies_to:?}");
        if but.is_some() {
            self.check_witnesses(&at, who, &BTreeMap::new());
            assert_unchanged(&at, &before, &self.collect_facts());
            return;
        }
        self.check_witnesses(&at, who, &row.heard);
        let after = self.collect_facts();
        if row.brings.is_empty() && row.ends.is_empty() {
            assert_unchanged(&at, &before, &after);
        }
        let is_so = |facts: &Facts, fact: &str| facts.iter().any(|line| line.starts_with(fact));
        for fact in row.brings.iter().map(|fact| fill(fact, who, "")) {
            assert!(!is_so(&before, &fact) && is_so(&after, &fact), "{at}: {fact}: {after:#?}");
        }
        for fact in row.ends.iter().map(|fact| fill(fact, who, "")) {
            assert!(is_so(&before, &fact) && !is_so(&after, &fact), "{at}: {fact}: {after:#?}");
        }
    }

    /// Checks that the witnesses received the expected lines and nothing else.
    fn check_witnesses(&mut self, at: &str, who: Role, expected: &BTreeMap<&str, &str>) {
        for witness in ["wanda", "zoe", "bob"] {
            let Some(line) = expected.get(witness).map(|line| fill(line, who, "")) else {
                if self.people.contains_key(witness) {
                    assert_eq!(self.hears(witness), [""; 0], "{at}: {witness}");
                }
                continue;
            };
            let heard = self.hears(witness);
            assert!(heard.len() == 1 && heard[0].starts_with(&line), "{at}: {witness}: {heard:?}");
        }
    }
}

fn fill(text: &str, who: Role, token: &str) -> String {
    text.replace("{me}", who.name()).replace("{token}", token)
}

fn assert_unchanged(at: &str, before: &Facts, after: &Facts) {
    let changed: Vec<_> = before.symmetric_difference(after).collect();
    assert!(changed.is_empty(), "{at} changes {changed:?}");
}

/// Checks all senders without permission, one after another: a refused command has no effect.
fn check_refused(row: &Row) {
    let refused: Vec<Role> = ROLES.into_iter().filter(|who| *who < row.needs).collect();
    let mut world = World::new();
    world.prepare(row, &refused);
    for who in refused {
        world.check_refusal(row, who);
    }
}

#[test]
fn every_command_enforces_its_required_role() {
    let table = table();
    for known in commands::TABLE {
        let count = table.iter().filter(|row| row.command() == known.name).count();
        assert_eq!(count, 1, "/{}: one row per command", known.name);
    }
    // Every case has its own server, so the cases run in parallel.
    let cases: Vec<(&Row, Option<Role>)> = table
        .iter()
        .flat_map(|row| {
            let may = ROLES.into_iter().filter(|who| *who >= row.needs).map(Some);
            let refused = (row.needs > Stranger).then_some(None);
            may.chain(refused).map(move |who| (row, who))
        })
        .collect();
    let next = AtomicUsize::new(0);
    let threads = thread::available_parallelism().map_or(2, NonZero::get);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((row, who)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match who {
                        Some(who) => World::new().check_permitted(row, *who),
                        None => check_refused(row),
                    }
                }
            });
        }
    });
}
