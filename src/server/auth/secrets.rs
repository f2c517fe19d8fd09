//! The secrets of one connection: its session token, and the password of a line that waits.
//! They stay beside the socket; neither the hub nor a turn contains one.

use std::fmt;

use super::tokens::{Token, TokenHash, Tokens, hash};
use crate::commands::{self, Command, Parsed};
use crate::protocol::Dialect;
use crate::protocol::codec::Frame;
use crate::protocol::text::clean;

/// A password in plain text. It appears in no log and no debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// Wraps a password.
    #[must_use]
    pub fn new(password: &str) -> Self {
        Self(password.into())
    }

    /// Returns the password, which must not be written anywhere.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// The secrets of one connection; a connection without any allocates nothing.
#[derive(Default)]
pub struct Secrets(Option<Box<Kept>>);

#[derive(Default)]
struct Kept {
    token: Option<Token>,
    password: Option<Secret>,
}

impl Secrets {
    /// Generates the token of a new session, and returns its hash for
    /// [`Hub::offer_token`](crate::server::hub::Hub::offer_token).
    pub fn renew_token(&mut self, tokens: &mut Tokens) -> TokenHash {
        let token = tokens.generate();
        let hash = hash(&token.to_text());
        self.0.get_or_insert_default().token = Some(token);
        hash
    }

    /// Keeps the token if a line is a `/resume`. To be called before login only: later the
    /// command is refused and must not replace the token. The token of a refused `/resume` is
    /// never shown, because a new session always gets a new token.
    pub fn note_resume(&mut self, dialect: Dialect, frame: &Frame<'_>) {
        with_command(dialect, true, frame, |command| {
            if let Command::Resume { token, .. } = command {
                self.0.get_or_insert_default().token = Token::parse(token);
            }
        });
    }

    /// Returns the session token.
    #[must_use]
    pub fn token(&self) -> Option<String> {
        Some(self.0.as_ref()?.token?.to_text())
    }

    /// Keeps the password or key in a line whose command waits for a check.
    pub fn keep_password(&mut self, dialect: Dialect, is_greeting: bool, frame: &Frame<'_>) {
        with_command(dialect, is_greeting, frame, |command| {
            if let Some(password) = command.secret() {
                self.0.get_or_insert_default().password = Some(Secret::new(password));
            }
        });
    }

    /// Removes and returns the password of the line that waits, if it has one.
    pub fn take_password(&mut self) -> Option<Secret> {
        self.0.as_mut()?.password.take()
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secrets)")
    }
}

/// Calls `act` with the command in a line, which the hub parses in the same way.
fn with_command(
    dialect: Dialect,
    is_greeting: bool,
    frame: &Frame<'_>,
    act: impl FnOnce(Command<'_>),
) {
    let Frame::Line(line) = frame else { return };
    let line = clean(line);
    if let Ok(text) = dialect.parse(&line, is_greeting).text
        && let Ok(Parsed::Command(command)) = commands::parse(&text)
    {
        act(command);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(line: &str) -> Frame<'_> {
        Frame::Line(line.into())
    }

    #[test]
    fn password_of_a_line_is_kept_until_it_is_taken() {
        for (line, password) in [
            ("/login alice open sesame", "open sesame"),
            ("@cid=a-1 /register open sesame", "open sesame"),
            ("/PASSWD open\u{1b} sesame", "open\u{fffd} sesame"),
            ("/unregister sesame", "sesame"),
            ("/oper sesame", "sesame"),
            ("@cid=2 /join #ops sesame", "sesame"),
        ] {
            let mut secrets = Secrets::default();
            secrets.keep_password(Dialect::Tagged, false, &frame(line));
            let taken = secrets.take_password().expect(line);
            assert_eq!((taken.expose(), secrets.take_password()), (password, None));
        }
        let mut secrets = Secrets::default();
        for line in ["/login alice", "/join ops", "/resume sesame 0", "/msg bob x", "hi", "/oper"] {
            secrets.keep_password(Dialect::Tagged, false, &frame(line));
        }
        secrets.keep_password(Dialect::Tagged, false, &Frame::TooLong(b"/oper sesame".into()));
        assert!(secrets.0.is_none());
    }

    #[test]
    fn token_is_that_of_the_session_that_began_last() {
        let (mut secrets, mut tokens) = (Secrets::default(), Tokens::new([7; 32]));
        secrets.note_resume(Dialect::Tagged, &frame("/session"));
        assert!(secrets.0.is_none());
        let token = "00ff".repeat(8);
        secrets.note_resume(Dialect::Tagged, &frame(&format!("@cid=1 /resume {token} 5")));
        assert_eq!(secrets.token(), Some(token));
        let offered = secrets.renew_token(&mut tokens);
        let token = secrets.token().expect("a token");
        assert_eq!((hash(&token), token.len()), (offered, 32));
        secrets.note_resume(Dialect::Tagged, &frame("/resume mine 5"));
        assert_eq!(secrets.token(), None);
        assert_ne!(secrets.renew_token(&mut tokens), offered);
    }
}
