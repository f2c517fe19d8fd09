//! Replies as sentences for people: at the prompt, and as the `text` of `--json`. Times are
//! local to the reader's zone.

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use crate::commands::on_off;
use crate::protocol::name::is_lobby;
use crate::protocol::reply::moderation::unban_command;
use crate::protocol::reply::{Arrival, List, Next, Person, Query, Term, Thread, Until, Whois};
use crate::protocol::{Moderation, Reply, Stamp};

/// The reader's clock, to which times in sentences are relative.
#[derive(Debug, Clone)]
pub(in crate::client) struct Clock {
    pub(in crate::client) now: Timestamp,
    pub(in crate::client) zone: TimeZone,
}

impl Clock {
    fn local(&self, time: Timestamp) -> Zoned {
        time.to_zoned(self.zone.clone())
    }

    /// Returns a time as `14:05`, `14:05 tomorrow`, `14:05 on Tue 1 Dec` or `14:05 on 1 Dec 2027`.
    fn moment(&self, time: Stamp) -> String {
        let (time, now) = (self.local(time.timestamp()), self.local(self.now));
        let (day, today) = (time.date(), now.date());
        let format = if day == today {
            "%H:%M"
        } else if today.tomorrow().ok() == Some(day) {
            "%H:%M tomorrow"
        } else if today.yesterday().ok() == Some(day) {
            "%H:%M yesterday"
        } else if day.year() == today.year() {
            "%H:%M on %a %-d %b"
        } else {
            "%H:%M on %-d %b %Y"
        };
        time.strftime(format).to_string()
    }

    /// Returns a text of the server with its timestamps converted, as in `until TIME: reason`.
    pub(in crate::client) fn localize(&self, text: &str) -> String {
        let Some((before, rest)) = text.split_once("until ") else { return text.to_owned() };
        let time = rest.split([' ', ';']).next().unwrap_or_default().trim_end_matches(':');
        match Stamp::parse(time) {
            Some(at) => format!("{before}until {}{}", self.moment(at), &rest[time.len()..]),
            None => text.to_owned(),
        }
    }

    /// Returns the end of a ban; `endless` stands for a missing end.
    fn until(&self, until: Until, endless: &str) -> String {
        match until {
            Until::Time(time) => format!(" until {}", self.moment(time)),
            Until::Lifted => endless.to_owned(),
        }
    }

    fn term(&self, term: Term<'_>, endless: &str) -> String {
        format!(
            "{}{}",
            self.until(term.until, endless),
            after_colon(term.reason.unwrap_or_default())
        )
    }

    /// Returns a reply as a sentence; `None` for a reply of another version, which is shown as
    /// it is.
    pub(in crate::client) fn sentence(&self, reply: &Reply<'_>) -> Option<String> {
        Some(match *reply {
            Reply::Hello { protocol } => format!("connected; the server speaks {protocol}"),
            Reply::Welcome { name, arrival } => self.welcome(name, arrival),
            Reply::Users { room, count, names } => {
                format!("{}{}", members(room, count), listed(names.unwrap_or_default()))
            }
            Reply::Who { room, count } => members(room, count),
            Reply::Person(person) => self.person(&person),
            Reply::Topic { room, topic: "" } => format!("#{room} has no topic"),
            Reply::Topic { room, topic } => format!("the topic of #{room} is: {topic}"),
            Reply::Joined { room } => format!("you are in #{room}; your messages now go there"),
            Reply::Parted { room, next } => match next {
                Next::Unchanged => format!("you left #{room}"),
                Next::Lobby => format!("you left #{room}; your messages now go to #lobby"),
                Next::Nowhere => format!("you left #{room} and are in no room; /join one to talk"),
            },
            Reply::Query(query) => query_sentence(query),
            Reply::Away { text } => format!("you are away{}", after_colon(text)),
            Reply::Back => "you are no longer away".to_owned(),
            Reply::IsAway { name, text } => format!("{name} is away{}", after_colon(text)),
            Reply::Offline { name } => {
                format!("{name} is offline; your message will be delivered when they log in")
            }
            Reply::Rooms { count } => counted(count, "room"),
            Reply::Room { room, count, topic } => {
                format!("{}{}", members(room, count), after_colon(topic))
            }
            Reply::History { thread, count } => history(thread, count),
            Reply::Search { count: 0 } => "no message found".to_owned(),
            Reply::Search { count } => format!("{} found", counted(count, "message")),
            Reply::Moderation(moderation) => self.moderation(&moderation),
            Reply::Whois(whois) => self.whois(&whois),
            Reply::Ignore { name, is_new: true } => format!("you ignore {name}"),
            Reply::Ignore { name, is_new: false } => format!("you ignored {name} already"),
            Reply::Unignore { name, was_ignored: true } => format!("you no longer ignore {name}"),
            Reply::Unignore { name, was_ignored: false } => format!("you did not ignore {name}"),
            Reply::Ignored { names: List("") } => "you ignore no user".to_owned(),
            Reply::Ignored { names } => format!("you ignore{}", listed(names)),
            Reply::Session { token } => {
                format!("/resume {token} ID restores this session; keep the token secret")
            }
            Reply::Set { settings } => {
                let setting = |(word, is_on)| format!("{word} {}", on_off(is_on));
                let settings: Vec<String> = settings.iter().map(setting).collect();
                format!("settings: {}", settings.join(", "))
            }
            Reply::Pong { token: "" } => "the server has answered".to_owned(),
            Reply::Pong { token } => format!("the server has answered: {token}"),
            Reply::Version { protocol, server } => {
                format!("the server is {server} and speaks {protocol}")
            }
            Reply::Features { words: "" } => "the server reports no features".to_owned(),
            Reply::Features { words } => {
                format!("the server's features: {}", words.replace(' ', ", "))
            }
            Reply::Help { count } => format!("help, {}", counted(count, "line")),
            Reply::Auth { name } => format!("you can post as {name}"),
            Reply::Registered { name } => format!(
                "{name} is reserved for you; log in with /login {name} PASSWORD from now on"
            ),
            Reply::PasswordChanged { name } => format!("the password of {name} is changed"),
            Reply::Unregistered { name } => format!("{name} is no longer reserved for you"),
            Reply::Other { .. } => return None,
        })
    }

    fn welcome(&self, name: &str, arrival: Option<Arrival<'_>>) -> String {
        let place = match arrival {
            None => return format!("welcome, {name}"),
            Some(Arrival::Lobby) => "you are in #lobby".to_owned(),
            Some(Arrival::LobbyNeedsKey) => {
                "#lobby is locked; /join #lobby KEY, or another room".to_owned()
            }
            Some(Arrival::LobbyLocked(List(""))) => {
                "#lobby is locked; /join another room".to_owned()
            }
            Some(Arrival::LobbyLocked(operators)) => format!(
                "#lobby is locked; {} can /invite you, or /join another room",
                joined(operators)
            ),
            Some(Arrival::LobbyBanned(term)) => {
                format!("you are banned from #lobby{}; /join another room", self.term(term, ""))
            }
            Some(Arrival::Resumed(None)) => "you are back".to_owned(),
            Some(Arrival::Resumed(Some(id))) => format!(
                "you are back; up to message {id}, messages of rooms you left may be missing"
            ),
        };
        format!("welcome, {name}; {place}")
    }

    fn moderation(&self, reply: &Moderation<'_>) -> String {
        match *reply {
            Moderation::Bans { room: Some(room), count } => {
                format!("{} in #{room}", counted(count, "ban"))
            }
            Moderation::Bans { room: None, count } => {
                format!("{} on this server", counted(count, "ban"))
            }
            Moderation::Ban { room, whom, by, term } => format!(
                "{whom} is banned from {} by {by}{}",
                scope(room),
                self.term(term, " permanently")
            ),
            Moderation::HiddenBan { .. } => {
                "a ban is not shown: you are no longer an operator".to_owned()
            }
            Moderation::Banned { room, whom, term } => {
                let unban = unban_command(room.is_none());
                let term = self.term(term, &format!(" until you {unban} them"));
                format!("{whom} is banned from {}{term}", scope(room))
            }
            Moderation::Unbanned { room, whom } => {
                format!("{whom} is no longer banned from {}", scope(room))
            }
            Moderation::Muted { room, name, until } => {
                format!(
                    "{name} is muted in #{room}{}",
                    self.until(until, " until you /unmute them")
                )
            }
            Moderation::Unmuted { room, name } => format!("{name} is no longer muted in #{room}"),
            Moderation::Kicked { room, by, reason } => {
                format!("{by} removed you from #{room}{}", after_colon(reason.unwrap_or_default()))
            }
            Moderation::Locked { room, has_key } => {
                let key = if has_key { " or those with the key" } else { "" };
                // Only the messages of a room outlive its last member.
                let end = if is_lobby(room) { "" } else { " until its last member leaves" };
                format!("#{room} is locked{end}: only invited people{key} can join")
            }
            Moderation::Unlocked { room, was_locked: true } => {
                format!("#{room} is no longer locked")
            }
            Moderation::Unlocked { room, was_locked: false } => format!("#{room} was not locked"),
            Moderation::Invited { room, name } => format!("{name} is invited to #{room}"),
            Moderation::Invitation { room, by } => {
                format!("{by} invites you to #{room}; /join #{room}")
            }
            Moderation::Oper { .. } => "you are an operator of this server".to_owned(),
            Moderation::Wall { from, text } => format!("{from} to everyone: {text}"),
            Moderation::Killed { name } => format!("{name} is disconnected"),
        }
    }

    fn person(&self, person: &Person<'_>) -> String {
        let Person { name, is_operator, is_away, idle_s, since } = *person;
        let operator = if is_operator { ", operator" } else { "" };
        let away = if is_away { ", away" } else { "" };
        let since = self.moment(since);
        format!("{name}{operator}{away}, idle for {}, here since {since}", span(idle_s))
    }

    fn whois(&self, whois: &Whois<'_>) -> String {
        let Whois { name, since, idle_s, rooms, account, operator, address, away } = *whois;
        let mut text =
            format!("{name} is here since {}, idle for {}", self.moment(since), span(idle_s));
        let rooms = joined(rooms);
        text.push_str(if rooms.is_empty() { ", in no room" } else { ", in " });
        text.push_str(&rooms);
        let operator = operator.map(joined).map(|list| list.replacen('*', "this server", 1));
        let fields = [
            ("; account ", account.map(str::to_owned)),
            ("; operator of ", operator),
            ("; address ", address.map(str::to_owned)),
            ("; away", away.map(after_colon)),
        ];
        for (head, field) in fields {
            if let Some(field) = field {
                text.push_str(head);
                text.push_str(&field);
            }
        }
        text
    }
}

/// Returns `#ops has 3 members`.
pub(in crate::client) fn members(room: &str, count: usize) -> String {
    format!("#{room} has {}", counted(count, "member"))
}

fn query_sentence(query: Query<'_>) -> String {
    match query {
        Query::On(name) => {
            format!("your messages now go to {name}; /query returns to the room")
        }
        Query::Renamed(name) => format!("your messages go to {name} now: a new name"),
        Query::Off(Some(room)) => format!("your messages now go to #{room}"),
        Query::Off(None) => "you are in no room; /join one to talk".to_owned(),
        Query::Gone(name) => {
            format!("{name} is gone; your messages go nowhere until /query or /join")
        }
        Query::Ended => "the private conversation has ended".to_owned(),
    }
}

fn history(thread: Thread<'_>, count: usize) -> String {
    let messages = counted(count, "message");
    match thread {
        Thread::Room(room) => format!("{messages} of #{room}"),
        Thread::Person(name) => format!("{messages} with {name}"),
    }
}

fn scope(room: Option<&str>) -> String {
    room.map_or_else(|| "this server".to_owned(), |room| format!("#{room}"))
}

fn joined(list: List<'_>) -> String {
    list.iter().collect::<Vec<_>>().join(", ")
}

fn listed(list: List<'_>) -> String {
    after_colon(&joined(list))
}

/// Returns `: text`, or nothing without a text.
fn after_colon(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

fn counted(count: usize, what: &str) -> String {
    match count {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

/// Returns a time span in its largest whole unit.
fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Event;

    /// A clock at 2026-11-23T06:16:00Z, one hour ahead of UTC.
    fn clock() -> Clock {
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        Clock { now: Timestamp::from_second(1_795_414_560).expect("in range"), zone }
    }

    fn check(cases: &[(&str, &str)]) {
        for (wire, sentence) in cases {
            let Some(Event::Reply(reply)) = Event::parse(wire) else { panic!("{wire}") };
            assert_eq!(clock().sentence(&reply).as_deref(), Some(*sentence), "{wire}");
        }
    }

    #[test]
    fn times_are_local_and_relative_to_today() {
        for (time, shown) in [
            ("2026-11-23T06:15:00.000Z", "07:15"),
            ("2026-11-23T23:00:00.000Z", "00:00 tomorrow"),
            ("2026-11-24T13:05:00.000Z", "14:05 tomorrow"),
            ("2026-11-22T22:59:00.000Z", "23:59 yesterday"),
            ("2026-11-25T06:00:00.000Z", "07:00 on Wed 25 Nov"),
            ("2026-01-02T06:00:00.000Z", "07:00 on Fri 2 Jan"),
            ("2027-12-31T23:30:00.000Z", "00:30 on 1 Jan 2028"),
        ] {
            let wire = format!("[MUTED #ops bob] until {time}");
            check(&[(&wire, &format!("bob is muted in #ops until {shown}"))]);
            let error = format!("not sent: you are muted in #ops until {time}: so");
            let shown = format!("not sent: you are muted in #ops until {shown}: so");
            assert_eq!(clock().localize(&error), shown);
        }
        for text in ["until noon", "until you /unban them", "no time", "until 2026-11-23"] {
            assert_eq!(clock().localize(text), text);
        }
    }

    #[test]
    fn replies_about_talk_are_sentences() {
        check(&[
            ("[HELLO chatty/1] x", "connected; the server speaks chatty/1"),
            ("[WELCOME al] you are in #lobby", "welcome, al; you are in #lobby"),
            ("[WELCOME al] of an older server", "welcome, al"),
            (
                "[WELCOME al] #lobby is locked; bob, carol can /invite you; /join another room",
                "welcome, al; #lobby is locked; bob, carol can /invite you, or /join another room",
            ),
            (
                "[WELCOME al] you are banned from #lobby permanently: x; /join another room",
                "welcome, al; you are banned from #lobby: x; /join another room",
            ),
            ("[WELCOME al] you are back", "welcome, al; you are back"),
            ("[USERS #lobby 2] al,bob", "#lobby has 2 members: al, bob"),
            ("[USERS #lobby 1034]", "#lobby has 1034 members"),
            ("[WHO #ops 1]", "#ops has 1 member"),
            (
                "[PERSON bob] op=yes away=yes idle=70s since=2026-11-23T06:00:00.000Z",
                "bob, operator, away, idle for 1 min, here since 07:00",
            ),
            ("[TOPIC #ops] a: b", "the topic of #ops is: a: b"),
            ("[TOPIC #ops]", "#ops has no topic"),
            ("[JOINED #ops] x", "you are in #ops; your messages now go there"),
            ("[PARTED #ops]", "you left #ops"),
            (
                "[PARTED #ops] your messages now go to #lobby",
                "you left #ops; your messages now go to #lobby",
            ),
            ("[QUERY rob] has a new name", "your messages go to rob now: a new name"),
            ("[QUERY off] your messages now go to #ops", "your messages now go to #ops"),
            ("[AWAY on] lunch", "you are away: lunch"),
            ("[AWAY on]", "you are away"),
            ("[AWAY off]", "you are no longer away"),
            ("[AWAY bob] lunch", "bob is away: lunch"),
            ("[ROOMS 2]", "2 rooms"),
            ("[ROOM #ops 1] tea", "#ops has 1 member: tea"),
            ("[HISTORY #ops 0]", "no messages of #ops"),
            ("[HISTORY bob 20]", "20 messages with bob"),
            ("[SEARCH 0]", "no message found"),
            ("[SEARCH 1]", "1 message found"),
            (
                "[WHOIS bob] since=2026-11-23T06:00:00.000Z idle=250s rooms=#lobby,#ops",
                "bob is here since 07:00, idle for 4 min, in #lobby, #ops",
            ),
            (
                "[WHOIS bob] since=2026-11-22T06:00:00.000Z idle=7200s rooms= account=rob \
                 operator=*,#ops address=192.0.2.1 away=at lunch",
                "bob is here since 07:00 yesterday, idle for 2 h, in no room; account rob; \
                 operator of this server, #ops; address 192.0.2.1; away: at lunch",
            ),
            ("[IGNORE bob]", "you ignore bob"),
            ("[UNIGNORE bob] nothing changed: not ignored", "you did not ignore bob"),
            ("[IGNORED 0]", "you ignore no user"),
            ("[IGNORED 2] a,b", "you ignore: a, b"),
            ("[SET echo=on joins=off]", "settings: echo on, joins off"),
            ("[PONG]", "the server has answered"),
            ("[VERSION chatty/1] chatty 0.1.0", "the server is chatty 0.1.0 and speaks chatty/1"),
            ("[FEATURES a b]", "the server's features: a, b"),
            ("[HELP 40]", "help, 40 lines"),
            ("[PASSWD al] password changed", "the password of al is changed"),
        ]);
    }

    #[test]
    fn replies_about_moderation_are_sentences() {
        check(&[
            ("[BANS * 0]", "no bans on this server"),
            ("[BANS #ops 2]", "2 bans in #ops"),
            (
                "[BAN #ops bob] by al until 2026-11-24T13:05:00.000Z: flood",
                "bob is banned from #ops by al until 14:05 tomorrow: flood",
            ),
            (
                "[BAN * 192.0.2.0/24] by al permanently",
                "192.0.2.0/24 is banned from this server by al permanently",
            ),
            (
                "[BANNED #ops bob] until 2026-11-24T13:05:00.000Z",
                "bob is banned from #ops until 14:05 tomorrow",
            ),
            (
                "[BANNED * bob] until you /gunban them: x",
                "bob is banned from this server until you /gunban them: x",
            ),
            ("[UNBANNED #ops bob]", "bob is no longer banned from #ops"),
            (
                "[MUTED #ops bob] until you /unmute them",
                "bob is muted in #ops until you /unmute them",
            ),
            ("[UNMUTED #ops bob]", "bob is no longer muted in #ops"),
            ("[KICKED #lobby] op: behave", "op removed you from #lobby: behave"),
            (
                "[LOCKED #ops] only invited people or those with the key can join",
                "#ops is locked until its last member leaves: only invited people or those with \
                 the key can join",
            ),
            (
                "[LOCKED #lobby] only invited people can join",
                "#lobby is locked: only invited people can join",
            ),
            ("[UNLOCKED #ops]", "#ops is no longer locked"),
            ("[INVITED #ops bob]", "bob is invited to #ops"),
            ("[INVITATION #ops] al", "al invites you to #ops; /join #ops"),
            ("[OPER al] x", "you are an operator of this server"),
            ("[WALL] al: stop", "al to everyone: stop"),
            ("[KILLED bob]", "bob is disconnected"),
        ]);
    }

    #[test]
    fn reply_of_another_version_is_no_sentence() {
        let Some(Event::Reply(reply)) = Event::parse("[NEWS 1] x") else { panic!("a reply") };
        assert_eq!(clock().sentence(&reply), None);
    }
}
