//! The mailbox: what is said privately to an account that is not here waits for
//! its next login. The messages are in the log as all are; a mailbox is only
//! their ids.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::accounts::Proof;
use super::messages::tags_of;
use super::{
    Cid, Collection, Context, ErrorCode, Event, Hub, Key, PendingRequest, Refusal, UserId, UserIx,
    no_such_user, refusal,
};
use crate::server::log::{self, Recipient, Record, Thread};

/// What waits for whom.
#[derive(Debug, Default)]
pub(super) struct Mailboxes {
    boxes: HashMap<UserId, BTreeSet<u64>>,
    owners: HashMap<u64, UserId>,
}

impl Mailboxes {
    /// The ids of what waits for somebody, oldest first.
    pub(super) fn of(&self, person: UserId) -> Vec<u64> {
        self.boxes.get(&person).into_iter().flatten().copied().collect()
    }

    /// For whom a message waits, if it does.
    pub(super) fn owner(&self, id: u64) -> Option<UserId> {
        self.owners.get(&id).copied()
    }

    fn len(&self, person: UserId) -> usize {
        self.boxes.get(&person).map_or(0, BTreeSet::len)
    }

    fn insert(&mut self, person: UserId, id: u64) {
        self.boxes.entry(person).or_default().insert(id);
        self.owners.insert(id, person);
    }

    fn remove(&mut self, id: u64) -> bool {
        let Some(person) = self.owners.remove(&id) else { return false };
        if let Some(ids) = self.boxes.get_mut(&person) {
            ids.remove(&id);
            if ids.is_empty() {
                self.boxes.remove(&person);
            }
        }
        true
    }
}

/// A login that waits for what waits for it.
#[derive(Debug)]
pub(super) struct MailRequest {
    pub(super) cid: Option<Cid>,
    proof: Proof,
    ids: Vec<u64>,
}

impl Hub {
    /// A private message to a registered name that nobody bears: to its owner,
    /// who may be here under another.
    pub(super) fn send_to_owner(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        name: &Key,
        text: &str,
    ) -> Result<(), Refusal> {
        let Some(owner) = self.accounts.named(name).map(|account| account.person) else {
            return no_such_user(name.as_str());
        };
        match self.users_by_id.get(&owner).copied() {
            Some(to) => {
                self.post_private(ctx, user, to, text, false);
                Ok(())
            }
            None => self.send_to_account(ctx, user, owner, text),
        }
    }

    /// A private message to an account that is not here.
    pub(super) fn send_to_account(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        person: UserId,
        text: &str,
    ) -> Result<(), Refusal> {
        let Some(account) = self.accounts.of(person) else { return Ok(()) };
        let name = account.name.clone();
        if self.mail.len(person) >= self.limits.mailbox {
            let text = format!("too much waits for {name} already; nobody saw this");
            return refusal(ErrorCode::TooMany, text);
        }
        let me = self.users[user].id;
        let is_heard = !account.ignores.iter().any(|(ignored, _)| *ignored == me);
        let to = Recipient::Person(person, name.clone());
        let record = self.record(ctx, user, to, text, false);
        if is_heard {
            self.store_mail(person, record.id);
        }
        ctx.with_message(&record, |ctx| {
            self.echo(ctx, &record);
            if self.wants_echo(ctx) {
                let text = "is not here; it waits for the next login";
                ctx.reply(&Event::reply("OFFLINE", name.as_str(), text));
            }
        });
        Ok(())
    }

    /// Puts a message into an account's mailbox, if there is room.
    pub(super) fn store_mail(&mut self, person: UserId, id: u64) {
        if self.mail.len(person) < self.limits.mailbox {
            self.mail.insert(person, id);
            self.unsaved.insert((Collection::Mail, id));
        }
    }

    /// A message waits no more, if it did.
    pub(super) fn discard_mail(&mut self, id: u64) {
        if self.mail.remove(id) {
            self.unsaved.insert((Collection::Mail, id));
        }
    }

    /// All that waited for somebody has been told, or will never be.
    pub(super) fn empty_mailbox(&mut self, person: UserId) {
        for id in self.mail.of(person) {
            self.discard_mail(id);
        }
    }

    pub(super) fn read_mail(&mut self, ctx: &mut Context<'_>, proof: Proof) {
        let person = proof.person;
        let Some(account) = self.accounts.of(person) else { return };
        let ids = self.mail.of(person);
        let hidden = account.ignores.iter().map(|(ignored, _)| *ignored).collect();
        let thread = Thread::Ids { reader: person, ids: ids.clone() };
        let query =
            log::ReadRequest { thread, count: ids.len(), size: usize::MAX, after: Some(0), hidden };
        let asked = PendingRequest::Mail(MailRequest { cid: ctx.cid.take(), proof, ids });
        if let Some(connection) = self.connection_mut(ctx.conn) {
            connection.pending = Some(Box::new(asked));
            ctx.turn.read(ctx.conn, query);
        }
    }

    /// Completes a login: what waited follows the list of who is here. Much may have
    /// been decided while it was read.
    pub(super) fn log_in_with_mail(
        &mut self,
        ctx: &mut Context<'_>,
        waiting: MailRequest,
        rows: &[Arc<Record>],
    ) -> Result<(), Refusal> {
        let person = waiting.proof.person;
        if self.mail.of(person) != waiting.ids {
            return self.log_in_account(ctx, waiting.proof); // more came meanwhile
        }
        if !self.may_log_in(ctx, &waiting.proof)? {
            return Ok(());
        }
        self.take_over(ctx, person);
        for record in rows {
            let event = Event::Row { time: record.time, message: record.seen_by(person) };
            ctx.reply_tagged(&tags_of(record), &event);
        }
        // Whom /reply means.
        if let (Some(last), Some(user)) = (rows.last(), self.users_by_id.get(&person).copied()) {
            self.users[user].reply_target = Some(last.author);
        }
        self.empty_mailbox(person);
        Ok(())
    }

    /// What is kept of a message that waits: for whom.
    pub(super) fn saved_mail(&self, id: u64) -> Option<String> {
        self.mail.owners.get(&id).map(|person| person.0.to_string())
    }

    pub(super) fn restore_mail(&mut self, id: u64, saved: &str) -> serde_json::Result<()> {
        self.mail.insert(UserId(serde_json::from_str(saved)?), id);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{connect, handle, hub, register, say};
    use super::super::{Flow, Input, Limits, ReadResult};
    use super::*;
    use crate::server::passwords::Outcome;

    #[test]
    fn what_waits_waits_on_where_it_cannot_be_read() {
        let mut hub = hub(Limits::default());
        (0..3).for_each(|slot| connect(&mut hub, slot));
        say(&mut hub, 0, "alice");
        register(&mut hub, 0);
        let alice = hub.accounts.named(&Key::fold("alice")).expect("an account").person;
        say(&mut hub, 0, "/quit");
        say(&mut hub, 1, "bob");
        say(&mut hub, 1, "/msg alice come back");
        let log_in = |hub: &mut Hub, rows: ReadResult| {
            say(hub, 2, "/login alice sesame");
            handle(hub, 2, Input::Hashed(Outcome::Checked(true)));
            handle(hub, 2, Input::Rows(rows))
        };
        let (flow, told) = log_in(&mut hub, ReadResult::failed());
        assert!(told.text.starts_with("[ERROR storage-full] "), "{}", told.text);
        assert_eq!(flow, Flow::Next);
        assert_eq!(hub.mail.len(alice), 1);
        let (_, told) = log_in(&mut hub, ReadResult::default());
        assert!(told.text.starts_with("[WELCOME alice]"), "{}", told.text);
        assert_eq!(hub.mail.len(alice), 0);
        for line in ["/history", "/search back"] {
            say(&mut hub, 1, line);
            let (_, told) = handle(&mut hub, 1, Input::Rows(ReadResult::failed()));
            assert!(told.text.starts_with("[ERROR storage-full] "), "{}", told.text);
        }
    }
}
