//! Entries that are there as long as this program is: `announce`, and `put --lifetime session`.
//!
//! Both put the entry again when the connection was lost, which is the library's work. It has no part
//! in what is put on a condition (`--if-rev`). That is somebody's claim, such as being the leader: it
//! is put again only if nobody else has changed it meanwhile, and else the program ends.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use nkv::Key;
use nkv::client::{Announcement, Client, Error, Event, Put, Value};

use crate::daemon::Target;
use crate::failure::Failure;
use crate::follow::Follower;
use crate::held::Running;
use crate::interrupt::Stopper;
use crate::subscribe::notice;

/// How long a claim waits for its daemon: a year.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

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
        let running = Running::start(command)?;
        // What becomes of the connection is told, but it is no reason to end the command, nor to let the
        // entry go.
        let key = self.announcement.key().to_owned();
        std::thread::spawn(move || {
            if let Err(failure) = tell(self.follower, &key) {
                notice(&failure.message);
            }
        });
        let ended = running.wait();
        // That it goes now is not to be told.
        self.stopper.stop();
        ended
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
