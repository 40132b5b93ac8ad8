//! The one extra thread: it asks the disk to have a file's data, and does nothing else.
//!
//! It is there while it is needed: the first question starts it, and dropping the [`Syncer`] ends it.
//! Answers are picked up by the loop, which is woken for them.

use std::fs::File;
use std::io;
use std::sync::mpsc::{self, Receiver, Sender};

use super::Wake;

/// Asks for syncs and gives their results.
pub(super) struct Syncer {
    wake: Wake,
    thread: Option<Thread>,
    tickets: u64,
}

/// Names one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(u64);

struct Thread {
    questions: Sender<(Ticket, File)>,
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
        if self.thread.is_none() {
            self.thread = Some(Thread::start(self.wake.clone())?);
        }
        let thread = self.thread.as_ref().expect("it has been started");
        thread
            .questions
            .send((ticket, file))
            .expect("the thread lives as long as its questions can come");
        Ok(ticket)
    }

    /// An answer that has come, if one has.
    pub(super) fn answer(&self) -> Option<(Ticket, io::Result<()>)> {
        self.thread.as_ref()?.answers.try_recv().ok()
    }
}

impl std::fmt::Debug for Syncer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Syncer").finish_non_exhaustive()
    }
}

impl Thread {
    fn start(wake: Wake) -> io::Result<Thread> {
        let (questions, asked) = mpsc::channel::<(Ticket, File)>();
        let (answer, answers) = mpsc::channel();
        let thread = std::thread::Builder::new().name("nkv-sync".into());
        thread.spawn(move || {
            for (ticket, file) in asked {
                let done = file.sync_data();
                if answer.send((ticket, done)).is_err() {
                    return;
                }
                wake();
            }
        })?;
        Ok(Thread { questions, answers })
    }
}
