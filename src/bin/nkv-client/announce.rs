//! Entries that are there as long as this program is: `announce`, and `put --lifetime session`.
//!
//! Both put the entry again when the connection was lost, which is the library's work. It has no part
//! in what is put on a condition (`--if-rev`). That is somebody's claim, such as being the leader: it
//! is put again only if nobody else has changed it meanwhile, and else the program ends.

use std::ffi::OsString;
use std::io;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use nkv::Key;
use nkv::client::{Announcement, Client, Error, Event, Put, Value};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use crate::daemon::Target;
use crate::failure::{Failure, NOT_MET, USAGE, plain};
use crate::follow::Follower;
use crate::interrupt::Stopper;
use crate::subscribe::notice;

/// How long a claim waits for its daemon: a year.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// What a shell says of a command that it can't find, or can't run.
const NOT_FOUND: u8 = 127;
const NOT_RUN: u8 = 126;

/// An entry that is kept there.
pub(crate) struct Announcing {
    pub(crate) announcement: Announcement,
    follower: Follower,
    stopper: Arc<Stopper>,
}

impl Announcing {
    /// Puts it. From then on no lost connection is a failure, so what tells of them is there before.
    pub(crate) fn start(
        target: &Target,
        key: &str,
        value: Value,
        stopper: &Arc<Stopper>,
    ) -> Result<Announcing, Failure> {
        Key::new(key).map_err(|error| Failure::from(Error::Key(error)).during(key))?;
        let link = target.link();
        let wanted = link.events(key)?.exact().changes_only();
        Ok(Announcing {
            follower: Follower::start(wanted, stopper, Arc::new(notice))?,
            announcement: link.announce_value(key, value)?,
            stopper: Arc::clone(stopper),
        })
    }

    /// Keeps it until it is stopped, and tells what becomes of it.
    pub(crate) fn until_stopped(self) -> Result<(), Failure> {
        tell(self.follower, self.announcement.key())
    }

    /// Keeps it as long as a command runs, whose exit code becomes this program's.
    pub(crate) fn during(self, command: &[OsString]) -> Result<(), Failure> {
        let signals = Signals::take()
            .map_err(|error| Failure::new(NOT_MET, format!("signals: {}", plain(&error))))?;
        let (name, arguments) = command
            .split_first()
            .ok_or_else(|| Failure::new(USAGE, "no command"))?;
        let cannot_run = |error: io::Error| {
            let code = match error.kind() {
                io::ErrorKind::NotFound => NOT_FOUND,
                _ => NOT_RUN,
            };
            let name = name.display();
            Failure::new(code, format!("cannot run {name}: {}", plain(&error)))
        };
        let mut child = Command::new(name)
            .args(arguments)
            .spawn()
            .map_err(cannot_run)?;
        signals.pass_on(&child);
        // What becomes of the connection is told, but it is no reason to end the command, nor to let the
        // entry go.
        let key = self.announcement.key().to_owned();
        std::thread::spawn(move || {
            if let Err(failure) = tell(self.follower, &key) {
                notice(&failure.message);
            }
        });
        let status = child.wait().map_err(cannot_run)?;
        // That it goes now is not to be told.
        self.stopper.stop();
        match exit_code(status) {
            0 => Ok(()),
            code => Err(Failure::new(code, "")),
        }
    }
}

/// Tells what becomes of an announced entry, until that is stopped.
fn tell(mut follower: Follower, key: &str) -> Result<(), Failure> {
    while let Some(event) = follower.next(None)? {
        if let Event::Delete { .. } = event {
            notice(&format!(
                "{key} was deleted; it comes back with the next connection"
            ));
        }
    }
    Ok(())
}

/// Puts an entry of lifetime `session` with options, and holds on to it.
pub(crate) fn hold(target: &Target, put: Put, is_claim: bool) -> Result<(), Failure> {
    let mut client = target.connect()?;
    let written = client.put_with(put.clone())?;
    let link = target.link_within(FOR_EVER);
    let mut rev = is_claim.then_some(written.rev);
    loop {
        let Some(error) = end_of(&client, put.key()) else {
            return Ok(());
        };
        if !error.is_disconnect() {
            return Err(error.into());
        }
        let reason = Failure::from(error).message;
        notice(&format!("{reason}; reconnecting to {}", target.address));
        client = link.client()?;
        let again = match rev {
            Some(rev) => put.clone().if_rev(rev),
            None => put.clone(),
        };
        match client.put_with(again) {
            Ok(written) => {
                rev = rev.map(|_| written.rev);
                notice("connected again");
            }
            // What was put went with the connection.
            Err(error) if error.is_disconnect() => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits for the end of a connection. Nothing is done with what comes, it is how the end is noticed.
fn end_of(client: &Client, key: &str) -> Option<Error> {
    let subscription = client.subscribe_with(key).exact().changes_only().start();
    match subscription {
        Ok(subscription) => subscription.filter_map(Result::err).next(),
        Err(error) => Some(error),
    }
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

    fn pass_on(self, child: &Child) {
        let id = child.id();
        for (signal, mut receiver) in self.0 {
            std::thread::spawn(move || {
                while io::Read::read_exact(&mut receiver, &mut [0]).is_ok() {
                    let id = i32::try_from(id)
                        .ok()
                        .and_then(rustix::process::Pid::from_raw);
                    let signal = rustix::process::Signal::from_named_raw(signal);
                    if let (Some(id), Some(signal)) = (id, signal) {
                        // It may have ended just now.
                        let _ = rustix::process::kill_process(id, signal);
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
