//! How what a command follows is ended: by another thread, or by a signal.
//!
//! Ctrl-C in the shell ends the command that runs, not the shell. While a line is edited the terminal makes no signal of it. While a command runs it does, and a
//! thread that waits for nothing else stops what the command follows (`wait`), or, where it follows
//! nothing, closes the connection that it asks on: whatever the command waits for then ends, and the
//! next command connects again.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use nkv::client::{Client, EventsEnder};

/// Where interrupts go.
#[derive(Default)]
pub(crate) struct Interrupts(Arc<Mutex<Running>>);

/// What the running command can be ended by.
#[derive(Default)]
struct Running {
    stopper: Arc<Stopper>,
    client: Option<Client>,
}

/// Ends what a command follows, from another thread; or beforehand.
#[derive(Default)]
pub(crate) struct Stopper(Mutex<Stopping>);

#[derive(Default)]
struct Stopping {
    is_stopped: bool,
    ender: Option<EventsEnder>,
}

impl Stopper {
    /// Ends it. Tells whether there is something to be ended.
    pub(crate) fn stop(&self) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_stopped = true;
        let ender = state.ender.take();
        if let Some(ender) = &ender {
            ender.end();
        }
        ender.is_some()
    }

    pub(crate) fn is_stopped(&self) -> bool {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_stopped
    }

    /// Lets it end these events.
    pub(crate) fn watch(&self, ender: EventsEnder) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_stopped {
            ender.end();
        } else {
            state.ender = Some(ender);
        }
    }
}

impl Interrupts {
    /// Takes these signals from now on.
    pub(crate) fn take(signals: &[i32]) -> io::Result<Interrupts> {
        let (mut taken, handler) = UnixStream::pair()?;
        for signal in signals {
            signal_hook::low_level::pipe::register(*signal, handler.try_clone()?)?;
        }
        let interrupts = Interrupts::default();
        let running = Arc::clone(&interrupts.0);
        std::thread::spawn(move || {
            while taken.read_exact(&mut [0]).is_ok() {
                let running = running.lock().unwrap_or_else(PoisonError::into_inner);
                if !running.stopper.stop()
                    && let Some(client) = &running.client
                {
                    client.close();
                }
            }
        });
        Ok(interrupts)
    }

    /// Lets them end this command.
    pub(crate) fn end(&self, stopper: &Arc<Stopper>, client: Option<&Client>) {
        let running = Running {
            stopper: Arc::clone(stopper),
            client: client.cloned(),
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = running;
    }
}
