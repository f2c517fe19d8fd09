//! Secrets: passwords, session tokens and their hashes.

pub mod passwords;
pub mod secrets;
pub mod tokens;
