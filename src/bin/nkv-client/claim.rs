//! `claim`: a subtree that nobody else writes while this program is there, or while a command runs.
//!
//! A shell claims on the connection on which its commands are carried out, since they could not write
//! there otherwise. Everywhere else a link claims, and claims again when the connection was lost.

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nkv::Key;
use nkv::client::{Claim as Claimed, Client, Error, ErrorCode, Link, PATIENCE};

use crate::arguments::Claim;
use crate::daemon::Target;
use crate::failure::{Failure, NOT_MET, REFUSED, TIMED_OUT};
use crate::follow::Follower;
use crate::held::{Process, Running};
use crate::interrupt::Stopper;
use crate::subscribe::notice;

/// How long it takes at most to find what is free, where nothing tells of it.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// A claim that is held, and what tells of its connection.
pub(crate) struct Claiming {
    claim: Arc<Claimed>,
    follower: Option<Follower>,
    stopper: Arc<Stopper>,
}

impl Claiming {
    pub(crate) fn start(
        target: &Target,
        arguments: &Claim,
        stopper: &Arc<Stopper>,
    ) -> Result<Claiming, Failure> {
        let key = checked(&arguments.key)?;
        // A mistyped address is told at once, and a connection that is lost later is waited for.
        drop(target.connect()?);
        let link = target.link_within(PATIENCE);
        let claim = match link.claim(&key) {
            Err(error) if arguments.wait && is_conflict(&error) => {
                until_free(&link, arguments, stopper, || match link.claim(&key) {
                    // What follows the claims connects again.
                    Err(error) if error.is_disconnect() => Ok(None),
                    done => unless_taken(done),
                })?
            }
            done => done.map_err(refused)?,
        };
        let follower = followed(&link, &format!("$claims.{key}"), true, stopper)?;
        Ok(Claiming {
            claim: Arc::new(claim),
            follower,
            stopper: Arc::clone(stopper),
        })
    }

    /// Keeps it until it is lost.
    pub(crate) fn until_lost(self) -> Result<(), Failure> {
        tell_contacts(self.follower);
        self.claim.wait_until_lost(None);
        Err(loss(&self.claim))
    }

    /// Keeps it as long as a command runs, whose exit code becomes this program's. The command is asked
    /// to end where the claim is lost.
    pub(crate) fn during(self, command: &[OsString]) -> Result<(), Failure> {
        let running = Running::start(command)?;
        tell_contacts(self.follower);
        let has_ended = Arc::new(AtomicBool::new(false));
        let (claim, process) = (Arc::clone(&self.claim), running.process());
        let is_over = Arc::clone(&has_ended);
        let watch = thread::spawn(move || end_without(&claim, process, &is_over));
        let ended = running.wait();
        // Neither the end of the claim nor that of the connection is to be told now.
        has_ended.store(true, Ordering::Relaxed);
        self.stopper.stop();
        // Without a connection the daemon lets go by itself.
        drop(self.claim.release());
        drop(watch.join());
        ended
    }
}

/// Claims for a shell, on its own connection.
pub(crate) fn on_connection(
    client: &Client,
    target: &Target,
    arguments: &Claim,
    stopper: &Stopper,
) -> Result<u64, Failure> {
    let key = checked(&arguments.key)?;
    match client.claim(&key) {
        Err(error) if arguments.wait && is_conflict(&error) => {
            until_free(&target.link(), arguments, stopper, || {
                unless_taken(client.claim(&key))
            })
        }
        done => done.map_err(refused),
    }
}

/// Tries each time when a claim ends that may be in the way.
fn until_free<T>(
    link: &Link,
    arguments: &Claim,
    stopper: &Stopper,
    mut claim: impl FnMut() -> Result<Option<T>, Failure>,
) -> Result<T, Failure> {
    let deadline = arguments
        .timeout
        .and_then(|timeout| Instant::now().checked_add(timeout));
    // The claims above it and below it lie below this entry.
    let first = arguments.key.split('.').next().unwrap_or_default();
    let mut follower = followed(link, &format!("$claims.{first}"), false, stopper)?;
    loop {
        if let Some(claimed) = claim()? {
            return Ok(claimed);
        }
        let now = Instant::now();
        if deadline.is_some_and(|deadline| deadline <= now) {
            let key = &arguments.key;
            let message = format!("--timeout ran out waiting for {key} to be free");
            return Err(Failure::new(TIMED_OUT, message));
        }
        let next = now + LOOK_AGAIN;
        let next = deadline.map_or(next, |deadline| deadline.min(next));
        match &mut follower {
            Some(follower) => drop(follower.next(Some(next))?),
            None => thread::sleep(next - now),
        }
        if stopper.is_stopped() {
            return Err(Failure::new(NOT_MET, "interrupted"));
        }
    }
}

/// Follows claims, where the rules let this user see them.
fn followed(
    link: &Link,
    pattern: &str,
    is_exact: bool,
    stopper: &Stopper,
) -> Result<Option<Follower>, Failure> {
    let wanted = link.events(pattern)?.changes_only();
    let wanted = if is_exact { wanted.exact() } else { wanted };
    match Follower::start(wanted, stopper, Arc::new(notice)) {
        Err(failure) if failure.code == REFUSED => Ok(None),
        done => done.map(Some),
    }
}

/// Tells what becomes of the connection, until that is stopped.
fn tell_contacts(follower: Option<Follower>) {
    let Some(follower) = follower else { return };
    thread::spawn(move || {
        if let Err(failure) = follower.tell_contacts() {
            notice(&failure.message);
        }
    });
}

/// Asks a command to end when the claim is lost before.
fn end_without(claim: &Claimed, process: Process, has_ended: &AtomicBool) {
    claim.wait_until_lost(None);
    if !has_ended.load(Ordering::Relaxed) {
        notice(&loss(claim).message);
        process.terminate();
    }
}

/// Why a claim is lost.
fn loss(claim: &Claimed) -> Failure {
    let failure = match claim.refusal() {
        Some(refusal) => refused(Error::Server(refusal)),
        None => Failure::new(REFUSED, "it was free while there was no connection"),
    };
    failure.during(&format!("{} is lost", claim.key()))
}

fn checked(key: &str) -> Result<Key, Failure> {
    Key::new(key).map_err(|error| Failure::from(Error::Key(error)).during(key))
}

fn is_conflict(error: &Error) -> bool {
    error.code() == Some(ErrorCode::Conflict)
}

/// What is claimed, unless somebody else has it.
fn unless_taken<T>(claimed: Result<T, Error>) -> Result<Option<T>, Failure> {
    match claimed {
        Ok(claimed) => Ok(Some(claimed)),
        Err(error) if is_conflict(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// That somebody else has it is no condition that was not met, but a refusal.
fn refused(error: Error) -> Failure {
    let is_conflict = is_conflict(&error);
    let failure = Failure::from(error);
    if !is_conflict {
        return failure;
    }
    Failure {
        code: REFUSED,
        ..failure
    }
}
