//! Restarts and crashes, seen by fifty subscribers and ten writers that go on as if nothing was.
//!
//! Each writer owns some keys, and knows what it has put: a put whose fate the end of a connection has
//! left unknown is made again. Each subscriber keeps a copy and resumes where it was. What is
//! promised to them:
//!
//! - to connect is never refused, since the socket is systemd's,
//! - what was acknowledged is there: at each `sync` a subscriber has every acknowledged change up to
//!   its revision,
//! - the history goes on: no subscriber has to start over,
//! - in the end each copy is exactly what the writers have put, durable, boot and session entries.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nkv::client::{Client, Error, Event, Lifetime, Position, Put, Value};

use crate::machine::Machine;
use crate::support::{scaled, until};

const SUBSCRIBERS: usize = 50;
const WRITERS: usize = 10;
/// How many restarts there are, and how many crashes.
const ROUNDS: usize = 10;
/// The last key of all.
const END: &str = "crowd.end";

/// What everybody knows.
struct Common {
    socket: PathBuf,
    epoch: String,
    /// Each key's acknowledged changes: revision and value, none where it was deleted.
    acknowledged: Mutex<BTreeMap<String, BTreeMap<u64, Option<String>>>>,
    count: AtomicU64,
    connects: AtomicU64,
    is_over: AtomicBool,
}

#[test]
fn restarts_and_crashes_are_invisible() {
    let Some(machine) = Machine::with_nkv() else {
        return;
    };
    let client = connect(&machine.socket()).unwrap();
    let common = Common {
        socket: machine.socket(),
        epoch: client.epoch().to_owned(),
        acknowledged: Mutex::default(),
        count: AtomicU64::new(0),
        connects: AtomicU64::new(0),
        is_over: AtomicBool::new(false),
    };
    std::thread::scope(|scope| {
        let common = &common;
        let subscribers: Vec<_> = (0..SUBSCRIBERS)
            .map(|_| scope.spawn(move || subscribe(common)))
            .collect();
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| scope.spawn(move || write(common, number)))
            .collect();
        for round in 0..ROUNDS {
            progress(common);
            machine.run("systemctl restart nkv.service");
            progress(common);
            machine.run("systemctl kill -s KILL nkv.service");
            println!(
                "round {round}: {} puts",
                common.count.load(Ordering::Relaxed)
            );
        }
        progress(common);
        common.is_over.store(true, Ordering::Relaxed);
        let mut expected: BTreeMap<String, String> = BTreeMap::new();
        let mut presences = Vec::new();
        for writer in writers {
            let (state, presence) = writer.join().unwrap();
            expected.extend(state);
            presences.push(presence);
        }
        connect(&common.socket).unwrap().put(END, &1).unwrap();
        expected.insert(END.into(), "1".into());
        for subscriber in subscribers {
            assert_eq!(subscriber.join().unwrap(), expected);
        }
        drop(presences);
    });
    let connects = common.connects.into_inner();
    println!("{connects} connections in all");
    // Otherwise nobody has lost one, and nothing was shown.
    assert!(connects > (SUBSCRIBERS + WRITERS) as u64 * ROUNDS as u64);
    let journal = machine.journal("nkv.service");
    let count = |text: &str| journal.matches(text).count();
    assert_eq!(count("Scheduled restart job"), ROUNDS);
    assert_eq!(count("Started nkv.service"), 1 + 2 * ROUNDS);
}

/// Waits until the writers have come some way.
fn progress(common: &Common) {
    let puts = scaled(1000, 100) as u64;
    let before = common.count.load(Ordering::Relaxed);
    until("writers get on", || {
        common.count.load(Ordering::Relaxed) >= before + puts
    });
}

/// Connects, which must succeed, and greets, which need not.
fn connect(socket: &PathBuf) -> Result<Client, Error> {
    let stream = UnixStream::connect(socket).expect("connects are never refused");
    Client::builder().from_stream(stream)
}

/// Does something until no connection is lost over it.
fn persist<T>(common: &Common, mut what: impl FnMut(&Client) -> Result<T, Error>) -> (T, Client) {
    loop {
        let done = connect(&common.socket).and_then(|client| {
            common.connects.fetch_add(1, Ordering::Relaxed);
            assert_eq!(client.epoch(), common.epoch, "the history goes on");
            Ok((what(&client)?, client))
        });
        match done {
            Ok(done) => return done,
            Err(error) => assert!(error.is_disconnect(), "{error}"),
        }
    }
}

/// Puts and deletes keys of its own until it is over. Returns what there is of it then, and the
/// connection that a session entry depends on.
fn write(common: &Common, number: usize) -> (BTreeMap<String, String>, Client) {
    let presence = format!("crowd.present.{number}");
    let (mut state, mut step) = (BTreeMap::new(), 0_u64);
    // Whenever it has lost its connection it says again that it is there, and goes on.
    let (_, client) = persist(common, |client| {
        put(common, client, &presence, "true", Lifetime::Session)?;
        while !common.is_over.load(Ordering::Relaxed) {
            let key = format!("crowd.{number}.{}", step % 20);
            let lifetime = [Lifetime::Durable, Lifetime::Boot][(step % 2) as usize];
            if step % 7 == 6 {
                client.delete(&key)?;
                state.remove(&key);
            } else {
                let value = step.to_string();
                put(common, client, &key, &value, lifetime)?;
                state.insert(key, value);
            }
            step += 1;
            common.count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    });
    state.insert(presence, "true".into());
    (state, client)
}

/// Puts, and says so to all when it is acknowledged.
fn put(
    common: &Common,
    client: &Client,
    key: &str,
    value: &str,
    lifetime: Lifetime,
) -> Result<(), Error> {
    let put = Put::new(key, Value::from_json_text(value)?)?.lifetime(lifetime);
    let rev = client.put_with(put)?.rev;
    let mut acknowledged = common.acknowledged.lock().unwrap();
    let changes = acknowledged.entry(key.to_owned()).or_default();
    changes.insert(rev, Some(value.to_owned()));
    Ok(())
}

/// Keeps a copy until the last key is in it, and returns that.
fn subscribe(common: &Common) -> BTreeMap<String, String> {
    let mut copy = BTreeMap::new();
    let mut position = None;
    persist(common, |client| {
        follow(common, client, &mut copy, &mut position)
    });
    let entries = copy.into_iter();
    entries
        .filter_map(|(key, (_, value))| Some((key, value?)))
        .collect()
}

/// What a subscriber has of each key: revision and value, none where it has gone.
type Copy = BTreeMap<String, (u64, Option<String>)>;

fn follow(
    common: &Common,
    client: &Client,
    copy: &mut Copy,
    position: &mut Option<Position>,
) -> Result<(), Error> {
    let mut subscribe = client.subscribe_with("crowd").cuts();
    match position.clone() {
        Some(position) => subscribe = subscribe.since(position),
        // Of the first entries not all had come.
        None => copy.clear(),
    }
    let mut subscription = subscribe.start()?;
    while let Some(event) = subscription.next() {
        match event? {
            Event::Put { key, value, rev } => {
                let value = value.as_json_text().unwrap().to_owned();
                copy.insert(key.as_str().into(), (rev, Some(value)));
            }
            Event::Delete { key, rev } => {
                copy.insert(key.as_str().into(), (rev, None));
            }
            Event::Reset { .. } => panic!("a subscriber has to start over"),
            Event::Sync { rev } => {
                check(common, copy, rev);
                if copy.contains_key(END) {
                    return Ok(());
                }
            }
        }
        *position = subscription.position().cloned();
    }
    panic!("nobody has ended it");
}

/// Has a copy everything that was acknowledged up to a revision? Later changes of which nobody knows
/// may be in it.
fn check(common: &Common, copy: &Copy, rev: u64) {
    let acknowledged = common.acknowledged.lock().unwrap();
    for (key, changes) in acknowledged.iter() {
        let Some((last, value)) = changes.range(..=rev).next_back() else {
            continue;
        };
        let (found, found_value) = copy.get(key).unwrap_or_else(|| panic!("{key} is missed"));
        assert!(found >= last, "{key} is behind: {found} at {rev}");
        assert!(found > last || found_value == value, "{key} at {found}");
    }
}
