//! Mail: private messages to an account that were not delivered for certain. The messages are in
//! the log; an account has a position in it, and those behind the position are its mail. The
//! position advances when a client sends something after the mail was sent to it, or resumes
//! behind it. Accounts without mail have no entry.
//!
//! The stored position may be behind, so that not every message to an account that is online
//! writes a row: after a crash mail may be delivered again, but none is lost.

use super::dirty::Dirty;
use super::id_map::IdMap;
use crate::server::record::{SentMail, UserId};

/// Number of delivered messages after which the row of an account that is online is stored
/// again: a crash repeats no more of them.
const STALE_MAX: u64 = 32;

/// The mail of all accounts.
#[derive(Debug, Default)]
pub(crate) struct Mailboxes {
    of: IdMap<UserId, Mailbox>,
    /// Accounts whose mail changed, or which went offline.
    pub(crate) dirty: Dirty<UserId>,
}

/// The mail of an account. Messages are numbered from 1 in the order of their ids, so that they
/// are counted without a list of them.
#[derive(Debug)]
struct Mailbox {
    /// Messages with higher ids wait, except those of ignored users.
    position: u64,
    /// The number of the last message that does not wait.
    delivered: u64,
    /// The id and the number of the last message.
    last: (u64, u64),
    /// The same, when half as many messages waited as may.
    middle: (u64, u64),
    /// The stored position, and how many messages were delivered then.
    stored: Option<(u64, u64)>,
    /// Whether messages arrived while no client read them.
    has_backlog: bool,
    has_other_ignores: bool,
}

impl Mailbox {
    fn new(position: u64) -> Self {
        Self {
            position,
            delivered: 0,
            last: (position, 0),
            middle: (position, 0),
            stored: None,
            has_backlog: false,
            has_other_ignores: false,
        }
    }

    fn len(&self) -> u64 {
        self.last.1 - self.delivered
    }

    fn advance(&mut self, id: u64, number: u64) {
        self.position = self.position.max(id);
        self.delivered = self.delivered.max(number.min(self.last.1));
    }

    /// The position to store; `None` without mail.
    fn to_store(&self) -> Option<u64> {
        (self.len() > 0).then_some(self.position)
    }
}

impl Mailboxes {
    /// The number of messages that wait for an account.
    pub(crate) fn len(&self, account: UserId) -> u64 {
        self.of.get(&account).map_or(0, Mailbox::len)
    }

    /// The position of an account that has mail.
    pub(crate) fn position(&self, account: UserId) -> Option<u64> {
        self.of.get(&account).and_then(Mailbox::to_store)
    }

    /// All mail of an account so far, for a connection to which it was sent.
    pub(crate) fn sent(&self, account: UserId) -> Option<SentMail> {
        let mailbox = self.of.get(&account).filter(|mailbox| mailbox.len() > 0)?;
        let (id, number) = mailbox.last;
        Some(SentMail { to: account, id, number })
    }

    /// Adds a message that no client reads now.
    pub(crate) fn add(&mut self, account: UserId, id: u64) {
        self.push(account, id).has_backlog = true;
    }

    /// Adds a message that is sent to a live connection. A client that never sends anything
    /// confirms nothing: beyond `most` messages the older half counts as delivered.
    pub(crate) fn add_live(&mut self, account: UserId, id: u64, most: u64) {
        let mailbox = self.push(account, id);
        let (len, (middle, number)) = (mailbox.len(), mailbox.middle);
        if len > most {
            mailbox.advance(middle, number);
        }
        if len > most || len == most.div_ceil(2) {
            mailbox.middle = mailbox.last;
        }
        self.prune(account);
    }

    fn push(&mut self, account: UserId, id: u64) -> &mut Mailbox {
        self.dirty.mark(account);
        let mailbox = self.of.entry(account).or_insert_with(|| Mailbox::new(id - 1));
        mailbox.last = (id, mailbox.last.1 + 1);
        if mailbox.len() == 1 {
            (mailbox.position, mailbox.middle) = (id - 1, mailbox.last);
        }
        mailbox
    }

    /// Restores the row of an account.
    pub(crate) fn restore(&mut self, account: UserId, position: u64) {
        let mailbox = Mailbox { stored: Some((position, 0)), ..Mailbox::new(position) };
        self.of.insert(account, mailbox);
    }

    /// Restores a message, if it is behind the position of an account.
    pub(crate) fn restore_message(&mut self, account: UserId, id: u64) {
        if self.of.get(&account).is_some_and(|mailbox| mailbox.position < id) {
            self.add(account, id);
        }
    }

    /// Notes that mail was delivered.
    pub(crate) fn confirm(&mut self, SentMail { to, id, number }: SentMail) {
        if let Some(mailbox) = self.of.get_mut(&to).filter(|mailbox| mailbox.position < id) {
            mailbox.advance(id, number);
            self.dirty.mark(to);
            self.prune(to);
        }
    }

    /// Notes that an account has received everything up to a message. Unless that is all, how
    /// many wait is known when the rest is delivered; until then they count as before.
    pub(crate) fn confirm_upto(&mut self, account: UserId, id: u64) {
        let Some(mailbox) = self.of.get(&account) else { return };
        let (last, count) = mailbox.last;
        let number = if id >= last { count } else { mailbox.delivered };
        self.confirm(SentMail { to: account, id, number });
    }

    /// Removes a message that could not be stored.
    pub(crate) fn forget(&mut self, account: UserId, id: u64) {
        if let Some(mailbox) = self.of.get_mut(&account)
            && mailbox.position < id
            && mailbox.len() > 0
        {
            mailbox.last.1 -= 1;
            self.dirty.mark(account);
            self.prune(account);
        }
    }

    /// Removes the mail of an account that is deleted.
    pub(crate) fn remove(&mut self, account: UserId) {
        if let Some(mailbox) = self.of.get_mut(&account) {
            mailbox.has_backlog = true;
            self.confirm_upto(account, u64::MAX);
        }
    }

    /// Marks an account that has lost its connection.
    pub(crate) fn mark(&mut self, account: UserId) {
        if self.of.contains_key(&account) {
            self.dirty.mark(account);
        }
    }

    /// Marks all accounts.
    pub(crate) fn mark_all(&mut self) {
        self.dirty.mark_all(self.of.keys().copied());
    }

    /// Notes that an account ignores other users than before, whose messages do not wait.
    pub(crate) fn note_ignores(&mut self, account: UserId) {
        if let Some(mailbox) = self.of.get_mut(&account) {
            mailbox.has_other_ignores = true;
            self.dirty.mark(account);
        }
    }

    /// Whether the row of an account differs from its mail.
    pub(crate) fn is_changed(&self, account: UserId) -> bool {
        self.of.get(&account).is_some_and(|mailbox| {
            let stored = mailbox.stored.map(|(position, _)| position);
            stored != mailbox.to_store() || mailbox.has_other_ignores
        })
    }

    /// Whether a changed row must be stored while its account is connected: there is none yet,
    /// what waited for the login is delivered, or the row is too far behind.
    pub(crate) fn is_due(&self, account: UserId) -> bool {
        let Some(mailbox) = self.of.get(&account) else { return false };
        let is_outdated = |(_, delivered)| mailbox.delivered - delivered >= STALE_MAX;
        mailbox.stored.is_none_or(is_outdated)
            || mailbox.has_other_ignores
            || (mailbox.has_backlog && mailbox.len() == 0)
    }

    /// Notes that the row of an account is stored as it is now.
    pub(crate) fn note_stored(&mut self, account: UserId) {
        if let Some(mailbox) = self.of.get_mut(&account) {
            mailbox.stored = mailbox.to_store().map(|position| (position, mailbox.delivered));
            mailbox.has_other_ignores = false;
            self.prune(account);
        }
    }

    /// Forgets an account without mail that has no row.
    fn prune(&mut self, account: UserId) {
        let is_over = |mailbox: &Mailbox| mailbox.len() == 0 && mailbox.stored.is_none();
        if self.of.get(&account).is_some_and(is_over) {
            self.of.remove(&account);
        }
    }

    /// Checks the entries.
    pub(super) fn check(&self, is_account: impl Fn(UserId) -> bool) {
        for (account, mailbox) in &self.of {
            assert!(mailbox.delivered <= mailbox.last.1, "what is delivered was added");
            let is_empty = mailbox.len() == 0;
            assert!(!is_empty || mailbox.stored.is_some(), "no entry without mail and row");
            assert!(is_empty || is_account(*account), "mail waits for accounts only");
        }
    }
}
