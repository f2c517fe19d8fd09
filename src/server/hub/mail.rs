//! Mail: private messages to an offline account wait for its next login. The messages are
//! in the log; a mailbox holds only their ids.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::accounts::Proof;
use super::messages::tags_of;
use super::{
    Cid, Collection, Context, ErrorCode, Event, Hub, Key, PendingRequest, Refusal, UserId, UserIx,
    no_such_user, refusal,
};
use crate::server::record::{Recipient, Record};
use crate::server::store::{self, Thread};

/// The mailboxes of all accounts, by owner and by message.
#[derive(Debug, Default)]
pub(super) struct Mailboxes {
    boxes: HashMap<UserId, BTreeSet<u64>>,
    owners: HashMap<u64, UserId>,
}

impl Mailboxes {
    /// Returns the ids in a mailbox, oldest first.
    pub(super) fn of(&self, user_id: UserId) -> Vec<u64> {
        self.boxes.get(&user_id).into_iter().flatten().copied().collect()
    }

    /// Returns the account a message waits for, if any.
    pub(super) fn owner(&self, id: u64) -> Option<UserId> {
        self.owners.get(&id).copied()
    }

    fn len(&self, user_id: UserId) -> usize {
        self.boxes.get(&user_id).map_or(0, BTreeSet::len)
    }

    fn insert(&mut self, user_id: UserId, id: u64) {
        self.boxes.entry(user_id).or_default().insert(id);
        self.owners.insert(id, user_id);
    }

    fn remove(&mut self, id: u64) -> bool {
        let Some(user_id) = self.owners.remove(&id) else { return false };
        if let Some(ids) = self.boxes.get_mut(&user_id) {
            ids.remove(&id);
            if ids.is_empty() {
                self.boxes.remove(&user_id);
            }
        }
        true
    }
}

/// A login that waits for its mail to be read from the log.
#[derive(Debug)]
pub(super) struct MailRequest {
    pub(super) cid: Option<Cid>,
    proof: Proof,
    ids: Vec<u64>,
}

impl Hub {
    /// Sends a private message to the owner of a registered name no user has; the owner may
    /// be online under another name.
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

    /// Stores a private message to an offline account.
    pub(super) fn send_to_account(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        user_id: UserId,
        text: &str,
    ) -> Result<(), Refusal> {
        let Some(account) = self.accounts.of(user_id) else { return Ok(()) };
        let name = account.name.clone();
        if self.mail.len(user_id) >= self.limits.mailbox {
            let text = format!("not sent: the mailbox of {name} is full");
            return refusal(ErrorCode::TooMany, text);
        }
        let me = self.users[user].id;
        let is_delivered = !account.ignores.iter().any(|(ignored, _)| *ignored == me);
        let to = Recipient::Person(user_id, name.clone());
        let record = self.record(ctx, user, to, text, false);
        if is_delivered {
            self.store_mail(user_id, record.id);
        }
        ctx.with_message(&record, |ctx| {
            self.echo(ctx, &record);
            if self.wants_echo(ctx) {
                let text =
                    format!("{name} is offline; your message will be delivered when they log in");
                ctx.reply(&Event::reply("OFFLINE", name.as_str(), &text));
            }
        });
        Ok(())
    }

    /// Adds a message to a mailbox, unless the mailbox is full.
    pub(super) fn store_mail(&mut self, user_id: UserId, id: u64) {
        if self.mail.len(user_id) < self.limits.mailbox {
            self.mail.insert(user_id, id);
            self.unsaved.insert((Collection::Mail, id));
        }
    }

    /// Removes a message from its mailbox, if it is in one.
    pub(super) fn discard_mail(&mut self, id: u64) {
        if self.mail.remove(id) {
            self.unsaved.insert((Collection::Mail, id));
        }
    }

    /// Empties a mailbox after its messages were delivered or its account deleted.
    pub(super) fn empty_mailbox(&mut self, user_id: UserId) {
        for id in self.mail.of(user_id) {
            self.discard_mail(id);
        }
    }

    pub(super) fn read_mail(&mut self, ctx: &mut Context<'_>, proof: Proof) {
        let user_id = proof.person;
        let Some(account) = self.accounts.of(user_id) else { return };
        let ids = self.mail.of(user_id);
        let hidden = account.ignores.iter().map(|(ignored, _)| *ignored).collect();
        let thread = Thread::Ids { reader: user_id, ids: ids.clone() };
        let query = store::ReadRequest {
            thread,
            count: ids.len(),
            size: usize::MAX,
            after: Some(0),
            hidden,
        };
        let request = PendingRequest::Mail(MailRequest { cid: ctx.cid.take(), proof, ids });
        if let Some(connection) = self.connection_mut(ctx.conn) {
            connection.pending = Some(Box::new(request));
            ctx.turn.read(ctx.conn, query);
        }
    }

    /// Completes a login: the mail follows the member list. Much may have changed while it
    /// was read.
    pub(super) fn log_in_with_mail(
        &mut self,
        ctx: &mut Context<'_>,
        waiting: MailRequest,
        records: &[Arc<Record>],
    ) -> Result<(), Refusal> {
        let user_id = waiting.proof.person;
        if self.mail.of(user_id) != waiting.ids {
            return self.log_in_account(ctx, waiting.proof); // more arrived meanwhile
        }
        if !self.may_log_in(ctx, &waiting.proof)? {
            return Ok(());
        }
        self.take_over(ctx, user_id);
        for record in records {
            let event = Event::Row { time: record.time, message: record.seen_by(user_id) };
            ctx.reply_tagged(&tags_of(record), &event);
        }
        // `/reply` answers the last author.
        if let (Some(last), Some(user)) = (records.last(), self.users_by_id.get(&user_id).copied())
        {
            self.users[user].reply_target = Some(last.author);
        }
        self.empty_mailbox(user_id);
        Ok(())
    }

    /// Returns the stored form of a waiting message: its account.
    pub(super) fn saved_mail(&self, id: u64) -> Option<String> {
        self.mail.owners.get(&id).map(|user_id| user_id.0.to_string())
    }

    pub(super) fn restore_mail(&mut self, id: u64, saved: &str) -> serde_json::Result<()> {
        self.mail.insert(UserId(serde_json::from_str(saved)?), id);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{Driver, connect, handle, hub, register, say};
    use super::super::{Flow, Input, Limits, ReadResult};
    use super::*;
    use crate::server::auth::passwords::Outcome;

    #[test]
    fn mail_waits_while_the_log_cannot_be_read() {
        let mut hub = hub(Limits::default());
        (0..3).for_each(|slot| connect(&mut hub, slot));
        say(&mut hub, 0, "alice");
        register(&mut hub, 0);
        let alice = hub.accounts.named(&Key::fold("alice")).expect("an account").person;
        say(&mut hub, 0, "/quit");
        say(&mut hub, 1, "bob");
        say(&mut hub, 1, "/msg alice come back");
        let log_in = |hub: &mut Driver, records: ReadResult| {
            say(hub, 2, "/login alice sesame");
            handle(hub, 2, Input::Hashed(Outcome::Checked(true)));
            handle(hub, 2, Input::Rows(records))
        };
        let (flow, reply) = log_in(&mut hub, ReadResult::failed());
        assert!(reply.text.starts_with("[ERROR storage-full] "), "{}", reply.text);
        assert_eq!(flow, Flow::Next);
        assert_eq!(hub.mail.len(alice), 1);
        let (_, reply) = log_in(&mut hub, ReadResult::default());
        assert!(reply.text.starts_with("[WELCOME alice]"), "{}", reply.text);
        assert_eq!(hub.mail.len(alice), 0);
        for line in ["/history", "/search back"] {
            say(&mut hub, 1, line);
            let (_, reply) = handle(&mut hub, 1, Input::Rows(ReadResult::failed()));
            assert!(reply.text.starts_with("[ERROR storage-full] "), "{}", reply.text);
        }
    }
}
