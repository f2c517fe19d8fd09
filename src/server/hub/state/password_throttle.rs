//! The password throttle. Wrong attempts are counted per network at each target, and per network
//! at all targets; wider networks may make several times as many. The first ones are free. From
//! then on attempts wait in turn: one at a time is checked, after a delay that doubles up to 16
//! times. No target is ever locked, and an attempt from a network that does not guess is
//! checked at once.
//!
//! In the *known network*, from which the password was last given correctly, the delay is short
//! and the queue unlimited: its owner waits some seconds at most while a neighbour behind the
//! same address guesses.
//!
//! Only wrong passwords count, so many concurrent right ones wait at most for each other. A
//! running check counts as wrong until its outcome is known. The throttle knows no passwords
//! and has no clock.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use crate::protocol::Key;
use crate::server::auth::passwords::Job;
use crate::server::limits::Limits;
use crate::server::limits::quota::nested;
use crate::server::net::ConnId;
use crate::server::net::peer::{Network, Peer};

/// A password or key. It is identified by its hash, so a changed password is another target,
/// and attempts at the old one are never counted for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Target {
    /// The password of an account, of the server, or of its operators: an Argon2 hash.
    Password(Arc<str>),
    /// The key of a room: its digest. Two rooms with the same key are two targets.
    RoomKey(Key, Arc<str>),
}

/// What happens with an attempt.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It is to be checked now; [`PasswordThrottle::end`] must follow.
    Check(ConnId, Job),
    /// Too many wait. After this time another attempt can.
    Refuse(ConnId, Duration),
}

/// Attempts at one target from one network; they wait in one queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Group {
    target: Target,
    networks: [Network; 3],
    /// Whether the limits per address apply. A network without them may be a proxy for many
    /// clients, so neither its attempts at all targets count together, nor is it ever known.
    is_limited: bool,
}

/// What wrong attempts are counted for: a network at one target, or at all (`None`).
type Source = (Network, Option<Target>);

/// The attempts of one source.
#[derive(Debug, Default)]
struct Count {
    wrong: u32,
    checking: u32,
    /// The earliest time of the next check once no more attempts are free.
    next: Duration,
}

/// The attempts of one group that wait, by their order of arrival.
#[derive(Debug)]
struct Queue {
    waiting: BTreeMap<u64, ConnId>,
    /// The source that the group waits for, and its turn among all that do.
    turn: (Source, u64),
}

/// Counts wrong attempts and decides when the next ones are checked.
#[derive(Debug)]
pub(crate) struct PasswordThrottle {
    limits: Limits,
    counts: HashMap<Source, Count>,
    /// The known network of each target, and when the password was given.
    known: HashMap<Target, (Network, Duration)>,
    /// The group of each attempt, and its place in the queue while it waits.
    attempts: HashMap<ConnId, (Group, Option<u64>)>,
    queues: HashMap<Group, Queue>,
    turns: BTreeMap<(Source, u64), Group>,
    /// When to look at the groups that wait for a source.
    due: BTreeSet<(Duration, Source)>,
    /// The last order of arrival or turn.
    last: u64,
}

/// How often the delay doubles. With a first delay of 1 s, at most 25 attempts are checked in
/// five minutes.
const DOUBLINGS_MAX: u32 = 4;

/// The part of the delay that applies in the known network.
const KNOWN_PART: u32 = 4;

/// How long wrong attempts are remembered after their delay.
const EXPIRY: Duration = Duration::from_mins(10);

/// Maximum number of sources. Those whose delay ends first are evicted first.
const SOURCES_MAX: usize = 10_000;

/// Maximum number of known networks. The oldest are evicted first.
const KNOWN_MAX: usize = 10_000;

impl Target {
    fn job(&self) -> Job {
        match self {
            Self::Password(hash) => Job::Check(hash.clone()),
            Self::RoomKey(_, digest) => Job::Match(digest.clone()),
        }
    }
}

impl Group {
    /// The source that no other group has.
    fn source(&self) -> Source {
        (self.networks[0], Some(self.target.clone()))
    }
}

impl Count {
    fn is_expired(&self, now: Duration) -> bool {
        self.checking == 0 && now > self.next + EXPIRY
    }
}

impl PasswordThrottle {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            limits: limits.clone(),
            counts: HashMap::new(),
            known: HashMap::new(),
            attempts: HashMap::new(),
            queues: HashMap::new(),
            turns: BTreeMap::new(),
            due: BTreeSet::new(),
            last: 0,
        }
    }

    /// Adds an attempt; [`Self::next`] decides when it is checked.
    ///
    /// # Errors
    /// Too many wait. After the returned time another attempt can.
    pub(crate) fn add(
        &mut self,
        now: Duration,
        conn: ConnId,
        target: Target,
        peer: Peer,
    ) -> Result<(), Duration> {
        let is_limited = self.limits.apply_to(peer);
        let group = Group { target, networks: peer.networks(), is_limited };
        let waiting = self.queues.get(&group).map_or(0, |queue| queue.waiting.len());
        if let Some((_, Some(until))) = self.obstacle(now, &group)
            && self.is_too_long(&group, waiting + 1)
        {
            return Err(until.saturating_sub(now));
        }
        let (place, turn) = (self.number(), (group.source(), 0));
        let queue = self.queues.entry(group.clone());
        let queue = queue.or_insert_with(|| Queue { waiting: BTreeMap::new(), turn });
        queue.waiting.insert(place, conn);
        self.attempts.insert(conn, (group.clone(), Some(place)));
        if waiting == 0 {
            self.due.insert((now, group.source()));
            self.wait_for(&group, group.source());
        }
        Ok(())
    }

    /// When [`Self::next`] must be called.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Decides about an attempt that may be checked now, or may no longer wait.
    pub(crate) fn next(&mut self, now: Duration) -> Option<Decision> {
        while let Some((_, source)) = self.due.first().filter(|(due, _)| *due <= now).cloned() {
            let first = self.turns.range((source.clone(), 0)..).next();
            let first = first.filter(|((of, _), _)| *of == source);
            let Some(group) = first.map(|(_, group)| group.clone()) else {
                self.due.pop_first();
                continue;
            };
            match self.obstacle(now, &group) {
                None => return self.start(now, &group),
                Some((_, Some(until)))
                    if self.is_too_long(&group, self.queues[&group].waiting.len()) =>
                {
                    let (_, &conn) = self.queues[&group].waiting.last_key_value()?;
                    self.end(now, conn, None);
                    return Some(Decision::Refuse(conn, until.saturating_sub(now)));
                }
                Some((obstacle, until)) => {
                    if obstacle == source {
                        self.due.pop_first();
                    } else {
                        self.wait_for(&group, obstacle.clone());
                    }
                    // Without a time, the end of a running check is waited for.
                    self.due.extend(until.map(|until| (until, obstacle)));
                }
            }
        }
        None
    }

    /// Ends an attempt that is checked or waits. `is_right` is `None` if it was not checked, and
    /// if no client learns the outcome.
    pub(crate) fn end(&mut self, now: Duration, conn: ConnId, is_right: Option<bool>) {
        match self.attempts.remove(&conn) {
            Some((group, Some(place))) => self.leave_queue(&group, place),
            Some((group, None)) => self.count(now, &group, is_right),
            None => {}
        }
    }

    /// Notes where a new password was set, as if it had been given there.
    pub(crate) fn note_new(&mut self, now: Duration, hash: Arc<str>, peer: Peer) {
        if self.limits.apply_to(peer) {
            self.note_known(now, Target::Password(hash), peer.networks()[0]);
        }
    }

    fn note_known(&mut self, now: Duration, target: Target, network: Network) {
        if self.known.len() >= KNOWN_MAX && !self.known.contains_key(&target) {
            evict(&mut self.known, |(_, at)| Some(*at));
        }
        self.known.insert(target, (network, now));
    }

    fn is_known(&self, group: &Group) -> bool {
        self.known.get(&group.target).is_some_and(|(network, _)| *network == group.networks[0])
    }

    fn is_too_long(&self, group: &Group, waiting: usize) -> bool {
        waiting > self.limits.guesses_waiting && !self.is_known(group)
    }

    /// The sources that an attempt counts for, its group's own first, each with the number of
    /// wrong attempts that are free.
    fn sources(&self, group: &Group) -> Vec<(Source, u32)> {
        let all = [Some(&group.target), None].into_iter().flat_map(|target| {
            let limits = &self.limits;
            let free = if target.is_some() { limits.guesses } else { limits.guesses_per_address };
            nested(group.networks, limits.wider_networks).map(move |(network, times)| {
                let times = u32::try_from(times).unwrap_or(u32::MAX);
                ((network, target.cloned()), free.saturating_mul(times))
            })
        });
        all.take(if group.is_limited { usize::MAX } else { 1 }).collect()
    }

    /// The source that an attempt has to wait for, and until when; without a time, until a
    /// running check ends. In the known network only its own attempts at the target count.
    fn obstacle(&self, now: Duration, group: &Group) -> Option<(Source, Option<Duration>)> {
        let count = if self.is_known(group) { 1 } else { usize::MAX };
        self.sources(group).into_iter().take(count).find_map(|(source, free)| {
            let Count { wrong, checking, next } =
                self.counts.get(&source).filter(|count| !count.is_expired(now))?;
            match wrong + checking < free {
                false if *checking > 0 => Some((source, None)),
                false if now < *next => Some((source, Some(*next))),
                _ => None,
            }
        })
    }

    /// Starts the first attempt of a group.
    fn start(&mut self, now: Duration, group: &Group) -> Option<Decision> {
        let Queue { waiting, turn: (source, _) } = self.queues.get(group)?;
        let (source, (&place, &conn)) = (source.clone(), waiting.first_key_value()?);
        self.leave_queue(group, place);
        self.wait_for(group, source); // again, behind other groups
        for (source, _) in self.sources(group) {
            if self.counts.len() >= SOURCES_MAX && !self.counts.contains_key(&source) {
                evict(&mut self.counts, |count| (count.checking == 0).then_some(count.next));
            }
            let count = self.counts.entry(source).or_default();
            if count.is_expired(now) {
                *count = Count::default();
            }
            count.checking += 1;
        }
        self.attempts.insert(conn, (group.clone(), None));
        Some(Decision::Check(conn, group.target.job()))
    }

    /// Counts the outcome of a check.
    fn count(&mut self, now: Duration, group: &Group, is_right: Option<bool>) {
        let (is_known, own, delay) =
            (self.is_known(group), group.source(), self.limits.guess_delay);
        let mut cleared = 0;
        for (source, free) in self.sources(group) {
            let Some(count) = self.counts.get_mut(&source) else { continue };
            count.checking -= 1;
            match is_right {
                // A right password for one target proves nothing about attempts at others.
                Some(true) if source.1.is_some() => {
                    cleared = if source == own { count.wrong } else { cleared };
                    count.wrong = count.wrong.saturating_sub(cleared);
                }
                Some(false) => {
                    count.wrong += 1;
                    let delay = match count.wrong.checked_sub(free) {
                        None => Duration::ZERO,
                        Some(_) if is_known && source == own => delay / KNOWN_PART,
                        Some(past) => delay * (1 << past.min(DOUBLINGS_MAX)),
                    };
                    count.next = now + delay;
                }
                _ => {}
            }
            self.due.insert((now, source));
        }
        if is_right == Some(true) && group.is_limited {
            self.note_known(now, group.target.clone(), group.networks[0]);
            self.wait_for(group, own);
        }
    }

    /// Lets a group wait for a source, behind the other groups that do.
    fn wait_for(&mut self, group: &Group, source: Source) {
        let turn = (source, self.number());
        if let Some(queue) = self.queues.get_mut(group) {
            self.turns.remove(&queue.turn);
            queue.turn = turn.clone();
            self.turns.insert(turn, group.clone());
        }
    }

    fn leave_queue(&mut self, group: &Group, place: u64) {
        let Some(queue) = self.queues.get_mut(group) else { return };
        queue.waiting.remove(&place);
        if queue.waiting.is_empty() {
            self.turns.remove(&queue.turn);
            self.queues.remove(group);
        }
    }

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

/// Removes about half of the entries that have a time, those with the earliest.
fn evict<K: Eq + Hash, V>(entries: &mut HashMap<K, V>, time: impl Fn(&V) -> Option<Duration>) {
    let mut times: Vec<Duration> = entries.values().filter_map(&time).collect();
    times.sort_unstable();
    if let Some(middle) = times.get(times.len() / 2) {
        entries.retain(|_, entry| time(entry).is_none_or(|time| time > *middle));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::limits::rate_limit::tests::Draw;

    const SECOND: Duration = Duration::from_secs(1);

    const HERE: &str = "192.0.2.1";

    fn throttle() -> PasswordThrottle {
        PasswordThrottle::new(&Limits::default())
    }

    fn password(number: usize) -> Target {
        Target::Password(format!("hash {number}").into())
    }

    fn conn(slot: u32) -> ConnId {
        ConnId { slot, generation: 0 }
    }

    fn add(
        throttle: &mut PasswordThrottle,
        now: Duration,
        slot: u32,
        (number, address): (usize, &str),
    ) -> Result<(), Duration> {
        let peer = Peer::new(address.parse().expect("an address"));
        throttle.add(now, conn(slot), password(number), peer)
    }

    /// The slots whose checks start now, and those that are refused.
    fn decide(throttle: &mut PasswordThrottle, now: Duration) -> (Vec<u32>, Vec<u32>) {
        let (mut checked, mut refused) = (Vec::new(), Vec::new());
        while let Some(decision) = throttle.next(now) {
            match decision {
                Decision::Check(conn, _) => checked.push(conn.slot),
                Decision::Refuse(conn, _) => refused.push(conn.slot),
            }
        }
        (checked, refused)
    }

    /// Makes an attempt whose outcome is known at once; returns how long it was delayed.
    fn attempt(
        throttle: &mut PasswordThrottle,
        now: Duration,
        at: (usize, &str),
        is_right: bool,
    ) -> Duration {
        add(throttle, now, 0, at).expect("a place");
        let mut starts = now;
        while decide(throttle, starts) != (vec![0], vec![]) {
            starts = throttle.due().expect("it is not forgotten");
        }
        throttle.end(starts, conn(0), Some(is_right));
        assert_eq!(decide(throttle, starts), (vec![], vec![]));
        starts.saturating_sub(now)
    }

    fn assert_empty(throttle: &PasswordThrottle) {
        assert!(throttle.attempts.is_empty() && throttle.queues.is_empty());
        assert!(throttle.turns.is_empty() && throttle.counts.values().all(|it| it.checking == 0));
    }

    #[test]
    fn delay_doubles_after_a_few_wrong_attempts() {
        let mut throttle = throttle();
        let (mut now, mut starts) = (SECOND * 100, Vec::new());
        for _ in 0..12 {
            now += attempt(&mut throttle, now, (1, HERE), false);
            starts.push(now.as_secs() - 100);
        }
        assert_eq!(starts, [0, 0, 0, 0, 1, 3, 7, 15, 31, 47, 63, 79]);
        // Neither from another address nor at another password.
        for at in [(1, "198.51.100.1"), (2, HERE)] {
            assert_eq!(attempt(&mut throttle, now, at, false), Duration::ZERO);
        }
        // A right password resets the count; this network is then the known one.
        assert_eq!(attempt(&mut throttle, now, (1, HERE), true), SECOND * 16);
        now += SECOND * 16;
        for expected in [0, 0, 0, 0, 250, 250, 250] {
            let delay = attempt(&mut throttle, now, (1, HERE), false);
            assert_eq!(delay.as_millis(), expected);
            now += delay;
        }
        // A right password from elsewhere changes the known network; time resets the count.
        assert_eq!(attempt(&mut throttle, now, (1, "198.51.100.1"), true), Duration::ZERO);
        let delays: Vec<u64> = (0..3)
            .map(|_| {
                let delay = attempt(&mut throttle, now, (1, HERE), false);
                now += delay;
                delay.as_secs()
            })
            .collect();
        assert_eq!(delays, [0, 16, 16]);
        now += EXPIRY + SECOND * 17;
        assert_eq!(attempt(&mut throttle, now, (1, HERE), false), Duration::ZERO);
    }

    #[test]
    fn network_of_new_password_is_known() {
        let mut throttle = throttle();
        let hash: Arc<str> = "hash 1".into();
        throttle.note_new(SECOND, hash.clone(), Peer::new([192, 0, 2, 1].into()));
        throttle.note_new(SECOND, "hash 2".into(), Peer::new([127, 0, 0, 1].into()));
        let mut delays = |at| {
            let delays = (0..6).map(|_| attempt(&mut throttle, SECOND * 9, at, false).as_millis());
            delays.collect::<Vec<_>>()
        };
        assert_eq!(delays((1, HERE))[4..], [250, 500], "both from the start");
        assert_eq!(delays((2, "127.0.0.1"))[4..], [1000, 3000], "it may be a proxy");
    }

    #[test]
    fn concurrent_checks_are_limited_and_right_passwords_are_never_delayed() {
        let mut throttle = throttle();
        let limit = throttle.limits.guesses as usize;
        (0..30).for_each(|slot| add(&mut throttle, SECOND, slot, (1, HERE)).expect("a place"));
        let (mut checking, mut right) = (Vec::new(), 0);
        while right < 30 {
            let (started, refused) = decide(&mut throttle, SECOND);
            checking.extend(started);
            assert!(checking.len() <= limit && refused.is_empty());
            throttle.end(SECOND, conn(checking.pop().expect("a check is running")), Some(true));
            right += 1;
        }
        // Attempts that could not be checked do not count.
        for slot in 0..100 {
            add(&mut throttle, SECOND, slot, (1, HERE)).expect("a place");
            assert_eq!(decide(&mut throttle, SECOND).0, [slot]);
            throttle.end(SECOND, conn(slot), None);
        }
        assert_empty(&throttle);
    }

    #[test]
    fn attempts_beyond_the_limit_are_refused_with_the_time_to_wait() {
        let mut throttle = throttle();
        (0..30).for_each(|slot| add(&mut throttle, SECOND, slot, (1, HERE)).expect("a place"));
        assert_eq!(decide(&mut throttle, SECOND), (vec![0, 1, 2, 3], vec![]));
        (0..4).for_each(|slot| throttle.end(SECOND, conn(slot), Some(false)));
        // They waited for checks whose outcome was unknown.
        assert_eq!(decide(&mut throttle, SECOND), (vec![], (12..30).rev().collect()));
        assert_eq!(add(&mut throttle, SECOND * 3 / 2, 30, (1, HERE)), Err(SECOND / 2));
        assert_eq!(add(&mut throttle, SECOND, 30, (2, HERE)), Ok(()), "another password");
        assert_eq!(decide(&mut throttle, SECOND * 2), (vec![30, 4], vec![]));
        assert_eq!(add(&mut throttle, SECOND * 2, 31, (1, HERE)), Ok(()), "the check is running");
        throttle.end(SECOND * 2, conn(4), Some(false));
        assert_eq!(add(&mut throttle, SECOND * 3, 32, (1, HERE)), Err(SECOND));
    }

    #[test]
    fn any_number_of_attempts_waits_in_the_known_network() {
        let mut throttle = throttle();
        attempt(&mut throttle, SECOND, (1, HERE), true);
        (0..31).for_each(|slot| add(&mut throttle, SECOND, slot, (1, HERE)).expect("a place"));
        let (mut now, mut order) = (SECOND, Vec::new());
        while order.len() < 31 {
            let (checked, refused) = decide(&mut throttle, now);
            assert!(refused.is_empty());
            for slot in &checked {
                throttle.end(now, conn(*slot), Some(false));
            }
            order.extend(checked);
            now = throttle.due().unwrap_or(now);
        }
        assert!(order.is_sorted(), "{order:?}");
        assert!(now < SECOND * 9, "{now:?}");
    }

    #[test]
    fn wider_networks_have_several_times_as_many_attempts() {
        type Address = fn(usize) -> String;
        let networks: [(Address, usize); 3] = [
            (|number| format!("192.0.2.{number}"), 16),
            (|number| format!("2001:db8:0:{number:x}::1"), 16),
            (|number| format!("2001:db8:0:{:x}::1", number << 8), 64),
        ];
        for (address, free) in networks {
            let mut throttle = throttle();
            let delays = (1..100).map(|number| {
                attempt(&mut throttle, SECOND, (1, &address(number)), false) // from there only
            });
            let at_once = delays.take_while(Duration::is_zero).count();
            assert_eq!(at_once, free, "{}", address(1));
            assert_eq!(attempt(&mut throttle, SECOND, (1, "198.51.100.1"), false), Duration::ZERO);
            // The owner's count is part of the wider ones.
            let owner = (1, &*address(1));
            attempt(&mut throttle, SECOND * 100, owner, true);
            assert_eq!(attempt(&mut throttle, SECOND * 100, owner, false), Duration::ZERO);
        }
    }

    #[test]
    fn wrong_attempts_at_many_passwords_are_throttled_per_network() {
        let mut throttle = throttle();
        let free = throttle.limits.guesses_per_address as usize;
        for number in 0..free {
            assert_eq!(attempt(&mut throttle, SECOND, (number, HERE), false), Duration::ZERO);
        }
        assert_eq!(attempt(&mut throttle, SECOND, (99, HERE), false), SECOND);
        // A right password does not reset the network.
        assert_eq!(attempt(&mut throttle, SECOND * 4, (7, HERE), true), Duration::ZERO);
        assert_eq!(attempt(&mut throttle, SECOND * 4, (98, HERE), false), Duration::ZERO);
        assert_eq!(attempt(&mut throttle, SECOND * 4, (97, HERE), false), SECOND * 4);
        // Where the password is known to be given, only wrong attempts at it count.
        assert_eq!(attempt(&mut throttle, SECOND * 8, (7, HERE), true), Duration::ZERO);
        // Attempts from this machine are not counted together.
        for number in 0..100 {
            let local = (number, "127.0.0.1");
            assert_eq!(attempt(&mut throttle, SECOND, local, false), Duration::ZERO);
        }
    }

    #[test]
    fn groups_that_wait_for_one_source_take_turns() {
        let mut throttle = throttle();
        let free = throttle.limits.guesses_per_address as usize;
        for number in 0..free {
            attempt(&mut throttle, SECOND, (number, HERE), false);
        }
        for (slot, number) in [(1, 98), (2, 98), (3, 98), (4, 99), (5, 99)] {
            add(&mut throttle, SECOND, slot, (number, HERE)).expect("a place");
        }
        let (mut now, mut order) = (SECOND, Vec::new());
        while order.len() < 5 {
            let (checked, _) = decide(&mut throttle, now);
            assert!(checked.len() <= 1, "one at a time");
            for slot in checked {
                order.push((now.as_secs(), slot));
                throttle.end(now + SECOND, conn(slot), Some(false));
            }
            now = throttle.due().expect("others wait");
        }
        assert_eq!(order, [(2, 1), (5, 4), (10, 2), (19, 5), (36, 3)]);
        assert_empty(&throttle);
    }

    #[test]
    fn ended_connection_leaves_nothing_behind() {
        let mut throttle = throttle();
        for _ in 0..4 {
            attempt(&mut throttle, SECOND, (1, HERE), false);
        }
        (0..4).for_each(|slot| add(&mut throttle, SECOND, slot, (1, HERE)).expect("a place"));
        throttle.end(SECOND, conn(0), None);
        assert_eq!(decide(&mut throttle, SECOND * 2), (vec![1], vec![]));
        // The one that is being checked makes way for the next.
        throttle.end(SECOND * 2, conn(1), None);
        throttle.end(SECOND * 2, conn(2), None);
        assert_eq!(decide(&mut throttle, SECOND * 2), (vec![3], vec![]));
        throttle.end(SECOND * 2, conn(1), Some(true)); // too late
        throttle.end(SECOND * 2, conn(3), None);
        assert_empty(&throttle);
        assert_eq!(decide(&mut throttle, SECOND * 2), (vec![], vec![]));
        assert_eq!(throttle.due(), None);
        assert_eq!(attempt(&mut throttle, SECOND * 2, (1, HERE), false), Duration::ZERO);
        assert_eq!(attempt(&mut throttle, SECOND * 2, (1, HERE), false), SECOND * 2);
    }

    #[test]
    fn at_most_25_attempts_are_checked_in_five_minutes() {
        for seed in 1..=100 {
            let mut throttle = throttle();
            let mut draw = Draw(seed * 0x9E37_79B9);
            let (mut now, mut checking, mut started) = (SECOND, Vec::new(), Vec::new());
            for slot in 0..3000 {
                now += Duration::from_millis(u64::from(draw.below(500)));
                let _ = add(&mut throttle, now, slot, (1, HERE)); // many are refused
                if draw.below(4) == 0 {
                    // Some connections close, also while they are checked.
                    throttle.end(now, conn(draw.below(slot + 1)), None);
                }
                let (checked, _) = decide(&mut throttle, now);
                checking.extend(checked);
                // Some checks take long.
                while !checking.is_empty() && draw.below(3) > 0 {
                    let at = draw.below(u32::try_from(checking.len()).expect("few"));
                    let slot = checking.swap_remove(at as usize);
                    if throttle.attempts.contains_key(&conn(slot)) {
                        started.push(now);
                        throttle.end(now, conn(slot), Some(false));
                    }
                }
            }
            assert!(started.len() > 10, "attempts are never locked out");
            for (first, from) in started.iter().enumerate() {
                let soon = started[first..].iter().take_while(|to| **to < *from + SECOND * 300);
                assert!(soon.count() <= 25, "seed {seed}");
            }
        }
    }

    #[test]
    fn sources_and_known_networks_are_bounded() {
        let mut throttle = throttle();
        throttle.limits.guesses_per_address = u32::MAX;
        for number in 0..KNOWN_MAX + 100 {
            attempt(&mut throttle, SECOND, (number, "2001:db8::1"), number % 2 == 0);
            assert!(throttle.counts.len() <= SOURCES_MAX && throttle.known.len() <= KNOWN_MAX);
        }
        // Sources that are delayed are kept.
        for _ in 0..5 {
            attempt(&mut throttle, SECOND, (1, HERE), false);
        }
        for number in 0..SOURCES_MAX {
            attempt(&mut throttle, SECOND, (number, "2001:db8::1"), false);
        }
        assert!(attempt(&mut throttle, SECOND, (1, HERE), false) > SECOND);
        assert_empty(&throttle);
    }
}
