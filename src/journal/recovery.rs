//! Reading a journal from its first byte to its last sound one.
//!
//! What may be wrong with a file, and what is made of it:
//!
//! - **Its end is torn**: from some line on nothing is sound. That is what a crash in the middle of a
//!   write leaves, of which nobody was told. The tail is cut off.
//! - **Its end has holes**: after a power cut, a line that is not sound is followed by sound ones, all of
//!   which say that it may not have been on the disk when they were written. That is a torn end, too.
//! - **It is damaged** before its end: a line that is not sound is followed by one that is. No crash
//!   leaves that. Nothing is guessed: the start fails, unless sound lines are asked for.
//! - **Its last commit is half of one**: it counts only with a line that the other journal doesn't have.
//!   A crash between the two writes leaves that. It is cut off.
//! - **It counts on a line that the other journal has lost**: anything else that such a line can be.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::key::KeyRef;
use crate::keyspace::{Class, Restored};

use super::JournalError;
use super::format::{Commit, Header, Unreadable};

/// How much is read at once.
const READ_BYTES: u64 = 1 << 20;

/// How to read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading<'a> {
    pub(super) path: &'a Path,
    pub(super) class: Class,
    /// Whether to skip what is damaged.
    pub(super) recover: bool,
    /// The revision of the other journal's last line, where lines may count only with one of those.
    pub(super) other_rev: Option<u64>,
    /// Whether the machine may have gone down since it was written.
    pub(super) after_power_cut: bool,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The length in bytes up to the end of the last sound line.
    pub(super) len: u64,
    pub(super) records: u64,
    /// The last revision that was given, as far as is known.
    pub(super) rev: u64,
    pub(super) reserved: u64,
    pub(super) floor: u64,
    /// Whether the last line says that the daemon has stopped cleanly.
    pub(super) clean: bool,
    /// Whether the last line says that it was about to, or that it has.
    pub(super) closing: bool,
    /// What follows the last sound line, if anything does.
    pub(super) tail: Option<Tail>,
    /// Lines that were skipped.
    pub(super) damaged: Vec<Damage>,
    /// Whether a line of the other journal that was counted on is missing.
    pub(super) other_lost: bool,
    /// The highest revision of which it says that the boot journal could not be written then.
    pub(super) boot_unkept: u64,
}

/// What follows the last sound line.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) bytes: u64,
    pub(super) damage: Damage,
    /// Whether it is the beginning of one line: all that a crash of the daemon alone can leave.
    pub(super) is_partial: bool,
    /// Whether there are sound lines in it, behind what is missing.
    pub(super) has_sound_lines: bool,
}

/// A line that is not sound.
#[derive(Clone, Debug)]
pub(super) struct Damage {
    /// Counted from 1.
    pub(super) line: u64,
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) reason: String,
}

/// Whether a file is not there or has no complete line at all. A journal gets its name when it is complete, so only a
/// power cut leaves that, and only of a file that was not synced.
pub(super) fn is_unwritten(path: &Path) -> Result<bool, JournalError> {
    if !exists(path)? {
        return Ok(true);
    }
    let mut lines = Lines::open(path)?;
    let first = lines.next()?;
    Ok(first.is_none_or(|line| !line.is_whole))
}

/// Whether there is a file. Where that can't be known it is not taken for missing.
pub(super) fn exists(path: &Path) -> Result<bool, JournalError> {
    path.try_exists()
        .map_err(JournalError::io(format!("look for {}", path.display())))
}

/// Reads the first line alone; nothing where it is not sound and that is to be skipped.
pub(super) fn header(reading: Reading<'_>) -> Result<Option<Header>, JournalError> {
    let mut lines = Lines::open(reading.path)?;
    let first = lines.next()?;
    let (is_whole, line) = first.map_or((false, &[][..]), |line| (line.is_whole, line.text));
    let read = if is_whole {
        Header::read(line)
    } else {
        Err(Unreadable::Damaged("the first line is not complete".into()))
    };
    match read {
        Ok(header) => Ok(Some(header)),
        Err(Unreadable::Damaged(_)) if reading.recover => Ok(None),
        Err(error) => Err(reading.error(error, 1, 0)),
    }
}

/// Reads everything behind the first line, and gives each record to `take`.
pub(super) fn read(
    reading: Reading<'_>,
    mut take: impl FnMut(KeyRef<'_>, u64, &Restored<'_>),
) -> Result<Found, JournalError> {
    let mut lines = Lines::open(reading.path)?;
    let mut found = Found::default();
    let mut bad: Vec<Damage> = Vec::new();
    let mut is_partial = false;
    let mut has_sound_lines = false;
    // A line that counts only with one which is not there; if another follows, that one is lost.
    let mut half: Option<(Damage, Vec<u8>)> = None;
    while let Some(line) = lines.next()? {
        if line.number == 1 {
            found.len = line.end();
            if line.is_whole && Header::read(line.text).is_ok() {
                continue;
            }
        }
        let damage = |reason: String| Damage {
            line: line.number,
            offset: line.offset,
            bytes: line.bytes(),
            reason,
        };
        let read = if line.is_whole {
            Commit::read(line.text)
        } else {
            Err(Unreadable::Damaged("it has no end".into()))
        };
        let commit = match read {
            Ok(commit) => commit,
            Err(Unreadable::Damaged(reason)) => {
                is_partial = bad.is_empty() && !line.is_whole;
                bad.push(damage(reason));
                continue;
            }
            Err(error) => return Err(reading.error(error, line.number, line.offset)),
        };
        if let Some(first) = bad.first() {
            let may_be_hole = line.offset.saturating_sub(commit.unsynced) <= first.offset;
            if reading.after_power_cut && may_be_hole && !reading.recover {
                has_sound_lines = true;
                continue;
            }
            if !reading.recover {
                let reason = Unreadable::Damaged(first.reason.clone());
                return Err(reading.error(reason, first.line, first.offset));
            }
            found.damaged.append(&mut bad);
        }
        if let Some((damage, text)) = half.take() {
            found.other_lost = true;
            let commit = Commit::read(&text)
                .map_err(|error| reading.error(error, damage.line, damage.offset))?;
            found.count(&commit, reading, &damage, &mut take)?;
        }
        let damage = damage("the durable journal does not have its other half".into());
        let needed = commit.with.zip(reading.other_rev);
        if needed.is_some_and(|(with, rev)| with > rev) {
            half = Some((damage, line.text.to_vec()));
            continue;
        }
        found.count(&commit, reading, &damage, &mut take)?;
        found.len = line.end();
    }
    if let Some((damage, text)) = half {
        // At a clean stop the other journal's line was written first, and so it was lost later.
        if let Ok(commit) = Commit::read(&text) {
            found.other_lost |= commit.clean;
            found.rev = found.rev.max(commit.rev);
        }
        bad.insert(0, damage);
        is_partial = bad.len() == 1;
    }
    if let Some(first) = bad.into_iter().next() {
        found.clean = false;
        found.tail = Some(Tail {
            bytes: lines.offset - first.offset,
            damage: first,
            is_partial: is_partial && !has_sound_lines,
            has_sound_lines,
        });
    }
    Ok(found)
}

impl Found {
    fn count(
        &mut self,
        commit: &Commit<'_>,
        reading: Reading<'_>,
        place: &Damage,
        take: impl FnMut(KeyRef<'_>, u64, &Restored<'_>),
    ) -> Result<(), JournalError> {
        // A line counts as a whole or not at all.
        let checked = match reading.recover {
            true => commit.restore(reading.class, |_, _, _| ()),
            false => Ok(()),
        };
        match checked.and_then(|()| commit.restore(reading.class, take)) {
            Err(Unreadable::Damaged(reason)) if reading.recover => {
                self.damaged.push(Damage {
                    reason,
                    ..place.clone()
                });
                return Ok(());
            }
            done => done.map_err(|error| reading.error(error, place.line, place.offset))?,
        }
        self.records += commit.records();
        self.rev = self.rev.max(commit.rev);
        self.reserved = self.reserved.max(commit.reserved.unwrap_or(0));
        self.floor = self.floor.max(commit.floor.unwrap_or(0));
        self.boot_unkept = self.boot_unkept.max(commit.boot_unkept.unwrap_or(0));
        self.clean = commit.clean;
        self.closing = commit.closing || commit.clean;
        Ok(())
    }
}

impl Reading<'_> {
    fn error(&self, error: Unreadable, line: u64, offset: u64) -> JournalError {
        let path = self.path.to_owned();
        match error {
            Unreadable::Version(version) => JournalError::Version { path, version },
            Unreadable::Damaged(reason) => JournalError::Damaged {
                path,
                line,
                offset,
                reason,
            },
        }
    }
}

/// A file's lines, one at a time.
struct Lines<'p> {
    path: &'p Path,
    file: File,
    buffer: Vec<u8>,
    /// What of the buffer was given already.
    start: usize,
    /// The offset of what is given next.
    offset: u64,
    number: u64,
    is_over: bool,
}

struct Line<'b> {
    number: u64,
    offset: u64,
    text: &'b [u8],
    /// Whether it has a line end.
    is_whole: bool,
}

impl Line<'_> {
    fn bytes(&self) -> u64 {
        self.text.len() as u64 + u64::from(self.is_whole)
    }

    fn end(&self) -> u64 {
        self.offset + self.bytes()
    }
}

impl<'p> Lines<'p> {
    fn open(path: &'p Path) -> Result<Lines<'p>, JournalError> {
        let file =
            File::open(path).map_err(JournalError::io(format!("open {}", path.display())))?;
        Ok(Lines {
            path,
            file,
            buffer: Vec::new(),
            start: 0,
            offset: 0,
            number: 0,
            is_over: false,
        })
    }

    fn next(&mut self) -> Result<Option<Line<'_>>, JournalError> {
        let mut searched = self.start;
        let end = loop {
            if let Some(end) = memchr::memchr(b'\n', &self.buffer[searched..]) {
                break Some(searched + end);
            }
            searched = self.buffer.len();
            if self.is_over {
                break None;
            }
            if self.start > 0 {
                self.buffer.drain(..self.start);
                searched -= self.start;
                self.start = 0;
            }
            self.read_on()
                .map_err(JournalError::io(format!("read {}", self.path.display())))?;
        };
        let text = self.start..end.unwrap_or(self.buffer.len());
        if text.is_empty() && end.is_none() {
            return Ok(None);
        }
        let line = Line {
            number: self.number + 1,
            offset: self.offset,
            text: &self.buffer[text.clone()],
            is_whole: end.is_some(),
        };
        self.number += 1;
        self.offset = line.end();
        self.start = text.end + usize::from(line.is_whole);
        Ok(Some(line))
    }

    fn read_on(&mut self) -> io::Result<()> {
        let mut part = (&self.file).take(READ_BYTES);
        self.is_over = part.read_to_end(&mut self.buffer)? == 0;
        Ok(())
    }
}
