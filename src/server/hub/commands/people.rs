//! Commands about users: `/whois`, `/away`, `/ignore`, `/nick`. Ignored messages are filtered at
//! delivery.

use super::bans::require_unbanned_name;
use super::login::{read_name, require_free_name};
use super::rights::{is_server_operator, require_server_operator};
use super::{
    Context, ErrorReason, Event, Key, List, Name, Reply, Request, Result, RoomName, State, Tags,
    Topic, UserIx, no_such_user, refusal, reply, send_to_user,
};
use crate::protocol::reply::Whois;
use crate::server::hub::delivery::{announce, event_tags};
use crate::server::record::label_named;

/// `/whois`.
pub(super) fn whois(state: &State, req: &mut Request<'_>, me: UserIx, name: &str) -> Result {
    let Some(user) = state.users.named(name) else { return no_such_user(name) };
    let (them, connection) = (&state.users[user], state.connection_of(user));
    let is_operator = |room: &RoomName| {
        let room = state.rooms.named(room.key()).map(|room| state.rooms[room].moderation);
        room.is_some_and(|moderation| state.moderation[moderation].is_operator(them.id))
    };
    let rooms = state.memberships.rooms_of(user).iter();
    let mut rooms: Vec<&RoomName> = rooms.map(|room| &state.rooms[*room].name).collect();
    rooms.sort_unstable_by_key(|room| room.key());
    let all_rooms = join(&rooms);
    rooms.retain(|room| is_operator(room));
    let mut operates = join(&rooms);
    if is_server_operator(state, them.id) {
        operates.insert_str(0, if operates.is_empty() { "*" } else { "*," });
    }
    let peer = connection.peer.filter(|_| connection.socket.is_some());
    let peer = peer.filter(|_| require_server_operator(state, me).is_ok());
    let address = peer.map(|peer| peer.address.to_string());
    req.reply(Reply::Whois(Whois {
        name: them.name.as_str(),
        since: them.since,
        idle_s: them.idle(req.now).as_secs(),
        rooms: List(&all_rooms),
        account: state.accounts.of(them.id).map(|account| account.name.as_str()),
        operator: (!operates.is_empty()).then_some(List(&operates)),
        address: address.as_deref(),
        away: them.away.as_deref(),
    }));
    Ok(())
}

fn join(rooms: &[&RoomName]) -> String {
    rooms.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// `/away`.
pub(super) fn away(state: &mut State, req: &mut Request<'_>, user: UserIx, text: Option<&str>) {
    let text = text.unwrap_or_default();
    state.users.set_away(user, Some(text));
    req.reply(Reply::Away { text });
}

/// `/back`.
pub(super) fn back(state: &mut State, req: &mut Request<'_>, user: UserIx) {
    state.users.set_away(user, None);
    req.reply(Reply::Back);
}

/// `/ignore`. The ignored user is not notified.
pub(super) fn ignore(
    state: &mut State,
    req: &mut Request<'_>,
    user: UserIx,
    name: Option<&str>,
) -> Result {
    let Some(name) = name else {
        list_ignored(state, req, user);
        return Ok(());
    };
    let online = state.users.named(name).map(|other| &state.users[other]);
    let online = online.map(|other| (other.id, other.name.clone()));
    let Some((them, name)) = online.or_else(|| label_named(name)) else {
        return no_such_user(name);
    };
    let me = state.users[user].id;
    if them == me {
        return refusal(ErrorReason::BadArgument, "you cannot ignore yourself");
    }
    let max = req.limits.max_ignored;
    if state.relations.of(me).ignores.len() >= max && !state.relations.ignores(me, them) {
        let text = format!("you ignore {max} users, the maximum; /unignore some first");
        return refusal(ErrorReason::TooMany, text);
    }
    let is_new = state.relations.ignore(me, them, &name);
    req.reply(Reply::Ignore { name: name.as_str(), is_new });
    Ok(())
}

/// `/unignore`: applies to the online user of that name and to every ignored
/// user who had the name when they logged out.
pub(super) fn unignore(
    state: &mut State,
    req: &mut Request<'_>,
    user: UserIx,
    name: &str,
) -> Result {
    let other = state.users.named(name).map(|other| &state.users[other]);
    let other = other.map(|other| (other.id, other.name.clone())).or_else(|| label_named(name));
    let (them, shown) = other.unzip();
    let (me, is_online) = (state.users[user].id, |person| state.users.is_online(person));
    let ended = state.relations.unignore(me, them, &Key::fold(name), is_online);
    let Some(shown) = shown.or_else(|| Some(ended.first()?.name.clone())) else {
        return no_such_user(name);
    };
    req.reply(Reply::Unignore { name: shown.as_str(), was_ignored: !ended.is_empty() });
    Ok(())
}

/// Lists the ignored users.
fn list_ignored(state: &State, req: &mut Request<'_>, user: UserIx) {
    let ignores = state.ignores_of(state.users[user].id);
    let mut names: Vec<&Name> = ignores.map(|(_, name)| name).collect();
    names.sort_unstable_by(|a, b| a.key().cmp(b.key()));
    let names: Vec<&str> = names.into_iter().map(Name::as_str).collect();
    req.reply(Reply::Ignored { names: List(&names.join(",")) });
}

/// `/nick`.
pub(super) fn rename(state: &mut State, req: &mut Request<'_>, user: UserIx, name: &str) -> Result {
    let new = require_free_name(state, read_name(state, name, Some(user))?, Some(user))?;
    require_unbanned_name(state, req.now, user, &new)?;
    let old = state.rename(user, &new);
    let event = Event::Renamed { old: old.as_str(), new: new.as_str() };
    let actor = Some(state.users[user].id);
    let tags = event_tags(state, req.now, actor);
    req.reply_tagged(&tags, &event);
    if old == new {
        return Ok(()); // not announced: nothing changed
    }
    let (rooms, socket) = (state.memberships.rooms_of(user).to_vec(), req.socket);
    announce(state, req, &rooms, Topic::Talk, (actor, Some(socket)), &event);
    update_queriers(state, req, user, &new);
    Ok(())
}

/// Sends the new name to users who have a `/query` with the renamed user but share no
/// room with them: the announcement does not reach them.
fn update_queriers(state: &mut State, ctx: &mut Context<'_>, user: UserIx, new: &Name) {
    let id = state.users[user].id;
    for other in state.relations.of(id).queried_by.clone() {
        let Some(other) = state.users.find(other) else { continue };
        let mut rooms = state.memberships.rooms_of(other).iter();
        if !rooms.any(|room| state.memberships.is_member(user, *room)) {
            let event = Reply::Query(reply::Query::Renamed(new.as_str())).into();
            send_to_user(state, ctx, other, &Tags::by(Some(id)), &event);
        }
    }
}
