//! A panic over what concerns one connection ends that connection and no other: it is
//! caught around each line, answer and deadline. What had been done before stands.
//!
//! Storing and releasing a turn are not guarded, on purpose: they concern everybody, and
//! a turn that was half released could not be gone on with. There a panic ends the
//! server, which loses nothing.

use std::panic::{self, AssertUnwindSafe};

use super::Reactor;
use crate::server::hub::{Input, Now};
use crate::server::log::Log;
use crate::server::turn::{ConnId, Turn};

impl<L: Log> Reactor<L> {
    /// Does something that concerns a connection. `None`: it panicked, and that
    /// connection is gone.
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
            // Its name stays taken; better than to take the chat from everybody.
            turn.end_message();
        }
        self.remove(conn);
    }

    /// Does what has fallen due in the hub. A panic leaves the rest of it for the next
    /// time.
    pub(super) fn tick_hub(&mut self, now: Now, turn: &mut Turn) {
        let tick = AssertUnwindSafe(|| self.hub.tick(now, turn));
        if panic::catch_unwind(tick).is_err() {
            turn.end_message();
            self.log_panic_once(" over a deadline");
        }
    }

    fn log_panic_once(&mut self, over: &str) {
        self.bugs.tell(&format!(
            "a bug: the server has panicked{over}; no other connection was ended; please \
             report it, with what stands above"
        ));
    }
}
