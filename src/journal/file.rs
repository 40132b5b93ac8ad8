//! One journal while the daemon runs: it is appended to, synced, and fails; [`rewrite`] is how it is written
//! anew.

mod rewrite;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::{error, warn};

use crate::keyspace::{Class, Keyspace, Time};

use super::format::{Draft, Header, Stop};
use super::sync::{Syncer, Ticket};
use super::{JournalError, Policy};

use rewrite::Rewrite;

/// How many revisions are reserved at a time. A start that follows no clean stop skips so many: there are
/// enough for 250 million such starts.
pub(super) const RESERVE: u64 = 1 << 24;
/// When writing a new journal is tried again after it has failed.
const RETRY: Duration = Duration::from_secs(2);

/// One of the two journals.
#[derive(Debug)]
pub(super) struct Journal {
    class: Class,
    directory: PathBuf,
    path: PathBuf,
    header: Header,
    policy: Policy,
    file: File,
    len: u64,
    /// How much of it the disk has for certain.
    synced: u64,
    records: u64,
    /// Its length when it was last as short as it could be, and what was estimated for it then.
    shortest: (u64, u64),
    /// Revisions up to this one may be given before the journal has to say more.
    reserved: u64,
    /// Since when there is something that the disk may not have; under [`Policy::Interval`].
    unsynced_since: Option<Time>,
    /// The question under way, and how long the file was when it was asked.
    syncing: Option<(Ticket, u64)>,
    has_failed: bool,
    /// Not before this time is it written anew.
    rewrite_after: Time,
    /// Whether the log has been told that it can't be written anew.
    has_complained: bool,
    rewrite: Option<Rewrite>,
    /// A file that is not used any more. Closing it may take long.
    unused: Option<File>,
    pub(super) counts: Counts,
}

/// What it has done since it was opened.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) written: u64,
    pub(super) syncs: u64,
    pub(super) rewrites: u64,
    pub(super) failures: u64,
}

/// What is known of a journal's file that was read.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) len: u64,
    pub(super) records: u64,
    pub(super) reserved: u64,
}

/// Where a journal is and what it is.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) class: Class,
    pub(super) directory: PathBuf,
    pub(super) header: Header,
    pub(super) policy: Policy,
}

impl Place {
    pub(super) fn path(&self) -> PathBuf {
        path(&self.directory, self.class)
    }
}

/// The path of a journal.
pub(super) fn path(directory: &Path, class: Class) -> PathBuf {
    directory.join(match class {
        Class::Durable => "durable.journal",
        Class::Boot => "boot.journal",
    })
}

impl Journal {
    /// Opens a file that was read, and cuts off what follows its sound part.
    pub(super) fn open(place: Place, known: &Known) -> Result<Journal, JournalError> {
        let path = place.path();
        let opened = OpenOptions::new()
            .append(true)
            .open(&path)
            .and_then(|file| {
                if file.metadata()?.len() > known.len {
                    file.set_len(known.len)?;
                }
                Ok(file)
            });
        let file = opened.map_err(JournalError::io(format!("write to {}", path.display())))?;
        Ok(Journal::new(place, file, known))
    }

    fn new(place: Place, file: File, known: &Known) -> Journal {
        Journal {
            path: place.path(),
            class: place.class,
            directory: place.directory,
            header: place.header,
            policy: place.policy,
            file,
            len: known.len,
            synced: 0,
            records: known.records,
            shortest: (0, 0),
            reserved: known.reserved,
            unsynced_since: None,
            syncing: None,
            has_failed: false,
            rewrite_after: Time(0),
            has_complained: false,
            rewrite: None,
            unused: None,
            counts: Counts::default(),
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// How many bytes the disk may not have, if it may not have all.
    pub(super) fn unsynced(&self) -> Option<(&'static str, u64)> {
        let bytes = self.len - self.synced;
        (bytes > 0).then_some(("unsynced", bytes))
    }

    pub(super) fn records(&self) -> u64 {
        self.records
    }

    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Up to where revisions have to be reserved now, if more have to be.
    pub(super) fn reserve(&self, rev: u64) -> Option<u64> {
        let is_due = self.class == Class::Durable && rev + RESERVE / 2 >= self.reserved;
        is_due.then(|| rev + RESERVE)
    }

    /// Notes that a daemon has started: its last line says no more that it has stopped. The durable
    /// journal reserves revisions for it.
    pub(super) fn start(&mut self, rev: u64) -> Result<(), JournalError> {
        let mut draft = Draft::default();
        draft.begin(rev);
        let reserved = self.reserve(rev).unwrap_or(self.reserved);
        let fields = match self.class {
            Class::Durable => [Some(("reserved", reserved)), self.unsynced()],
            Class::Boot => [None, None],
        };
        let fields: Vec<_> = fields.into_iter().flatten().collect();
        let (line, _) = draft.end(&fields, Stop::No);
        let written = self.file.write_all(line).and_then(|()| self.sync_now());
        written.map_err(JournalError::io(format!(
            "write to {}",
            self.path.display()
        )))?;
        self.count(line.len(), 0);
        self.synced = self.len;
        self.reserved = reserved;
        Ok(())
    }

    /// Writes one line, and has it as safe as the policy asks when it returns. After an error the file
    /// is not used any more.
    pub(super) fn append(
        &mut self,
        line: &[u8],
        records: u64,
        reserved: Option<u64>,
        now: Time,
    ) -> io::Result<()> {
        assert!(!self.has_failed, "a file that has failed is not trusted");
        // What is reserved is used without further asking.
        let syncs =
            self.class == Class::Durable && (self.policy == Policy::Always || reserved.is_some());
        let mut written = self.file.write_all(line);
        if written.is_ok() && syncs {
            written = self.sync_now();
        }
        if let Err(error) = written {
            self.fail("written to", &error, now);
            return Err(error);
        }
        if !syncs && matches!(self.policy, Policy::Interval(_)) {
            self.unsynced_since.get_or_insert(now);
        }
        self.count(line.len(), records);
        if syncs {
            self.synced = self.len;
        }
        self.reserved = reserved.unwrap_or(self.reserved);
        if let Some(rewrite) = &mut self.rewrite {
            match rewrite.write(line, records) {
                Ok(()) => self.counts.written += line.len() as u64,
                Err(error) => self.give_up_rewrite(&error, now),
            }
        }
        Ok(())
    }

    /// Takes back the last line, whose other half could not be written.
    pub(super) fn take_back(&mut self, line: &[u8], records: u64, now: Time) {
        let len = self.len - line.len() as u64;
        match self.file.set_len(len) {
            Ok(()) => {
                self.len = len;
                self.records -= records;
            }
            Err(error) => self.fail("shortened", &error, now),
        }
        self.drop_rewrite();
    }

    /// Makes everything safe and says how far the daemon's stop has come.
    pub(super) fn close(&mut self, rev: u64, fields: &[(&str, u64)], stop: Stop) -> io::Result<()> {
        self.drop_rewrite();
        let mut draft = Draft::default();
        draft.begin(rev);
        let (line, _) = draft.end(fields, stop);
        self.file.write_all(line)?;
        self.count(line.len(), 0);
        self.sync_now()
    }

    /// Does a piece of what is to be done beside commits.
    pub(super) fn tend(&mut self, keyspace: &Keyspace, now: Time, syncer: &mut Syncer) {
        self.sync_in_time(now, syncer);
        if let Some(file) = self.unused.take() {
            syncer.release(file);
        }
        let tended = match self.rewrite {
            Some(_) => self.rewrite_on(keyspace, now, syncer),
            None if now >= self.rewrite_after => self.rewrite_if_wanted(keyspace, now),
            None => Ok(()),
        };
        if let Err(error) = tended {
            self.give_up_rewrite(&error, now);
        }
    }

    /// Takes in the answer to a question, if it was this journal's.
    pub(super) fn synced(&mut self, ticket: Ticket, result: &io::Result<()>, now: Time) {
        if let Some((_, len)) = self.syncing.take_if(|(asked, _)| *asked == ticket) {
            match result {
                Ok(()) => self.synced = self.synced.max(len),
                Err(error) => self.fail("synced", error, now),
            }
        }
        if let Some(rewrite) = &mut self.rewrite
            && rewrite.syncing == Some(ticket)
        {
            rewrite.syncing = None;
            if let Err(error) = result {
                self.give_up_rewrite(error, now);
            }
        }
    }

    /// When [`Journal::tend`] has something to do next.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        let sync = match (self.policy, self.unsynced_since) {
            (Policy::Interval(interval), Some(since)) if self.syncing.is_none() => {
                Some(sync_time(since, interval))
            }
            _ => None,
        };
        let rewrite = match &self.rewrite {
            Some(rewrite) if rewrite.syncing.is_none() => Some(Time(0)),
            Some(_) => None,
            None => (self.has_failed || self.has_complained).then_some(self.rewrite_after),
        };
        [sync, rewrite].into_iter().flatten().min()
    }

    fn count(&mut self, bytes: usize, records: u64) {
        self.len += bytes as u64;
        self.records += records;
        self.counts.written += bytes as u64;
    }

    fn sync_now(&mut self) -> io::Result<()> {
        if self.class == Class::Durable {
            self.counts.syncs += 1;
            self.file.sync_data()?;
        }
        Ok(())
    }

    fn sync_in_time(&mut self, now: Time, syncer: &mut Syncer) {
        let Policy::Interval(interval) = self.policy else {
            return;
        };
        let is_due = self
            .unsynced_since
            .is_some_and(|since| now >= sync_time(since, interval));
        if !is_due || self.syncing.is_some() || self.has_failed {
            return;
        }
        match syncer.ask(&self.file) {
            Ok(ticket) => {
                self.syncing = Some((ticket, self.len));
                self.unsynced_since = None;
                self.counts.syncs += 1;
            }
            Err(error) => self.fail("synced", &error, now),
        }
    }

    /// Stops using the file. What it says beyond the last commit is cut off if that can be done, so
    /// that nothing comes back which was refused.
    fn fail(&mut self, action: &str, reason: &io::Error, now: Time) {
        error!(
            "{} can't be {action}: {reason}; {} are refused until a complete new one can be written",
            self.path.display(),
            self.writes()
        );
        if let Err(error) = self.file.set_len(self.len) {
            warn!("{} can't be shortened: {error}", self.path.display());
        }
        self.drop_rewrite();
        self.has_failed = true;
        self.counts.failures += 1;
        self.unsynced_since = None;
        self.syncing = None;
        self.rewrite_after = later(now, RETRY);
    }

    /// What can't be done while it has failed.
    fn writes(&self) -> &'static str {
        match self.class {
            Class::Durable => "durable writes",
            Class::Boot => "boot and session writes",
        }
    }
}

/// Makes the names in a directory safe.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// The name of a journal that is not complete.
pub(super) fn new_path(path: &Path) -> PathBuf {
    path.with_extension("journal.new")
}

/// When a sync begins so that it has ended within the interval: halfway.
fn sync_time(since: Time, interval: Duration) -> Time {
    later(since, interval / 2)
}

fn later(time: Time, by: Duration) -> Time {
    Time(
        time.0
            .saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)),
    )
}
