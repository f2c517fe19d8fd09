//! The printer: a thread that prints lines above the prompt. It does not know what the lines
//! mean.
//!
//! rustyline's external printer prints without disturbing the draft, but it can block for an
//! unbounded time (during a Ctrl-R search, for example). So it runs on its own thread, and
//! nothing waits for that thread. Backpressure: while its queue is full, the client does not
//! read the socket.

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

use super::screen::Styled;
use super::wrap::{height, wrap};
use crate::client::limits::{REDRAWN_MAX, SCREEN_MAX, cost};
use crate::stdio;

/// Queued lines are printed as a batch of about this many bytes, because each print erases
/// and redraws the prompt.
const BATCH_MAX: usize = 16 * 1024;

/// How many lines a redraw can show: the rows of a large screen.
const SCROLLBACK_MAX: usize = 200;

/// Rows that a redraw reserves for the prompt and the draft.
const PROMPT_ROWS: usize = 4;

/// Redraws the prompt and prints nothing. rustyline appends a line end to text that has none;
/// moving up first compensates for it.
const REPAINT: &str = "\x1b[A\n";

/// Moves to the first row; erases the rest of a row; erases the rest of the screen. The rows
/// are overwritten one by one, since some terminals move a screen that is erased from its
/// first row into the scrollback.
const HOME: &str = "\x1b[H";
const ROW_END: &str = "\x1b[K\n";
const SCREEN_END: &str = "\x1b[J\n";

/// A request to the printer's thread.
enum PrintRequest {
    Line(Styled),
    Repaint,
    Redraw,
}

impl PrintRequest {
    /// Its cost against [`SCREEN_MAX`] while it is queued.
    fn size(&self) -> usize {
        match self {
            Self::Line(line) => cost(line.as_str()),
            Self::Repaint | Self::Redraw => cost(""),
        }
    }
}

/// The size of the print queue.
#[derive(Default)]
struct QueueSize {
    bytes: AtomicUsize,
    has_shrunk: Notify,
}

/// The receiving end of the print queue.
pub(super) struct PrintQueue {
    requests: Receiver<PrintRequest>,
    size: Arc<QueueSize>,
}

/// A handle that queues lines for the screen.
#[derive(Clone)]
pub(super) struct Printer {
    requests: Sender<PrintRequest>,
    size: Arc<QueueSize>,
}

impl Printer {
    /// Returns a printer and the queue for its thread.
    pub(super) fn new() -> (Self, PrintQueue) {
        let (requests, queue) = mpsc::channel();
        let size = Arc::<QueueSize>::default();
        (Self { requests, size: size.clone() }, PrintQueue { requests: queue, size })
    }

    /// Whether more lines of the server may be queued. The client's own notices are few and
    /// always queued.
    pub(super) fn has_room(&self) -> bool {
        self.size.bytes.load(Ordering::Relaxed) < SCREEN_MAX
    }

    /// Waits until a batch has been printed since the last call.
    pub(super) async fn progressed(&self) {
        self.size.has_shrunk.notified().await;
    }

    /// Queues a line, which is printed as soon as the prompt allows it.
    pub(super) fn print(&self, line: Styled) {
        self.request(PrintRequest::Line(line));
    }

    /// Redraws the prompt after its text has changed.
    pub(super) fn repaint(&self) {
        self.request(PrintRequest::Repaint);
    }

    /// Erases the screen and prints the latest lines for its current size.
    pub(super) fn redraw(&self) {
        self.request(PrintRequest::Redraw);
    }

    fn request(&self, request: PrintRequest) {
        self.size.bytes.fetch_add(request.size(), Ordering::Relaxed);
        // Fails only if the thread has panicked, and then there is no screen to print to.
        let _ = self.requests.send(request);
    }
}

impl PrintQueue {
    /// Starts the thread. It ends when every [`Printer`] has been dropped.
    pub(super) fn start_printing(
        self,
        out: impl ExternalPrinter + Send + 'static,
        gate: Arc<PromptGate>,
    ) -> JoinHandle<()> {
        let (scrollback, scrollback_size) = (VecDeque::new(), 0);
        let mut printer = PrinterThread { out, gate, scrollback, scrollback_size };
        thread::spawn(move || printer.run(&self))
    }
}

struct PrinterThread<P> {
    out: P,
    gate: Arc<PromptGate>,
    /// The latest lines, for a redraw.
    scrollback: VecDeque<Styled>,
    scrollback_size: usize,
}

impl<P: ExternalPrinter> PrinterThread<P> {
    fn run(&mut self, PrintQueue { requests, size: queue_size }: &PrintQueue) {
        let mut postponed = None;
        while let Some(first) = postponed.take().or_else(|| requests.recv().ok()) {
            let mut batch = String::new();
            let mut batch_cost = 0;
            let mut is_redrawn = false;
            let mut next = Some(first);
            let (columns, _) = size();
            while let Some(request) = next {
                if is_redrawn && matches!(request, PrintRequest::Line(_)) {
                    // The screen is redrawn before further lines are printed on it.
                    postponed = Some(request);
                    break;
                }
                batch_cost += request.size();
                match request {
                    PrintRequest::Line(line) => {
                        batch.push_str(&wrap(line.as_str(), line.hang(), columns));
                        // Without its own line end the last line is lost between prompts.
                        batch.push('\n');
                        self.add_to_scrollback(line);
                    }
                    PrintRequest::Repaint => {}
                    PrintRequest::Redraw => is_redrawn = true,
                }
                next = if batch.len() < BATCH_MAX { requests.try_recv().ok() } else { None };
            }
            if !batch.is_empty() {
                self.print(&batch);
            } else if !is_redrawn {
                self.print_after_resize(|_| REPAINT.to_owned());
            }
            if is_redrawn {
                self.print_after_resize(Self::screen);
            }
            queue_size.bytes.fetch_sub(batch_cost, Ordering::Relaxed);
            queue_size.has_shrunk.notify_one();
        }
        write(&self.gate.take_undrawn());
    }

    fn add_to_scrollback(&mut self, line: Styled) {
        self.scrollback_size += cost(line.as_str());
        self.scrollback.push_back(line);
        while self.scrollback.len() > SCROLLBACK_MAX || self.scrollback_size > REDRAWN_MAX {
            let Some(oldest) = self.scrollback.pop_front() else { break };
            self.scrollback_size -= cost(oldest.as_str());
        }
    }

    /// Prints lines above the prompt, or directly once there are no more prompts.
    fn print(&mut self, lines: &str) {
        if self.gate.pass_to_prompt(lines, None) {
            // Fails when the prompt has ended meanwhile; the lines then count as undrawn.
            let _ = self.out.print(lines.to_owned());
        } else {
            write(&self.gate.take_undrawn());
            write(lines);
        }
    }

    /// Prints text without new lines in it, after making rustyline notice a resize.
    ///
    /// The SIGWINCH of the resize may still be pending for another thread, although [`size`]
    /// already returns the new size. When `raise` returns, the signal's handler has run, and
    /// rustyline handles signals before external prints.
    fn print_after_resize(&mut self, text: impl Fn(&Self) -> String) {
        let (columns, _) = size();
        if self.gate.pass_to_prompt("", Some(columns)) {
            let _ = raise(Signal::SIGWINCH);
            let _ = self.out.print(text(self));
        } else {
            write(&self.gate.take_undrawn());
        }
    }

    /// Returns the latest lines for an empty screen, leaving [`PROMPT_ROWS`] for the prompt.
    fn screen(&self) -> String {
        let (columns, rows) = size();
        let lines = self.scrollback.iter().map(|line| wrap(line.as_str(), line.hang(), columns));
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

/// Returns the columns and rows of the terminal, or 80 and 24 if they are unknown.
pub(super) fn size() -> (usize, usize) {
    terminal_size().map_or((80, 24), |(columns, rows)| (columns.0.into(), rows.0.into()))
}

/// The handler of Ctrl-L: redraws the screen.
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
    // If the terminal cannot be written, no error can be shown either.
    let _ = stdio::stdout().write_all(text.as_bytes());
}

/// Coordinates the printer with the prompt, for two reasons:
///
/// 1. Between the submission of a line and the next prompt, nothing may be printed: rustyline
///    would write it directly to the terminal, where it is erased together with the submitted
///    line, or overtakes an earlier line.
/// 2. Lines that rustyline has accepted but not drawn are lost when the prompt ends. So the
///    gate holds them until they are drawn, and the printer writes the rest at the end.
#[derive(Default)]
pub(super) struct PromptGate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    prompt: PromptState,
    /// There will be no further prompt.
    is_last: bool,
    undrawn: VecDeque<Undrawn>,
}

/// Lines that rustyline has accepted but not drawn yet.
struct Undrawn {
    lines: String,
    /// The terminal width that rustyline knows when it draws them, if that is certain.
    columns: Option<usize>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum PromptState {
    #[default]
    Hidden,
    Visible,
    Ended,
}

impl PromptGate {
    /// Records that a prompt is visible, so that lines can be drawn above it.
    pub(super) fn open(&self) {
        let mut state = self.lock();
        if state.prompt == PromptState::Hidden && !state.is_last {
            state.prompt = PromptState::Visible;
            self.changed.notify_all();
        }
    }

    /// Records that the prompt is about to end, the last of them if it `is_last`.
    pub(super) fn shut(&self, is_last: bool) {
        let mut state = self.lock();
        state.is_last |= is_last;
        if state.prompt == PromptState::Visible {
            state.prompt = PromptState::Hidden;
        }
    }

    /// Records that the last prompt has ended and the terminal may be written directly.
    pub(super) fn finish(&self) {
        self.lock().prompt = PromptState::Ended;
        self.changed.notify_all();
    }

    /// Records that the oldest undrawn lines are drawn. Returns the terminal width that
    /// rustyline calculates with, if that is certain.
    pub(super) fn drawn(&self) -> Option<usize> {
        self.lock().undrawn.pop_front()?.columns
    }

    /// Waits for a visible prompt and records the lines as undrawn. Returns `false` if there
    /// will be no further prompt.
    fn pass_to_prompt(&self, lines: &str, columns: Option<usize>) -> bool {
        let mut state = self.lock();
        while state.prompt == PromptState::Hidden {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let is_visible = state.prompt == PromptState::Visible;
        if is_visible {
            state.undrawn.push_back(Undrawn { lines: lines.to_owned(), columns });
        }
        is_visible
    }

    fn take_undrawn(&self) -> String {
        self.lock().undrawn.drain(..).map(|undrawn| undrawn.lines).collect()
    }

    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
