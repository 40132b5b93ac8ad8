//! The package on a booted machine: what each step of its life leaves, and what clients see of it.
//!
//! dpkg and its database are this machine's, in the booted one's own layer: nothing comes back here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nkv::client::{Client, Error, Event, Position};

use crate::machine::Machine;
use crate::package;
use crate::support::PATIENCE;

/// Written last, for the subscriber to know that this is all.
const LAST: &str = "count.last";

/// A booted machine to which packages can be installed, and the package.
pub(crate) fn machine() -> Option<(Machine, &'static Path)> {
    let package = package::built()?;
    let machine = Machine::boot()?;
    // Images for containers forbid what a host does: starting services, keeping documentation.
    machine.run("rm -rf /usr/sbin/policy-rc.d /etc/dpkg/dpkg.cfg.d");
    // An index of all manual pages takes longer than everything else.
    machine.run("rm -f /var/lib/man-db/auto-update");
    machine.run("dpkg --purge nkv");
    Some((machine, package))
}

fn install(machine: &Machine, package: &Path) {
    fs::copy(package, machine.path("/root/nkv.deb")).unwrap();
    machine.run("dpkg --install /root/nkv.deb");
}

fn is_there(machine: &Machine, path: &str) -> bool {
    fs::symlink_metadata(machine.path(path)).is_ok()
}

#[test]
fn installation_is_all_there_is_to_do() {
    let Some((machine, package)) = machine() else {
        return;
    };
    install(&machine, package);
    // The socket listens, and the daemon is not needed yet.
    let is = |unit: &str, name: &str, wanted: &str| {
        assert_eq!(machine.property(unit, name), wanted, "{name} of {unit}");
    };
    is("nkv.socket", "ActiveState", "active");
    is("nkv.socket", "UnitFileState", "enabled");
    is("nkv.service", "ActiveState", "inactive");
    is("nkv-metrics.timer", "ActiveState", "inactive");
    is("nkv-metrics.timer", "UnitFileState", "disabled");
    let socket = machine.run("stat -c %A:%U:%G /run/nkv.sock");
    assert_eq!(socket, "srw-rw----:root:nkv\n");

    // With the manual pages there, nothing at all is to be said of the units.
    let words =
        "systemd-analyze verify nkv.socket nkv.service nkv-metrics.service nkv-metrics.timer";
    let words: Vec<&str> = words.split(' ').collect();
    let output = machine.output(&words);
    assert!(output.status.success(), "{output:?}");
    assert!(
        output.stdout.is_empty() && output.stderr.is_empty(),
        "{output:?}"
    );

    // A member of the group starts it; as README.Debian says one becomes a member.
    for user in ["member", "outsider"] {
        machine.run(&format!("useradd {user}"));
    }
    machine.run("adduser member nkv");
    let (code, complaint) = machine.fail("runuser -u outsider -- nkv-client put greeting hello");
    assert_eq!(code, 3);
    assert!(complaint.contains("Permission denied"), "{complaint}");
    is("nkv.service", "ActiveState", "inactive");
    machine.run("runuser -u member -- nkv-client put greeting hello");
    is("nkv.service", "ActiveState", "active");
    assert_eq!(machine.run("nkv-client get greeting"), "\"hello\"\n");
    let owner = machine.run("stat -c %U:%a /var/lib/nkv /run/nkv");
    assert_eq!(owner, "nkv:700\nnkv:700\n");

    // Somebody who sits down there finds help.
    let pages = machine.run("man -w 1 nkv-server nkv-client 7 nkv");
    let pages: Vec<&str> = pages
        .lines()
        .map(|page| page.rsplit('/').next().unwrap())
        .collect();
    assert_eq!(pages, ["nkv-server.1.gz", "nkv-client.1.gz", "nkv.7.gz"]);
    for program in ["nkv-server", "nkv-client"] {
        let script =
            format!(". /usr/share/bash-completion/completions/{program}; complete -p {program}");
        let output = machine.output(&["bash", "-c", &script]);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.starts_with("complete "), "{program}: {output:?}");
    }
}

#[test]
fn nothing_comes_to_this_machine() {
    let state = || {
        let known = Command::new("dpkg-query")
            .args(["--show", "nkv"])
            .output()
            .unwrap();
        let user = Command::new("getent")
            .args(["passwd", "nkv"])
            .output()
            .unwrap();
        (
            known.stdout,
            user.stdout,
            Path::new("/usr/bin/nkv-server").exists(),
        )
    };
    let before = state();
    let Some((machine, package)) = machine() else {
        return;
    };
    install(&machine, package);
    assert_eq!(
        machine.run("dpkg-query --show --showformat=${Status} nkv"),
        "install ok installed"
    );
    drop(machine);
    assert_eq!(state(), before);
}

#[test]
fn clients_stay_over_upgrade_and_downgrade() {
    let Some((machine, old)) = machine() else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let new = package::with_version(old, "99.0-1", directory.path());
    install(&machine, old);
    let socket = || machine.property("nkv.socket", "InvocationID");
    let first = socket();

    // Where nothing runs, nothing is started.
    install(&machine, &new);
    assert_eq!(machine.property("nkv.service", "ActiveState"), "inactive");
    assert_eq!(socket(), first);

    machine.run("nkv-client put kept.durable 1");
    machine.run("nkv-client put kept.boot 2 --lifetime boot");
    for (package, version) in [(old, package_version(old)), (&new, "99.0-1".into())] {
        let before = machine.main_process("nkv.service").unwrap();
        with_clients(&machine, || install(&machine, package));
        let shown = machine.run("dpkg-query --show --showformat=${Version} nkv");
        assert_eq!(shown, version);
        assert_eq!(
            socket(),
            first,
            "the socket was stopped on the way to {version}"
        );
        let after = machine.main_process("nkv.service").unwrap();
        assert_ne!(after, before, "the daemon of before runs on");
        let program = fs::read_link(format!("/proc/{after}/exe")).unwrap();
        assert!(
            program.ends_with("usr/bin/nkv-server"),
            "{program:?} is not the new one"
        );
        let kept = machine.run("nkv-client get kept.*");
        assert_eq!(kept, "kept.boot 2\nkept.durable 1\n");
    }
}

#[test]
fn removal_keeps_what_purge_removes() {
    let Some((machine, package)) = machine() else {
        return;
    };
    install(&machine, package);
    machine.write("/etc/default/nkv", "NKV_OPTIONS=\"--max-clients 100\"\n");
    machine.run("systemctl enable --now nkv-metrics.timer");
    machine.run("nkv-client put kept.durable 1");
    machine.run("nkv-client put kept.boot 2 --lifetime boot");
    let daemon = machine.main_process("nkv.service").unwrap();

    // With a client attached, who is told by the end of the connection.
    let mut client = machine.connect();
    client.ping();
    machine.run("dpkg --remove nkv");
    assert_eq!(client.next_line(), None);
    assert!(!Path::new(&format!("/proc/{daemon}")).exists());
    for unit in ["nkv.socket", "nkv.service", "nkv-metrics.timer"] {
        assert_eq!(machine.property(unit, "ActiveState"), "inactive", "{unit}");
        assert_eq!(machine.property(unit, "LoadState"), "not-found", "{unit}");
    }
    for gone in ["/run/nkv.sock", "/run/nkv", "/usr/bin/nkv-server"] {
        assert!(!is_there(&machine, gone), "{gone} is there");
    }
    assert!(is_there(&machine, "/var/lib/nkv/durable.journal"));
    assert!(machine.read("/etc/default/nkv").contains("--max-clients"));

    // Back again, with the settings of before, and the entries that outlive a reboot.
    install(&machine, package);
    assert_eq!(machine.run("nkv-client get kept.*"), "kept.durable 1\n");
    assert!(machine.read("/etc/default/nkv").contains("--max-clients"));

    // Also from where it is installed.
    machine.run("dpkg --purge nkv");
    let directories = ["/etc", "/run", "/usr", "/var"];
    let words = ["find", "-xdev", "-name", "*nkv*", "-print"];
    let mut words = words.to_vec();
    words.splice(1..1, directories);
    let left = String::from_utf8(machine.output(&words).stdout).unwrap();
    assert_eq!(left, "");
    assert!(
        machine.run("getent passwd nkv").starts_with("nkv:"),
        "the user stays"
    );
    // And without one to remove before.
    install(&machine, package);
    assert_eq!(machine.run("nkv-client get *"), "");
}

fn package_version(package: &Path) -> String {
    let output = Command::new("dpkg-deb")
        .arg("--field")
        .arg(package)
        .arg("Version")
        .output();
    String::from_utf8(output.unwrap().stdout)
        .unwrap()
        .trim()
        .to_owned()
}

/// Changes something while a client writes, another follows, and a third connects over and over.
/// Nobody is refused, and the follower ends with what was written, without having begun anew.
fn with_clients(machine: &Machine, change: impl FnOnce()) {
    let socket = machine.socket();
    let address = socket.to_str().unwrap();
    let is_over = AtomicBool::new(false);
    connect(address).delete(LAST).unwrap();
    thread::scope(|scope| {
        let (told, is_told) = mpsc::channel();
        let follower = scope.spawn(move || follow(address, &told));
        is_told.recv_timeout(PATIENCE).unwrap();
        let writer = scope.spawn(|| write(address, &is_over));
        let prober = scope.spawn(|| probe(&socket, &is_over));
        let over = AtTheEnd(&is_over);
        change();
        drop(over);
        let written = writer.join().unwrap();
        let followed = follower.join().unwrap();
        let connections = prober.join().unwrap();
        assert_eq!(followed.state["count"], written);
        assert_eq!(
            (followed.resets, followed.epochs.len()),
            (0, 1),
            "{followed:?}"
        );
        assert!(followed.connections > 1, "the daemon was never away");
        assert!(connections > 1, "{connections} connections");
    });
}

/// Ends the other threads also where this one panics.
struct AtTheEnd<'a>(&'a AtomicBool);

impl Drop for AtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A connection as a well-behaved client makes it: again where the daemon goes meanwhile. That nobody
/// listens never happens.
fn connect(address: &str) -> Client {
    let builder = || Client::builder().connect_timeout(PATIENCE);
    loop {
        match builder().connect(&address.parse().unwrap()) {
            Ok(client) => return client,
            Err(error @ Error::Connect { .. }) => panic!("{error}"),
            Err(error) => assert!(error.is_disconnect(), "{error}"),
        }
    }
}

/// Counts up until it is over, and returns how far.
fn write(address: &str, is_over: &AtomicBool) -> u64 {
    let mut client = connect(address);
    let mut put = |key: &str, number: u64| {
        while let Err(error) = client.put(key, &number) {
            assert!(error.is_disconnect(), "{error}");
            client = connect(address);
        }
    };
    let mut number = 0;
    while !is_over.load(Ordering::Relaxed) {
        number += 1;
        put("count", number);
        // Leaves something of the processor to the others.
        thread::sleep(Duration::from_millis(1));
    }
    put(LAST, number);
    number
}

/// Connects over and over, and returns how often.
fn probe(socket: &Path, is_over: &AtomicBool) -> usize {
    let mut connections = 0;
    while !is_over.load(Ordering::Relaxed) {
        let connected = UnixStream::connect(socket);
        let mut stream = connected.unwrap_or_else(|error| panic!("after {connections}: {error}"));
        connections += 1;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // A daemon that stops just now may close without an answer.
        let mut answer = String::new();
        let asked = stream.write_all(b"{\"op\":\"ping\"}\n");
        if asked
            .and_then(|()| BufReader::new(stream).read_line(&mut answer))
            .is_ok()
        {
            assert!(
                answer.is_empty() || answer.starts_with("{\"ok\":true"),
                "{answer}"
            );
        }
        thread::sleep(Duration::from_millis(1));
    }
    connections
}

/// What a subscriber has seen.
#[derive(Debug, Default)]
struct Followed {
    state: BTreeMap<String, u64>,
    epochs: BTreeSet<String>,
    resets: usize,
    connections: usize,
}

/// Holds a copy of `count` and what is below, until the last of it. Says when it has begun.
fn follow(address: &str, told: &mpsc::Sender<()>) -> Followed {
    let mut followed = Followed::default();
    let mut position: Option<Position> = None;
    while !followed.state.contains_key(LAST) {
        let client = connect(address);
        let mut subscribe = client.subscribe_with("count");
        if let Some(position) = position.clone() {
            subscribe = subscribe.since(position);
        }
        let Ok(mut subscription) = subscribe.start() else {
            continue;
        };
        followed.connections += 1;
        followed.epochs.insert(subscription.epoch().to_owned());
        while !followed.state.contains_key(LAST) {
            match subscription.next_timeout(PATIENCE) {
                Ok(Some(Event::Put { key, value, .. })) => {
                    let number = value.json().unwrap();
                    followed.state.insert(key.to_string(), number);
                }
                Ok(Some(Event::Delete { key, .. })) => drop(followed.state.remove(key.as_str())),
                Ok(Some(Event::Reset { .. })) => followed.resets += 1,
                Ok(Some(Event::Sync { .. })) => drop(told.send(())),
                Ok(None) => panic!("nothing is told any more: {followed:?}"),
                Err(error) => {
                    assert!(error.is_disconnect(), "{error}");
                    break;
                }
            }
            position = subscription.position().cloned();
        }
    }
    followed
}
