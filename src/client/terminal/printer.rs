//! The printer: a thread that prints lines above the prompt. It does not know what the lines
//! mean.
//!
//! rustyline's external printer prints without disturbing the draft, but it can block for an
//! unbounded time (during a Ctrl-R search, for example). So it runs on its own thread, and
//! nothing waits for that thread. Backpressure: while its queue is full, the client does not
//! read the socket.

use std::collections::VecDeque;
use std::io::Write;
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
    Clear,
}

impl PrintRequest {
    /// Its cost against [`SCREEN_MAX`] while it is queued.
    fn size(&self) -> usize {
        match self {
            Self::Line(line) => cost(line.as_str()),
            Self::Repaint | Self::Redraw | Self::Clear => cost(""),
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

    /// Empties the screen.
    pub(super) fn clear(&self) {
        self.request(PrintRequest::Clear);
    }

    fn request(&self, request: PrintRequest) {
        self.size.bytes.fetch_add(request.size(), Ordering::Relaxed);
        // Fails only if the thread has panicked, and then there is no screen to print to.
        let _ = self.requests.send(request);
    }
}

impl PrintQueue {
    /// Takes the queued lines, as the thread would, for tests.
    #[cfg(test)]
    pub(super) fn take(&self) -> Vec<String> {
        let requests: Vec<PrintRequest> = self.requests.try_iter().collect();
        let size = requests.iter().map(PrintRequest::size).sum();
        self.size.bytes.fetch_sub(size, Ordering::Relaxed);
        self.size.has_shrunk.notify_one();
        let line = |request| match request {
            PrintRequest::Line(line) => Some(line.as_str().to_owned()),
            PrintRequest::Repaint | PrintRequest::Redraw | PrintRequest::Clear => None,
        };
        requests.into_iter().filter_map(line).collect()
    }

    /// Starts the thread, which prints above the prompt and, once there are no more prompts, to
    /// the terminal. It ends when every [`Printer`] has been dropped.
    pub(super) fn start_printing(
        self,
        above_prompt: impl ExternalPrinter + Send + 'static,
        terminal: impl Write + Send + 'static,
        gate: Arc<PromptGate>,
    ) -> JoinHandle<()> {
        let mut printer = PrinterThread::new(above_prompt, terminal, gate);
        thread::spawn(move || printer.run(&self))
    }
}

struct PrinterThread<P, T> {
    above_prompt: P,
    terminal: T,
    gate: Arc<PromptGate>,
    /// The latest lines, for a redraw.
    scrollback: VecDeque<Styled>,
    scrollback_size: usize,
}

impl<P: ExternalPrinter, T: Write> PrinterThread<P, T> {
    fn new(above_prompt: P, terminal: T, gate: Arc<PromptGate>) -> Self {
        let (scrollback, scrollback_size) = (VecDeque::new(), 0);
        Self { above_prompt, terminal, gate, scrollback, scrollback_size }
    }

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
                    PrintRequest::Clear => {
                        (self.scrollback, self.scrollback_size) = (VecDeque::new(), 0);
                        is_redrawn = true;
                    }
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
        self.write_undrawn();
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
            let _ = self.above_prompt.print(lines.to_owned());
        } else {
            self.write_undrawn();
            self.write(lines);
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
            let _ = self.above_prompt.print(text(self));
        } else {
            self.write_undrawn();
        }
    }

    fn write_undrawn(&mut self) {
        let undrawn = self.gate.take_undrawn();
        self.write(&undrawn);
    }

    fn write(&mut self, text: &str) {
        // If the terminal cannot be written, no error can be shown either.
        let _ = self.terminal.write_all(text.as_bytes());
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::client::model::mentions::Highlights;
    use crate::client::terminal::screen::{Screen, Times};
    use crate::client::text::theme::{ColorChoice, Theme};

    /// A prompt that is slow to print: each print is reported, then waits for a permit.
    struct SlowPrompt {
        /// Whether a prompt is visible.
        is_visible: Arc<AtomicBool>,
        shown: Sender<String>,
        permits: Receiver<()>,
    }

    impl ExternalPrinter for SlowPrompt {
        fn print(&mut self, text: String) -> rustyline::Result<()> {
            assert!(self.is_visible.load(Ordering::SeqCst), "printed between prompts: {text:?}");
            self.shown.send(text).unwrap();
            // Without a sender, no print waits.
            let _ = self.permits.recv();
            Ok(())
        }
    }

    #[derive(Clone, Default)]
    struct Terminal(Arc<Mutex<Vec<u8>>>);

    impl Write for Terminal {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// A printer above a slow prompt.
    struct Fixture {
        printer: Printer,
        gate: Arc<PromptGate>,
        is_visible: Arc<AtomicBool>,
        shown: Receiver<String>,
        permits: Sender<()>,
        terminal: Terminal,
        thread: JoinHandle<()>,
    }

    impl Fixture {
        fn new() -> Self {
            let (printer, queue) = Printer::new();
            let (gate, is_visible) = (Arc::<PromptGate>::default(), Arc::<AtomicBool>::default());
            let (reports, shown) = mpsc::channel();
            let (permits, awaited) = mpsc::channel();
            let prompt =
                SlowPrompt { is_visible: is_visible.clone(), shown: reports, permits: awaited };
            let terminal = Terminal::default();
            let thread = queue.start_printing(prompt, terminal.clone(), gate.clone());
            Self { printer, gate, is_visible, shown, permits, terminal, thread }
        }

        /// Shows a prompt.
        fn open(&self) {
            self.is_visible.store(true, Ordering::SeqCst);
            self.gate.open();
        }

        fn shut(&self, is_last: bool) {
            self.gate.shut(is_last);
            self.is_visible.store(false, Ordering::SeqCst);
        }

        /// Waits for the next print and lets it end.
        fn next(&self) -> String {
            let text = self.shown.recv().unwrap();
            self.permits.send(()).unwrap();
            text
        }

        /// Ends the printer and returns the other prints and the direct output.
        fn end(self) -> (Vec<String>, String) {
            drop((self.printer, self.permits));
            self.gate.finish();
            self.thread.join().unwrap();
            let direct = self.terminal.0.lock().unwrap().clone();
            (self.shown.iter().collect(), String::from_utf8(direct).unwrap())
        }
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    fn line(text: &str) -> Styled {
        let theme = Theme::new(ColorChoice::Never, 0);
        Screen::new(theme, Times::Never, false, Highlights::default()).notice(text)
    }

    fn lines(numbers: std::ops::Range<usize>) -> String {
        numbers.map(|number| format!("-- {number}\n")).collect::<Vec<_>>().concat()
    }

    #[test]
    fn lines_queued_during_a_slow_print_are_printed_as_one_batch() {
        let fixture = Fixture::new();
        fixture.open();
        fixture.printer.print(line("0"));
        assert_eq!(fixture.shown.recv().unwrap(), lines(0..1));
        for number in 1..100 {
            fixture.printer.print(line(&number.to_string()));
        }
        fixture.permits.send(()).unwrap();
        assert_eq!(fixture.next(), lines(1..100));
        let long = "x".repeat(BATCH_MAX);
        fixture.printer.print(line("100"));
        assert_eq!(fixture.shown.recv().unwrap(), lines(100..101));
        fixture.printer.print(line(&long));
        fixture.printer.print(line("101"));
        fixture.permits.send(()).unwrap();
        assert!(fixture.next().len() > BATCH_MAX);
        assert_eq!(fixture.next(), lines(101..102), "a batch of its own");
        assert_eq!(fixture.end().0, [""; 0]);
    }

    #[test]
    fn full_queue_has_no_room_until_the_terminal_prints() {
        let fixture = Fixture::new();
        fixture.open();
        fixture.printer.print(line("0"));
        assert_eq!(fixture.shown.recv().unwrap(), lines(0..1));
        // The line that is being printed counts, too.
        let mut size = cost("-- 0");
        while fixture.printer.has_room() {
            fixture.printer.repaint();
            size += cost("");
        }
        assert!((SCREEN_MAX..SCREEN_MAX + cost("")).contains(&size), "{size}");
        fixture.printer.print(line("1"));
        let progressed = fixture.printer.progressed();
        fixture.permits.send(()).unwrap();
        block_on(progressed);
        // The rest is one batch.
        assert!(!fixture.printer.has_room());
        let progressed = fixture.printer.progressed();
        assert_eq!(fixture.next(), lines(1..2));
        block_on(progressed);
        assert!(fixture.printer.has_room());
        assert_eq!(fixture.end().0, [""; 0]);
    }

    #[test]
    fn nothing_is_printed_between_two_prompts() {
        let fixture = Fixture::new();
        for number in 0..3 {
            fixture.printer.print(line(&number.to_string()));
            fixture.open();
            assert_eq!(fixture.shown.recv().unwrap(), lines(number..number + 1));
            fixture.shut(false);
            fixture.permits.send(()).unwrap();
        }
        assert_eq!(fixture.end().0, [""; 0]);
    }

    #[test]
    fn lines_that_no_prompt_has_drawn_are_written_at_the_end() {
        let fixture = Fixture::new();
        fixture.open();
        for text in ["drawn", "undrawn"] {
            fixture.printer.print(line(text));
            assert_eq!(fixture.next(), format!("-- {text}\n"));
            if text == "drawn" {
                assert_eq!(fixture.gate.drawn(), None, "the width may have changed");
            }
        }
        fixture.shut(true);
        fixture.gate.open();
        fixture.printer.print(line("after the last prompt"));
        fixture.printer.repaint();
        let direct = "-- undrawn\n-- after the last prompt\n";
        assert_eq!(fixture.end(), (Vec::new(), direct.to_owned()));
    }

    #[test]
    fn prompt_is_redrawn_by_the_lines_printed_with_it() {
        let fixture = Fixture::new();
        fixture.open();
        fixture.printer.repaint();
        assert_eq!(fixture.shown.recv().unwrap(), REPAINT);
        assert_eq!(fixture.gate.drawn(), Some(size().0));
        for _ in 0..3 {
            fixture.printer.repaint();
        }
        fixture.printer.print(line("0"));
        fixture.printer.repaint();
        fixture.permits.send(()).unwrap();
        assert_eq!(fixture.next(), lines(0..1));
        assert_eq!(fixture.end().0, [""; 0]);
    }

    #[test]
    fn screen_is_redrawn_before_later_lines_are_printed_on_it() {
        let fixture = Fixture::new();
        fixture.open();
        fixture.printer.print(line("0"));
        assert_eq!(fixture.shown.recv().unwrap(), lines(0..1));
        fixture.printer.print(line("1"));
        fixture.printer.redraw();
        fixture.printer.print(line("2"));
        fixture.permits.send(()).unwrap();
        assert_eq!(fixture.next(), lines(1..2));
        assert_eq!(fixture.next(), format!("{HOME}-- 0{ROW_END}-- 1{SCREEN_END}"));
        assert_eq!(fixture.next(), lines(2..3));
        assert_eq!(fixture.end().0, [""; 0]);
    }

    #[test]
    fn redraw_shows_the_latest_lines_that_fit_and_holds_few_bytes() {
        let (shown, _) = mpsc::channel();
        let (_, permits) = mpsc::channel();
        let prompt = SlowPrompt { is_visible: Arc::default(), shown, permits };
        let mut thread = PrinterThread::new(prompt, std::io::sink(), Arc::default());
        for number in 0..300 {
            thread.add_to_scrollback(line(&number.to_string()));
        }
        assert_eq!(thread.scrollback.len(), SCROLLBACK_MAX);
        let shown = size().1.saturating_sub(PROMPT_ROWS).min(SCROLLBACK_MAX);
        let rows: Vec<String> = (300 - shown..300).map(|number| format!("-- {number}")).collect();
        assert_eq!(thread.screen(), HOME.to_owned() + &rows.join(ROW_END) + SCREEN_END);
        let long = line(&"x".repeat(REDRAWN_MAX / 4));
        for _ in 0..10 {
            thread.add_to_scrollback(long.clone());
        }
        assert_eq!(thread.scrollback.len(), 3, "each with its overhead");
        assert_eq!(thread.scrollback_size, 3 * cost(long.as_str()));
    }
}
