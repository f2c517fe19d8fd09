//! The indexes by which the tables refer to each other. An index is reused after its row was
//! removed, so it is never stored and never kept from one input to the next.

/// The index of a user.
pub(crate) type UserIx = usize;

/// The index of a connection.
pub(crate) type ConnectionIx = usize;

/// The index of a room.
pub(crate) type RoomIx = usize;

/// The index of the moderation of a room or of the server.
pub(crate) type ModerationIx = usize;

/// `#lobby`, the first room.
pub(crate) const LOBBY: RoomIx = 0;

/// The moderation of the server, the first entry.
pub(crate) const SERVER: ModerationIx = 0;
