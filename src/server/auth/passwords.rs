//! Password hashing (Argon2id). It is slow and memory-hard on purpose, so it runs on
//! [`THREADS`] threads of its own, and the server loop never waits. Each thread reuses one
//! workspace: a new allocation per password would fragment the heap, and the process would
//! grow. Which job is next is decided by the server loop (`reactor/hashing.rs`).

use std::fmt::{self, Write as _};
use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use sha2::{Digest as _, Sha256};

use super::secrets::Secret;
use crate::text_file;

/// Number of threads; each uses one core while hashing, and keeps 19 MiB of memory.
pub const THREADS: usize = 2;

/// A job for the hashing threads. The password is passed apart from it, so a turn can contain
/// the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// Checks whether the password matches an Argon2 hash.
    Check(Arc<str>),
    /// Checks whether the password has this [`digest`].
    Match(Arc<str>),
    /// Hashes the password with a random salt.
    Hash,
}

/// The outcome of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Whether the password matches.
    Checked(bool),
    /// The hash as a PHC string (`$argon2id$…`); `None` if hashing or checking failed.
    Hashed(Option<Arc<str>>),
    /// The job was not run: too many are waiting.
    Busy,
}

/// The memory for hashing.
#[derive(Debug, Default)]
pub struct Workspace(Vec<Block>);

impl Workspace {
    /// Hashes a password into `out`.
    fn digest(&mut self, argon2: &Argon2<'_>, password: &str, salt: &[u8], out: &mut [u8]) -> bool {
        let blocks = argon2.params().block_count();
        if self.0.len() < blocks {
            self.0.resize(blocks, Block::default());
        }
        let memory = &mut self.0[..blocks];
        argon2.hash_password_into_with_memory(password.as_bytes(), salt, out, memory).is_ok()
    }

    /// Hashes a password with a random salt.
    fn hash(&mut self, password: &str) -> Option<String> {
        // The defaults of the library are the parameters recommended by OWASP.
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

    /// Returns whether a password matches a hash with any Argon2 parameters.
    fn verify(&mut self, password: &str, hash: &str) -> Option<bool> {
        let hash = PasswordHash::new(hash).ok()?;
        let algorithm = Algorithm::try_from(hash.algorithm.as_str()).ok()?;
        let version = hash.version.map_or(Ok(Version::default()), Version::try_from).ok()?;
        let params = Params::try_from(&hash).ok()?;
        let (salt, known) = (hash.salt?, hash.hash?);
        let mut out = vec![0; known.len()];
        let argon2 = Argon2::new(algorithm, version, params);
        // Comparing two outputs takes constant time.
        let is_made = self.digest(&argon2, password, &salt, &mut out);
        Some(is_made && Output::new(&out).ok()? == known)
    }
}

impl Job {
    /// Runs the job on this thread.
    #[must_use]
    pub fn run(&self, password: &Secret, workspace: &mut Workspace) -> Outcome {
        let password = password.expose();
        match self {
            Self::Check(hash) => {
                Outcome::Checked(workspace.verify(password, hash).unwrap_or(false))
            }
            Self::Match(is) => Outcome::Checked(*digest(password) == **is),
            Self::Hash => Outcome::Hashed(workspace.hash(password).map(Into::into)),
        }
    }
}

/// Returns the SHA-256 of a secret that must not be stored in plain text, but can be guessed at
/// no cost anyway, such as a room's key.
#[must_use]
pub fn digest(text: &str) -> String {
    Sha256::digest(text).iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// A password hash that was read from a file.
#[derive(Clone, PartialEq, Eq)]
pub struct HashFile(Arc<str>);

impl HashFile {
    /// Reads the hash from the first line of a file.
    ///
    /// # Errors
    /// A message for the user.
    pub fn read(path: &str) -> Result<Self, String> {
        let text = text_file::read(path.as_ref()).map_err(|problem| problem.to_string())?;
        let line = text_file::first_line(&text).trim();
        let is_ours = PasswordHash::new(line)
            .is_ok_and(|hash| hash.algorithm.as_str().starts_with("argon2") && hash.hash.is_some());
        if !is_ours {
            let make = "create one with chatty hash-password > FILE";
            return Err(format!("its first line is not an argon2 password hash; {make}"));
        }
        Ok(Self(line.into()))
    }

    /// Returns the hash as a PHC string.
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

/// Hashes a password on this thread.
#[must_use]
pub fn hash(password: &str) -> Option<Arc<str>> {
    Workspace::default().hash(password).map(Into::into)
}

type StartedJob = (Job, Secret, Box<dyn FnOnce(Outcome) + Send>);

/// The hashing threads.
#[derive(Debug)]
pub struct Hashers {
    jobs: Sender<StartedJob>,
}

impl Hashers {
    /// Starts the threads. They end when this is dropped.
    ///
    /// # Errors
    /// The system provides no threads.
    pub fn start() -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..THREADS {
            let queue = queue.clone();
            thread::Builder::new().name("hasher".into()).spawn(move || work(&queue))?;
        }
        Ok(Self { jobs })
    }

    /// Starts a job, at once if fewer than [`THREADS`] are running; `reply` gets the outcome.
    pub fn run(&self, job: Job, password: Secret, reply: impl FnOnce(Outcome) + Send + 'static) {
        // The threads outlive this handle.
        let _ = self.jobs.send((job, password, Box::new(reply)));
    }
}

fn work(jobs: &Mutex<Receiver<StartedJob>>) {
    let mut workspace = Workspace::default();
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((job, password, reply)) = job else { return };
        // The thread must survive a panic, or later logins would wait forever.
        let run = AssertUnwindSafe(|| job.run(&password, &mut workspace));
        reply(panic::catch_unwind(run).unwrap_or(Outcome::Hashed(None)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_matches_only_its_own_hash() {
        let mut workspace = Workspace::default();
        let mut hash = |text| match Job::Hash.run(&Secret::new(text), &mut workspace) {
            Outcome::Hashed(Some(hash)) => hash,
            other => panic!("{other:?}"),
        };
        let (one, two) = (hash("open sesame"), hash("open sesame"));
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{one}");
        assert_ne!(one, two, "salted");
        let mut check = |text, hash: &Arc<str>| {
            Job::Check(hash.clone()).run(&Secret::new(text), &mut workspace)
        };
        assert_eq!(check("open sesame", &one), Outcome::Checked(true));
        assert_eq!(check("open sesame", &two), Outcome::Checked(true));
        assert_eq!(check("Open sesame", &one), Outcome::Checked(false));
        assert_eq!(check("open sesame", &"no hash".into()), Outcome::Checked(false));
    }
}
