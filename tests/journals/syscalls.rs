//! A crash or a failure at every system call that the journals make.
//!
//! A **story** is a daemon's life: it starts, takes changes, writes both journals anew, and stops. It is
//! told once to `strace`, which gives every call that concerns a journal, a lock or their directories.
//! Each of these calls is a [`Point`]: the story is told again, and there the daemon is killed before
//! the call is made, or the call fails. Then a daemon starts with nobody looking, and must keep what
//! was promised:
//!
//! - what was acknowledged is there, and what was refused is not,
//! - the change that was under way is there as a whole or not at all,
//! - the history goes on under its name, and no revision is given twice,
//! - nothing is left over beside the journals.
//!
//! After a failed call the daemon lives on: it refuses what it can't keep and comes back by itself; or
//! it is killed before it could. A start that can't be made ends with exit code 4.
//!
//! A refused change may come back where cutting it off has failed too; one call fails at a time
//! here, so that never happens. What is left out: writes that are done in part, which `strace` can't
//! make.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::support::{Client, Daemon, Plan, Socket, has_program, scaled, skip};

/// What is watched, below a plan's directory. A call is attributed to the first of those that it names.
const WATCHED: [&str; 9] = [
    "data/durable.journal.new",
    "data/durable.journal",
    "data/durable.lock",
    "data",
    "runtime/boot.journal.new",
    "runtime/boot.journal",
    "runtime/boot.lock",
    "runtime",
    "",
];

/// Calls that change nothing and whose failure nobody could hear of.
const IGNORED: [&str; 3] = ["close", "fcntl", "lseek"];

/// How large a value must be so that a few of them are worth a rewrite.
const LARGE_BYTES: usize = 200_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Story {
    /// The first start ever: the directories and the journals are made.
    First,
    /// A start after a crash that has left half a line and half a journal, and a life with rewrites.
    Later,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Crash,
    Error,
    /// The daemon has no time to mend what the error has left.
    ErrorThenCrash,
}

/// One call of a story.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    story: Story,
    watched: &'static str,
    call: String,
    /// Which of the calls of this name on this file, counted from 1, in each thread.
    number: usize,
}

/// Entries by their keys: value and lifetime.
type Entries = BTreeMap<String, (Value, String)>;

/// What a client knows.
#[derive(Clone, Debug, Default)]
struct Book {
    acknowledged: Entries,
    refused: Vec<Value>,
    /// What was asked for and not answered.
    under_way: Option<Value>,
    /// The highest revision that it was told.
    rev: u64,
    epoch: Option<String>,
}

#[test]
fn a_crash_at_any_call_loses_nothing() {
    // Threads beyond the processors, because most of the time the disk is waited for.
    check_all(Fault::Crash, 2, scaled(1, 5));
}

#[test]
fn a_failure_of_any_call_is_refused_and_mended() {
    // Most of the time it waits until writing is tried again.
    check_all(Fault::Error, 4, scaled(1, 10));
}

#[test]
fn what_is_refused_stays_away_after_a_crash() {
    check_all(Fault::ErrorThenCrash, 2, scaled(1, 2));
}

/// Checks every `step`th point, and the first call of each name on each file in any case.
fn check_all(fault: Fault, threads: usize, step: usize) {
    if !has_program("strace") {
        return skip("there is no strace");
    }
    let mut all = points(Story::First);
    all.extend(points(Story::Later));
    if fault == Fault::ErrorThenCrash {
        // What can be refused is written or synced, and not in a file that nobody reads yet.
        all.retain(|point| {
            let is_written = ["write", "fdatasync"].contains(&&*point.call);
            is_written && point.watched.ends_with(".journal")
        });
    }
    let count = all.len();
    let taken: Vec<Point> = all
        .into_iter()
        .enumerate()
        .filter(|(at, point)| point.number == 1 || at % step == 0)
        .map(|(_, point)| point)
        .collect();
    let (next, hit) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(point) = taken.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let is_hit = check(point, fault);
                    hit.fetch_add(usize::from(is_hit), Ordering::Relaxed);
                }
            });
        }
    });
    let hit = hit.into_inner();
    println!("{hit} of {count} points hit, {} tried", taken.len());
    assert!(hit >= 20, "{hit} of {} points hit", taken.len());
}

/// Tells a story with nothing going wrong, and gives the calls that it made.
fn points(story: Story) -> Vec<Point> {
    let plan = plan();
    let mut book = prepare(&plan, story);
    let trace = plan.directory().join("trace");
    let status = tell(
        &traced(&plan, &trace, &WATCHED, &[]),
        story,
        "TERM",
        &mut book,
    );
    assert_eq!(status.code(), Some(0));
    verify(&plan, book);
    let mut counts: BTreeMap<(String, &str, String), usize> = BTreeMap::new();
    let mut points = Vec::new();
    for line in fs::read_to_string(&trace).unwrap().lines() {
        let Some((thread, call, watched)) = read_call(line, plan.directory()) else {
            continue;
        };
        let count = counts.entry((thread, watched, call.clone())).or_default();
        *count += 1;
        let point = Point {
            story,
            watched,
            call,
            number: *count,
        };
        // Each thread's calls are counted apart, and the fault comes to the first that gets so far.
        if !points.contains(&point) {
            points.push(point);
        }
    }
    points
}

/// The thread, the name and the first watched path of a line such as `7 fsync(3</a/b>) = 0`.
fn read_call(line: &str, directory: &Path) -> Option<(String, String, &'static str)> {
    let (thread, rest) = line.split_once(' ')?;
    let (call, arguments) = rest.trim_start().split_once('(')?;
    let is_name = call.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !is_name || IGNORED.contains(&call) {
        return None;
    }
    let names = |path: &Path, end| arguments.contains(&format!("{}{end}", path.display()));
    let watched = WATCHED.into_iter().find(|watched| {
        let path = path_of(directory, watched);
        names(&path, '>') || names(&path, '"')
    })?;
    Some((thread.into(), call.into(), watched))
}

fn path_of(directory: &Path, watched: &str) -> std::path::PathBuf {
    match watched {
        "" => directory.to_owned(),
        watched => directory.join(watched),
    }
}

/// The plan of a daemon with `strace` at its side, which writes down the calls on some paths.
fn traced(plan: &Plan, trace: &Path, watched: &[&str], options: &[String]) -> Plan {
    let trace = trace.to_str().unwrap();
    // With -D the daemon is the child of the test, as always.
    let mut words = ["strace", "-D", "-f", "-y", "-o", trace]
        .map(str::to_owned)
        .to_vec();
    for watched in watched {
        let path = path_of(plan.directory(), watched);
        words.extend(["-P".to_owned(), path.to_str().unwrap().to_owned()]);
    }
    words.extend_from_slice(options);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    plan.clone().under(&words)
}

/// Tells a story with a fault at a point, and looks at what has become of it. False where the story
/// did not come to the point.
fn check(point: &Point, fault: Fault) -> bool {
    let _told = ToldOnPanic(point, fault);
    let plan = plan();
    let mut book = prepare(&plan, point.story);
    let trace = plan.directory().join("trace");
    let call = &point.call;
    let what = match fault {
        Fault::Crash => "signal=SIGKILL",
        _ if call == "write" => "error=ENOSPC",
        _ => "error=EIO",
    };
    let options = [
        "-e".to_owned(),
        format!("trace={call}"),
        "-e".to_owned(),
        format!("inject={call}:{what}:when={}", point.number),
    ];
    let plan_with_fault = traced(&plan, &trace, &[point.watched], &options);
    let end = if fault == Fault::ErrorThenCrash {
        "KILL"
    } else {
        "TERM"
    };
    let status = tell(&plan_with_fault, point.story, end, &mut book);
    let trace = fs::read_to_string(&trace).unwrap();
    let is_hit = match fault {
        Fault::Crash => trace.contains("+++ killed by SIGKILL +++"),
        Fault::Error | Fault::ErrorThenCrash => trace.contains("(INJECTED)"),
    };
    let is_killed = match fault {
        Fault::Crash => is_hit,
        Fault::Error => false,
        // Unless it did not start.
        Fault::ErrorThenCrash => status.code() != Some(4),
    };
    assert_eq!(status.signal(), is_killed.then_some(9));
    verify(&plan, book);
    is_hit
}

/// Says which point it was, where a test fails.
struct ToldOnPanic<'a>(&'a Point, Fault);

impl Drop for ToldOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:?} at {}", self.1, self.0);
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Point {
            story,
            watched,
            call,
            number,
        } = self;
        write!(f, "{call} {number} of {watched:?} in {story:?}")
    }
}

/// Leaves what a story begins with.
fn prepare(plan: &Plan, story: Story) -> Book {
    let mut book = Book::default();
    if story == Story::Later {
        let daemon = plan.start();
        let mut client = daemon.connect();
        for request in first_changes("before") {
            assert!(book.ask(&mut client, &request));
        }
        book.greet(&mut client);
        daemon.kill();
        for (directory, name) in [
            (plan.data_directory(), "durable.journal"),
            (plan.runtime_directory(), "boot.journal"),
        ] {
            let path = directory.join(name);
            let mut journal = fs::read(&path).unwrap();
            journal.extend_from_slice(b"0123abcd {\"rev\":");
            fs::write(&path, journal).unwrap();
            fs::write(directory.join(format!("{name}.new")), "half").unwrap();
        }
    }
    book
}

/// Changes of every kind, with values that nobody else puts.
fn first_changes(name: &str) -> Vec<Value> {
    vec![
        put("d", &format!("durable {name}"), "durable"),
        put("b", &format!("boot {name}"), "boot"),
        put("s", &format!("session {name}"), "session"),
        batch(&[
            put("both.d", &format!("both {name}"), "durable"),
            put("both.b", &format!("both {name}"), "boot"),
        ]),
        put("b", &format!("boot after both {name}"), "boot"),
        put("gone", "to be deleted", "durable"),
        json!({"op": "delete", "key": "gone"}),
    ]
}

/// Enough for one rewrite of each journal. Two values make the new durable journal so long that it is
/// synced on the way, too.
fn later_changes() -> Vec<Value> {
    let large = |number: usize| format!("{}{number}", "x".repeat(LARGE_BYTES));
    let mut requests = first_changes("later");
    // From one journal into the other, and back.
    requests.push(put("d", "no longer durable", "boot"));
    requests.push(put("d", "durable again", "durable"));
    requests.push(batch(&[
        put("b", "with a deletion", "boot"),
        json!({"op": "delete", "key": "both.d"}),
        put("both.d", "replaced in a batch", "durable"),
    ]));
    for number in 0..6 {
        let key = ["large.0", "large.1"][number % 2];
        requests.push(put(key, &large(number), "durable"));
        requests.push(put("while", &format!("durable {number}"), "durable"));
    }
    for number in 6..12 {
        requests.push(put("large.boot", &large(number), "boot"));
    }
    requests.extend(first_changes("last"));
    requests
}

fn put(key: &str, value: &str, lifetime: &str) -> Value {
    json!({"op": "put", "key": key, "value": value, "lifetime": lifetime})
}

fn batch(ops: &[Value]) -> Value {
    json!({"op": "batch", "ops": ops})
}

/// A daemon's life from its start to its end, which is a signal if nothing comes before.
fn tell(plan: &Plan, story: Story, end: &str, book: &mut Book) -> ExitStatus {
    let mut daemon = plan.launch();
    if !daemon.serves() {
        return failed_start(daemon);
    }
    let requests = match story {
        Story::First => first_changes("first"),
        Story::Later => later_changes(),
    };
    // Kept until the end: entries of the session go with it.
    let mut client = live(&daemon, &requests, end, book);
    if let Some(client) = &mut client
        && (end == "KILL" || settle(&daemon, client, story, book))
    {
        daemon.signal(end);
    }
    let status = daemon.wait();
    assert!(
        status.signal().is_some() || status.code() == Some(0),
        "{status}: {}",
        daemon.log()
    );
    status
}

/// What does not serve has said why, or was killed.
fn failed_start(mut daemon: Daemon) -> ExitStatus {
    let status = daemon.wait();
    if status.signal().is_none() {
        assert_eq!(status.code(), Some(4), "{}", daemon.log());
        assert!(
            daemon.log().contains("nkv-server: can't "),
            "{}",
            daemon.log()
        );
    }
    status
}

/// Asks for all changes; nothing where the daemon dies before that is done.
fn live(daemon: &Daemon, requests: &[Value], end: &str, book: &mut Book) -> Option<Client> {
    // Its tending may have killed it already.
    let stream = UnixStream::connect(daemon.socket()).ok()?;
    let mut client = Client::new(Socket::Unix(stream));
    if !book.greet(&mut client) {
        return None;
    }
    let mut left = requests.len();
    for request in requests {
        if left == 0 {
            break;
        }
        if !book.ask(&mut client, request) {
            return None;
        }
        left -= 1;
        if end == "KILL" && !book.refused.is_empty() {
            // A few more, but not so many that a rewrite covers up what the failure has left.
            left = left.min(3);
        }
    }
    Some(client)
}

/// Waits until all that is to be written is; false where the daemon dies before.
fn settle(daemon: &Daemon, client: &mut Client, story: Story, book: &mut Book) -> bool {
    if story == Story::Later && !both_written_anew(daemon) {
        return false;
    }
    if !book.refused.is_empty() {
        mended(daemon, client, book);
    }
    true
}

/// Waits until both journals are; false where the daemon dies before. A rewrite that has failed is tried
/// again by itself.
fn both_written_anew(daemon: &Daemon) -> bool {
    ["durable", "boot"]
        .iter()
        .all(|name| daemon.says(&format!("{name}.journal is written anew")))
}

/// What was refused was so for one journal only, and is accepted again.
fn mended(daemon: &Daemon, client: &mut Client, book: &mut Book) {
    assert!(daemon.says(" writes are accepted again"));
    for lifetime in ["durable", "boot"] {
        let request = put("after", &format!("{lifetime} again"), lifetime);
        let response = client.do_it(&request.to_string());
        book.count(&request, &response);
    }
}

impl Book {
    /// Learns the name of the history; false where the daemon is gone.
    fn greet(&mut self, client: &mut Client) -> bool {
        let Some(hello) = client.ask_if_there(r#"{"op":"hello"}"#) else {
            return false;
        };
        let epoch = hello["epoch"].as_str().unwrap().to_owned();
        let known = self.epoch.get_or_insert(epoch.clone());
        assert_eq!(*known, epoch, "the history has ended");
        true
    }

    /// Asks for a change and notes what becomes of it; false where the daemon is gone.
    fn ask(&mut self, client: &mut Client, request: &Value) -> bool {
        let Some(response) = client.ask_if_there(&request.to_string()) else {
            self.under_way = Some(request.clone());
            return false;
        };
        if response["ok"] == true {
            self.count(request, &response);
        } else {
            assert_eq!(response["error"], "read_only", "{response}");
            self.refused.push(request.clone());
        }
        true
    }

    fn count(&mut self, request: &Value, response: &Value) {
        if response["deleted"] == 0 {
            // The put before was refused.
            return;
        }
        apply(&mut self.acknowledged, request);
        let rev = response["rev"].as_u64().unwrap();
        assert!(rev > self.rev, "{rev} after {}", self.rev);
        self.rev = rev;
    }
}

/// Does to entries what a request does to a keyspace.
fn apply(entries: &mut Entries, request: &Value) {
    let text = |name: &str| request[name].as_str().unwrap().to_owned();
    match &*text("op") {
        "put" => {
            entries.insert(text("key"), (request["value"].clone(), text("lifetime")));
        }
        "delete" => {
            entries.remove(&text("key"));
        }
        _ => {
            let ops = request["ops"].as_array().unwrap();
            ops.iter().for_each(|op| apply(entries, op));
        }
    }
}

/// Starts a daemon with no fault, twice, and looks at everything.
fn verify(plan: &Plan, mut book: Book) {
    let daemon = plan.start();
    let mut client = daemon.connect();
    book.greet(&mut client);
    look(&mut client, &mut book);
    for request in first_changes("verified") {
        assert!(book.ask(&mut client, &request));
    }
    daemon.kill();
    let daemon = plan.start();
    let mut client = daemon.connect();
    book.greet(&mut client);
    look(&mut client, &mut book);
    daemon.stop();
    only_journals(plan);
}

/// Holds what is there against what was said to be there.
fn look(client: &mut Client, book: &mut Book) {
    let list = client.do_it(r#"{"op":"get","key":"*"}"#);
    assert!(list.get("more").is_none());
    let mut found = Entries::new();
    for entry in list["entries"].as_array().unwrap() {
        let lifetime = entry["lifetime"].as_str().unwrap_or("durable");
        let key = entry["key"].as_str().unwrap().to_owned();
        found.insert(key, (entry["value"].clone(), lifetime.to_owned()));
        book.rev = book.rev.max(entry["rev"].as_u64().unwrap());
    }
    let mut expected = book.acknowledged.clone();
    let mut or = expected.clone();
    if let Some(request) = book.under_way.take() {
        apply(&mut or, &request);
    }
    // Entries of sessions wait ten seconds for their owners.
    if client.counter("uptime_ms") >= 10_000 {
        for entries in [&mut found, &mut expected, &mut or] {
            entries.retain(|_, (_, lifetime)| lifetime != "session");
        }
    }
    assert!(
        found == expected || found == or,
        "there is {}, there should be {} or {}",
        shown(&found),
        shown(&expected),
        shown(&or)
    );
    book.acknowledged = found;
}

/// Entries with their values cut short.
fn shown(entries: &Entries) -> String {
    let short = |value: &Value| value.to_string().chars().rev().take(30).collect::<String>();
    let entries = entries.iter();
    let texts = entries.map(|(key, (value, lifetime))| {
        let value: String = short(value).chars().rev().collect();
        format!("{key} ({lifetime}) …{value}")
    });
    format!("{:#?}", texts.collect::<Vec<_>>())
}

/// A daemon that says when it has written the boot journal anew, too.
fn plan() -> Plan {
    Plan::keeping().with(&["--log", "info,nkv::journal=debug"])
}

fn only_journals(plan: &Plan) {
    for (directory, journal) in [
        (plan.data_directory(), "durable.journal"),
        (plan.runtime_directory(), "boot.journal"),
    ] {
        let files = fs::read_dir(directory).unwrap();
        let mut names: Vec<String> = files
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(
            names,
            [journal.to_owned(), journal.replace("journal", "lock")]
        );
    }
}
