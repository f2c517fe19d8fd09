//! Passwords: hashing them takes long on purpose, so that it is done on threads
//! of its own, at most [`AT_ONCE`] at a time, while the chat goes on.

use std::fmt::{self, Write as _};
use std::fs;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use sha2::{Digest as _, Sha256};

/// How many are hashed at once; each takes some 20 MiB and a core meanwhile.
pub const AT_ONCE: usize = 2;

/// A password as somebody said it; it is in no log and no debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// Takes a password in.
    #[must_use]
    pub fn new(password: &str) -> Self {
        Self(password.into())
    }

    /// The password itself; not to be written anywhere.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// What is to be hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// Is it the password of this hash?
    Check(Secret, Arc<str>),
    /// Has it this [`digest`]?
    Match(Secret, Arc<str>),
    /// What is its hash? With another salt each time.
    Hash(Secret),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Whether it is the password.
    Checked(bool),
    /// The hash, as a PHC string (`$argon2id$…`); `None` if it could not be made.
    Hashed(Option<Arc<str>>),
}

impl Job {
    /// Does it, here and now.
    #[must_use]
    pub fn run(&self) -> Outcome {
        // Argon2id with OWASP's parameters is this library's default.
        let argon2 = Argon2::default();
        match self {
            Self::Check(password, hash) => {
                let is_it = PasswordHash::new(hash).is_ok_and(|hash| {
                    argon2.verify_password(password.reveal().as_bytes(), &hash).is_ok()
                });
                Outcome::Checked(is_it)
            }
            Self::Match(word, is) => Outcome::Checked(*digest(word.reveal()) == **is),
            Self::Hash(password) => {
                let hash = argon2.hash_password(password.reveal().as_bytes()).ok();
                Outcome::Hashed(hash.map(|hash| hash.to_string().into()))
            }
        }
    }
}

/// What is kept in place of something that is not to be read again but costs
/// nothing to try, such as a room's key.
#[must_use]
pub fn digest(text: &str) -> String {
    Sha256::digest(text).iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// A password's hash that was made beforehand, from a file.
#[derive(Clone, PartialEq, Eq)]
pub struct HashFile(Arc<str>);

impl HashFile {
    /// Reads the first line of a file.
    ///
    /// # Errors
    /// A sentence for the person who named the file.
    pub fn read(path: &str) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|problem| problem.to_string())?;
        let line = text.lines().next().unwrap_or_default().trim();
        let is_ours = PasswordHash::new(line)
            .is_ok_and(|hash| hash.algorithm.as_str().starts_with("argon2") && hash.hash.is_some());
        if !is_ours {
            let make = "chatty hash-password > FILE makes one";
            return Err(format!("its first line is no argon2 hash of a password; {make}"));
        }
        Ok(Self(line.into()))
    }

    /// The hash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<HashFile> for Arc<str> {
    fn from(file: HashFile) -> Self {
        file.0
    }
}

impl fmt::Debug for HashFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(a hash)")
    }
}

/// The hash of a password, here and now.
#[must_use]
pub fn hash(password: &str) -> Option<Arc<str>> {
    match Job::Hash(Secret::new(password)).run() {
        Outcome::Hashed(hash) => hash,
        Outcome::Checked(_) => None,
    }
}

type Order = (Job, Box<dyn FnOnce(Outcome) + Send>);

/// The threads that hash.
#[derive(Debug)]
pub struct Hashers {
    orders: Sender<Order>,
}

impl Hashers {
    /// Starts the threads; they end with this.
    ///
    /// # Errors
    /// The system gives no threads.
    pub fn start() -> std::io::Result<Self> {
        let (orders, queue) = mpsc::channel();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..AT_ONCE {
            let queue = queue.clone();
            thread::Builder::new().name("hasher".into()).spawn(move || work(&queue))?;
        }
        Ok(Self { orders })
    }

    /// Does a job when its turn comes, and hands over what came of it.
    pub fn run(&self, job: Job, reply: impl FnOnce(Outcome) + Send + 'static) {
        // The threads end no sooner than this.
        let _ = self.orders.send((job, Box::new(reply)));
    }
}

fn work(queue: &Mutex<Receiver<Order>>) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((job, reply)) = next else { return };
        reply(job.run());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_fits_its_own_hash_only() {
        let hash = |text| match Job::Hash(Secret::new(text)).run() {
            Outcome::Hashed(Some(hash)) => hash,
            other => panic!("{other:?}"),
        };
        let (one, two) = (hash("open sesame"), hash("open sesame"));
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{one}");
        assert_ne!(one, two, "salted");
        let check = |text, hash: &Arc<str>| Job::Check(Secret::new(text), hash.clone()).run();
        assert_eq!(check("open sesame", &one), Outcome::Checked(true));
        assert_eq!(check("open sesame", &two), Outcome::Checked(true));
        assert_eq!(check("Open sesame", &one), Outcome::Checked(false));
        assert_eq!(check("open sesame", &"no hash".into()), Outcome::Checked(false));
        assert_eq!(format!("{:?}", Job::Hash(Secret::new("x1"))), "Hash((secret))");
    }
}
