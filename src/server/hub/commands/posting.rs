//! Programs that post without logging in: `/post` and `/auth`. No list of a room shows them; users
//! see the label `+alerts` as the author, which no user can have as a name. The author of a post
//! is the account that the connection has proven, or [`ANONYMOUS`].

use super::accounts::unchanged_account;
use super::bans::{banned_from_room, reject_banned, subject_named};
use super::locks::is_open_to;
use super::login::read_name;
use super::passwords::{check_password, require_privacy};
use super::rights::{muted, room_in};
use super::talk::{Author, post_as_program};
use super::{
    ErrorReason, Key, Name, Purpose, Refusal, Reply, Request, Result, RoomName, State, Target,
    UserId, refusal,
};
use crate::server::hub::state::accounts::Proof;
use crate::server::hub::state::connections::Poster;
use crate::server::limits::AllowPost;
use crate::server::net::peer::Peer;
use crate::server::record::{ANONYMOUS, label_id};

/// `/post`.
pub(super) fn post(
    state: &mut State,
    req: &mut Request<'_>,
    room: &str,
    label: &str,
    text: &str,
) -> Result {
    let invalid = |fault| Refusal::new(ErrorReason::BadName, format!("not sent: {fault}"));
    let room = RoomName::parse(room).map_err(invalid)?;
    let label = Name::parse(label).map_err(invalid)?;
    let poster = state.connections.poster(req.socket).unwrap_or_default();
    require_permission(state, req, poster)?;
    // Without an account the author is treated like a new guest.
    let person = poster.account.unwrap_or(UserId(state.users.last_id() + 1));
    if reject_banned(state, req, person, &label) {
        return Ok(());
    }
    note_poster(state, req, poster);
    require_free_label(state, poster, &label)?;
    let label = label.label();
    require_access(state, req, (person, &label), &room)?;
    let author = Author { id: poster.account.unwrap_or(ANONYMOUS), name: label };
    post_as_program(state, req, author, &room, text);
    Ok(())
}

/// `/auth`.
pub(super) fn prove_account(state: &mut State, req: &mut Request<'_>, name: &str) -> Result {
    require_privacy(state, req)?;
    if req.limits.allow_post == AllowPost::Off {
        return Err(not_allowed("this server accepts no posts without a login"));
    }
    let name = read_name(state, name, None)?;
    let Some(account) = state.accounts.named(name.key()) else {
        let text = format!("{name} is not registered");
        return refusal(ErrorReason::BadPassword, text);
    };
    let (person, hash) = (account.person, account.hash.clone());
    let proof = Proof { person, hash: hash.clone() };
    check_password(state, req, Purpose::Post(proof), Target::Password(hash))
}

/// Completes `/auth` after the password has matched.
pub(super) fn accept_account(state: &mut State, req: &mut Request<'_>, proof: &Proof) -> Result {
    let name = unchanged_account(state, proof)?.name.clone();
    if !reject_banned(state, req, proof.person, &name) {
        note_poster(state, req, Poster { account: Some(proof.person) });
        req.reply(Reply::Auth { name: name.as_str() });
    }
    Ok(())
}

fn note_poster(state: &mut State, req: &Request<'_>, poster: Poster) {
    let idle = req.now.since_start + req.limits.post_idle;
    state.connections.note_poster(req.connection, poster, idle);
}

/// Postpones the end of a poster that is idle.
pub(super) fn note_active(state: &mut State, req: &Request<'_>) {
    if let Some(poster) = state.connections.poster(req.socket) {
        note_poster(state, req, poster);
    }
}

/// Refuses a program that may not post on this server.
fn require_permission(state: &State, req: &Request<'_>, poster: Poster) -> Result {
    let is_here = state.connections[req.connection].peer.is_some_and(Peer::is_local);
    let is_allowed = match req.limits.allow_post {
        AllowPost::Any => true,
        AllowPost::Local => is_here || poster.account.is_some(),
        AllowPost::Account => poster.account.is_some(),
        AllowPost::Off => false,
    };
    if !is_allowed && req.limits.allow_post == AllowPost::Off {
        return Err(not_allowed("not sent: this server accepts no posts without a login"));
    }
    if !is_allowed {
        return Err(not_allowed("not sent: to post from here, /auth NAME PASSWORD first"));
    }
    if req.limits.password.is_some() && poster.account.is_none() {
        let text = "not sent: this server needs a password; /auth NAME PASSWORD first";
        return refusal(ErrorReason::BadPassword, text);
    }
    Ok(())
}

fn not_allowed(text: &'static str) -> Refusal {
    Refusal::new(ErrorReason::PostingNotAllowed, text)
}

/// Refuses a label that is the name of a user or account, except the program's own account.
fn require_free_label(state: &State, poster: Poster, label: &Name) -> Result {
    let holder = state.users.holder(label.key()).map(|user| state.users[user].id);
    let owner = state.accounts.named(label.key()).map(|account| account.person);
    let is_mine = |person: UserId| Some(person) == poster.account;
    if [holder, owner].into_iter().flatten().all(is_mine) {
        return Ok(());
    }
    let text = format!("not sent: {label} is the name of a user; choose another label");
    refusal(ErrorReason::NameTaken, text)
}

/// Refuses a post to a room from which its author is banned, in which they are muted, or which
/// they may not enter. The room need not have members.
fn require_access(
    state: &State,
    req: &Request<'_>,
    (person, label): (UserId, &Name),
    room: &RoomName,
) -> Result {
    let Some(moderation) = state.moderation_named(room.key()) else { return Ok(()) };
    let peer = state.connections[req.connection].peer;
    let subject = subject_named(state, (person, label.key()), peer, moderation);
    if let Some(ban) = moderation.ban_on(req.now, subject) {
        return Err(banned_from_room(room, ban));
    }
    let mut muted_ids = [person, label_id(label.key())].into_iter();
    if let Some(mute) = muted_ids.find_map(|id| moderation.mute_of(req.now, id)) {
        return Err(muted(room, mute));
    }
    if is_open_to(state, moderation, person) || is_member(state, person, room.key()) {
        return Ok(());
    }
    let text = format!("not sent: {room} is locked; post with an account that may enter it");
    refusal(ErrorReason::RoomLocked, text)
}

fn is_member(state: &State, person: UserId, room: &Key) -> bool {
    let user = state.users.find(person);
    user.is_some_and(|user| room_in(state, user, room).is_some())
}
