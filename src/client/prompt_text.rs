//! The prompt as it is written: a slot, as wide as the times above it, then where
//! plain lines go. In the slot stands what is not seen otherwise: that the
//! connection is lost, that the server takes long or has many lines still to take,
//! or how much is unread elsewhere.
//!
//! rustyline measures a prompt once, when it begins to read. What changes
//! meanwhile is fitted into the columns there are; the next prompt has its own.

use super::state::{LinkState, State};
use super::width::drawn;

/// As wide as `HH:MM`.
const SLOT_WIDTH: usize = 5;

/// A prompt that begins with more unread rooms than fit here counts them together.
const SLOT_MAX: usize = 24;

/// So many lines on their way are a paste that the server takes bit by bit.
const PASTE_LINES: usize = 5;

/// The prompt of one who begins to type now.
pub(super) fn prompt(state: &State) -> String {
    let slot = drawn(&slot_texts(state)[0]);
    let slot = if slot > SLOT_MAX { SLOT_WIDTH } else { slot.max(SLOT_WIDTH) };
    prompt_in(state, slot + 1 + drawn(&tail(state)))
}

/// The prompt in exactly `width` columns.
pub(super) fn prompt_in(state: &State, width: usize) -> String {
    let tail = tail(state);
    let Some(left) = width.checked_sub(drawn(&tail) + 1) else { return fit(&tail, width) };
    let slot = slot_texts(state).into_iter().find(|slot| drawn(slot) <= left).unwrap_or_default();
    format!("{}{slot} {tail}", " ".repeat(left - drawn(&slot)))
}

fn tail(state: &State) -> String {
    format!("{}> ", state.target())
}

/// What there is to say in the slot, the longest first.
fn slot_texts(state: &State) -> [String; 2] {
    let short = match state.link {
        LinkState::Lost => "lost".to_owned(),
        LinkState::Slow(seconds) => format!("{}s", seconds.min(999)),
        LinkState::Up if state.sending >= PASTE_LINES => format!("↑{}", state.sending.min(999)),
        LinkState::Up => match state.unread.total() {
            0 => String::new(),
            total => format!("+{}", total.min(999)),
        },
    };
    let rooms = state.unread.rooms().map(|(room, count)| format!("#{room}+{count}"));
    let is_calm = state.link == LinkState::Up && state.sending < PASTE_LINES;
    let long = if is_calm { rooms.collect::<Vec<_>>().join(" ") } else { short.clone() };
    [long, short]
}

/// A prompt without a slot in exactly `width` columns.
fn fit(prompt: &str, width: usize) -> String {
    const CUT: &str = "...> ";
    if drawn(prompt) <= width {
        return format!("{prompt}{}", " ".repeat(width - drawn(prompt)));
    }
    if width < CUT.len() {
        return CUT[CUT.len() - width..].to_owned();
    }
    let (mut kept, mut left) = (String::new(), width - CUT.len());
    for c in prompt.chars() {
        let Some(rest) = left.checked_sub(drawn(c.encode_utf8(&mut [0; 4]))) else { break };
        left = rest;
        kept.push(c);
    }
    format!("{kept}{}{CUT}", ".".repeat(left))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Event, Tags};

    fn told(lines: &[&str]) -> State {
        let mut state = State::new("alice");
        for line in lines {
            let (tags, plain) = Tags::split(line);
            state.apply(&tags, &Event::parse(plain).expect(line));
        }
        state
    }

    #[test]
    fn what_is_unread_elsewhere_stands_in_the_slot() {
        let mut state = told(&["@cid=1 [JOINED #ops] x", "@cid=2 [JOINED #lobby] x"]);
        assert_eq!(prompt(&state), "      #lobby> ");
        let said = |state: &mut State, line: &str| {
            state.apply(&Tags::default(), &Event::parse(line).expect(line));
        };
        said(&mut state, "bob: here");
        said(&mut state, "#ops bob: 1");
        assert_eq!(prompt_in(&state, 14), "   +1 #lobby> ");
        assert_eq!(prompt(&state), "#ops+1 #lobby> ");
        said(&mut state, "#ops bob: 2");
        assert_eq!(prompt_in(&state, 15), "#ops+2 #lobby> ");
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
    fn a_prompt_fits_the_columns_there_are() {
        assert_eq!(fit("#ops> ", 6), "#ops> ");
        assert_eq!(fit("bob> ", 8), "bob>    ");
        assert_eq!(fit("#operations> ", 8), "#op...> ");
        assert_eq!(fit("nowhere> ", 3), ".> ");
        assert_eq!(fit("李雷> ", 8), "李雷>   ");
        assert_eq!(fit("李雷李雷> ", 8), "李....> ");
    }
}
