//! The keys that answer a question at once, without Enter.

use rustyline::{Cmd, ConditionalEventHandler, Event, EventContext, RepeatCount};

use super::shared::Shared;

/// The handler of a key that is an answer while a question is asked, and a letter otherwise.
pub(super) struct AnswerKey {
    shared: Shared,
    key: char,
}

impl AnswerKey {
    pub(super) fn new(shared: Shared, key: char) -> Self {
        Self { shared, key }
    }
}

impl ConditionalEventHandler for AnswerKey {
    fn handle(
        &self,
        _event: &Event,
        _count: RepeatCount,
        _is_positive: bool,
        context: &EventContext<'_>,
    ) -> Option<Cmd> {
        // `None` means rustyline's default, which inserts the letter.
        if !self.shared.is_asking() || !context.line().is_empty() {
            return None;
        }
        self.shared.set_answer(self.key);
        Some(Cmd::AcceptLine)
    }
}
