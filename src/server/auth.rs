//! Secrets: passwords, session tokens and their hashes.

use std::fmt::Write as _;

pub mod passwords;
pub mod secrets;
pub mod tokens;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
