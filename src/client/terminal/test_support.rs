//! A chat without a terminal and a server, for unit tests.

use std::sync::{Arc, Mutex};

use super::chat::Chat;
use super::notify::{Notifier, NotifyMethod};
use super::presence::Joins;
use super::printer::{PrintQueue, Printer};
use super::screen::{Screen, Times};
use crate::client::log_files::LogFiles;
use crate::client::model::mentions::Highlights;
use crate::client::model::state::State;
use crate::client::session::outgoing::CidGenerator;
use crate::client::session::resume::Resumption;
use crate::client::text::theme::{ColorChoice, Theme};

/// Returns the chat of alice, without colours and times, and what it prints.
pub(super) fn chat() -> (Chat, PrintQueue) {
    let (printer, queue) = Printer::new();
    let theme = Theme::new(ColorChoice::Never, 0);
    let screen = Screen::new(theme, Times::Never, false, Highlights::default());
    let attention = Notifier::new(NotifyMethod::Off, Highlights::default(), false);
    let (resumption, state) = (Resumption::new(CidGenerator::new(7)), State::new("alice"));
    let (state, log) = (Arc::new(Mutex::new(state)), LogFiles::none());
    (Chat::new(resumption, state, printer, screen, attention, Joins::All, log), queue)
}
