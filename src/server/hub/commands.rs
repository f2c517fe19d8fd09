//! The commands: functions over the state and a request. `crate::commands` defines their
//! syntax; the modules here define their effects, one per topic. `dispatch` calls them after
//! `gate` has admitted them, and `pending` continues those that had to wait. They share
//! `rights`, `succession` and `logout`.

mod accounts;
mod bans;
pub(super) mod dispatch;
pub(super) mod gate;
mod history;
mod locks;
mod login;
pub(super) mod logout;
pub(super) mod long_reply;
mod moderation;
pub(super) mod passwords;
pub(super) mod pending;
mod people;
mod posting;
mod rights;
mod rooms;
mod server_admin;
mod session;
pub(super) mod succession;
mod talk;

use crate::protocol::reply::{self, List};
use crate::protocol::{
    ErrorReason, Event, Farewell, Key, Moderation, Name, Refusal, Reply, RoomName, Tags,
};
use crate::server::clock::Now;
use crate::server::hub::context::{Context, Request, Result, no_such_user, refusal};
use crate::server::hub::delivery::{catch_up, presence, send_to_user};
use crate::server::hub::state::State;
use crate::server::hub::state::connections::Query;
use crate::server::hub::state::index::{LOBBY, RoomIx, UserIx};
use crate::server::hub::state::moderation::Scope;
use crate::server::hub::state::password_throttle::Target;
use crate::server::hub::state::pending::{PendingRequest, Purpose};
use crate::server::net::ConnId;
use crate::server::record::{Record, UserId};
use crate::server::store::{Filter, ReadRequest, Thread};
use crate::server::turn::Topic;

/// The author of promotions by succession, and of the notes that replace rows of a reply which
/// may no longer be shown. Reserved: no user can have this name.
const SERVER_NAME: &str = "server";
