//! Writing a journal anew: a slice a turn into a second file, which then takes the name of the first.
//!
//! The same serves three ends: a journal that is mostly history is made short, one that has failed is
//! replaced, and a new one is made. Commits go to both files meanwhile ([`Journal::append`]).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use log::{Level, error, info, log, warn};

use crate::journal::JournalError;
use crate::journal::format::{Draft, Stop};
use crate::journal::sync::{Syncer, Ticket};
use crate::keyspace::{Class, Keyspace, Time};

use super::{Journal, Known, Place, RESERVE, RETRY, later, new_path, sync_directory};

/// How much of a new journal is written a turn: a fraction of a millisecond.
const SLICE_BYTES: usize = 128 << 10;
/// How many changes a slice looks at.
const SLICE_STEPS: usize = 8192;
/// How much of a new journal is written before the disk is asked to have it. More at once would make
/// others, who use the same disk, wait.
const UNSYNCED_BYTES_MAX: u64 = 8 << 20;
/// How much may be left to be synced while the loop waits, in the end.
const LAST_SYNC_BYTES: u64 = 256 << 10;
/// How often that is given a try.
const LAST_SYNC_TRIES: u32 = 16;
/// How many bytes an estimate may be off without that being taken for a rule.
const ESTIMATE_SLACK: u64 = 64 << 10;

/// A new journal on its way to replace the old one.
#[derive(Debug)]
pub(super) struct Rewrite {
    file: File,
    path: PathBuf,
    len: u64,
    records: u64,
    /// What had changed up to here is in it, of what had changed up to `until`; everything after that
    /// is in it as commits.
    position: u64,
    until: u64,
    unsynced: u64,
    pub(super) syncing: Option<Ticket>,
    tries: u32,
    started: Time,
}

impl Journal {
    /// Writes a complete journal of a keyspace in place of whatever is there, and returns when it is
    /// safe.
    pub(in crate::journal) fn create(
        place: Place,
        keyspace: &Keyspace,
    ) -> Result<Journal, JournalError> {
        let path = place.path();
        let failed = || JournalError::io(format!("write {}", path.display()));
        let new = new_path(&path);
        let file = create(&new).map_err(failed())?;
        // The new file stands for the old one while there is none: it is replaced at once.
        let known = Known {
            len: 0,
            records: 0,
            reserved: 0,
        };
        let placeholder = file.try_clone().map_err(failed())?;
        let mut journal = Journal::new(place, placeholder, &known);
        journal
            .start_rewrite(file, new, keyspace, Time(0))
            .and_then(|()| {
                while !journal.write_slice(keyspace)? {}
                journal.put_in_place(keyspace, Time(0))
            })
            .map_err(failed())?;
        journal.counts.rewrites = 0;
        Ok(journal)
    }

    /// About how long it would be if it were written anew: the keyspace's estimate, corrected by how
    /// far it was off the last time.
    pub(in crate::journal) fn live_bytes(&self, keyspace: &Keyspace) -> u64 {
        let (actual, estimated) = self.shortest;
        let estimate = keyspace.written_bytes(self.class);
        // What little there is says nothing about more.
        let [actual, estimated] =
            [actual, estimated].map(|bytes| u128::from(bytes + ESTIMATE_SLACK));
        let corrected = u128::from(estimate) * actual / estimated;
        u64::try_from(corrected).unwrap_or(u64::MAX).min(self.len)
    }

    pub(super) fn rewrite_if_wanted(&mut self, keyspace: &Keyspace, now: Time) -> io::Result<()> {
        let is_long = self.len > rewrite_bytes_min(self.class).max(2 * self.live_bytes(keyspace));
        if self.has_failed || is_long {
            let new = new_path(&self.path);
            return self.start_rewrite(create(&new)?, new, keyspace, now);
        }
        self.has_complained = false;
        Ok(())
    }

    fn start_rewrite(
        &mut self,
        mut file: File,
        path: PathBuf,
        keyspace: &Keyspace,
        now: Time,
    ) -> io::Result<()> {
        let mut line = Vec::new();
        self.header.write(&mut line);
        file.write_all(&line)?;
        self.counts.written += line.len() as u64;
        self.rewrite = Some(Rewrite {
            file,
            path,
            len: line.len() as u64,
            records: 0,
            position: 0,
            until: keyspace.rev(),
            unsynced: line.len() as u64,
            syncing: None,
            tries: 0,
            started: now,
        });
        Ok(())
    }

    /// Brings the new journal on its way: a slice, a question to the disk, or its place.
    pub(super) fn rewrite_on(
        &mut self,
        keyspace: &Keyspace,
        now: Time,
        syncer: &mut Syncer,
    ) -> io::Result<()> {
        let is_durable = self.class == Class::Durable;
        let Some(rewrite) = &mut self.rewrite else {
            return Ok(());
        };
        if rewrite.syncing.is_some() {
            return Ok(());
        }
        let is_written = rewrite.position >= rewrite.until;
        let bearable = if is_written && rewrite.tries < LAST_SYNC_TRIES {
            LAST_SYNC_BYTES
        } else {
            UNSYNCED_BYTES_MAX
        };
        if is_durable && rewrite.unsynced > bearable {
            rewrite.syncing = Some(syncer.ask(&rewrite.file)?);
            rewrite.unsynced = 0;
            rewrite.tries += u32::from(is_written);
            self.counts.syncs += 1;
            return Ok(());
        }
        if !is_written {
            self.write_slice(keyspace)?;
            return Ok(());
        }
        let (old, started, had_failed) = (self.len, rewrite.started, self.has_failed);
        self.put_in_place(keyspace, now)?;
        self.has_complained = false;
        if had_failed {
            info!("{} are accepted again", self.writes());
        }
        // The boot journal's are cheap and may be many.
        let level = match self.class {
            Class::Durable => Level::Info,
            Class::Boot => Level::Debug,
        };
        log!(
            level,
            "{} is written anew: {old} bytes before, {} now, {} records, in {} ms",
            self.path.display(),
            self.len,
            self.records,
            now.0.saturating_sub(started.0)
        );
        Ok(())
    }

    /// Writes a slice of what had changed when the rewrite began; true when that is done.
    fn write_slice(&mut self, keyspace: &Keyspace) -> io::Result<bool> {
        let rewrite = self.rewrite.as_mut().expect("a slice is one of a rewrite");
        let mut draft = Draft::default();
        let mut position = rewrite.until;
        let changes = keyspace.changes_after(rewrite.position);
        let changes = changes.take_while(|(rev, _)| *rev <= rewrite.until);
        for (step, (rev, change)) in changes.enumerate() {
            if let Some(change) = change.filter(|change| change.class == self.class) {
                draft.begin(rewrite.until);
                match change.entry {
                    Some(entry) => draft.put(&entry),
                    None => draft.delete(change.key, rev),
                }
            }
            if draft.len() >= SLICE_BYTES || step + 1 >= SLICE_STEPS {
                position = rev;
                break;
            }
        }
        rewrite.position = position;
        if draft.is_begun() {
            let (line, records) = draft.end(&[], Stop::No);
            rewrite.write(line, records)?;
            self.counts.written += line.len() as u64;
        }
        Ok(rewrite.position >= rewrite.until)
    }

    /// Lets the new journal, which is complete, take the place of the old one.
    fn put_in_place(&mut self, keyspace: &Keyspace, now: Time) -> io::Result<()> {
        let rewrite = self
            .rewrite
            .as_mut()
            .expect("what is put in place was written");
        let rev = keyspace.rev();
        let reserved = self.reserved.max(rev + RESERVE);
        let mut draft = Draft::default();
        draft.begin(rev);
        let floor = ("floor", keyspace.floor());
        let (line, _) = match self.class {
            Class::Durable => draft.end(&[("reserved", reserved), floor], Stop::No),
            Class::Boot => draft.end(&[floor], Stop::No),
        };
        rewrite.write(line, 0)?;
        self.counts.written += line.len() as u64;
        if self.class == Class::Durable {
            self.counts.syncs += 1;
            rewrite.file.sync_all()?;
        }
        fs::rename(&rewrite.path, &self.path)?;
        let rewrite = self
            .rewrite
            .take()
            .expect("it is there until it is in place");
        // From here on the old file has no name. Should the directory fail to be synced, either may
        // have the name after a power cut: nothing is safe, and all is tried again.
        self.unused = Some(std::mem::replace(&mut self.file, rewrite.file));
        self.len = rewrite.len;
        self.synced = rewrite.len;
        self.records = rewrite.records;
        let estimate = keyspace.written_bytes(self.class);
        self.shortest = (rewrite.len, estimate.min(rewrite.len));
        self.reserved = reserved;
        self.unsynced_since = None;
        self.syncing = None;
        if self.class == Class::Durable
            && let Err(error) = sync_directory(&self.directory)
        {
            self.fail("given its name", &error, now);
            return Err(error);
        }
        self.has_failed = false;
        self.counts.rewrites += 1;
        Ok(())
    }

    pub(super) fn give_up_rewrite(&mut self, reason: &io::Error, now: Time) {
        self.counts.failures += 1;
        if !self.has_complained {
            self.has_complained = true;
            error!(
                "{} can't be written anew: {reason}; it is tried again every {} s",
                self.path.display(),
                RETRY.as_secs()
            );
        }
        self.drop_rewrite();
        self.rewrite_after = later(now, RETRY);
    }

    /// Does without a rewrite. If its file can't be removed, the next one does so.
    pub(super) fn drop_rewrite(&mut self) {
        if let Some(rewrite) = self.rewrite.take() {
            if let Err(error) = fs::remove_file(&rewrite.path) {
                warn!("{} can't be removed: {error}", rewrite.path.display());
            }
            self.unused = Some(rewrite.file);
        }
    }
}

impl Rewrite {
    pub(super) fn write(&mut self, line: &[u8], records: u64) -> io::Result<()> {
        self.file.write_all(line)?;
        self.len += line.len() as u64;
        self.unsynced += line.len() as u64;
        self.records += records;
        Ok(())
    }
}

/// A journal that is smaller than this is not worth being written anew. The boot journal's bytes are
/// memory.
const fn rewrite_bytes_min(class: Class) -> u64 {
    match class {
        Class::Durable => 1 << 20,
        Class::Boot => 256 << 10,
    }
}

fn create(path: &Path) -> io::Result<File> {
    // What an earlier daemon has left there is of no use.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new()
        .append(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}
