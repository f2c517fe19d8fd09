//! Mail: private messages to an account that were not delivered for certain. The messages are in
//! the log; what is stored is a position in it per account that has mail, before the first message
//! that waits. The position advances when a client sends something after the mail was sent to it,
//! or resumes behind it. Accounts without mail have no entry.
//!
//! The stored position may be behind, so that not every message to an account that is online
//! writes a row: after a crash mail may be delivered again, but none is lost.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use super::dirty::Dirty;
use crate::server::id_map::IdMap;
use crate::server::record::{SentMail, UserId};

/// Number of delivered messages after which the row of an account that is online is stored
/// again: a crash repeats no more of them.
const STALE_MAX: usize = 32;

/// The mail of all accounts.
#[derive(Debug, Default)]
pub(crate) struct Mailboxes {
    of: IdMap<UserId, Mailbox>,
    /// Accounts whose row may have changed.
    pub(crate) dirty: Dirty<UserId>,
}

/// The mail of an account.
#[derive(Debug, Default)]
struct Mailbox {
    /// The ids of the messages that wait, ascending.
    waiting: VecDeque<u64>,
    /// The last message that arrived, or was not confirmed, while no client was live.
    backlog: u64,
    /// The stored position, if there is a row.
    stored: Option<u64>,
    /// The last message that was sent to the client, if a login has not sent the rest.
    sent: Option<u64>,
    /// The last message of mail that a login sends in pages. While some of it waits, the client
    /// may have received later messages before, so that its cursor confirms nothing.
    paged: Option<u64>,
    /// Number of messages delivered since the row was stored.
    stale: usize,
    /// Whether the row is stored at the next commit, whatever its position.
    must_store: bool,
}

impl Mailbox {
    fn position(&self) -> Option<u64> {
        self.waiting.front().map(|first| first - 1)
    }

    fn has_backlog(&self) -> bool {
        self.waiting.front().is_some_and(|first| *first <= self.backlog)
    }

    /// The end of the mail sent in pages, if some of it waits.
    fn paged(&self) -> Option<u64> {
        self.paged.filter(|last| self.waiting.front().is_some_and(|first| first <= last))
    }

    fn pop_first(&mut self) {
        self.waiting.pop_front();
        self.stale += 1;
    }
}

impl Mailboxes {
    /// The number of messages that wait for an account.
    pub(crate) fn len(&self, account: UserId) -> usize {
        self.of.get(&account).map_or(0, |mailbox| mailbox.waiting.len())
    }

    /// Whether messages wait that arrived while no client was live.
    pub(crate) fn has_backlog(&self, account: UserId) -> bool {
        self.of.get(&account).is_some_and(Mailbox::has_backlog)
    }

    /// The position of an account that has mail.
    pub(crate) fn position(&self, account: UserId) -> Option<u64> {
        self.of.get(&account).and_then(Mailbox::position)
    }

    /// The last message that waits for an account.
    pub(crate) fn last(&self, account: UserId) -> Option<u64> {
        self.of.get(&account)?.waiting.back().copied()
    }

    /// The first ids in a range that wait for an account, at most `most`.
    pub(crate) fn range(&self, account: UserId, ids: RangeInclusive<u64>, most: usize) -> Vec<u64> {
        let Some(Mailbox { waiting, .. }) = self.of.get(&account) else { return Vec::new() };
        let start = waiting.partition_point(|id| id < ids.start());
        waiting.range(start..).take_while(|id| *id <= ids.end()).take(most).copied().collect()
    }

    /// The mail of an account that was sent, for a connection that has received messages up to
    /// the last one.
    pub(crate) fn sent(&self, account: UserId) -> Option<SentMail> {
        let last = self.last(account)?;
        let last = self.of.get(&account)?.sent.map_or(last, |sent| sent.min(last));
        Some(SentMail { to: account, last })
    }

    /// Notes that a login has sent a page of mail up to `sent`; there is more, up to `last`.
    pub(crate) fn note_page(&mut self, account: UserId, sent: u64, last: u64) {
        if let Some(mailbox) = self.of.get_mut(&account) {
            mailbox.must_store |= mailbox.paged() != Some(last);
            (mailbox.sent, mailbox.paged) = (Some(sent), Some(last));
            self.dirty.mark(account);
        }
    }

    /// Notes that a login has sent all mail.
    pub(crate) fn note_all_sent(&mut self, account: UserId) {
        if let Some(mailbox) = self.of.get_mut(&account) {
            mailbox.sent = None;
        }
    }

    /// Notes that a session is resumed behind this message; a catch-up sends what is not
    /// confirmed.
    pub(crate) fn resume(&mut self, account: UserId, after: u64) {
        self.note_all_sent(account);
        if self.paged(account).is_none() {
            self.confirm(account, after);
        }
    }

    /// The end of the mail that a login sends in pages, if some of it waits.
    pub(crate) fn paged(&self, account: UserId) -> Option<u64> {
        self.of.get(&account).and_then(Mailbox::paged)
    }

    /// Adds a message that no live client receives.
    pub(crate) fn add(&mut self, account: UserId, id: u64) {
        self.push(account, id).backlog = id;
    }

    /// Adds a message that is sent to a live client. A client that never sends anything confirms
    /// nothing, so beyond `most` messages the first one counts as delivered.
    pub(crate) fn add_live(&mut self, account: UserId, id: u64, most: usize) {
        let mailbox = self.push(account, id);
        if mailbox.waiting.len() > most {
            mailbox.pop_first();
            self.prune(account);
        }
    }

    fn push(&mut self, account: UserId, id: u64) -> &mut Mailbox {
        self.dirty.mark(account);
        let mailbox = self.of.entry(account).or_default();
        mailbox.waiting.push_back(id);
        mailbox
    }

    /// Restores the row of an account.
    pub(crate) fn restore(&mut self, account: UserId, position: u64, paged: Option<u64>) {
        // After a takeover the next login sends the pages that are left.
        let (stored, sent) = (Some(position), paged.map(|_| position));
        self.of.insert(account, Mailbox { stored, sent, paged, ..Mailbox::default() });
    }

    /// Restores a message that waits for an account with a row.
    pub(crate) fn restore_message(&mut self, account: UserId, id: u64) {
        if self.of.contains_key(&account) {
            self.add(account, id);
        }
    }

    /// Notes that an account has received all messages up to this one.
    pub(crate) fn confirm(&mut self, account: UserId, last: u64) {
        let Some(mailbox) = self.of.get_mut(&account) else { return };
        while mailbox.waiting.front().is_some_and(|first| *first <= last) {
            mailbox.pop_first();
        }
        self.dirty.mark(account);
        self.prune(account);
    }

    /// Removes the mail of an account that is deleted.
    pub(crate) fn remove(&mut self, account: UserId) {
        if let Some(mailbox) = self.of.get_mut(&account) {
            mailbox.must_store = true;
            self.confirm(account, u64::MAX);
        }
    }

    /// Removes a message that could not be stored.
    pub(crate) fn forget(&mut self, account: UserId, id: u64) {
        if let Some(mailbox) = self.of.get_mut(&account)
            && let Ok(at) = mailbox.waiting.binary_search(&id)
        {
            mailbox.waiting.remove(at);
            self.dirty.mark(account);
            self.prune(account);
        }
    }

    /// Notes that an account has lost its connection: what it has not confirmed waits.
    pub(crate) fn disconnect(&mut self, account: UserId) {
        if let Some(mailbox) = self.of.get_mut(&account) {
            mailbox.backlog = mailbox.waiting.back().copied().unwrap_or_default();
            self.dirty.mark(account);
        }
    }

    /// Marks all rows.
    pub(crate) fn mark_all(&mut self) {
        self.dirty.mark_all(self.of.keys().copied());
    }

    /// Notes that an account ignores other users than before, whose messages do not wait.
    pub(crate) fn note_ignores(&mut self, account: UserId) {
        if let Some(mailbox) = self.of.get_mut(&account) {
            mailbox.must_store = true;
            self.dirty.mark(account);
        }
    }

    /// Whether the row of an account differs from its mail.
    pub(crate) fn is_changed(&self, account: UserId) -> bool {
        self.of
            .get(&account)
            .is_some_and(|mailbox| mailbox.stored != mailbox.position() || mailbox.must_store)
    }

    /// Whether a changed row must be stored while its account is connected: there is none yet,
    /// what waited for the login is delivered, or the row is too far behind.
    pub(crate) fn is_due(&self, account: UserId) -> bool {
        self.of.get(&account).is_some_and(|mailbox| {
            let is_backlog_over = |at| at < mailbox.backlog && !mailbox.has_backlog();
            mailbox.stored.is_none_or(is_backlog_over)
                || mailbox.stale >= STALE_MAX
                || mailbox.must_store
        })
    }

    /// Notes that the row of an account is stored as it is now.
    pub(crate) fn note_stored(&mut self, account: UserId) {
        if let Some(mailbox) = self.of.get_mut(&account) {
            mailbox.stored = mailbox.position();
            (mailbox.stale, mailbox.must_store) = (0, false);
            self.prune(account);
        }
    }

    /// Forgets an account without mail that has no row.
    fn prune(&mut self, account: UserId) {
        let is_over = |mailbox: &Mailbox| mailbox.waiting.is_empty() && mailbox.stored.is_none();
        if self.of.get(&account).is_some_and(is_over) {
            self.of.remove(&account);
        }
    }

    /// Checks the entries.
    pub(super) fn check(&self, is_account: impl Fn(UserId) -> bool) {
        for (account, mailbox) in &self.of {
            let is_empty = mailbox.waiting.is_empty();
            assert!(!is_empty || mailbox.stored.is_some(), "no entry without mail and row");
            assert!(is_empty || is_account(*account), "mail waits for accounts only");
            let is_covered = mailbox.stored.is_none_or(|it| Some(it) <= mailbox.position());
            assert!(is_empty || is_covered, "the row is not ahead");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: UserId = UserId(1);

    fn with_mail(ids: impl IntoIterator<Item = u64>) -> Mailboxes {
        let mut mail = Mailboxes::default();
        ids.into_iter().for_each(|id| mail.add(ALICE, id));
        mail
    }

    /// Whether the row is stored now, while the account is connected.
    fn stores(mail: &mut Mailboxes) -> bool {
        let is_stored = mail.is_changed(ALICE) && mail.is_due(ALICE);
        if is_stored {
            mail.note_stored(ALICE);
        }
        is_stored
    }

    #[test]
    fn position_is_before_the_first_message_that_waits() {
        let mut mail = with_mail([5, 7, 9]);
        assert_eq!((mail.position(ALICE), mail.len(ALICE)), (Some(4), 3));
        let sent = mail.sent(ALICE).expect("mail");
        mail.add(ALICE, 12);
        mail.confirm(ALICE, 6);
        assert_eq!((mail.position(ALICE), mail.len(ALICE)), (Some(6), 3));
        mail.confirm(ALICE, sent.last);
        assert_eq!((mail.position(ALICE), mail.len(ALICE)), (Some(11), 1));
        mail.confirm(ALICE, sent.last);
        assert_eq!(mail.len(ALICE), 1);
        mail.forget(ALICE, 12);
        assert!(mail.of.is_empty(), "an account without mail has no entry");
    }

    #[test]
    fn live_client_that_confirms_nothing_is_sent_the_latest_messages_again() {
        let mut mail = Mailboxes::default();
        (1..=10).for_each(|id| mail.add_live(ALICE, id, 3));
        assert_eq!((mail.position(ALICE), mail.len(ALICE)), (Some(7), 3));
        assert!(!mail.has_backlog(ALICE));
        mail.disconnect(ALICE);
        assert!(mail.has_backlog(ALICE));
        let mut mail = Mailboxes::default();
        mail.add_live(ALICE, 1, 0);
        assert!(mail.of.is_empty());
    }

    #[test]
    fn row_is_stored_for_the_first_message_and_then_seldom() {
        let mut mail = Mailboxes::default();
        let most = STALE_MAX as u64;
        let stored: Vec<u64> = (1..=2 * most)
            .filter(|id| {
                mail.add_live(ALICE, *id, 500);
                let is_stored = stores(&mut mail);
                mail.confirm(ALICE, *id);
                is_stored | stores(&mut mail)
            })
            .collect();
        assert_eq!(stored, [1, most, most + 1, 2 * most]);
        assert!(mail.of.is_empty());
    }

    #[test]
    fn row_is_stored_when_the_backlog_is_delivered_or_the_account_is_deleted() {
        let mut mail = with_mail(1..=3);
        assert!(stores(&mut mail));
        mail.add_live(ALICE, 4, 500);
        mail.confirm(ALICE, 2);
        assert!(!stores(&mut mail));
        mail.confirm(ALICE, 3);
        assert!(stores(&mut mail));
        mail.remove(ALICE);
        assert!(stores(&mut mail) && mail.of.is_empty());
    }
}
