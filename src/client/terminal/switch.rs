//! Alt-A, Alt-Left and Alt-Right: go to another room or private conversation and keep the draft.

use rustyline::{Cmd, ConditionalEventHandler, Event, EventContext, RepeatCount};

use super::screen::Styled;
use super::shared::Shared;

/// Where a key goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// To unread messages, those for the user first.
    Unread,
    Forward,
    Backward,
}

/// The handler of a key.
pub(super) struct Switch {
    way: Way,
    shared: Shared,
    /// Printed if there is nowhere to go.
    nowhere: Styled,
}

impl Switch {
    pub(super) fn new(way: Way, shared: Shared, nowhere: Styled) -> Self {
        Self { way, shared, nowhere }
    }
}

impl ConditionalEventHandler for Switch {
    fn handle(
        &self,
        _event: &Event,
        _count: RepeatCount,
        _is_positive: bool,
        _context: &EventContext<'_>,
    ) -> Option<Cmd> {
        if self.shared.is_asking() {
            return Some(Cmd::Noop);
        }
        let command = {
            let mut state = self.shared.state();
            match self.way {
                Way::Unread => state.go_to_unread(),
                Way::Forward => state.go_around(true),
                Way::Backward => state.go_around(false),
            }
        };
        let Some(command) = command else {
            self.shared.printer.print(self.nowhere.clone());
            return Some(Cmd::Noop);
        };
        // The prompt's thread sends the command and shows the draft in the new prompt.
        self.shared.set_switch(command);
        Some(Cmd::AcceptLine)
    }
}
