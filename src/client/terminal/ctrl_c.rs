//! Ctrl-C: clears the draft (Ctrl-Y restores it). On an empty line it prints a warning, and
//! pressed again within [`DOUBLE_PRESS`] it ends the client. It answers a question with no.
//! It knows nothing of the connection.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustyline::{Cmd, ConditionalEventHandler, Event, EventContext, Movement, RepeatCount};

use super::screen::Styled;
use super::shared::Shared;

/// The longest time between two presses that end the client.
const DOUBLE_PRESS: Duration = Duration::from_secs(2);

/// The handler of Ctrl-C.
pub(super) struct Interrupt {
    shared: Shared,
    /// Printed at the first press.
    warning: Styled,
    last: Mutex<Option<Instant>>,
}

impl Interrupt {
    pub(super) fn new(shared: Shared, warning: Styled) -> Self {
        Self { shared, warning, last: Mutex::new(None) }
    }
}

impl ConditionalEventHandler for Interrupt {
    fn handle(
        &self,
        _event: &Event,
        _count: RepeatCount,
        _is_positive: bool,
        context: &EventContext<'_>,
    ) -> Option<Cmd> {
        // `None` means rustyline's default, which ends the prompt.
        if self.shared.is_asking() {
            self.shared.gate.shut(false);
            return None;
        }
        if !context.line().is_empty() {
            return Some(Cmd::Kill(Movement::WholeBuffer));
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < DOUBLE_PRESS) {
            self.shared.gate.shut(true);
            return None;
        }
        *last = Some(Instant::now());
        self.shared.printer.print(self.warning.clone());
        Some(Cmd::Noop)
    }
}
