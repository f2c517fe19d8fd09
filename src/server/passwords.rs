//! Passwords: hashing them takes long and much memory on purpose, so that it is done
//! on threads of its own, at most [`AT_ONCE`] at a time, while the chat goes on. Each
//! thread has one piece of memory for it: taken anew for each password it would be
//! scattered, and the process would grow.

use std::fmt::{self, Write as _};
use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use sha2::{Digest as _, Sha256};

use crate::text_file;

/// How many are hashed at once; each takes a core meanwhile, and 19 MiB that are kept
/// for the next one.
pub const THREADS: usize = 2;

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
    pub fn expose(&self) -> &str {
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
    /// Too many wait already.
    Busy,
}

/// The memory that hashing takes.
#[derive(Debug, Default)]
pub struct Workspace(Vec<Block>);

impl Workspace {
    /// The hash of a password, of the length that is asked for.
    fn digest(&mut self, argon2: &Argon2<'_>, password: &str, salt: &[u8], out: &mut [u8]) -> bool {
        let blocks = argon2.params().block_count();
        if self.0.len() < blocks {
            self.0.resize(blocks, Block::default());
        }
        let memory = &mut self.0[..blocks];
        argon2.hash_password_into_with_memory(password.as_bytes(), salt, out, memory).is_ok()
    }

    /// Another one each time: it is salted.
    fn hash(&mut self, password: &str) -> Option<String> {
        // OWASP's parameters are this library's default.
        let (argon2, params) = (Argon2::default(), Params::default());
        let (mut salt, mut out) = ([0; 16], [0; Params::DEFAULT_OUTPUT_LEN]);
        getrandom::fill(&mut salt).ok()?;
        if !self.digest(&argon2, password, &salt, &mut out) {
            return None;
        }
        let hash = PasswordHash {
            algorithm: Algorithm::Argon2id.ident(),
            version: Some(Version::V0x13.into()),
            params: ParamsString::try_from(&params).ok()?,
            salt: Some(Salt::new(&salt).ok()?),
            hash: Some(Output::new(&out).ok()?),
        };
        Some(hash.to_string())
    }

    /// Whether this is the password of that hash, whoever has made it.
    fn verify(&mut self, password: &str, hash: &str) -> Option<bool> {
        let hash = PasswordHash::new(hash).ok()?;
        let algorithm = Algorithm::try_from(hash.algorithm.as_str()).ok()?;
        let version = hash.version.map_or(Ok(Version::default()), Version::try_from).ok()?;
        let params = Params::try_from(&hash).ok()?;
        let (salt, known) = (hash.salt?, hash.hash?);
        let mut out = vec![0; known.len()];
        let argon2 = Argon2::new(algorithm, version, params);
        // Two outputs are compared in constant time.
        let is_made = self.digest(&argon2, password, &salt, &mut out);
        Some(is_made && Output::new(&out).ok()? == known)
    }
}

impl Job {
    /// Does it, here and now.
    #[must_use]
    pub fn run(&self, workspace: &mut Workspace) -> Outcome {
        match self {
            Self::Check(password, hash) => {
                Outcome::Checked(workspace.verify(password.expose(), hash).unwrap_or(false))
            }
            Self::Match(word, is) => Outcome::Checked(*digest(word.expose()) == **is),
            Self::Hash(password) => {
                Outcome::Hashed(workspace.hash(password.expose()).map(Into::into))
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
        let text = text_file::read(path.as_ref()).map_err(|problem| problem.to_string())?;
        let line = text_file::first_line(&text).trim();
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
    Workspace::default().hash(password).map(Into::into)
}

type Order = (Job, Box<dyn FnOnce(Outcome) + Send>);

/// The threads that hash.
#[derive(Debug)]
pub struct Hashers {
    orders: SyncSender<Order>,
}

impl Hashers {
    /// Starts the threads, for which so many may wait; they end with this.
    ///
    /// # Errors
    /// The system gives no threads.
    pub fn start(waiting_max: usize) -> std::io::Result<Self> {
        let (orders, queue) = mpsc::sync_channel(waiting_max);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..THREADS {
            let queue = queue.clone();
            thread::Builder::new().name("hasher".into()).spawn(move || work(&queue))?;
        }
        Ok(Self { orders })
    }

    /// Does a job when its turn comes, and hands over what came of it.
    pub fn run(&self, job: Job, reply: impl FnOnce(Outcome) + Send + 'static) {
        // The threads end no sooner than this.
        if let Err(TrySendError::Full((_, reply))) = self.orders.try_send((job, Box::new(reply))) {
            reply(Outcome::Busy);
        }
    }
}

fn work(queue: &Mutex<Receiver<Order>>) {
    let mut workspace = Workspace::default();
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((job, reply)) = next else { return };
        // A thread that ended would be missed by all who log in from then on.
        let run = AssertUnwindSafe(|| job.run(&mut workspace));
        reply(panic::catch_unwind(run).unwrap_or(Outcome::Busy));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_fits_its_own_hash_only() {
        let mut workspace = Workspace::default();
        let mut hash = |text| match Job::Hash(Secret::new(text)).run(&mut workspace) {
            Outcome::Hashed(Some(hash)) => hash,
            other => panic!("{other:?}"),
        };
        let (one, two) = (hash("open sesame"), hash("open sesame"));
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{one}");
        assert_ne!(one, two, "salted");
        let mut check =
            |text, hash: &Arc<str>| Job::Check(Secret::new(text), hash.clone()).run(&mut workspace);
        assert_eq!(check("open sesame", &one), Outcome::Checked(true));
        assert_eq!(check("open sesame", &two), Outcome::Checked(true));
        assert_eq!(check("Open sesame", &one), Outcome::Checked(false));
        assert_eq!(check("open sesame", &"no hash".into()), Outcome::Checked(false));
        assert_eq!(format!("{:?}", Job::Hash(Secret::new("x1"))), "Hash((secret))");
    }
}
