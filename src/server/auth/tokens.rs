//! Session tokens. The hub and the log only get their hashes, so a reader of the data folder
//! cannot resume any session, and the hub needs no randomness.

use sha2::{Digest as _, Sha256};

/// The secret that tokens are derived from; it must be unpredictable.
pub type Seed = [u8; 32];

/// SHA-256 of a session token as text; the only form in which a token is persisted.
pub type TokenHash = [u8; 32];

/// A session token.
#[derive(Clone, Copy)]
pub(super) struct Token([u8; 16]);

impl Token {
    /// Parses a token in the form in which the server writes it. A text in another form gives
    /// `None` or a different token.
    pub(super) fn parse(text: &str) -> Option<Self> {
        u128::from_str_radix(text, 16).ok().map(|bits| Self(bits.to_be_bytes()))
    }

    pub(super) fn to_text(self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.0))
    }
}

/// Generates session tokens from a seed.
pub struct Tokens {
    seed: Seed,
    count: u64,
}

impl Tokens {
    /// Creates a generator; the same seed gives the same tokens.
    #[must_use]
    pub fn new(seed: Seed) -> Self {
        Self { seed, count: 0 }
    }

    /// Returns 128 bits that are unpredictable without the seed.
    pub(super) fn generate(&mut self) -> Token {
        self.count += 1;
        let hash = Sha256::new().chain_update(self.seed).chain_update(self.count.to_be_bytes());
        let mut token = [0; 16];
        token.copy_from_slice(&hash.finalize()[..16]);
        Token(token)
    }
}

/// Returns the hash of a session token.
#[must_use]
pub fn hash(token: &str) -> TokenHash {
    Sha256::digest(token).into()
}
