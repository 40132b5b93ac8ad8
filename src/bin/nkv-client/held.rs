//! A command that runs while something is held: what `announce` and `claim` have in common.

use std::ffi::OsString;
use std::io;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use crate::failure::{Failure, NOT_MET, USAGE, plain};

/// What a shell says of a command that it can't find, or can't run.
const NOT_FOUND: u8 = 127;
const NOT_RUN: u8 = 126;

/// A command that runs.
pub(crate) struct Running {
    name: OsString,
    child: Child,
}

/// Whom to signal.
#[derive(Clone, Copy)]
pub(crate) struct Process(Option<Pid>);

impl Running {
    /// Starts it. Signals that are for it are passed on from then on.
    pub(crate) fn start(command: &[OsString]) -> Result<Running, Failure> {
        let signals = Signals::take()
            .map_err(|error| Failure::new(NOT_MET, format!("signals: {}", plain(&error))))?;
        let (name, arguments) = command
            .split_first()
            .ok_or_else(|| Failure::new(USAGE, "no command"))?;
        let child = Command::new(name).args(arguments).spawn();
        let child = child.map_err(|error| cannot_run(name, &error))?;
        let running = Running {
            name: name.clone(),
            child,
        };
        signals.pass_on(running.process());
        Ok(running)
    }

    pub(crate) fn process(&self) -> Process {
        let id = i32::try_from(self.child.id());
        Process(id.ok().and_then(Pid::from_raw))
    }

    /// Waits for its end. Its exit code becomes this program's.
    pub(crate) fn wait(mut self) -> Result<(), Failure> {
        let status = self.child.wait();
        match exit_code(status.map_err(|error| cannot_run(&self.name, &error))?) {
            0 => Ok(()),
            code => Err(Failure::new(code, "")),
        }
    }
}

impl Process {
    /// Asks it to end.
    pub(crate) fn terminate(self) {
        self.signal(Signal::TERM);
    }

    fn signal(self, signal: Signal) {
        if let Some(id) = self.0 {
            // It may have ended just now.
            let _ = kill_process(id, signal);
        }
    }
}

fn cannot_run(name: &OsString, error: &io::Error) -> Failure {
    let code = match error.kind() {
        io::ErrorKind::NotFound => NOT_FOUND,
        _ => NOT_RUN,
    };
    let name = name.display();
    Failure::new(code, format!("cannot run {name}: {}", plain(error)))
}

/// Signals that are for the command. What a terminal sends, it sends to the command as well; others
/// are passed on.
struct Signals(Vec<(i32, UnixStream)>);

impl Signals {
    fn take() -> io::Result<Signals> {
        for signal in [SIGINT, SIGQUIT] {
            signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
        }
        let mut taken = Vec::new();
        for signal in [SIGTERM, SIGHUP] {
            let (receiver, sender) = UnixStream::pair()?;
            signal_hook::low_level::pipe::register(signal, sender)?;
            taken.push((signal, receiver));
        }
        Ok(Signals(taken))
    }

    fn pass_on(self, process: Process) {
        for (signal, mut receiver) in self.0 {
            std::thread::spawn(move || {
                while io::Read::read_exact(&mut receiver, &mut [0]).is_ok() {
                    if let Some(signal) = Signal::from_named_raw(signal) {
                        process.signal(signal);
                    }
                }
            });
        }
    }
}

/// As a shell counts: 128 and the signal's number where a signal ended it.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| Some(128 + status.signal()?))
        .unwrap_or(1);
    u8::try_from(code).unwrap_or(NOT_MET)
}
