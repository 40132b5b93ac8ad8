//! The one extra thread: it does for the loop what may take long with a file. It asks the disk to have
//! its data, and it gives back the space of one that has no name any more.
//!
//! It is there while it is needed: the first question starts it, and dropping the [`Syncer`] ends it.
//! Answers are picked up by the loop, which is woken for them. Syncs come first: space is given back
//! in steps between them, because a file system that frees much at once makes others wait.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};

use super::Wake;

/// How much space is given back at once.
const RELEASE_BYTES: u64 = 8 << 20;

/// Asks for syncs and gives their results.
pub(super) struct Syncer {
    wake: Wake,
    thread: Option<Thread>,
    tickets: u64,
}

/// Names one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(u64);

enum Task {
    Sync(Ticket, File),
    Release(File),
}

struct Thread {
    tasks: Sender<Task>,
    answers: Receiver<(Ticket, io::Result<()>)>,
}

impl Syncer {
    pub(super) fn new(wake: Wake) -> Syncer {
        Syncer {
            wake,
            thread: None,
            tickets: 0,
        }
    }

    /// Asks for all that was written to a file until now.
    pub(super) fn ask(&mut self, file: &File) -> io::Result<Ticket> {
        let file = file.try_clone()?;
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.thread()?.give(Task::Sync(ticket, file));
        Ok(ticket)
    }

    /// Closes a file that is not used any more. A small one is closed at once; a large one as well where
    /// there can be no thread.
    pub(super) fn release(&mut self, file: File) {
        let is_large = file
            .metadata()
            .is_ok_and(|found| found.len() > RELEASE_BYTES);
        if is_large && let Ok(thread) = self.thread() {
            thread.give(Task::Release(file));
        }
    }

    /// An answer that has come, if one has.
    pub(super) fn answer(&self) -> Option<(Ticket, io::Result<()>)> {
        self.thread.as_ref()?.answers.try_recv().ok()
    }

    fn thread(&mut self) -> io::Result<&Thread> {
        if self.thread.is_none() {
            self.thread = Some(Thread::start(self.wake.clone())?);
        }
        Ok(self.thread.as_ref().expect("it has been started"))
    }
}

impl std::fmt::Debug for Syncer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Syncer").finish_non_exhaustive()
    }
}

impl Thread {
    fn start(wake: Wake) -> io::Result<Thread> {
        let (tasks, given) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        let thread = std::thread::Builder::new().name("nkv-sync".into());
        thread.spawn(move || {
            let mut old = VecDeque::new();
            while let Some(task) = next_task(&given, &mut old) {
                match task {
                    Task::Release(file) => old.push_back(file),
                    Task::Sync(ticket, file) => {
                        if answer.send((ticket, file.sync_data())).is_err() {
                            return;
                        }
                        wake();
                    }
                }
            }
        })?;
        Ok(Thread { tasks, answers })
    }

    fn give(&self, task: Task) {
        self.tasks
            .send(task)
            .expect("the thread lives as long as tasks can come");
    }
}

/// Waits for a task, and gives back space meanwhile; none when no more can come.
fn next_task(given: &Receiver<Task>, old: &mut VecDeque<File>) -> Option<Task> {
    while let Some(file) = old.front() {
        match given.try_recv() {
            Ok(task) => return Some(task),
            Err(TryRecvError::Disconnected) => return None,
            Err(TryRecvError::Empty) => {}
        }
        if !shorten(file) {
            old.pop_front();
        }
    }
    given.recv().ok()
}

/// Gives back some space of a file that has no name; false where nothing more is to be done. One that
/// has another name, such as a backup, is left as it is.
fn shorten(file: &File) -> bool {
    let Ok(found) = file.metadata() else {
        return false;
    };
    let len = found.len().saturating_sub(RELEASE_BYTES);
    found.nlink() == 0 && len > 0 && file.set_len(len).and_then(|()| file.sync_data()).is_ok()
}
