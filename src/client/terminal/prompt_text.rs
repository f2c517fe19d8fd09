//! The text of the prompt: a slot as wide as the times above it, then the target of plain
//! text. The slot shows that the connection is lost, that the server is slow, how many lines
//! are unacknowledged, or how many messages are unread. It knows nothing of the editor.
//!
//! rustyline measures a prompt once, when it starts to read. Later changes are fitted into the
//! measured columns; the next prompt has its own width.

use crate::client::model::state::{LinkState, State};
use crate::client::text::width::drawn;

/// As wide as `HH:MM`.
const SLOT_WIDTH: usize = 5;

/// The largest width of the slot. If the unread counts per room do not fit, the prompt shows
/// only their total.
const SLOT_MAX: usize = 24;

/// From this number of unacknowledged lines on, the slot shows it: the lines are a paste that
/// the server's rate limit slows down.
const PASTE_LINES: usize = 5;

/// Returns a new prompt.
pub(super) fn prompt(state: &State) -> String {
    let slot = drawn(&slot_texts(state)[0]);
    let slot = if slot > SLOT_MAX { SLOT_WIDTH } else { slot.max(SLOT_WIDTH) };
    prompt_in(state, slot + 1 + drawn(&tail(state)))
}

/// Returns the prompt in exactly `width` columns.
pub(super) fn prompt_in(state: &State, width: usize) -> String {
    let tail = tail(state);
    let Some(left) = width.checked_sub(drawn(&tail) + 1) else { return fit(&tail, width) };
    let slot = slot_texts(state).into_iter().find(|slot| drawn(slot) <= left).unwrap_or_default();
    format!("{}{slot} {tail}", " ".repeat(left - drawn(&slot)))
}

fn tail(state: &State) -> String {
    format!("{}> ", state.target())
}

/// Returns the long and the short text of the slot.
fn slot_texts(state: &State) -> [String; 2] {
    let short = match state.link {
        LinkState::Lost => "lost".to_owned(),
        LinkState::Slow(seconds) => format!("{}s", seconds.min(999)),
        LinkState::Up if state.sending >= PASTE_LINES => format!("↑{}", state.sending.min(999)),
        LinkState::Up => match state.unread.total() {
            0 => String::new(),
            total => {
                let is_for_me = state.unread.threads().any(|thread| thread.is_for_me);
                format!("+{}{}", total.min(999), mark(is_for_me))
            }
        },
    };
    let threads = state.unread.threads();
    let rooms = threads.map(|it| format!("{}+{}{}", it.name, it.messages, mark(it.is_for_me)));
    let is_idle = state.link == LinkState::Up && state.sending < PASTE_LINES;
    let long = if is_idle { rooms.collect::<Vec<_>>().join(" ") } else { short.clone() };
    [long, short]
}

/// The mark of messages that are private or mention the user.
fn mark(is_for_me: bool) -> &'static str {
    if is_for_me { "!" } else { "" }
}

/// Returns a prompt without a slot in exactly `width` columns.
fn fit(prompt: &str, width: usize) -> String {
    const CUT: &str = "...> ";
    if drawn(prompt) <= width {
        return format!("{prompt}{}", " ".repeat(width - drawn(prompt)));
    }
    if width < CUT.len() {
        return CUT[CUT.len() - width..].to_owned();
    }
    let (mut fitted, mut left) = (String::new(), width - CUT.len());
    for c in prompt.chars() {
        let Some(rest) = left.checked_sub(drawn(c.encode_utf8(&mut [0; 4]))) else { break };
        left = rest;
        fitted.push(c);
    }
    format!("{fitted}{}{CUT}", ".".repeat(left))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Event, Tags};

    fn state_after(lines: &[&str]) -> State {
        let mut state = State::new("alice");
        for line in lines {
            let (tags, plain) = Tags::split(line);
            state.apply(&tags, &Event::parse(plain).expect(line));
        }
        state
    }

    #[test]
    fn slot_shows_unread_messages_and_state_of_connection() {
        let mut state = state_after(&["@cid=1 [JOINED #ops] x", "@cid=2 [JOINED #lobby] x"]);
        assert_eq!(prompt(&state), "      #lobby> ");
        let apply = |state: &mut State, line: &str| {
            state.apply(&Tags::default(), &Event::parse(line).expect(line));
        };
        apply(&mut state, "bob: here");
        apply(&mut state, "#ops bob: 1");
        assert_eq!(prompt_in(&state, 14), "   +1 #lobby> ");
        assert_eq!(prompt(&state), "#ops+1 #lobby> ");
        apply(&mut state, "#ops bob: 2");
        assert_eq!(prompt_in(&state, 15), "#ops+2 #lobby> ");
        apply(&mut state, "#ops bob: alice!");
        apply(&mut state, "[PRIVATE MESSAGE] carol: psst");
        assert_eq!(prompt(&state), "#ops+3! carol+1! #lobby> ");
        assert_eq!(prompt_in(&state, 14), "  +4! #lobby> ");
        state.sending = 40;
        assert_eq!(prompt(&state), "  ↑40 #lobby> ");
        state.link = LinkState::Slow(3);
        assert_eq!(prompt(&state), "   3s #lobby> ");
        state.link = LinkState::Lost;
        assert_eq!(prompt(&state), " lost #lobby> ");
        assert_eq!(prompt_in(&state, 10), "  #lobby> ");
        assert_eq!(prompt_in(&state, 8), "#lobby> ");
    }

    #[test]
    fn prompt_is_fitted_into_given_width() {
        assert_eq!(fit("#ops> ", 6), "#ops> ");
        assert_eq!(fit("bob> ", 8), "bob>    ");
        assert_eq!(fit("#operations> ", 8), "#op...> ");
        assert_eq!(fit("nowhere> ", 3), ".> ");
        assert_eq!(fit("李雷> ", 8), "李雷>   ");
        assert_eq!(fit("李雷李雷> ", 8), "李....> ");
    }
}
