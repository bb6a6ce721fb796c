//! Work in the background that an administrator began and asks after: what it is about, and how it ended. Kept in memory: at
//! a restart it is forgotten (a purge that was cut short goes on by itself).

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;

use crate::user::token;

/// One piece of work.
#[derive(Clone, Debug)]
pub struct Job {
    /// The room that it is about.
    pub room: String,
    /// What came of it, or why nothing did; `None`: it is under way.
    pub outcome: Option<Result<Value, String>>,
}

impl Job {
    /// Synapse's word for where it stands.
    pub fn status(&self) -> &'static str {
        match &self.outcome {
            None => "purging",
            Some(Ok(_)) => "complete",
            Some(Err(_)) => "failed",
        }
    }
}

/// All pieces of work, by id, the oldest first.
#[derive(Debug, Default)]
pub struct Jobs(Mutex<VecDeque<(String, Job)>>);

impl Jobs {
    /// Notes that something begins; gives its id.
    pub fn begin(&self, room: &str) -> String {
        let id = token::random();
        let mut jobs = self.lock();
        if jobs.len() >= JOBS_MAX {
            // What has ended goes first; nobody begins so many at once.
            let oldest = jobs.iter().position(|(_, job)| job.outcome.is_some()).unwrap_or(0);
            jobs.remove(oldest);
        }
        jobs.push_back((id.clone(), Job { room: room.to_owned(), outcome: None }));
        id
    }

    /// Notes how it ended.
    pub fn end(&self, id: &str, outcome: Result<Value, String>) {
        if let Err(error) = &outcome {
            tracing::warn!(job = id, %error, "what an administrator began has failed");
        }
        if let Some((_, job)) = self.lock().iter_mut().find(|(known, _)| known == id) {
            job.outcome = Some(outcome);
        }
    }

    /// One of them.
    pub fn get(&self, id: &str) -> Option<Job> {
        self.lock().iter().find(|(known, _)| known == id).map(|(_, job)| job.clone())
    }

    /// All about a room, the oldest first.
    pub fn of_room(&self, room: &str) -> Vec<(String, Job)> {
        self.lock().iter().filter(|(_, job)| job.room == room).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(String, Job)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Pieces of work remembered.
const JOBS_MAX: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_that_have_ended_are_forgotten_first() {
        let jobs = Jobs::default();
        let running = jobs.begin("!a:x");
        let ended = jobs.begin("!b:x");
        jobs.end(&ended, Err("no".into()));
        for _ in 0..JOBS_MAX - 1 {
            jobs.begin("!c:x");
        }
        assert!(jobs.get(&ended).is_none());
        assert_eq!(jobs.get(&running).unwrap().status(), "purging");
        assert_eq!(jobs.of_room("!c:x").len(), JOBS_MAX - 1);
    }
}
