//! A start: what both journals say after whatever has happened, and a keyspace made of it.
//!
//! No journal is changed before both are read. Then they are put in order so that a crash on the way
//! leaves no less to be found out by the next start.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use log::{info, warn};

use crate::keyspace::{Class, Keyspace, Time};

use super::file::{self, Journal, Known, Place};
use super::format::{Header, Kind, REV_MAX, VERSION};
use super::recovery::{self, Found, Reading, exists};
use super::{JournalError, ORPHAN_PATIENCE, Options, Policy, new_name};

/// No start goes on behind a greater revision, so that a run never comes to the end of them.
const START_REV_MAX: u64 = REV_MAX / 2;

/// What a start finds out, step by step.
pub(super) struct Loading<'a> {
    pub(super) options: &'a Options,
    pub(super) keyspace: &'a mut Keyspace,
}

/// One journal as it was found.
struct Journaled {
    header: Option<Header>,
    found: Found,
}

impl Loading<'_> {
    pub(super) fn run(mut self, now: Time) -> Result<(Journal, Journal, String), JournalError> {
        let durable_path = file::path(&self.options.data_directory, Class::Durable);
        let boot_path = file::path(&self.options.runtime_directory, Class::Boot);
        for path in [&durable_path, &boot_path] {
            remove_leftover(&file::new_path(path))?;
        }
        let run_of_machine = run_of_machine();
        let store = self.store(&durable_path, &boot_path)?;
        let is_same_run = self.is_of_this_run(&boot_path, &store, &run_of_machine)?;
        let durable = self.read(&durable_path, Class::Durable, None, !is_same_run)?;
        let durable_rev = durable.as_ref().map_or(0, |read| read.found.rev);
        let boot = if is_same_run {
            self.read(&boot_path, Class::Boot, Some(durable_rev), false)?
        } else {
            None
        };
        let epoch = kept_epoch(durable.as_ref(), boot.as_ref());
        let is_unbroken = epoch.is_some();
        let epoch = epoch.unwrap_or_else(new_name);
        let rev = next_revision(durable.as_ref(), boot.as_ref());
        if rev > START_REV_MAX {
            return Err(JournalError::UsedUp { rev });
        }
        let both = [&durable, &boot].into_iter().flatten();
        let floor = both.map(|read| read.found.floor).max().unwrap_or(0);
        // Tombstones are for those who resume, and nobody resumes in a new history.
        self.keyspace
            .restored(rev, if is_unbroken { floor } else { u64::MAX });
        let patience = u64::try_from(ORPHAN_PATIENCE.as_millis()).unwrap_or(u64::MAX);
        self.keyspace
            .orphan_sessions(Time(now.0.saturating_add(patience)));

        let durable_place = self.durable_place(&store);
        let boot_place = self.boot_place(store, run_of_machine, epoch.clone());
        // Where the durable journal lacks what the boot journal knew, it alone would say something else.
        let is_behind = boot.as_ref().is_some_and(|boot| boot.found.other_lost);
        // A boot journal whose history has ended begins another, and does so first: once the durable
        // journal is in order, nothing would tell any more that something is lost. But a store is named
        // by its durable journal before a boot journal goes with it.
        let (mut durable, mut boot) = if durable.is_none() {
            let durable = self.open(durable_place, durable, is_behind)?;
            (durable, self.open(boot_place, boot, !is_unbroken)?)
        } else {
            let boot = self.open(boot_place, boot, !is_unbroken)?;
            (self.open(durable_place, durable, is_behind)?, boot)
        };
        durable.start(self.keyspace.rev())?;
        boot.start(self.keyspace.rev())?;
        Ok((durable, boot, epoch))
    }

    fn durable_place(&self, store: &str) -> Place {
        Place {
            class: Class::Durable,
            directory: self.options.data_directory.clone(),
            policy: self.options.policy,
            header: Header {
                journal: Kind::Durable,
                version: VERSION,
                store: store.to_owned(),
                boot: None,
                epoch: None,
            },
        }
    }

    fn boot_place(&self, store: String, run_of_machine: String, epoch: String) -> Place {
        Place {
            class: Class::Boot,
            directory: self.options.runtime_directory.clone(),
            policy: Policy::Never,
            header: Header {
                journal: Kind::Boot,
                version: VERSION,
                store,
                boot: Some(run_of_machine),
                epoch: Some(epoch),
            },
        }
    }

    /// The name of the durable journal. Where it can't be read in the file itself, the boot journal may
    /// know it; where there is no file, it gets one.
    fn store(&self, durable: &Path, boot: &Path) -> Result<String, JournalError> {
        if let Some(header) = self.header(durable, Class::Durable)? {
            return Ok(header.store);
        }
        if exists(durable)?
            && !recovery::is_unwritten(boot)?
            && let Some(header) = self.header(boot, Class::Boot)?
        {
            return Ok(header.store);
        }
        Ok(new_name())
    }

    /// The first line of a journal, if there is a journal and the line is sound.
    fn header(&self, path: &Path, class: Class) -> Result<Option<Header>, JournalError> {
        if !exists(path)? {
            return Ok(None);
        }
        recovery::header(Reading {
            path,
            class,
            recover: self.options.recover,
            other_rev: None,
            after_power_cut: false,
        })
    }

    /// Reads a journal into the keyspace, if there is one.
    fn read(
        &mut self,
        path: &Path,
        class: Class,
        other_rev: Option<u64>,
        after_power_cut: bool,
    ) -> Result<Option<Journaled>, JournalError> {
        let header = self.header(path, class)?;
        if !exists(path)? {
            return Ok(None);
        }
        let reading = Reading {
            path,
            class,
            recover: self.options.recover,
            other_rev,
            after_power_cut,
        };
        let keyspace = &mut *self.keyspace;
        let mut takes_over = false;
        let mut found = recovery::read(reading, |key, rev, record| {
            takes_over |= keyspace.restore(key, rev, record);
        })?;
        found.other_lost |= takes_over;
        if found.other_lost {
            warn!(
                "{} counts on what the other journal has lost",
                path.display()
            );
        }
        if let Some(tail) = &found.tail {
            if tail.has_sound_lines {
                // Not as a second name: the file itself is shortened.
                let aside = free_name(path);
                fs::copy(path, &aside).map_err(not_kept(path))?;
                warn!("{} is kept as {}", path.display(), aside.display());
            }
            warn!(
                "{}: the last {} bytes, from line {} at byte {}, are cut off: {}",
                path.display(),
                tail.bytes,
                tail.damage.line,
                tail.damage.offset,
                tail.damage.reason
            );
        }
        for damage in &found.damaged {
            warn!(
                "{}: line {} at byte {} ({} bytes) is dropped: {}",
                path.display(),
                damage.line,
                damage.offset,
                damage.bytes,
                damage.reason
            );
        }
        if header.is_none() {
            warn!("{}: the first line is damaged", path.display());
        }
        Ok(Some(Journaled { header, found }))
    }

    /// Whether there is a boot journal of this run of the machine that goes with this store.
    fn is_of_this_run(&self, path: &Path, store: &str, run: &str) -> Result<bool, JournalError> {
        if recovery::is_unwritten(path)? {
            return Ok(false);
        }
        let Some(header) = self.header(path, Class::Boot)? else {
            let aside = set_aside(path)?;
            warn!(
                "{} does not say what it is and is set aside as {}",
                path.display(),
                aside.display()
            );
            return Ok(false);
        };
        if header.boot.as_deref() != Some(run) {
            info!("{} is of an earlier run of the machine", path.display());
            return Ok(false);
        }
        if header.store != store {
            let aside = set_aside(path)?;
            warn!(
                "{} goes with another data directory and is set aside as {}",
                path.display(),
                aside.display()
            );
            return Ok(false);
        }
        Ok(true)
    }

    /// Opens a journal to go on with, or writes it anew where it can't be.
    fn open(
        &self,
        place: Place,
        read: Option<Journaled>,
        anew: bool,
    ) -> Result<Journal, JournalError> {
        let path = place.path();
        let Some(Journaled { header, found }) = read else {
            return Journal::create(place, self.keyspace);
        };
        if header.is_none() || !found.damaged.is_empty() {
            let aside = set_aside(&path)?;
            warn!(
                "{} is kept as {} and written anew from what is sound",
                path.display(),
                aside.display()
            );
            return Journal::create(place, self.keyspace);
        }
        if anew {
            return Journal::create(place, self.keyspace);
        }
        let known = Known {
            len: found.len,
            records: found.records,
            reserved: found.reserved,
        };
        Journal::open(place, &known)
    }
}

impl Journaled {
    /// Whether something may be missing that someone has seen.
    fn has_lost(&self) -> bool {
        let tail = self.found.tail.as_ref();
        self.header.is_none()
            || self.found.other_lost
            || !self.found.damaged.is_empty()
            || tail.is_some_and(|tail| !tail.is_partial)
    }
}

/// The epoch that goes on, if it does.
fn kept_epoch(durable: Option<&Journaled>, boot: Option<&Journaled>) -> Option<String> {
    let (durable, boot) = (durable?, boot?);
    let is_unkept = durable.found.boot_unkept > boot.found.rev;
    if is_older(durable, boot) || durable.has_lost() || boot.has_lost() || is_unkept {
        return None;
    }
    boot.header.as_ref()?.epoch.clone()
}

/// Whether the durable journal was replaced by a copy that was made after a clean stop: the boot journal
/// knows of a start since.
fn is_older(durable: &Journaled, boot: &Journaled) -> bool {
    durable.found.clean && !boot.found.closing
}

/// A revision that all that were given are up to.
fn next_revision(durable: Option<&Journaled>, boot: Option<&Journaled>) -> u64 {
    let both = || [durable, boot].into_iter().flatten();
    let last = both().map(|read| read.found.rev).max().unwrap_or(0);
    let Some(durable) = durable else {
        return last;
    };
    let is_older = boot.is_some_and(|boot| is_older(durable, boot));
    if durable.found.clean && !is_older && !both().any(Journaled::has_lost) {
        return last;
    }
    // What is lost may have reserved more.
    let lost: usize = both()
        .map(|read| read.found.damaged.len() + usize::from(read.has_lost()))
        .sum::<usize>()
        + usize::from(is_older);
    last.max(durable.found.reserved) + lost as u64 * file::RESERVE
}

/// Makes a directory unless it is there, and locks it against other daemons. One directory may serve
/// for both journals, so each has a lock of its own.
pub(super) fn claim(directory: &Path, lock: &str) -> Result<File, JournalError> {
    let shown = directory.display();
    match fs::metadata(directory) {
        Ok(found) if !found.is_dir() => {
            return Err(JournalError::Io {
                action: format!("keep data in {shown}"),
                source: io::Error::from(io::ErrorKind::NotADirectory),
            });
        }
        Ok(_) => {}
        Err(_) => make_directory(directory)
            .map_err(JournalError::io(format!("make the directory {shown}")))?,
    }
    let failed = || JournalError::io(format!("write to the directory {shown}"));
    let mut lock = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(directory.join(lock))
        .map_err(failed())?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let holder = lock.read_to_string(&mut text).ok();
            return Err(JournalError::Locked {
                directory: directory.to_owned(),
                holder: holder.and_then(|_| text.trim().parse().ok()),
            });
        }
        Err(TryLockError::Error(error)) => return Err(failed()(error)),
    }
    let written = lock
        .set_len(0)
        .and_then(|()| writeln!(lock, "{}", std::process::id()));
    written.map_err(failed())?;
    Ok(lock)
}

/// Makes a directory, its parents, and their names safe.
fn make_directory(directory: &Path) -> io::Result<()> {
    let first_missing = directory
        .ancestors()
        .take_while(|ancestor| !ancestor.exists())
        .last();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    match first_missing.and_then(Path::parent) {
        Some(parent) if !parent.as_os_str().is_empty() => file::sync_directory(parent),
        _ => Ok(()),
    }
}

/// Gives a journal that is not to be used any more a second name, under which it stays when a new one
/// takes the first.
fn set_aside(path: &Path) -> Result<PathBuf, JournalError> {
    let aside = free_name(path);
    // Not every file system has links.
    fs::hard_link(path, &aside)
        .or_else(|_| fs::copy(path, &aside).map(drop))
        .map_err(not_kept(path))?;
    Ok(aside)
}

/// A name beside a journal's under which nothing stands.
fn free_name(path: &Path) -> PathBuf {
    let name = |number: u32| match number {
        0 => path.with_extension("journal.damaged"),
        number => path.with_extension(format!("journal.damaged.{number}")),
    };
    let free = (0..).map(name).find(|name| !name.exists());
    free.expect("there are more numbers than files")
}

fn not_kept(path: &Path) -> impl FnOnce(io::Error) -> JournalError {
    JournalError::io(format!("keep {} as another file", path.display()))
}

fn remove_leftover(path: &Path) -> Result<(), JournalError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(JournalError::Io {
            action: format!("remove {}", path.display()),
            source: error,
        }),
        _ => Ok(()),
    }
}

/// Names the time from one start of the machine to the next; a new name where the kernel doesn't say,
/// so that nothing is taken for what it may not be.
fn run_of_machine() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| new_name(), |text| text.trim().to_owned())
}
