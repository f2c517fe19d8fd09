//! The limits of how much server data the client holds in memory, in bytes unless stated
//! otherwise. A server may be broken or hostile, so nothing grows without bound: past a
//! limit the client streams, applies backpressure to the socket, or fails with a message.
//! The limits that apply at the same time add up to less than about 64 MiB.

/// The longest line accepted from a server: a client's line plus names, tags, and replies
/// that are longer than any line of a client. The rest of a longer line is dropped.
pub(super) const LINE_MAX: usize = 64 << 10;

/// Lines between the greeting and the answer to `/session`. Past it, the login fails.
pub(super) const LOGIN_MAX: usize = 4 << 20;

/// Missed lines while the client reconnects. Past it, the rest of a resumed session is
/// shown as live lines, and that of a new session is reported as a gap.
pub(super) const MISSED_MAX: usize = 4 << 20;

/// History that is skipped past [`MISSED_MAX`]. Past it, the login fails.
pub(super) const SKIPPED_MAX: usize = 64 << 20;

/// An answer of several lines that is held back until it is complete. Past it, the rest is
/// streamed.
pub(super) const ANSWER_MAX: usize = 2 << 20;

/// Lines after `/quit`. Past it, the client exits without waiting for the farewell.
pub(super) const GOODBYE_MAX: usize = 1 << 20;

/// Output that waits for the reader of standard output. Past it, the socket is not read
/// (backpressure).
pub(super) const OUTPUT_MAX: usize = 32 << 20;

/// Lines that wait for the screen. Past it, the socket is not read (backpressure).
pub(super) const SCREEN_MAX: usize = 8 << 20;

/// Lines that are held to be redrawn.
pub(super) const REDRAWN_MAX: usize = 1 << 20;

/// Joins and departures that are coalesced. Past it, they are shown at once.
pub(super) const PRESENCE_MAX: usize = 256 << 10;

/// The number of member names over all rooms, of joined rooms, and of other known rooms.
/// The grammar bounds the length of a name. Names past the limit are not offered for
/// completion.
pub(super) const MEMBERS_MAX: usize = 40_000;
pub(super) const ROOMS_MAX: usize = 1000;
pub(super) const KNOWN_ROOMS_MAX: usize = 10_000;

/// The number of ignored users.
pub(super) const IGNORED_MAX: usize = 1000;

/// The number of rooms and private conversations that `--log` writes per day.
pub(super) const LOGGED_MAX: usize = 1000;

/// The memory overhead of a held line: its entry in a list and the allocator.
const LINE_OVERHEAD: usize = 64;

/// Returns how much a held line counts against a limit.
pub(super) fn cost(line: &str) -> usize {
    line.len() + LINE_OVERHEAD
}

/// The rest of a limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget(usize);

impl Budget {
    pub(super) fn new(limit: usize) -> Self {
        Self(limit)
    }

    /// Counts a line. `false`: it exceeds the limit.
    pub(super) fn spend(&mut self, line: &str) -> bool {
        let left = self.0.checked_sub(cost(line));
        self.0 = left.unwrap_or(0);
        left.is_some()
    }
}
