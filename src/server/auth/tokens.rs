//! Session tokens. The hub and the log only get their hashes, so a reader of the data folder
//! cannot resume any session, and the hub needs no randomness.

use sha2::{Digest as _, Sha256};

use super::hex;
use super::secrets::Secret;

/// The secret that tokens are derived from; it must be unpredictable.
pub type Seed = [u8; 32];

/// SHA-256 of a session token; the only form in which a token is persisted.
pub type TokenHash = [u8; 32];

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

    /// Returns 128 bits in hex, unpredictable without the seed.
    pub(super) fn generate(&mut self) -> Secret {
        self.count += 1;
        let hash = Sha256::new().chain_update(self.seed).chain_update(self.count.to_be_bytes());
        Secret::new(&hex(&hash.finalize()[..16]))
    }
}

/// Returns the hash of a session token.
#[must_use]
pub fn hash(token: &str) -> TokenHash {
    Sha256::digest(token).into()
}
