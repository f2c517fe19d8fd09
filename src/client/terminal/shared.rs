//! What the threads of the interactive mode share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::printer::{Printer, PromptGate};
use crate::client::model::state::State;
use crate::client::text::theme::Theme;

/// State that the prompt shares with its key handlers and the rest of the client.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) gate: Arc<PromptGate>,
    pub(super) printer: Printer,
    pub(super) theme: Theme,
    /// A question is shown instead of the prompt.
    pub(super) is_asking: Arc<AtomicBool>,
    /// A command to send instead of the draft, which stays.
    switch: Arc<Mutex<Option<String>>>,
    /// The key that answered the question.
    answer: Arc<Mutex<Option<char>>>,
}

impl Shared {
    pub(super) fn new(state: State, printer: Printer, theme: Theme) -> Self {
        Self {
            state: Arc::new(Mutex::new(state)),
            gate: Arc::default(),
            printer,
            theme,
            is_asking: Arc::default(),
            switch: Arc::default(),
            answer: Arc::default(),
        }
    }

    /// Sets the command to send instead of the draft.
    pub(super) fn set_switch(&self, command: String) {
        *lock(&self.switch) = Some(command);
    }

    /// Removes and returns that command.
    pub(super) fn take_switch(&self) -> Option<String> {
        lock(&self.switch).take()
    }

    pub(super) fn set_answer(&self, key: char) {
        *lock(&self.answer) = Some(key);
    }

    /// Removes and returns the key that answered the question.
    pub(super) fn take_answer(&self) -> Option<char> {
        lock(&self.answer).take()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(super) fn is_asking(&self) -> bool {
        self.is_asking.load(Ordering::Relaxed)
    }
}

/// Locks what is shared, even if a thread panicked while it held the lock.
pub(super) fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
