//! Hash maps by ids that the server assigns, and by hashes with a secret. A client cannot choose
//! such a key, so a hash without a secret is safe, and it is cheaper.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map by an id, such as [`UserId`](crate::server::record::UserId).
pub(crate) type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// Hashes one number.
#[derive(Debug, Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(self.0.rotate_left(8) ^ u64::from(*byte));
        }
    }

    fn write_u64(&mut self, id: u64) {
        // Fibonacci hashing: consecutive ids differ in the upper bits, which the map uses too.
        self.0 = id.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
