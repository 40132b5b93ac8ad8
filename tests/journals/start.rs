//! Starts that are refused, and what the log says of those that are not but have found something.
//!
//! A start that storage refuses ends with exit code 4 and a message that names what it is about: the
//! file, the line and the offset, or the directory and who uses it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::disk::SmallDisk;
use crate::support::{Daemon, Plan};

const PUT: &str = r#"{"op":"put","key":"d","value":1}"#;

/// Runs to the end, which storage is to cause, and returns what stands on stderr.
fn assert_refused(plan: &Plan) -> String {
    let output = plan.run();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{stderr}");
    assert!(!plan.socket().exists(), "nothing is left of a failed start");
    stderr
}

fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

fn durable_journal(plan: &Plan) -> PathBuf {
    plan.data_directory().join("durable.journal")
}

fn boot_journal(plan: &Plan) -> PathBuf {
    plan.runtime_directory().join("boot.journal")
}

/// A plan whose daemon has put three keys and was killed.
fn killed() -> Plan {
    let plan = Plan::keeping();
    let daemon = plan.start();
    let mut client = daemon.connect();
    for key in ["a", "b", "c"] {
        for lifetime in ["durable", "boot"] {
            client.do_it(&format!(
                r#"{{"op":"put","key":"{key}.{lifetime}","value":"text","lifetime":"{lifetime}"}}"#
            ));
        }
    }
    daemon.kill();
    fs::remove_file(plan.socket()).unwrap();
    plan
}

fn keys(daemon: &Daemon) -> Vec<String> {
    let list = daemon.connect().do_it(r#"{"op":"get","key":"*"}"#);
    let entries = list["entries"].as_array().unwrap().iter();
    let keys = entries.map(|entry| entry["key"].as_str().unwrap().to_owned());
    keys.collect()
}

/// Damages the line that has a text, and returns its number and its offset.
fn damage(path: &Path, text: &str) -> (usize, usize) {
    let file = fs::read_to_string(path).unwrap();
    let at = file.find(text).unwrap();
    let offset = file[..at].rfind('\n').unwrap() + 1;
    fs::write(path, file.replacen(text, &text.to_uppercase(), 1)).unwrap();
    (file[..at].matches('\n').count() + 1, offset)
}

#[test]
fn damage_is_named_and_recovered_from() {
    for (path, lifetime) in [
        (durable_journal as fn(&Plan) -> PathBuf, "durable"),
        (boot_journal, "boot"),
    ] {
        let plan = killed();
        let path = path(&plan);
        let (line, offset) = damage(&path, &format!("b.{lifetime}"));
        let damaged = fs::read(&path).unwrap();
        let place = format!("line {line}, at byte {offset}");
        for _ in 0..2 {
            let said = assert_refused(&plan);
            assert_says(&said, &[path.to_str().unwrap(), &place, "--recover"]);
        }
        let daemon = plan.clone().with(&["--recover"]).start();
        let others = keys(&daemon).into_iter();
        let others = others.filter(|key| key.ends_with(lifetime));
        assert_eq!(
            others.collect::<Vec<_>>(),
            [format!("a.{lifetime}"), format!("c.{lifetime}")]
        );
        assert_eq!(keys(&daemon).len(), 5);
        let aside = path.with_extension("journal.damaged");
        let dropped = format!("line {line} at byte {offset}");
        let kept = format!("is kept as {}", aside.display());
        assert_says(&daemon.kill(), &[&dropped, "is dropped", &kept]);
        assert_eq!(fs::read(&aside).unwrap(), damaged);
        let daemon = plan.start();
        assert_eq!(keys(&daemon).len(), 5);
        daemon.stop();
    }
}

#[test]
fn a_torn_tail_is_cut_off_with_a_warning() {
    for path in [durable_journal as fn(&Plan) -> PathBuf, boot_journal] {
        let plan = killed();
        let path = path(&plan);
        let file = fs::read(&path).unwrap();
        let torn = [&file[..], b"0123abcd {\"rev\":9"].concat();
        fs::write(&path, &torn).unwrap();
        let daemon = plan.start();
        assert_eq!(keys(&daemon).len(), 6);
        let cut = format!("{}: the last 17 bytes, from line ", path.display());
        let at = format!("at byte {}, are cut off", file.len());
        assert_says(&daemon.stop(), &[&cut, &at]);
        assert!(!plan.start().stop().contains("cut off"));
    }
}

/// A line with its checksum.
fn line(json: &str) -> String {
    format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()))
}

#[test]
fn a_newer_version_is_left_alone() {
    for path in [durable_journal as fn(&Plan) -> PathBuf, boot_journal] {
        let plan = killed();
        let path = path(&plan);
        // Nothing but its version can be known of it.
        let file = line(r#"{"version":2,"what":["else"]}"#) + "something\n";
        fs::write(&path, &file).unwrap();
        for plan in [plan.clone(), plan.clone().with(&["--recover"])] {
            let said = assert_refused(&plan);
            assert_says(&said, &[path.to_str().unwrap(), "newer nkv (format 2"]);
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), file);
    }
}

/// No revision is given twice, and none that readers of JSON can't tell from the next.
#[test]
fn revisions_have_an_end() {
    let header = line(r#"{"journal":"durable","version":1,"store":"s"}"#);
    let end = line(r#"{"rev":1}"#);
    let too_far = "the journals go up to revision 4503599627370496";
    let no_revision = "in line 2, at byte 55: no revision is 9007199254740992";
    for (reserved, says) in [
        ((1 << 52) - 1, None),
        (1 << 52, Some(too_far)),
        (1 << 53, Some(no_revision)),
        (u64::MAX, Some("no revision is 18446744073709551615")),
    ] {
        let plan = Plan::keeping();
        fs::create_dir_all(plan.data_directory()).unwrap();
        let reserves = line(&format!(r#"{{"rev":1,"reserved":{reserved}}}"#));
        let text = format!("{header}{reserves}{end}");
        fs::write(durable_journal(&plan), &text).unwrap();
        let Some(says) = says else {
            let put = plan.start().connect().do_it(PUT);
            assert_eq!(put["rev"], 1_u64 << 52);
            continue;
        };
        assert_says(&assert_refused(&plan), &[says]);
        assert_eq!(fs::read_to_string(durable_journal(&plan)).unwrap(), text);
    }
}

#[test]
fn a_directory_serves_one_daemon() {
    let plan = Plan::keeping();
    let daemon = plan.start();
    daemon.connect().do_it(PUT);
    for (option, directory) in [
        ("--data-dir", plan.data_directory()),
        ("--runtime-dir", plan.runtime_directory()),
    ] {
        let directory = directory.to_str().unwrap();
        let second = Plan::keeping().with(&[option, directory]);
        let holder = format!("(process {})", daemon.process().id());
        let said = assert_refused(&second);
        assert_says(&said, &[directory, "in use by another daemon", &holder]);
    }
    // The lock ends with its daemon, however that ends.
    assert_eq!(keys(&daemon), ["d"]);
    daemon.kill();
    assert_eq!(keys(&plan.start()), ["d"]);
}

#[test]
fn a_directory_that_cannot_be_used_is_named() {
    for (option, name) in [("--data-dir", "data"), ("--runtime-dir", "runtime")] {
        let plan = Plan::keeping();
        let file = plan.directory().join(name);
        fs::write(&file, "").unwrap();
        let said = assert_refused(&plan);
        assert_says(&said, &[file.to_str().unwrap(), "not a directory"]);
        let below = file.join("deeper").join("still");
        let said = assert_refused(&plan.with(&[option, below.to_str().unwrap()]));
        assert_says(
            &said,
            &[below.to_str().unwrap(), "can't make the directory"],
        );
    }
}

#[test]
fn a_read_only_file_system_is_named() {
    for lifetime in ["durable", "boot"] {
        let plan = Plan::keeping();
        let directory = match lifetime {
            "durable" => plan.data_directory(),
            _ => plan.runtime_directory(),
        };
        let Some(disk) = SmallDisk::mount(directory.clone()) else {
            return;
        };
        for is_new in [true, false] {
            disk.make_read_only(true);
            let said = assert_refused(&plan);
            assert_says(
                &said,
                &[directory.to_str().unwrap(), "Read-only file system"],
            );
            disk.make_read_only(false);
            let daemon = plan.start();
            assert_eq!(keys(&daemon).is_empty(), is_new);
            daemon.connect().do_it(PUT);
            daemon.stop();
        }
    }
}

#[test]
fn what_is_made_is_for_nobody_else() {
    let plan = Plan::keeping();
    let data = plan.directory().join("a/b");
    let plan = plan.with(&["--data-dir", data.to_str().unwrap()]);
    let daemon = plan.start();
    daemon.connect().do_it(PUT);
    daemon.stop();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    for directory in [
        &data,
        &plan.directory().join("a"),
        &plan.runtime_directory(),
    ] {
        assert_eq!(mode(directory), 0o700, "{}", directory.display());
    }
    for directory in [&data, &plan.runtime_directory()] {
        let files: Vec<PathBuf> = fs::read_dir(directory)
            .unwrap()
            .map(|file| file.unwrap().path())
            .collect();
        assert_eq!(files.len(), 2, "a journal and a lock: {files:?}");
        for file in files {
            assert_eq!(mode(&file), 0o600, "{}", file.display());
        }
    }
}
