//! How much of what a server sends the client holds at once, in every phase. A server
//! may be broken or hostile, so nothing it sends grows without bound: past a limit the
//! client streams, reads the socket no further until its own reader has caught up, or
//! gives up with a message. The figures that hold at one time stay together below some 64 MiB.

/// The longest line taken from a server: one line of a client, with room for names,
/// tags, and replies longer than any line a client may send. The rest of a longer line
/// is dropped.
pub(super) const LINE_MAX: usize = 64 << 10;

/// Lines between the greeting and the answer to `/session`. Past it the login fails.
pub(super) const LOGIN_MAX: usize = 4 << 20;

/// What was missed, told while the client comes back. Past it the rest of a resumed
/// session is shown as if it came live; of a new session, as a gap.
pub(super) const MISSED_MAX: usize = 4 << 20;

/// History that is skipped past [`MISSED_MAX`]. Past it the login fails.
pub(super) const SKIPPED_MAX: usize = 64 << 20;

/// An answer of several lines that is held back until it is whole. Past it the rest is
/// streamed.
pub(super) const ANSWER_MAX: usize = 2 << 20;

/// Lines that come after `/quit`. Past it the client leaves without the farewell.
pub(super) const GOODBYE_MAX: usize = 1 << 20;

/// What waits for the reader of standard output. Past it the socket is not read.
pub(super) const OUTPUT_MAX: usize = 32 << 20;

/// Lines that wait for the screen. Past it the socket is not read.
pub(super) const SCREEN_MAX: usize = 8 << 20;

/// Lines that can be drawn once more.
pub(super) const REDRAWN_MAX: usize = 1 << 20;

/// Joins and departures that are gathered. Past it they are shown at once.
pub(super) const PRESENCE_MAX: usize = 256 << 10;

/// Names of members over all rooms, and of rooms, joined or heard of. The grammar
/// bounds the length of a name; a name past it is not offered for completion.
pub(super) const MEMBERS_MAX: usize = 40_000;
pub(super) const ROOMS_MAX: usize = 1000;
pub(super) const ROOMS_HEARD_OF_MAX: usize = 10_000;

/// Users that are ignored.
pub(super) const IGNORED_MAX: usize = 1000;

/// Rooms and private talks in which `--log` writes on one day.
pub(super) const LOGGED_MAX: usize = 1000;

/// What it takes to hold a line besides its bytes: its place in a list, and what the
/// allocator adds.
const LINE_OVERHEAD: usize = 64;

/// What a line that is held counts against a limit.
pub(super) fn cost(line: &str) -> usize {
    line.len() + LINE_OVERHEAD
}

/// A limit, and how much of it is left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget(usize);

impl Budget {
    pub(super) fn new(limit: usize) -> Self {
        Self(limit)
    }

    /// Counts a line. `false`: it is past the limit.
    pub(super) fn spend(&mut self, line: &str) -> bool {
        let left = self.0.checked_sub(cost(line));
        self.0 = left.unwrap_or(0);
        left.is_some()
    }
}
