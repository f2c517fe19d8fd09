//! The commands: functions over the state and a request. `crate::commands` defines their
//! syntax; the modules here define their effects, one per topic. From the top: `dispatch`
//! calls them, `pending` goes on with those that had to wait; `rights`, `succession` and
//! `logout` are what they share.

mod accounts;
mod bans;
pub(super) mod dispatch;
pub(super) mod gate;
mod history;
mod locks;
mod login;
pub(super) mod logout;
mod moderation;
pub(super) mod passwords;
pub(super) mod pending;
mod people;
mod rights;
mod rooms;
mod server_admin;
mod session;
pub(super) mod succession;
mod talk;
