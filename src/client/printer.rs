//! Lines above the prompt. rustyline's external printer lets a line appear
//! without disturbing what is being typed, but it can block for as long as a
//! person likes (in a Ctrl-R search, say), so it has a thread to itself and
//! nothing waits for that thread; but while much is queued for it, the socket is
//! not read.

use std::collections::VecDeque;
use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use nix::sys::signal::{Signal, raise};
use rustyline::{Cmd, ConditionalEventHandler, Event, EventContext, ExternalPrinter, RepeatCount};
use terminal_size::terminal_size;
use tokio::sync::Notify;

use super::limits::{REDRAWN_MAX, SCREEN_MAX, cost};
use super::screen::Styled;
use super::wrap::{height, wrap};
use crate::stdio;

/// Lines that came together are printed together, up to about so many bytes:
/// each print clears and redraws the prompt.
const BATCH_MAX: usize = 16 * 1024;

/// So many lines can be shown once more: as many as a large screen has.
const SCROLLBACK_MAX: usize = 200;

/// Rows of a screen drawn anew that are for the prompt and the draft.
const PROMPT_ROWS: usize = 4;

/// Draws the prompt again and nothing else. rustyline puts a line end behind what
/// has none; going up first makes none of it.
const REPAINT: &str = "\x1b[A\n";

/// To the first row; the rest of this one is empty; the rest of the screen is.
/// (Some terminals keep what is cleared from the first row on as if it had been
/// scrolled off. So the rows are written over the old ones.)
const HOME: &str = "\x1b[H";
const ROW_END: &str = "\x1b[K\n";
const SCREEN_END: &str = "\x1b[J\n";

/// What the printer is asked for.
enum PrintRequest {
    Line(Styled),
    Repaint,
    Redraw,
}

impl PrintRequest {
    /// What it counts against [`SCREEN_MAX`] while it waits.
    fn size(&self) -> usize {
        match self {
            Self::Line(line) => cost(line.as_str()),
            Self::Repaint | Self::Redraw => cost(""),
        }
    }
}

/// How much waits for the printer.
#[derive(Default)]
struct Load {
    waiting: AtomicUsize,
    moved: Notify,
}

/// What waits for the printer.
pub(super) struct PrintQueue {
    orders: Receiver<PrintRequest>,
    load: Arc<Load>,
}

/// Where to put lines for the screen.
#[derive(Clone)]
pub(super) struct Printer {
    orders: Sender<PrintRequest>,
    load: Arc<Load>,
}

impl Printer {
    /// A printer, and what it hands to its thread.
    pub(super) fn new() -> (Self, PrintQueue) {
        let (orders, waiting) = mpsc::channel();
        let load = Arc::<Load>::default();
        (Self { orders, load: load.clone() }, PrintQueue { orders: waiting, load })
    }

    /// Whether more may be queued of what the server sends. What the client itself has
    /// to say is little, and always queued.
    pub(super) fn has_room(&self) -> bool {
        self.load.waiting.load(Ordering::Relaxed) < SCREEN_MAX
    }

    /// Waits until something has been printed since the last call.
    pub(super) async fn moves(&self) {
        self.load.moved.notified().await;
    }

    /// Shows a line; at once, or when the prompt allows it.
    pub(super) fn print(&self, line: Styled) {
        self.order(PrintRequest::Line(line));
    }

    /// Draws the prompt again, which has changed.
    pub(super) fn repaint(&self) {
        self.order(PrintRequest::Repaint);
    }

    /// Clears the screen and shows the latest lines as they are on it now.
    pub(super) fn redraw(&self) {
        self.order(PrintRequest::Redraw);
    }

    fn order(&self, order: PrintRequest) {
        // The thread lives as long as we do; if it does not, there is no screen.
        self.load.waiting.fetch_add(order.size(), Ordering::Relaxed);
        let _ = self.orders.send(order);
    }
}

impl PrintQueue {
    /// Starts the thread. It ends when every [`Printer`] is gone.
    pub(super) fn start_printing(
        self,
        out: impl ExternalPrinter + Send + 'static,
        gate: Arc<PromptGate>,
    ) -> JoinHandle<()> {
        let mut press = PrinterThread { out, gate, kept: VecDeque::new(), kept_size: 0 };
        thread::spawn(move || press.run(&self))
    }
}

struct PrinterThread<P> {
    out: P,
    gate: Arc<PromptGate>,
    /// The latest lines.
    kept: VecDeque<Styled>,
    kept_size: usize,
}

impl<P: ExternalPrinter> PrinterThread<P> {
    fn run(&mut self, PrintQueue { orders, load }: &PrintQueue) {
        let mut held = None;
        while let Some(first) = held.take().or_else(|| orders.recv().ok()) {
            let mut batch = String::new();
            let mut size_taken = 0;
            let mut is_redrawn = false;
            let mut next = Some(first);
            let (columns, _) = size();
            while let Some(order) = next {
                if is_redrawn && matches!(order, PrintRequest::Line(_)) {
                    // The screen is repaired before anything else is added to it.
                    held = Some(order);
                    break;
                }
                size_taken += order.size();
                match order {
                    PrintRequest::Line(line) => {
                        batch.push_str(&wrap(line.as_str(), line.hang(), columns));
                        // Without its own line end the last line is lost between prompts.
                        batch.push('\n');
                        self.keep(line);
                    }
                    PrintRequest::Repaint => {}
                    PrintRequest::Redraw => is_redrawn = true,
                }
                next = if batch.len() < BATCH_MAX { orders.try_recv().ok() } else { None };
            }
            if !batch.is_empty() {
                self.print(&batch, &batch);
            } else if !is_redrawn {
                self.print_after_resize(|_| REPAINT.to_owned());
            }
            if is_redrawn {
                self.print_after_resize(Self::screen);
            }
            load.waiting.fetch_sub(size_taken, Ordering::Relaxed);
            load.moved.notify_one();
        }
        write(&self.gate.take_undrawn());
    }

    fn keep(&mut self, line: Styled) {
        self.kept_size += cost(line.as_str());
        self.kept.push_back(line);
        while self.kept.len() > SCROLLBACK_MAX || self.kept_size > REDRAWN_MAX {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.kept_size -= cost(oldest.as_str());
        }
    }

    /// Prints this above the prompt. Of it `news` must be seen also where there is
    /// no prompt any more.
    fn print(&mut self, text: &str, news: &str) {
        if self.gate.hand_to_prompt(news, None) {
            // Fails when the prompt has gone meanwhile; then it is undrawn.
            let _ = self.out.print(text.to_owned());
        } else {
            write(&self.gate.take_undrawn());
            write(news);
        }
    }

    /// Prints what has no news in it, and lets rustyline learn of a resize first. The
    /// SIGWINCH of the resize may still be pending for another thread, while [`size`]
    /// returns the new size already. The handler of a raised signal has run when `raise`
    /// returns, and rustyline takes signals before it takes what is printed here.
    fn print_after_resize(&mut self, text: impl Fn(&Self) -> String) {
        let (columns, _) = size();
        if self.gate.hand_to_prompt("", Some(columns)) {
            let _ = raise(Signal::SIGWINCH);
            let _ = self.out.print(text(self));
        } else {
            write(&self.gate.take_undrawn());
        }
    }

    /// The latest lines on an empty screen, with room for a prompt of some rows.
    fn screen(&self) -> String {
        let (columns, rows) = size();
        let lines = self.kept.iter().map(|line| wrap(line.as_str(), line.hang(), columns));
        let lines: Vec<String> = lines.collect();
        let all: Vec<&str> = lines.iter().flat_map(|line| line.split('\n')).collect();
        let mut left = rows.saturating_sub(PROMPT_ROWS);
        let is_shown = |row: &&&str| {
            let fits = left.checked_sub(height(row, columns));
            left = fits.unwrap_or(left);
            fits.is_some()
        };
        let shown = &all[all.len() - all.iter().rev().take_while(is_shown).count()..];
        HOME.to_owned() + &shown.join(ROW_END) + SCREEN_END
    }
}

/// How many columns and rows the terminal has now.
pub(super) fn size() -> (usize, usize) {
    terminal_size().map_or((80, 24), |(columns, rows)| (columns.0.into(), rows.0.into()))
}

/// What Ctrl-L does: the same screen, drawn anew.
pub(super) struct Redraw(pub(super) Printer);

impl ConditionalEventHandler for Redraw {
    fn handle(
        &self,
        _event: &Event,
        _count: RepeatCount,
        _is_positive: bool,
        _context: &EventContext<'_>,
    ) -> Option<Cmd> {
        self.0.redraw();
        Some(Cmd::Noop)
    }
}

fn write(text: &str) {
    // Without a terminal there is nobody to tell.
    let _ = stdio::stdout().write_all(text.as_bytes());
}

/// What the printer knows of the prompt. Two things need it:
///
/// 1. From the moment a line is submitted until the next prompt stands, nothing
///    may be printed. rustyline would write it straight to the terminal, where
///    it is wiped away with the submitted line, or overtakes an earlier one.
/// 2. What rustyline has taken but not drawn is lost when the prompt ends. So it
///    is kept here until it is seen on the screen, and written at the end.
#[derive(Default)]
pub(super) struct PromptGate {
    state: Mutex<GateState>,
    moved: Condvar,
}

#[derive(Default)]
struct GateState {
    prompt: PromptState,
    /// There will be no other prompt.
    is_last: bool,
    undrawn: VecDeque<Handed>,
}

/// What was handed to rustyline.
struct Handed {
    news: String,
    /// How many columns rustyline knows of by the time it draws this, if that is sure.
    columns: Option<usize>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum PromptState {
    #[default]
    Away,
    Standing,
    Over,
}

impl PromptGate {
    /// A prompt stands: what comes can be drawn above it.
    pub(super) fn open(&self) {
        let mut state = self.lock();
        if state.prompt == PromptState::Away && !state.is_last {
            state.prompt = PromptState::Standing;
            self.moved.notify_all();
        }
    }

    /// The prompt is going away, for a moment or, if it `is_last`, for good.
    pub(super) fn shut(&self, is_last: bool) {
        let mut state = self.lock();
        state.is_last |= is_last;
        if state.prompt == PromptState::Standing {
            state.prompt = PromptState::Away;
        }
    }

    /// The prompt is gone and the terminal as it was: write as you like.
    pub(super) fn finish(&self) {
        self.lock().prompt = PromptState::Over;
        self.moved.notify_all();
    }

    /// What was handed over first stands above the prompt now. Returns how many columns
    /// rustyline counts with, if that is sure.
    pub(super) fn drawn(&self) -> Option<usize> {
        self.lock().undrawn.pop_front()?.columns
    }

    /// Waits for a prompt. `false`: there will be none any more.
    fn hand_to_prompt(&self, news: &str, columns: Option<usize>) -> bool {
        let mut state = self.lock();
        while state.prompt == PromptState::Away {
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let is_standing = state.prompt == PromptState::Standing;
        if is_standing {
            state.undrawn.push_back(Handed { news: news.to_owned(), columns });
        }
        is_standing
    }

    fn take_undrawn(&self) -> String {
        self.lock().undrawn.drain(..).map(|handed| handed.news).collect()
    }

    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
