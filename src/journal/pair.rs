//! The two journals together: which of them a change concerns, and how both are written or neither.

use std::fs::File;

use log::warn;

use crate::keyspace::{Class, Keyspace, Time};

use super::file::Journal;
use super::format::{Draft, Stop};
use super::start::{Loading, claim};
use super::sync::Syncer;
use super::{Figures, LoadError, Options, Storage, Unkept, Wake, Writable};

/// A durable journal on the disk and a boot journal in memory that goes with the machine.
#[derive(Debug)]
pub struct Journals {
    options: Options,
    opened: Option<Opened>,
}

#[derive(Debug)]
struct Opened {
    durable: Journal,
    boot: Journal,
    syncer: Syncer,
    durable_draft: Draft,
    boot_draft: Draft,
    live_bytes: u64,
    /// Whether the durable journal says that the boot journal has failed.
    boot_unkept: bool,
    /// Held until the daemon ends: closing a file gives back its lock.
    _locks: [File; 2],
}

impl Journals {
    /// Journals that are not read yet: [`Storage::load`] does that.
    #[must_use]
    pub fn new(options: Options) -> Journals {
        Journals {
            options,
            opened: None,
        }
    }

    fn opened(&self) -> &Opened {
        self.opened.as_ref().expect("journals are loaded first")
    }

    fn opened_mut(&mut self) -> &mut Opened {
        self.opened.as_mut().expect("journals are loaded first")
    }
}

impl Storage for Journals {
    fn load(
        &mut self,
        keyspace: &mut Keyspace,
        now: Time,
        wake: Wake,
    ) -> Result<String, LoadError> {
        let options = &self.options;
        let locks = [
            claim(&options.data_directory, "durable.lock")?,
            claim(&options.runtime_directory, "boot.lock")?,
        ];
        let (durable, boot, epoch) = Loading { options, keyspace }.run(now)?;
        self.opened = Some(Opened {
            live_bytes: durable.live_bytes(keyspace),
            durable,
            boot,
            syncer: Syncer::new(wake),
            durable_draft: Draft::default(),
            boot_draft: Draft::default(),
            boot_unkept: false,
            _locks: locks,
        });
        Ok(epoch)
    }

    fn commit(&mut self, keyspace: &Keyspace, after: u64, now: Time) -> Result<(), Unkept> {
        let has_changed = keyspace.rev() > after || !keyspace.renewed().is_empty();
        if !has_changed {
            return Ok(());
        }
        let opened = self.opened_mut();
        opened.draft(keyspace, after);
        let committed = opened.write(keyspace.rev(), now);
        opened.durable_draft.clear();
        opened.boot_draft.clear();
        committed
    }

    fn tend(&mut self, keyspace: &Keyspace, now: Time) {
        let opened = self.opened_mut();
        while let Some((ticket, result)) = opened.syncer.answer() {
            opened.durable.synced(ticket, &result, now);
        }
        opened.durable.tend(keyspace, now, &mut opened.syncer);
        opened.boot.tend(keyspace, now, &mut opened.syncer);
        opened.live_bytes = opened.durable.live_bytes(keyspace);
    }

    fn next_deadline(&self) -> Option<Time> {
        let opened = self.opened();
        let both = [opened.durable.next_deadline(), opened.boot.next_deadline()];
        both.into_iter().flatten().min()
    }

    fn writable(&self) -> Writable {
        let opened = self.opened();
        Writable {
            durable: !opened.durable.has_failed(),
            boot: !opened.boot.has_failed(),
        }
    }

    fn can_fail(&self) -> bool {
        true
    }

    fn figures(&self) -> Figures {
        let opened = self.opened();
        let (durable, boot) = (opened.durable.counts, opened.boot.counts);
        Figures {
            bytes: opened.durable.len(),
            live_bytes: opened.live_bytes,
            records: opened.durable.records(),
            written_bytes: durable.written,
            syncs: durable.syncs,
            rewrites: durable.rewrites,
            failures: durable.failures + boot.failures,
            boot_bytes: opened.boot.len(),
        }
    }

    fn close(&mut self, keyspace: &Keyspace) {
        let rev = keyspace.rev();
        let Some(opened) = &mut self.opened else {
            return;
        };
        let Opened { durable, boot, .. } = opened;
        if durable.has_failed() || boot.has_failed() {
            return warn!("the journals can't say that this was a clean stop: one has failed");
        }
        // The boot journal tells apart a durable journal that is clean because of this, and one that is
        // an older copy; and it tells a crash on the way from both.
        let unsynced = durable.unsynced();
        let closed = boot
            .close(rev, &[], Stop::Closing)
            .and_then(|()| durable.close(rev, unsynced.as_slice(), Stop::Clean))
            .and_then(|()| boot.close(rev, &[("with", rev)], Stop::Clean));
        if let Err(error) = closed {
            warn!("the journals can't say that this was a clean stop: {error}");
        }
    }
}

impl Opened {
    /// Makes the lines of what has changed after a revision, for those journals that it concerns.
    fn draft(&mut self, keyspace: &Keyspace, after: u64) {
        let (durable, boot) = (&mut self.durable_draft, &mut self.boot_draft);
        let rev = keyspace.rev();
        for (at, change) in keyspace.changes_after(after) {
            let Some(change) = change else { continue };
            let draft = match change.class {
                Class::Durable => &mut *durable,
                Class::Boot => &mut *boot,
            };
            draft.begin(rev);
            match change.entry {
                Some(entry) => draft.put(&entry),
                None => draft.delete(change.key, at),
            }
        }
        for key in keyspace.displaced() {
            // One that was displaced twice is where it was. One that was deleted after is a tombstone
            // in one journal, where it is not to be displaced.
            match keyspace.class(key.borrowed()) {
                Some(Class::Boot) => {
                    durable.begin(rev);
                    durable.displace(key, rev);
                }
                Some(Class::Durable) => {
                    boot.begin(rev);
                    boot.displace(key, rev);
                }
                None => unreachable!("a tombstone of this turn is not dropped before it is kept"),
            }
        }
        for key in keyspace.renewed() {
            let entry = keyspace.entry(key.borrowed());
            let Some(entry) = entry.filter(|entry| entry.rev <= after) else {
                continue;
            };
            if let Some(deadline) = entry.deadline {
                boot.begin(rev);
                boot.renew(key, entry.rev, deadline);
            }
        }
    }

    /// Writes the lines: both or neither.
    fn write(&mut self, rev: u64, now: Time) -> Result<(), Unkept> {
        let reserved = self.durable.reserve(rev);
        // Entries end by themselves while the boot journal can't be written, too. A new one won't have
        // them; but if there never is one, the history must not go on with them.
        let unkept = self.boot_draft.is_begun() && self.boot.has_failed() && !self.boot_unkept;
        if (reserved.is_some() || unkept) && !self.durable.has_failed() {
            self.durable_draft.begin(rev);
        }
        let has_durable = self.durable_draft.is_begun();
        let mut boot_line: Option<(&[u8], u64)> = None;
        if self.boot_draft.is_begun() && !self.boot.has_failed() {
            let with = [("with", rev)];
            let fields = if has_durable { &with[..] } else { &[] };
            let (line, records) = self.boot_draft.end(fields, Stop::No);
            let written = self.boot.append(line, records, None, now);
            written.map_err(|_| Unkept)?;
            boot_line = Some((line, records));
        }
        if has_durable {
            let fields = [
                reserved.map(|reserved| ("reserved", reserved)),
                unkept.then_some(("boot_unkept", rev)),
                self.durable.unsynced(),
            ];
            let fields: Vec<_> = fields.into_iter().flatten().collect();
            let (line, records) = self.durable_draft.end(&fields, Stop::No);
            if self.durable.append(line, records, reserved, now).is_err() {
                if let Some((line, records)) = boot_line {
                    self.boot.take_back(line, records, now);
                }
                return Err(Unkept);
            }
            self.boot_unkept |= unkept;
        }
        self.boot_unkept &= self.boot.has_failed();
        Ok(())
    }
}
