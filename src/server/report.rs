//! What the service manager is told while the loop runs: that it goes on, and how it is.
//!
//! A sign of life is part of a turn, so a loop that is stuck gives none. The status comes with it, at
//! once when storage begins or ceases to fail, and now and then in turns that there are anyway: nothing
//! wakes up for it.

use crate::journal::Writable;
use crate::keyspace::{Keyspace, Time};
use crate::systemd::Supervisor;

/// How old a status becomes while there are turns, in milliseconds.
const STATUS_AGE_MAX_MS: u64 = 5_000;

#[derive(Debug)]
pub(super) struct Report {
    supervisor: Option<Supervisor>,
    /// How often a sign of life is due, in milliseconds.
    interval_ms: Option<u64>,
    /// When the last sign of life was given.
    alive_at: Time,
    /// When the status was looked at last.
    status_at: Time,
    /// What was said of storage last.
    writable: Writable,
    status: String,
}

impl Report {
    pub(super) fn new(supervisor: Option<Supervisor>) -> Report {
        let interval = supervisor
            .as_ref()
            .and_then(Supervisor::sign_of_life_interval);
        Report {
            interval_ms: interval.map(|interval| {
                u64::try_from(interval.as_millis())
                    .unwrap_or(u64::MAX)
                    .max(1)
            }),
            supervisor,
            alive_at: Time(0),
            status_at: Time(0),
            writable: Writable::default(),
            status: String::new(),
        }
    }

    /// When the loop has to wake up for a sign of life.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.interval_ms
            .map(|interval| Time(self.alive_at.0.saturating_add(interval)))
    }

    /// Whether the manager is to be told something.
    pub(super) fn is_due(&self, writable: Writable, now: Time) -> bool {
        let is_old = now.0.saturating_sub(self.status_at.0) >= STATUS_AGE_MAX_MS;
        self.supervisor.is_some() && (is_old || writable != self.writable || self.is_sign_due(now))
    }

    fn is_sign_due(&self, now: Time) -> bool {
        self.next_deadline().is_some_and(|deadline| deadline <= now)
    }

    /// Gives a sign of life if that is due, and the status if it is another one.
    pub(super) fn renew(&mut self, status: String, writable: Writable, now: Time) {
        let is_sign_due = self.is_sign_due(now);
        let Some(supervisor) = &self.supervisor else {
            return;
        };
        if is_sign_due {
            supervisor.alive();
            self.alive_at = now;
        }
        if status != self.status {
            supervisor.status(&status);
            self.status = status;
        }
        self.writable = writable;
        self.status_at = now;
    }

    /// Says that the server serves, for the first time or with what it has read again.
    pub(super) fn ready(&mut self, status: String, now: Time) {
        if let Some(supervisor) = &self.supervisor {
            supervisor.ready(&status);
            self.status = status;
            self.status_at = now;
        }
    }

    pub(super) fn reloading(&self) {
        if let Some(supervisor) = &self.supervisor {
            supervisor.reloading();
        }
    }

    pub(super) fn stopping(&self) {
        if let Some(supervisor) = &self.supervisor {
            supervisor.stopping();
        }
    }
}

/// How a server is, in a line for people.
pub(super) fn status(clients: usize, keyspace: &Keyspace, writable: Writable) -> String {
    let refused = match (writable.durable, writable.boot) {
        (true, true) => "",
        (false, true) => "; durable writes are refused",
        (true, false) => "; boot and session writes are refused",
        (false, false) => "; all writes are refused",
    };
    format!(
        "{}, {}, revision {}{refused}",
        counted(clients as u64, "client"),
        counted(keyspace.keys(), "key"),
        keyspace.rev()
    )
}

fn counted(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
