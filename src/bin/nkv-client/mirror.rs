//! `mirror`: a part of the keyspace as a directory of files, one a key, for what reads files.
//!
//! **The directory** is flat, because a key can have a value and keys below it, and a file can't. It is
//! the mirror's own: it is begun empty, and marked by a file (`MARK`), which also is the lock that keeps a
//! second mirror out. What is in it under a name that a key can have ([`file_name`]) is a key's file, from
//! this run or an earlier one; if it is no key any more it is removed. Whatever has another name, and
//! whatever is no regular file, is left alone. So nothing is lost by naming a wrong directory: one that
//! is not empty and has no mark is refused.
//!
//! **A file** is replaced by renaming, so whoever opens it finds one value, whole, and whoever watches the
//! directory sees one event. A file that says the right thing already is not touched.
//!
//! **A cut.** What is told between two `sync`s is held back and written in one go. `SYNCED` names the
//! revision while the files are exactly one state, and is away while they are changed. The entries that
//! come first, and those after a `reset`, are written as they come, for they may be many.
//!
//! **A directory that is taken away** ends the mirror, also where there is another one under the same path
//! by then: that is somebody else's, or another mirror's.
//!
//! **Names come from others**: whoever may write a key chooses its text. No key becomes a name that has
//! a `/` or begins with a dot, so nothing is written outside of the directory nor over the mirror's own
//! files; and a symbolic link in it is replaced, not followed.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nkv::Key;
use nkv::client::{Event, Value};

use crate::arguments::{Mirror, checked};
use crate::daemon::Target;
use crate::failure::{Failure, NOT_MET, USAGE, plain};
use crate::follow::Follower;
use crate::interrupt::Stopper;
use crate::output::write_file_value;
use crate::subscribe::notice;

/// Marks a directory that a mirror keeps.
const MARK: &str = ".nkv-mirror";
const MARK_TEXT: &str = "nkv-client mirror keeps this directory, and removes what is no key.\n";

/// Where the revision is, while the files are exactly one state.
const SYNCED: &str = ".synced";

/// What a file is before it has its name.
const NEW: &str = ".nkv-new";

/// The longest name that Linux' file systems take.
const NAME_BYTES_MAX: usize = 255;

/// Keeps a directory in step until it is stopped, or has the state that there is.
pub(crate) fn run(target: &Target, arguments: &Mirror, stopper: &Stopper) -> Result<(), Failure> {
    checked(&arguments.pattern)?;
    let mut wanted = target.link().events(&arguments.pattern)?.cuts();
    if arguments.exact {
        wanted = wanted.exact();
    }
    let mut follower = Follower::start(wanted, stopper, Arc::new(notice))?;
    let mut directory = Directory::open(&arguments.directory, arguments.raw)?;
    let mut gathered = Gathered::Whole(HashSet::new());
    while let Some(event) = follower.next(None)? {
        let Event::Sync { rev } = event else {
            gathered.push(event, &mut directory)?;
            continue;
        };
        match std::mem::take(&mut gathered) {
            Gathered::Whole(names) => directory.sweep(&names)?,
            Gathered::Changes(changes) => {
                for (key, value) in changes {
                    directory.set(&key, value.as_ref())?;
                }
            }
        }
        directory.synced(rev)?;
        if arguments.once {
            return Ok(());
        }
    }
    Ok(())
}

/// What has been told since the last `sync`.
enum Gathered {
    /// Everything is told anew: the names that have come, whose files are written.
    Whole(HashSet<String>),
    /// What has changed, with nothing for what is gone. The last of each key counts.
    Changes(HashMap<Key, Option<Value>>),
}

impl Default for Gathered {
    fn default() -> Gathered {
        Gathered::Changes(HashMap::new())
    }
}

impl Gathered {
    fn push(&mut self, event: Event, directory: &mut Directory) -> Result<(), Failure> {
        let (key, value) = match event {
            Event::Put { key, value, .. } => (key, Some(value)),
            Event::Delete { key, .. } => (key, None),
            Event::Reset { .. } => {
                *self = Gathered::Whole(HashSet::new());
                return Ok(());
            }
            Event::Sync { .. } => return Ok(()),
        };
        match self {
            Gathered::Whole(names) => {
                directory.set(&key, value.as_ref())?;
                let name = file_name(&key).into_owned();
                match value {
                    Some(_) => names.insert(name),
                    None => names.remove(&name),
                };
            }
            Gathered::Changes(changes) => drop(changes.insert(key, value)),
        }
        Ok(())
    }
}

/// The directory that is kept.
struct Directory {
    path: PathBuf,
    is_raw: bool,
    /// Whether `SYNCED` is there.
    is_synced: bool,
    /// The mark. As long as it is open nobody else has the lock.
    mark: File,
}

impl Directory {
    fn open(path: &Path, is_raw: bool) -> Result<Directory, Failure> {
        let failed = |error: io::Error| failure("keep", path, &error);
        fs::create_dir_all(path).map_err(failed)?;
        let mark = path.join(MARK);
        let opened = match File::options().write(true).open(&mark) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if fs::read_dir(path).map_err(failed)?.next().is_some() {
                    let path = path.display();
                    let message = format!("{path} is not empty, and no mirror has begun it");
                    return Err(Failure::new(USAGE, message));
                }
                File::create_new(&mark)
                    .and_then(|mut file| file.write_all(MARK_TEXT.as_bytes()).map(|()| file))
            }
            opened => opened,
        };
        let opened = opened.map_err(|error| failure("open", &mark, &error))?;
        match opened.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let message = format!("another mirror keeps {}", path.display());
                return Err(Failure::new(NOT_MET, message));
            }
            Err(TryLockError::Error(error)) => return Err(failure("lock", &mark, &error)),
        }
        Ok(Directory {
            path: path.to_owned(),
            is_raw,
            // From a run before this one: what it says holds until something is changed.
            is_synced: true,
            mark: opened,
        })
    }

    /// Makes a key's file what it is to be; none where there is no such key.
    fn set(&mut self, key: &Key, value: Option<&Value>) -> Result<(), Failure> {
        let name = file_name(key);
        let Some(value) = value else {
            return self.remove(&name);
        };
        if name.len() > NAME_BYTES_MAX {
            notice(&format!(
                "{key} is left out: its file's name would have {} bytes",
                name.len()
            ));
            return Ok(());
        }
        let mut text = Vec::new();
        write_file_value(&mut text, value, self.is_raw)
            .map_err(|error| failure("write", &self.path.join(&*name), &error))?;
        if self.has(&name, &text) {
            return Ok(());
        }
        self.begin()?;
        match self.replace(&name, &text) {
            Err(error) if is_about_the_name(&error) => {
                notice(&format!("{key} is left out: {}", plain(&error)));
                Ok(())
            }
            done => done.map_err(|error| failure("write", &self.path.join(&*name), &error)),
        }
    }

    /// Whether there is a file that says this.
    fn has(&self, name: &str, text: &[u8]) -> bool {
        let path = self.path.join(name);
        let is_alike = fs::symlink_metadata(&path)
            .is_ok_and(|found| found.is_file() && found.len() == text.len() as u64);
        is_alike && fs::read(&path).is_ok_and(|found| found == text)
    }

    fn replace(&self, name: &str, text: &[u8]) -> io::Result<()> {
        let new = self.path.join(NEW);
        // What is left of a run that was killed. Where it can't be removed, making it fails.
        drop(fs::remove_file(&new));
        let written = File::create_new(&new).and_then(|mut file| file.write_all(text));
        let done = written.and_then(|()| fs::rename(&new, self.path.join(name)));
        // Where the disk is full, half a file would keep it so.
        done.inspect_err(|_| drop(fs::remove_file(&new)))
    }

    /// Whether the directory is still there, and the one that was begun.
    fn is_there(&self) -> bool {
        let found = fs::symlink_metadata(self.path.join(MARK));
        let held = self.mark.metadata();
        found.is_ok_and(|found| {
            held.is_ok_and(|held| (found.dev(), found.ino()) == (held.dev(), held.ino()))
        })
    }

    fn check_is_there(&self) -> Result<(), Failure> {
        if self.is_there() {
            return Ok(());
        }
        let message = format!("{} was taken away from the mirror", self.path.display());
        Err(Failure::new(NOT_MET, message))
    }

    fn remove(&mut self, name: &str) -> Result<(), Failure> {
        let path = self.path.join(name);
        if !fs::symlink_metadata(&path).is_ok_and(|found| found.is_file()) {
            return Ok(());
        }
        self.begin()?;
        fs::remove_file(&path).map_err(|error| failure("remove", &path, &error))
    }

    /// Removes the files of keys that there are no more.
    fn sweep(&mut self, names: &HashSet<String>) -> Result<(), Failure> {
        let failed = |error: io::Error| failure("read", &self.path, &error);
        let mut old = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if let Ok(name) = name.into_string()
                && is_file_name(&name)
                && !names.contains(&name)
            {
                old.push(name);
            }
        }
        old.iter().try_for_each(|name| self.remove(name))
    }

    /// Something is changed: until the next `sync` the files are no one state.
    fn begin(&mut self) -> Result<(), Failure> {
        if std::mem::take(&mut self.is_synced) {
            self.check_is_there()?;
            let path = self.path.join(SYNCED);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failure("remove", &path, &error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The files are the state at this revision.
    fn synced(&mut self, rev: u64) -> Result<(), Failure> {
        self.check_is_there()?;
        self.is_synced = true;
        self.replace(SYNCED, format!("{rev}\n").as_bytes())
            .map_err(|error| failure("write", &self.path.join(SYNCED), &error))
    }
}

/// The name of a key's file: the key itself, with `%2F` for a `/`. So that no two keys have the same
/// name, a `%` that stands before `2F` or `25` is `%25`.
fn file_name(key: &Key) -> Cow<'_, str> {
    let text = key.as_str();
    if !text.contains(['/', '%']) {
        return Cow::Borrowed(text);
    }
    let mut name = String::with_capacity(text.len() + 8);
    for (at, character) in text.char_indices() {
        let rest = &text[at + character.len_utf8()..];
        match character {
            '/' => name.push_str("%2F"),
            '%' if rest.starts_with("2F") || rest.starts_with("25") => name.push_str("%25"),
            character => name.push(character),
        }
    }
    Cow::Owned(name)
}

/// Whether a name is that of some key's file.
fn is_file_name(name: &str) -> bool {
    let mut text = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find('%') {
        let (before, escape) = rest.split_at(at);
        let (character, length) = match escape.get(1..3) {
            Some("2F") => ('/', 3),
            Some("25") => ('%', 3),
            _ => ('%', 1),
        };
        text.push_str(before);
        text.push(character);
        rest = &escape[length..];
    }
    text.push_str(rest);
    Key::new(&text).is_ok_and(|key| file_name(&key) == name)
}

/// Whether this key alone can't be written, because of its name or of what has it.
fn is_about_the_name(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidFilename | io::ErrorKind::IsADirectory
    )
}

fn failure(what: &str, path: &Path, error: &io::Error) -> Failure {
    let message = format!("cannot {what} {}: {}", path.display(), plain(error));
    Failure::new(NOT_MET, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(key: &str, name: &str) {
        assert_eq!(file_name(&Key::new(key).unwrap()), name);
        assert!(is_file_name(name), "{name}");
    }

    #[test]
    fn keys_have_names() {
        check("net.eth0.mtu", "net.eth0.mtu");
        check("größe.温度", "größe.温度");
        check("$claims.net", "$claims.net");
        check("/", "%2F");
        check("mounts./var/log", "mounts.%2Fvar%2Flog");
        check("hosts.a%2Eb", "hosts.a%2Eb");
        check("a%2Fb", "a%252Fb");
        check("a%252Fb", "a%25252Fb");
        check("50%25", "50%2525");
        check("100%", "100%");
        check("%/%", "%%2F%");
        check("%2/", "%2%2F");
        check("%2f", "%2f");
    }

    #[test]
    fn other_names_are_no_keys() {
        let check = |name: &str| assert!(!is_file_name(name), "{name}");
        check("");
        check(".");
        check("..");
        check(".synced");
        check(".nkv-mirror");
        check(".nkv-new");
        check("notes.txt~ ");
        check("my notes");
        check("a..b");
        check("a*");
        check("a.");
        check("a/b");
        check("%252");
        check("%25");
    }

    /// Keys of every text that the escapes could confuse have names of their own, in the directory.
    #[test]
    fn no_two_keys_have_one_name() {
        const PARTS: [&str; 7] = ["%", "2", "5", "F", "/", "a", "."];
        let mut texts = vec![String::new()];
        let mut names = HashMap::new();
        for _ in 0..6 {
            let longer = texts
                .iter()
                .flat_map(|text| PARTS.map(|part| format!("{text}{part}")));
            texts = longer.collect();
            for key in texts.iter().filter_map(|text| Key::new(text).ok()) {
                let name = file_name(&key).into_owned();
                assert!(!name.contains('/') && !name.starts_with('.'), "{name}");
                assert!(is_file_name(&name), "{name}");
                let other = names.insert(name, key.clone());
                assert!(other.is_none(), "{key} {other:?}");
            }
        }
        assert!(names.len() > 10_000);
    }
}
