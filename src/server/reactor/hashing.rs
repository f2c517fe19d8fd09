//! Passwords that are hashed or checked: as many at the same time as there are threads. The others
//! wait in a queue that serves networks in turn, so a flood of logins delays only its own network.

use super::{Reactor, ReactorInput};
use crate::server::auth::passwords::{Hashers, Job, Outcome, THREADS};
use crate::server::auth::secrets::Secret;
use crate::server::limits::Limits;
use crate::server::limits::fair_queue::FairQueue;
use crate::server::store::Log;
use crate::server::turn::ConnId;

/// The hashing threads and the jobs that wait for them.
#[derive(Debug)]
pub(super) struct Hashing {
    hashers: Hashers,
    waiting: FairQueue<(ConnId, Job, Secret)>,
    running: usize,
}

impl Hashing {
    pub(super) fn new(limits: &Limits, hashers: Hashers) -> Self {
        let bounds = limits.bounds(limits.hashing_per_address, limits.max_hashing);
        Self { hashers, waiting: FairQueue::new(bounds), running: 0 }
    }
}

impl<L: Log> Reactor<L> {
    /// Queues a job for the password that a connection has sent.
    pub(super) fn queue_hashing(&mut self, conn: ConnId, job: Job) {
        let peer = self.hub.peer(conn).filter(|peer| self.limits.apply_to(*peer));
        let password = self.get(conn).and_then(|connection| connection.secrets.take_password());
        let queued =
            password.is_some_and(|it| self.hashing.waiting.push(peer, (conn, job, it)).is_ok());
        if queued {
            self.start_hashing();
        } else {
            // This loop is the receiver.
            let _ = self.own_inputs.send(ReactorInput::Hashed(conn, Outcome::Busy));
        }
    }

    /// Notes that a job has ended, unless it was refused, and starts the next one.
    pub(super) fn end_hashing(&mut self, outcome: &Outcome) {
        if *outcome != Outcome::Busy {
            self.hashing.running -= 1;
            self.start_hashing();
        }
    }

    fn start_hashing(&mut self) {
        while self.hashing.running < THREADS
            && let Some((conn, job, password)) = self.hashing.waiting.pop()
        {
            if self.get(conn).is_none() {
                continue; // the hub has forgotten the connection and its job
            }
            let inputs = self.own_inputs.clone();
            self.hashing.running += 1;
            self.hashing.hashers.run(job, password, move |outcome| {
                let _ = inputs.send(ReactorInput::Hashed(conn, outcome)); // the loop may have ended
            });
        }
    }
}
