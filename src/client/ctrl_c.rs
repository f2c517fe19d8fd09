//! Ctrl-C: clears what is typed (Ctrl-Y brings it back); on an empty line it
//! warns, and again soon after it leaves. A question it answers with no.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustyline::{Cmd, ConditionalEventHandler, Event, EventContext, Movement, RepeatCount};

use super::prompt::Shared;
use super::screen::Styled;

/// Two interrupts within this time mean it.
const DOUBLE_PRESS: Duration = Duration::from_secs(2);

/// What Ctrl-C does.
pub(super) struct Interrupt {
    shared: Shared,
    /// Shown the first time.
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
        // Without a command of ours, rustyline gives up the prompt.
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
