//! What the service manager is told while the loop runs: that it goes on, and how it is.
//!
//! A sign of life is part of a turn, so a loop that is stuck gives none. The status comes with it,
//! and at once when storage begins or ceases to fail. A manager that does not watch is told the status
//! now and then, in turns that there are anyway: nothing wakes up for it.

use crate::journal::Writable;
use crate::keyspace::{Keyspace, Time};
use crate::systemd::Supervisor;

/// How old a status may be that nothing has to be woken up for, in milliseconds.
const STATUS_AGE_MAX_MS: u64 = 10_000;

#[derive(Debug)]
pub(super) struct Report {
    supervisor: Option<Supervisor>,
    /// How often a sign of life is due, in milliseconds.
    interval_ms: Option<u64>,
    /// When something was said last.
    told: Time,
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
            told: Time(0),
            writable: Writable::default(),
            status: String::new(),
        }
    }

    /// When the loop has to wake up for a sign of life.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.interval_ms
            .map(|interval| Time(self.told.0.saturating_add(interval)))
    }

    /// Whether the manager is to be told something.
    pub(super) fn is_due(&self, writable: Writable, now: Time) -> bool {
        let interval = self.interval_ms.unwrap_or(STATUS_AGE_MAX_MS);
        self.supervisor.is_some()
            && (writable != self.writable || now.0.saturating_sub(self.told.0) >= interval)
    }

    /// Gives a sign of life, and the status if it is another one.
    pub(super) fn renew(&mut self, status: String, writable: Writable, now: Time) {
        let Some(supervisor) = &self.supervisor else {
            return;
        };
        if self.interval_ms.is_some() {
            supervisor.alive();
        }
        if status != self.status {
            supervisor.status(&status);
            self.status = status;
        }
        self.writable = writable;
        self.told = now;
    }

    /// Says that the server serves, for the first time or with what it has read again.
    pub(super) fn ready(&mut self, status: String, now: Time) {
        if let Some(supervisor) = &self.supervisor {
            supervisor.ready(&status);
            self.status = status;
            self.told = now;
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
