//! The life of a run's secrets: they are fetched again from time to time, and when they have changed the run goes on with the new
//! ones, at an epoch.
//!
//! New material is looked at before it is used: it is checked as at a start, and a broker has to let us in with it. Until then,
//! and whenever it fails, the run keeps what it has: a bad certificate in a vault stops nothing that works.

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use tidemill_certs::{KeyVaultSettings, SecretStore};
use tidemill_connectors::kafka::probe;
use tidemill_engine::{Clock, Monotonic};

use super::{
    RunOptions,
    security::{Connection, Secrets, in_a_line, unix_time},
    status::Stats,
};
use crate::spec::Job;

/// How long a broker has to let us in.
const PROBE_WITHIN: Duration = Duration::from_secs(10);

/// Looks after the secrets of one run.
pub(super) struct Rotation {
    look: Look,
    /// The shortest `refresh` of the connections; `None` without a secured one.
    every: Option<Duration>,
    next: Monotonic,
    under_way: Option<JoinHandle<Result<Option<Vec<Connection>>, String>>>,
    /// The last failure that was said.
    said: Option<String>,
}

/// What it takes to fetch the secrets again.
#[derive(Clone)]
struct Look {
    key_vault: Option<KeyVaultSettings>,
    secrets: Arc<Secrets>,
    clock: Arc<dyn Clock>,
}

impl Rotation {
    /// Of a run that has made its connections.
    pub(super) fn new(job: &Job, secrets: &Arc<Secrets>, options: &RunOptions) -> Self {
        let every = secrets.in_use().iter().filter_map(|connection| connection.settings.refresh).min();
        let every = every.filter(|_| !options.bounded);
        let clock = Arc::clone(&options.clock);
        let next = after(clock.monotonic(), every);
        let look = Look { key_vault: job.key_vault.clone(), secrets: Arc::clone(secrets), clock };
        Self { look, every, next, under_way: None, said: None }
    }

    /// Lets time-driven work happen; gives all connections anew once there are new secrets that brokers take.
    pub(super) fn tick(&mut self, now: Monotonic, stats: &Stats) -> Option<Vec<Connection>> {
        if let Some(looked) = self.under_way.take_if(|looked| looked.is_finished()) {
            self.next = after(now, self.every);
            let found = looked.join().unwrap_or_else(|_| Err("looking at them panicked".to_owned()));
            stats.secrets_were_fetched(unix_time(self.look.clock.as_ref()), found.is_ok());
            match found {
                Ok(anew) => {
                    self.said = None;
                    return anew;
                }
                Err(why) if self.said.as_ref() != Some(&why) => {
                    tracing::warn!("new secrets cannot be used, the job runs on with those it has: {why}");
                    self.said = Some(why);
                }
                Err(_) => {}
            }
        }
        if self.every.is_some() && self.under_way.is_none() && now >= self.next {
            let look = self.look.clone();
            let thread = thread::Builder::new().name("secrets".to_owned()).spawn(move || look.look());
            match thread {
                Ok(thread) => self.under_way = Some(thread),
                Err(_) => self.next = after(now, self.every),
            }
        }
        None
    }
}

/// All connections anew, if the secrets of those that failed are others by now, which is worth another try.
pub(super) fn look(job: &Job, secrets: &Arc<Secrets>, options: &RunOptions) -> Option<Vec<Connection>> {
    let (secrets, clock) = (Arc::clone(secrets), Arc::clone(&options.clock));
    Look { key_vault: job.key_vault.clone(), secrets, clock }.look().unwrap_or(None)
}

impl Look {
    /// All connections anew, if something has changed.
    ///
    /// # Errors
    /// Why they cannot be fetched or used.
    fn look(&self) -> Result<Option<Vec<Connection>>, String> {
        let store = Arc::new(SecretStore::new(self.key_vault.clone()));
        let mut have_changed = false;
        let mut anew = self.secrets.in_use();
        for Connection { owner, brokers, settings, security } in &mut anew {
            let new = settings.resolve(&store, &self.clock);
            let new = new.map_err(|error| format!("{owner}: {}", in_a_line(&error)))?;
            if new.is_same_as(security) {
                continue;
            }
            have_changed = true;
            let mut refusal = String::new();
            let lets_us_in = brokers.iter().any(|broker| match probe(broker, &new, &self.clock, PROBE_WITHIN) {
                Ok(steps) => {
                    let last = steps.last();
                    if let Some(Err(why)) = last.map(|step| &step.outcome) {
                        refusal = format!("{broker}: {why}");
                    }
                    last.is_some_and(|step| step.what == "login" && step.outcome.is_ok())
                }
                Err(fault) => {
                    refusal = format!("{broker}: {fault}");
                    false
                }
            });
            if !lets_us_in {
                return Err(format!("{owner}: no broker lets us in with them: {refusal}"));
            }
            *security = new;
        }
        Ok(have_changed.then_some(anew))
    }
}

fn after(now: Monotonic, every: Option<Duration>) -> Monotonic {
    let every_us = every.and_then(|every| i64::try_from(every.as_micros()).ok()).unwrap_or(i64::MAX);
    Monotonic(now.0.saturating_add(every_us))
}
