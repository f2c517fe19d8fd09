//! Isolation of panics: each line, reply and timer of a connection is handled inside
//! `catch_unwind`, so a panic ends that connection and no other. Effects produced before the
//! panic stay in the turn.
//!
//! Storing and releasing a turn are deliberately not guarded: they concern all connections,
//! and a half-released turn cannot be continued. A panic there ends the server; no
//! acknowledged message is lost.

use std::panic::{self, AssertUnwindSafe};

use super::Reactor;
use crate::server::hub::{Input, Now};
use crate::server::store::Log;
use crate::server::turn::{ConnId, Turn};

impl<L: Log> Reactor<L> {
    /// Runs `act` on behalf of a connection. Returns `None` if it panicked; the connection is
    /// closed then.
    pub(super) fn guard<T>(
        &mut self,
        now: Now,
        conn: ConnId,
        turn: &mut Turn,
        act: impl FnOnce(&mut Self, &mut Turn) -> T,
    ) -> Option<T> {
        let done = panic::catch_unwind(AssertUnwindSafe(|| act(self, turn)));
        if done.is_err() {
            self.close_after_panic(now, conn, turn);
        }
        done.ok()
    }

    fn close_after_panic(&mut self, now: Now, conn: ConnId, turn: &mut Turn) {
        turn.end_message();
        let from = self.hub.peer(conn).map(|peer| peer.address.to_string());
        self.log_panic_once(&from.map_or_else(String::new, |from| format!(" over {from}")));
        let lose = AssertUnwindSafe(|| self.hub.handle(now, conn, Input::Disconnected, turn));
        if panic::catch_unwind(lose).is_err() {
            // The name stays in use, which is better than ending the server for everyone.
            turn.end_message();
        }
        self.remove(conn);
    }

    /// Runs the hub's timers. After a panic the remaining ones run at the next tick.
    pub(super) fn tick_hub(&mut self, now: Now, turn: &mut Turn) {
        let tick = AssertUnwindSafe(|| self.hub.tick(now, turn));
        if panic::catch_unwind(tick).is_err() {
            turn.end_message();
            self.log_panic_once(" over a deadline");
        }
    }

    fn log_panic_once(&mut self, over: &str) {
        self.panic_warning.warn(&format!(
            "bug: the server panicked{over}; other connections are not affected; please \
             report it together with the lines above"
        ));
    }
}
