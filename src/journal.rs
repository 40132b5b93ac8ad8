//! Journals: what the daemon writes down, so that it outlives the daemon.
//!
//! Two files of one format, which `docs/journal.md` tells byte for byte:
//!
//! - the **durable** journal on the disk, with the entries whose lifetime is `durable`;
//! - the **boot** journal in memory that goes with the machine (normally a tmpfs), with those that are
//!   `boot` or `session`, and with the name of the history, the epoch.
//!
//! A turn of the loop is written as one line to each journal that it concerns, so it counts as a whole
//! or not at all. Where it concerns both, the boot journal's line comes first and says that it counts
//! only with the other, whose line then decides for both. When a line is as safe as the [`Policy`]
//! asks, the turn is committed: only then does anyone hear of it.
//!
//! **Rewriting.** A journal only grows, so when most of it is history it is written anew: what the
//! change index holds up to now, a slice a turn, in a second file, to which meanwhile every commit goes
//! as well. When that is complete and safe it takes the name of the first. At no point is there
//! no complete journal under the name.
//!
//! **Failing.** A write or a sync that has failed leaves a file of which nobody knows what is on the
//! disk (a second `fsync` may well succeed and mean nothing), so that file is never written to again.
//! Writes that belong in it are refused until a complete new one is in its place, which is tried every
//! few seconds with the same means as rewriting. Everything else goes on.
//!
//! **Revisions** are never given twice, although boot entries, which may have used any number of them,
//! go with the machine: the durable journal **reserves** them ahead, and a start that follows no clean
//! stop begins behind the reserve.
//!
//! What is left out: an index in the file, for all of it is read at the start and never again; deltas
//! of large values; compression, which would end reading it with `less`; more than one commit in
//! flight, for a turn waits for its own.

mod file;
mod format;
mod pair;
mod recovery;
mod start;
mod sync;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::keyspace::{Class, Keyspace, Time};

pub use pair::Journals;

/// Where a keyspace is kept beyond the daemon's life. [`Journals`] and [`Memory`] are two ways;
/// another engine is a third.
///
/// The order of calls: [`Storage::load`] once, before anything else, and [`Storage::can_fail`] once
/// after it. Then, in each turn, [`Storage::commit`], also where nothing has changed; again after each
/// [`Unkept`]; and at the end of the turn [`Storage::tend`]. [`Storage::close`] last, where the daemon
/// stops cleanly or its sockets can't be opened; a server that is dropped before it runs, or that fails,
/// does not call it.
///
/// None of them is to block for longer than it takes to make a turn's changes safe: nobody is served
/// meanwhile.
pub trait Storage: Send + fmt::Debug {
    /// Fills an empty keyspace with what is kept, and returns the epoch: the former one where the
    /// history goes on unbroken, and a new one where changes may be missing that someone has seen.
    ///
    /// `session` entries have lost their owners; they are to end [`ORPHAN_PATIENCE`] after `now`. The
    /// keyspace's revision is to be no smaller than any that was ever given.
    ///
    /// `wake` may be called from any thread, and makes the daemon call [`Storage::tend`] soon.
    ///
    /// # Errors
    /// Whatever makes it impossible to go on, with a message for a person.
    fn load(&mut self, keyspace: &mut Keyspace, now: Time, wake: Wake)
    -> Result<String, LoadError>;

    /// Makes safe what has changed after a revision: [`Keyspace::changes_after`],
    /// [`Keyspace::displaced`] and [`Keyspace::renewed`]. All of it or nothing. There may be nothing
    /// that has changed.
    ///
    /// # Errors
    /// [`Unkept`] where that is not possible. [`Storage::writable`] then says what can't be written
    /// any more, the turn is undone and carried out again with that refused, and committed again. A
    /// storage that fails more often in one turn than there are classes stops the daemon by a panic.
    fn commit(&mut self, keyspace: &Keyspace, after: u64, now: Time) -> Result<(), Unkept>;

    /// Does a bounded piece of whatever else there is to do. Everything is committed.
    fn tend(&mut self, keyspace: &Keyspace, now: Time);

    /// When [`Storage::tend`] is to be called next, if nothing else happens. A time that has passed
    /// means at once.
    fn next_deadline(&self) -> Option<Time>;

    /// What can be written at present. It is asked after a failed commit and at the end of each turn.
    fn writable(&self) -> Writable;

    /// Whether commits can fail at all. Where they can't, nothing is done to be able to undo a turn,
    /// and a commit that fails all the same stops the daemon by a panic.
    fn can_fail(&self) -> bool;

    /// Its figures, for `stats`. They are asked for in each turn.
    fn figures(&self) -> Figures;

    /// Makes everything safe, and notes that nothing is missing. Everything is committed.
    fn close(&mut self, keyspace: &Keyspace);
}

/// Makes the daemon's loop turn once.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// Why nothing could be loaded. Those of [`Journals`] are [`JournalError`]s.
pub type LoadError = Box<dyn std::error::Error + Send + Sync>;

/// A commit that could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unkept;

/// How long a `session` entry waits for its owner when the daemon has been started again.
pub const ORPHAN_PATIENCE: Duration = Duration::from_secs(10);

/// Which changes can be kept at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writable {
    /// Changes of entries that are `durable`.
    pub durable: bool,
    /// Changes of entries that are `boot` or `session`.
    pub boot: bool,
}

impl Default for Writable {
    fn default() -> Writable {
        Writable {
            durable: true,
            boot: true,
        }
    }
}

impl Writable {
    /// Whether changes of this class can be kept.
    #[must_use]
    pub fn allows(self, class: Class) -> bool {
        match class {
            Class::Durable => self.durable,
            Class::Boot => self.boot,
        }
    }
}

/// What a storage has done. "Since the start" is the daemon's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Figures {
    /// Bytes of the durable journal.
    pub bytes: u64,
    /// About how many of them would be left if it were written anew.
    pub live_bytes: u64,
    /// Records in the durable journal.
    pub records: u64,
    /// Bytes written to the disk since the start, rewriting included.
    pub written_bytes: u64,
    /// How often the disk was asked to have all of a durable journal, since the start.
    pub syncs: u64,
    /// How often a durable journal was written anew since the start.
    pub rewrites: u64,
    /// How often writing or syncing a journal, or writing one anew, failed since the start.
    pub failures: u64,
    /// Bytes of the boot journal.
    pub boot_bytes: u64,
}

/// When durable changes are on stable storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Before anyone hears of them.
    #[default]
    Always,
    /// Within this time. They are handed to the kernel before anyone hears of them.
    Interval(Duration),
    /// When the kernel sees fit. They are handed to it before anyone hears of them.
    Never,
}

/// The interval of [`Policy::Interval`] where none is said.
pub const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// Where and how [`Journals`] are kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory of the durable journal; made where it is missing.
    pub data_directory: PathBuf,
    /// The directory of the boot journal, which must be another one; made where it is missing. It
    /// should go with the machine.
    pub runtime_directory: PathBuf,
    /// When durable changes are on stable storage.
    pub policy: Policy,
    /// Whether to start from what is sound of a damaged journal.
    pub recover: bool,
}

/// Why journals can't be used.
#[derive(Debug)]
#[non_exhaustive]
pub enum JournalError {
    /// Another daemon uses the directory.
    Locked {
        /// Which.
        directory: PathBuf,
        /// The other one's process, as far as its lock says.
        holder: Option<u32>,
    },
    /// A journal holds something that was not written so.
    Damaged {
        /// Its file.
        path: PathBuf,
        /// Which line, counted from 1.
        line: u64,
        /// Where the line begins, in bytes from 0.
        offset: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A journal was written by a newer version.
    Version {
        /// Its file.
        path: PathBuf,
        /// The version of the format.
        version: u64,
    },
    /// So many revisions were given that a run of the daemon might come to the end of them.
    UsedUp {
        /// The one that the start would go on behind.
        rev: u64,
    },
    /// The system refused.
    Io {
        /// What was tried, as in "open FILE".
        action: String,
        /// The system's reason.
        source: io::Error,
    },
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JournalError::Locked { directory, holder } => {
                write!(f, "{} is in use by another daemon", directory.display())?;
                match holder {
                    Some(pid) => write!(f, " (process {pid})"),
                    None => Ok(()),
                }
            }
            JournalError::Damaged {
                path,
                line,
                offset,
                reason,
            } => write!(
                f,
                "{} is damaged in line {line}, at byte {offset}: {reason}; with --recover the \
                 daemon starts from what is sound",
                path.display()
            ),
            JournalError::Version { path, version } => write!(
                f,
                "{} was written by a newer nkv (format {version}, this one reads up to {})",
                path.display(),
                format::VERSION
            ),
            JournalError::UsedUp { rev } => write!(
                f,
                "the journals go up to revision {rev}, and there are too few behind it"
            ),
            JournalError::Io { action, source } => write!(f, "can't {action}: {source}"),
        }
    }
}

impl std::error::Error for JournalError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            JournalError::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl JournalError {
    fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> JournalError {
        let action = action.into();
        move |source| JournalError::Io { action, source }
    }
}

/// No storage: nothing outlives the daemon, and every start is a new history.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory;

impl Storage for Memory {
    fn load(&mut self, _: &mut Keyspace, _: Time, _: Wake) -> Result<String, LoadError> {
        Ok(new_name())
    }

    fn commit(&mut self, _: &Keyspace, _: u64, _: Time) -> Result<(), Unkept> {
        Ok(())
    }

    fn tend(&mut self, _: &Keyspace, _: Time) {}

    fn next_deadline(&self) -> Option<Time> {
        None
    }

    fn writable(&self) -> Writable {
        Writable::default()
    }

    fn can_fail(&self) -> bool {
        false
    }

    fn figures(&self) -> Figures {
        Figures::default()
    }

    fn close(&mut self, _: &Keyspace) {}
}

/// A name that no other epoch or store has.
fn new_name() -> String {
    let random = getrandom::u64().expect("the kernel gives random bytes");
    format!("{random:016x}")
}
