//! Ctrl-C in the shell ends the command that runs, not the shell.
//!
//! While a line is edited the terminal makes no signal of it. While a command runs it does, and a
//! thread that waits for nothing else stops what the command follows (`wait`), or, where it follows
//! nothing, closes the connection that it asks on: whatever the command waits for then ends, and the
//! next command connects again.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use nkv::client::Client;

use crate::follow::Stopper;

/// Where interrupts go.
#[derive(Default)]
pub(crate) struct Interrupts(Arc<Mutex<Running>>);

/// What the running command can be ended by.
#[derive(Default)]
struct Running {
    stopper: Arc<Stopper>,
    client: Option<Client>,
}

impl Interrupts {
    /// Takes interrupts from now on.
    pub(crate) fn take() -> io::Result<Interrupts> {
        let (mut signals, handler) = UnixStream::pair()?;
        signal_hook::low_level::pipe::register(signal_hook::consts::SIGINT, handler)?;
        let interrupts = Interrupts::default();
        let running = Arc::clone(&interrupts.0);
        std::thread::spawn(move || {
            while signals.read_exact(&mut [0]).is_ok() {
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
