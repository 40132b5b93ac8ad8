//! `mirror`: a part of the keyspace as files.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::daemon::{Daemon, client};
use crate::support::{Client, Plan, until};
use crate::{Lines, run};

/// A mirror that runs.
struct Mirror {
    lines: Lines,
    directory: PathBuf,
}

impl Mirror {
    fn of(address: &str, directory: &Path, arguments: &[&str]) -> Mirror {
        let words = [&["mirror", directory.to_str().unwrap()], arguments].concat();
        Mirror {
            lines: Lines::at(address, &words),
            directory: directory.to_owned(),
        }
    }

    /// Waits until the files are the state at a revision.
    fn synced(&self, rev: u64) {
        let path = self.directory.join(".synced");
        let expected = format!("{rev}\n");
        until(&format!("the files are at {rev}"), || {
            fs::read_to_string(&path).is_ok_and(|text| text == expected)
        });
    }

    /// Sends it a signal; returns what it said.
    fn end(self, signal: &str) -> String {
        let id = self.lines.child.id().to_string();
        let killed = Command::new("sh")
            .args(["-c", "kill -s \"$0\" \"$1\"", signal, &id])
            .status();
        assert!(killed.unwrap().success());
        let (code, said) = self.lines.end();
        assert_eq!(code, Some(0), "{said}");
        said
    }
}

/// Mirrors once; returns the exit code and what was said.
fn once(daemon: &Daemon, directory: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = client(&daemon.address())
        .args(["mirror", directory.to_str().unwrap(), "--once"])
        .args(arguments)
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"");
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), said)
}

#[track_caller]
fn done(told: (Option<i32>, String)) {
    assert_eq!(told, (Some(0), String::new()));
}

/// The files of a directory, without those of the mirror.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if !name.starts_with('.') {
            files.insert(name, fs::read(entry.path()).unwrap());
        }
    }
    files
}

#[track_caller]
fn check(directory: &Path, expected: &[(&str, &[u8])]) {
    let expected = expected.iter();
    let expected: BTreeMap<String, Vec<u8>> = expected
        .map(|(name, text)| ((*name).to_owned(), text.to_vec()))
        .collect();
    assert_eq!(files(directory), expected);
}

#[test]
fn files_follow_the_keys() {
    let daemon = Daemon::start();
    run(&daemon, &["put", "net.eth0.mtu", "1500"]);
    run(&daemon, &["put", "net.name", "up \"link\""]);
    run(&daemon, &["put", "net", "{\"a\": 1.00}"]);
    run(&daemon, &["put", "other", "1"]);
    let directory = daemon.directory().join("new/files");
    let mirror = Mirror::of(&daemon.address(), &directory, &["net"]);
    mirror.synced(4);
    check(
        &directory,
        &[
            ("net", b"{\"a\": 1.00}\n"),
            ("net.eth0.mtu", b"1500\n"),
            ("net.name", b"\"up \\\"link\\\"\"\n"),
        ],
    );
    run(&daemon, &["put", "net.eth0.mtu", "9000"]);
    run(&daemon, &["delete", "net.name"]);
    run(&daemon, &["put", "net.raw", "--bytes", "a\tb"]);
    run(&daemon, &["put", "net", "null"]);
    mirror.synced(8);
    let expected: [(&str, &[u8]); 3] = [
        ("net", b"null\n"),
        ("net.eth0.mtu", b"9000\n"),
        ("net.raw", b"a\tb"),
    ];
    check(&directory, &expected);
    assert_eq!(mirror.end("TERM"), "");
    // They stay, and the next mirror brings them up to date.
    check(&directory, &expected);
    run(&daemon, &["delete", "net.*"]);
    run(&daemon, &["put", "net.name", "uplink"]);
    done(once(&daemon, &directory, &["net", "--raw"]));
    check(&directory, &[("net.name", b"uplink\n")]);
    done(once(&daemon, &directory, &["other", "--exact"]));
    check(&directory, &[("other", b"1\n")]);
}

/// Files that are right are not touched: neither they nor what watches them has to know of a restart.
#[test]
fn what_is_the_same_is_not_written() {
    let daemon = Daemon::start();
    run(&daemon, &["put", "a", "1"]);
    let directory = daemon.directory().join("files");
    done(once(&daemon, &directory, &["*"]));
    let number = |name: &str| {
        let found = fs::metadata(directory.join(name)).unwrap();
        std::os::unix::fs::MetadataExt::ino(&found)
    };
    let before = number("a");
    // Were the file made anew while this one is held, it would have another number.
    let held = fs::File::open(directory.join("a")).unwrap();
    run(&daemon, &["put", "b", "1"]);
    done(once(&daemon, &directory, &["*"]));
    assert_eq!(number("a"), before);
    run(&daemon, &["put", "a", "2"]);
    done(once(&daemon, &directory, &["*"]));
    assert_ne!(number("a"), before);
    drop(held);
}

/// Who finds the same revision before and after has read one state.
#[test]
fn a_batch_is_seen_as_one() {
    const BATCHES: u64 = 300;
    let daemon = Daemon::start();
    let directory = daemon.directory().join("files");
    let mirror = Mirror::of(&daemon.address(), &directory, &["*"]);
    mirror.synced(0);
    let address = daemon.address();
    let writer = std::thread::spawn(move || {
        let mut client = Client::unix(Path::new(&address));
        for number in 1..=BATCHES {
            let put = |key: &str| format!(r#"{{"op":"put","key":"{key}","value":{number}}}"#);
            let (from, to) = (put("from"), put("to"));
            client.do_it(&format!(r#"{{"op":"batch","ops":[{from},{to}]}}"#));
        }
    });
    let synced = || fs::read_to_string(directory.join(".synced")).ok();
    let read = |name: &str| fs::read_to_string(directory.join(name)).ok();
    let mut states = 0;
    loop {
        let before = synced();
        let pair = (read("from"), read("to"));
        if before.is_none() || before != synced() {
            continue;
        }
        assert_eq!(pair.0, pair.1, "{before:?}");
        states += 1;
        if before == Some(format!("{}\n", 2 * BATCHES)) {
            break;
        }
    }
    assert!(states > 1);
    writer.join().unwrap();
    mirror.end("INT");
}

#[test]
fn it_goes_on_after_a_restart() {
    let mut daemon = Daemon::start();
    let directory = daemon.directory().join("files");
    run(&daemon, &["put", "a", "1"]);
    run(&daemon, &["put", "b", "1"]);
    let mirror = Mirror::of(&daemon.address(), &directory, &["*"]);
    mirror.synced(2);
    // This daemon keeps nothing: all is told anew.
    daemon.restart();
    run(&daemon, &["put", "b", "2"]);
    mirror.synced(1);
    check(&directory, &[("b", b"2\n")]);
    let said = mirror.end("TERM");
    assert!(said.contains("reconnecting to "), "{said}");
    assert!(said.contains("connected again"), "{said}");
}

#[test]
fn it_resumes_where_the_daemon_has_its_history() {
    let plan = Plan::keeping();
    let daemon = plan.start();
    let address = daemon.socket().to_str().unwrap().to_owned();
    let put = |client: &mut Client, key: &str| {
        client.do_it(&format!(r#"{{"op":"put","key":"{key}","value":1}}"#))
    };
    put(&mut daemon.connect(), "a");
    put(&mut daemon.connect(), "b");
    let directory = plan.directory().join("files");
    let mirror = Mirror::of(&address, &directory, &["*"]);
    mirror.synced(2);
    daemon.stop();
    let daemon = plan.start();
    daemon.connect().do_it(r#"{"op":"delete","key":"a"}"#);
    put(&mut daemon.connect(), "c");
    mirror.synced(4);
    check(&directory, &[("b", b"1\n"), ("c", b"1\n")]);
    let said = mirror.end("TERM");
    assert!(!said.contains("lost"), "{said}");
}

#[test]
fn names_stay_in_the_directory() {
    let daemon = Daemon::start();
    let keys = [
        "/",
        "/etc/passwd",
        "a./b",
        "a.%2Fb",
        "a.%252Fb",
        "-rf",
        "größe.温度",
        "~",
        "$(reboot)",
    ];
    for key in keys.iter().filter(|key| !key.starts_with('$')) {
        run(&daemon, &["put", "--", key, "1"]);
    }
    let long = "k".repeat(256);
    run(&daemon, &["put", &long, "1"]);
    run(&daemon, &["put", &long[1..], "1"]);
    let directory = daemon.directory().join("files");
    let (code, said) = once(&daemon, &directory, &["*"]);
    let left_out =
        format!("nkv-client: {long} is left out: its file's name would have 256 bytes\n");
    assert_eq!((code, said), (Some(0), left_out));
    check(
        &directory,
        &[
            ("%2F", b"1\n"),
            ("%2Fetc%2Fpasswd", b"1\n"),
            ("a.%2Fb", b"1\n"),
            ("a.%252Fb", b"1\n"),
            ("a.%25252Fb", b"1\n"),
            ("-rf", b"1\n"),
            ("größe.温度", b"1\n"),
            ("~", b"1\n"),
            (&long[1..], b"1\n"),
        ],
    );
    run(&daemon, &["delete", "*"]);
    done(once(&daemon, &directory, &["*"]));
    check(&directory, &[]);
}

#[test]
fn what_is_not_its_own_is_left_alone() {
    let daemon = Daemon::start();
    run(&daemon, &["put", "a", "1"]);
    let foreign = daemon.directory().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("precious"), "1").unwrap();
    let (code, said) = once(&daemon, &foreign, &["*"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.ends_with("foreign is not empty, and no mirror has begun it\n"));
    check(&foreign, &[("precious", b"1")]);
    let (code, said) = once(&daemon, &foreign.join("precious"), &["*"]);
    assert_eq!(code, Some(1), "{said}");

    let directory = daemon.directory().join("files");
    let mirror = Mirror::of(&daemon.address(), &directory, &["*"]);
    mirror.synced(1);
    let (code, said) = once(&daemon, &directory, &["*"]);
    assert_eq!(code, Some(1));
    assert!(
        said.starts_with("nkv-client: another mirror keeps "),
        "{said}"
    );
    mirror.end("INT");

    // Names that no key has stay, and what is no file; a file with a key's name goes.
    fs::write(directory.join("my notes"), "1").unwrap();
    fs::write(directory.join("old.key"), "1").unwrap();
    fs::create_dir(directory.join("in.the.way")).unwrap();
    symlink(foreign.join("precious"), directory.join("link")).unwrap();
    symlink(foreign.join("precious"), directory.join("unrelated")).unwrap();
    run(&daemon, &["put", "in.the.way", "2"]);
    run(&daemon, &["put", "link", "3"]);
    let (code, said) = once(&daemon, &directory, &["*"]);
    assert_eq!(code, Some(0));
    assert!(
        said.starts_with("nkv-client: in.the.way is left out: "),
        "{said}"
    );
    fs::remove_dir(directory.join("in.the.way")).unwrap();
    fs::remove_file(directory.join("unrelated")).unwrap();
    check(
        &directory,
        &[("a", b"1\n"), ("link", b"3\n"), ("my notes", b"1")],
    );
    check(&foreign, &[("precious", b"1")]);
}

#[test]
fn what_cannot_be_written_ends_it() {
    let daemon = Daemon::start();
    let directory = daemon.directory().join("files");
    let mirror = Mirror::of(&daemon.address(), &directory, &["*"]);
    mirror.synced(0);
    fs::remove_dir_all(&directory).unwrap();
    run(&daemon, &["put", "a", "1"]);
    let (code, said) = mirror.lines.end();
    assert_eq!(code, Some(1));
    assert!(
        said.ends_with("files was taken away from the mirror\n"),
        "{said}"
    );
    let gone = daemon.directory().join("nobody.sock");
    let mirror = Mirror::of(gone.to_str().unwrap(), &directory, &["*"]);
    assert_eq!(mirror.lines.end().0, Some(3));
    assert!(!directory.exists());
}

/// What is there in its place is not the mirror's, which says nothing about it.
#[test]
fn another_directory_in_its_place_is_left_alone() {
    let daemon = Daemon::start();
    run(&daemon, &["put", "a", "1"]);
    let directory = daemon.directory().join("files");
    let mirror = Mirror::of(&daemon.address(), &directory, &["*"]);
    mirror.synced(1);
    fs::remove_dir_all(&directory).unwrap();
    fs::create_dir(&directory).unwrap();
    run(&daemon, &["put", "b", "1"]);
    let (code, said) = mirror.lines.end();
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    // Another mirror may have begun there meanwhile.
    let mirror = Mirror::of(&daemon.address(), &directory, &["*"]);
    mirror.synced(2);
    fs::rename(&directory, daemon.directory().join("old")).unwrap();
    let other = Mirror::of(&daemon.address(), &directory, &["*"]);
    other.synced(2);
    run(&daemon, &["put", "c", "1"]);
    assert_eq!(mirror.lines.end().0, Some(1));
    other.synced(3);
    other.end("TERM");
}

/// Where there is no room, half a file would take what room there is.
#[test]
fn no_half_of_a_file_stays() {
    let daemon = Daemon::start();
    run(&daemon, &["put", "a", &"1".repeat(2000)]);
    let directory = daemon.directory().join("files");
    let program = client(&daemon.address());
    // A file of more than 512 bytes can't be written, which is no reason to be killed.
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$0\" \"$@\""])
        .arg(program.get_program())
        .args(["-a", &daemon.address()])
        .args(["mirror", directory.to_str().unwrap(), "--once", "*"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot write"), "{said}");
    let names: Vec<_> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, [".nkv-mirror"]);
}
