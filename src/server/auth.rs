//! Secrets: passwords and their hashes.

pub mod passwords;
