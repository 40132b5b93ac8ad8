//! What the daemon denies itself: that it can't do what it does not need, that it can do what it
//! needs, and that it goes on where the kernel has nothing to deny it with.
//!
//! What it can't do is tried in the daemon itself. A library that is loaded into it (`intruder.c`)
//! makes [`TRIALS`] before its start, and again when it serves: by both layers together, and by each
//! alone, with `strace` to make the kernel refuse the other.

use std::collections::BTreeMap;
use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::libc;

use crate::support::{Client, Daemon, Plan, has_program, skip, until};

/// What an intruder tries: a name, the call, its arguments, and the errors by which Landlock and the
/// filter prevent it, where they do. `DIR` stands for the plan's directory, of which `data` is the
/// daemon's and `other` is not; `PARENT` for a process of the same user.
type Trial = (
    &'static str,
    libc::c_long,
    &'static str,
    Option<i32>,
    Option<i32>,
);

const DENIED: Option<i32> = Some(libc::EACCES);
const MISSING: Option<i32> = Some(libc::ENOSYS);
const FORBIDDEN: Option<i32> = Some(libc::EPERM);

#[rustfmt::skip]
const TRIALS: [Trial; 43] = [
    // Its own directory is its own, for what it needs there.
    ("make-own", libc::SYS_openat, "i-100 sDIR/data/new-% i66 i384", None, None),
    ("list-own", libc::SYS_openat, "i-100 sDIR/data i0", None, None),
    ("rename-own", libc::SYS_renameat2, "i-100 sDIR/data/new-% i-100 sDIR/data/newer-%", None, None),
    ("remove-own", libc::SYS_unlinkat, "i-100 sDIR/data/newer-% i0", None, None),
    ("directory-in-own", libc::SYS_mkdirat, "i-100 sDIR/data/directory-% i448", DENIED, None),
    ("link-in-own", libc::SYS_symlinkat, "s/etc/passwd i-100 sDIR/data/link-%", DENIED, None),
    ("fifo-in-own", libc::SYS_mknodat, "i-100 sDIR/data/fifo-% i4480", DENIED, MISSING),
    // Others' files.
    ("read", libc::SYS_openat, "i-100 sDIR/other/file i0", DENIED, None),
    ("read-users", libc::SYS_openat, "i-100 s/etc/passwd i0", DENIED, None),
    ("list", libc::SYS_openat, "i-100 sDIR/other i0", DENIED, None),
    ("write", libc::SYS_openat, "i-100 sDIR/other/file i1", DENIED, None),
    ("truncate", libc::SYS_truncate, "sDIR/other/file i0", DENIED, None),
    ("make", libc::SYS_openat, "i-100 sDIR/other/new-% i65 i384", DENIED, None),
    ("remove", libc::SYS_unlinkat, "i-100 sDIR/other/victim-% i0", DENIED, None),
    // To remove its socket in the end, it may remove what is beneath the same directory.
    ("remove-beside-its-socket", libc::SYS_unlinkat, "i-100 sDIR/sockets/victim-% i0", None, None),
    ("make-beside-its-socket", libc::SYS_openat, "i-100 sDIR/sockets/new-% i65 i384", DENIED, None),
    ("rename-away", libc::SYS_renameat2, "i-100 sDIR/data/gift-% i-100 sDIR/other/gift-%",
        DENIED, None),
    ("change-mode", libc::SYS_fchmodat, "i-100 sDIR/other/file i384", None, MISSING),
    ("change-owner", libc::SYS_fchownat, "i-100 sDIR/other/file i-1 i-1 i0", None, MISSING),
    ("change-times", libc::SYS_utimensat, "i-100 sDIR/other/file i0 i0", None, MISSING),
    // Other programs and processes.
    ("execute", libc::SYS_execve, "sDIR/other/program i0 i0", DENIED, MISSING),
    ("execute-by-descriptor", libc::SYS_execveat, "i-100 sDIR/other/program i0 i0 i0", DENIED, MISSING),
    // CLONE_SIGHAND without CLONE_VM can't be.
    ("fork", libc::SYS_clone, "i2048", None, MISSING),
    ("fork-anew", libc::SYS_clone3, "i0 i0", None, MISSING),
    ("signal", libc::SYS_kill, "iPARENT i0", FORBIDDEN, MISSING),
    ("look-into", libc::SYS_process_vm_readv, "iPARENT i0 i0 i0 i0 i0", None, MISSING),
    ("trace", libc::SYS_ptrace, "i-1 i1", None, MISSING),
    // The network.
    ("socket", libc::SYS_socket, "i2 i1 i0", None, MISSING),
    ("bind", libc::SYS_bind, "r x02000000000000000000000000000000 i16", DENIED, MISSING),
    ("datagrams", libc::SYS_socket, "i10 i2 i0", None, MISSING),
    ("netlink", libc::SYS_socket, "i16 i3 i0", None, MISSING),
    ("unix-socket", libc::SYS_socket, "i1 i1 i0", None, None),
    ("connect-by-path", libc::SYS_connect, "r xPATH i110", None, None),
    ("another-unix-socket", libc::SYS_socket, "i1 i1 i0", None, None),
    ("connect-by-name", libc::SYS_connect, "r xABSTRACT iLENGTH", FORBIDDEN, None),
    // The rest of the kernel.
    ("become", libc::SYS_setresuid, "i-1 i-1 i-1", None, MISSING),
    ("namespace", libc::SYS_unshare, "i0", None, MISSING),
    ("mount", libc::SYS_mount, "i0 i0 i0 i0 i0", None, MISSING),
    ("program-the-kernel", libc::SYS_bpf, "i-1 i0 i0", None, MISSING),
    ("ring", libc::SYS_io_uring_setup, "i0 i0", None, MISSING),
    ("keys", libc::SYS_add_key, "i0 i0 i0 i0 i0", None, MISSING),
    ("type-for-the-user", libc::SYS_ioctl, "i2 i21522 i0", None, MISSING),
    ("priority", libc::SYS_setpriority, "i0 i0 i0", None, MISSING),
];

/// What can be done with one layer or both.
#[derive(Clone, Copy, Debug)]
struct Layers {
    landlock: bool,
    filter: bool,
}

impl Layers {
    /// The error of a trial that would end as `free` without any.
    fn expect(self, trial: &Trial, free: i32) -> i32 {
        let filter = trial.4.filter(|_| self.filter);
        let landlock = trial.3.filter(|_| self.landlock);
        filter.or(landlock).unwrap_or(free)
    }

    /// The words that have the kernel refuse what is not wanted.
    fn without_the_others(self) -> Option<&'static str> {
        match (self.landlock, self.filter) {
            (true, true) => None,
            (true, false) => Some("inject=seccomp:error=EINVAL"),
            (false, true) => Some("inject=landlock_create_ruleset:error=EOPNOTSUPP"),
            (false, false) => unreachable!("that would be no confinement"),
        }
    }
}

#[test]
fn whoever_takes_it_over_can_do_little() {
    if !has_program("cc") {
        return skip("there is no C compiler");
    }
    let layers = |landlock, filter| Layers { landlock, filter };
    try_all(layers(true, true));
    if !has_program("strace") {
        return skip("there is no strace");
    }
    try_all(layers(true, false));
    try_all(layers(false, true));
}

fn try_all(layers: Layers) {
    let plan = Plan::keeping().without_socket();
    let directory = plan.directory().to_owned();
    for name in ["data", "other", "sockets"] {
        fs::create_dir(directory.join(name)).unwrap();
    }
    for name in [
        "data/gift-f",
        "data/gift-s",
        "other/file",
        "other/program",
        "other/victim-f",
        "other/victim-s",
        "sockets/victim-f",
        "sockets/victim-s",
    ] {
        fs::write(directory.join(name), "not really\n").unwrap();
    }
    let program = directory.join("other/program");
    fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    let socket = directory.join("sockets/nkv.sock");
    let path = SocketAddr::from_pathname(directory.join("listener")).unwrap();
    let by_path = UnixListener::bind_addr(&path).unwrap();
    let name = format!("nkv-test-{}-{layers:?}", std::process::id());
    let by_name = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let trials = directory.join("trials");
    fs::write(&trials, lines_for(&directory, &name)).unwrap();

    let library = intruder(&directory);
    let preload = format!("LD_PRELOAD={}", library.display());
    let plan = plan
        .with(&[socket.to_str().unwrap()])
        .with_variable("TRIALS", trials.to_str().unwrap());
    let plan = match layers.without_the_others() {
        None => plan.with_variable("LD_PRELOAD", library.to_str().unwrap()),
        Some(inject) => {
            let words = [
                "strace",
                "-D",
                "-f",
                "-qq",
                "-o",
                "/dev/null",
                "-E",
                &preload,
            ];
            plan.under(&[&words[..], &["-e", inject]].concat())
        }
    };
    let daemon = plan.start();
    if layers.landlock && landlock_version(&daemon) < 7 {
        return skip("the kernel has no Landlock, or an old one");
    }
    daemon.wait_for_log("serving: that was all");
    check(layers, &daemon.log());
    // It serves all the same.
    Client::unix(&socket).do_it(PUT);
    daemon.stop();
    assert!(!socket.exists());
    drop((by_path, by_name));
}

/// Holds what the intruder has said against what was to be expected.
fn check(layers: Layers, log: &str) {
    let said = |time: &str| -> BTreeMap<String, i32> {
        let lines = log.lines().filter_map(|line| line.strip_prefix(time));
        let pairs = lines.filter_map(|line| line.split_once(": "));
        pairs
            .filter_map(|(name, error)| Some((name.to_owned(), error.parse().ok()?)))
            .collect()
    };
    let (free, serving) = (said("free: "), said("serving: "));
    println!("{layers:?}");
    for trial in &TRIALS {
        let name = trial.0;
        let (free, serving) = (free[name], serving[name]);
        let expected = layers.expect(trial, free);
        println!("{name:22} {free:3} before, {serving:3} in the daemon");
        assert_eq!(serving, expected, "{layers:?}: {name}");
        let layers_of_it = [trial.3, trial.4].into_iter().flatten();
        for refusal in layers_of_it {
            assert_ne!(free, refusal, "{name} could not be done anyway");
        }
    }
}

/// The trials as the intruder reads them.
fn lines_for(directory: &Path, abstract_name: &str) -> String {
    let socket_name = |beginning: &[u8], name: &[u8]| {
        let bytes = [&libc::AF_UNIX.to_ne_bytes()[..2], beginning, name].concat();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        (format!("{hex:0<220}"), bytes.len().to_string())
    };
    let listener = directory.join("listener");
    let (path, _) = socket_name(b"", listener.as_os_str().as_encoded_bytes());
    let (by_name, length) = socket_name(b"\0", abstract_name.as_bytes());
    let lines = TRIALS.map(|(name, call, arguments, ..)| {
        let arguments = arguments
            .replace("DIR", directory.to_str().unwrap())
            .replace("PARENT", &std::process::id().to_string())
            .replace("PATH", &path)
            .replace("ABSTRACT", &by_name)
            .replace("LENGTH", &length);
        format!("{name} {call} {arguments}\n")
    });
    lines.concat()
}

/// Builds the library.
fn intruder(directory: &Path) -> PathBuf {
    let library = directory.join("intruder.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/daemon/intruder.c");
    let built = Command::new("cc")
        .args(["-Wall", "-shared", "-fPIC", "-o"])
        .args([library.as_os_str(), source.as_ref()])
        .arg("-ldl")
        .status();
    assert!(built.unwrap().success());
    library
}

/// The version of Landlock that confines it, 0 where it does not.
fn landlock_version(daemon: &Daemon) -> u32 {
    let log = daemon.log();
    let version = log.split("Landlock (version ").nth(1);
    let digits = version.and_then(|rest| rest.split(')').next());
    digits.map_or(0, |digits| digits.parse().unwrap())
}

/// What the kernel says of each thread.
fn fields(daemon: &Daemon, name: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.process().id())).unwrap();
    let tasks = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("status")).unwrap());
    tasks
        .map(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().trim().to_owned()
        })
        .collect()
}

const PUT: &str = r#"{"op":"put","key":"a","value":1}"#;

#[test]
fn every_thread_is_confined() {
    let daemon = Plan::keeping().with(&["--sync", "interval=1"]).start();
    daemon.wait_for_log("confined by no new privileges, ");
    daemon.connect().do_it(PUT);
    until("there is the other thread", || {
        fields(&daemon, "Seccomp:").len() == 2
    });
    assert_eq!(fields(&daemon, "Seccomp:"), ["2", "2"]);
    assert_eq!(fields(&daemon, "NoNewPrivs:"), ["1", "1"]);
    let mut client = daemon.connect();
    let before = client.counter("journal_syncs");
    client.do_it(PUT);
    until("it has synced", || client.counter("journal_syncs") > before);
    assert_eq!(client.counter("journal_failures"), 0);
}

/// What a kernel lacks is said, and the daemon serves.
#[test]
fn a_kernel_that_has_less_is_enough() {
    if !has_program("strace") {
        return skip("there is no strace");
    }
    let check = |faults: &[&str], expected: &[&str], no_new_privileges: &str, filters: &str| {
        let mut words = vec!["strace", "-D", "-f", "-qq", "-o", "/dev/null"];
        words.extend(faults.iter().flat_map(|fault| ["-e", fault]));
        let daemon = Plan::keeping().under(&words).start();
        for line in expected {
            assert!(daemon.log().contains(line), "{line}: {}", daemon.log());
        }
        assert_eq!(fields(&daemon, "NoNewPrivs:"), [no_new_privileges]);
        assert_eq!(fields(&daemon, "Seccomp:"), [filters]);
        daemon.connect().do_it(PUT);
        let socket = daemon.socket();
        daemon.stop();
        assert!(!socket.exists());
    };
    check(
        &["inject=landlock_create_ruleset:error=ENOSYS"],
        &[
            "not confined by Landlock: the kernel does not offer it",
            "confined by no new privileges, a filter of system calls",
        ],
        "1",
        "2",
    );
    check(
        &["inject=landlock_create_ruleset:error=EOPNOTSUPP"],
        &["not confined by Landlock: it is turned off in the kernel"],
        "1",
        "2",
    );
    check(
        &["inject=landlock_restrict_self:error=E2BIG"],
        &["not confined by Landlock: Argument list too long"],
        "1",
        "2",
    );
    check(
        &["inject=landlock_add_rule:error=EBADFD"],
        &["not confined by Landlock: File descriptor in bad state"],
        "1",
        "2",
    );
    check(
        &["inject=seccomp:error=EINVAL"],
        &["not confined by a filter of system calls: Invalid argument"],
        "1",
        "0",
    );
    check(
        &[
            "inject=prctl,seccomp:error=EPERM",
            "inject=landlock_create_ruleset:error=ENOSYS",
        ],
        &[
            "not confined by no new privileges: Operation not permitted",
            "not confined by Landlock: ",
            "not confined by a filter of system calls: Operation not permitted",
        ],
        "0",
        "0",
    );
}

/// A user that nobody is.
const NOBODY: u32 = 64003;

#[test]
fn it_can_do_all_that_it_needs() {
    work(&Plan::keeping());
}

#[test]
fn so_can_it_as_any_user() {
    if !nix::unistd::geteuid().is_root() {
        return skip("only root can be another user");
    }
    if !has_program("setpriv") {
        return skip("there is no setpriv");
    }
    let plan = Plan::keeping();
    chown(plan.directory(), Some(NOBODY), Some(NOBODY)).unwrap();
    // A copy, because the way to the program may be closed to others.
    let become_another = format!(
        "cp \"$1\" $0/daemon && shift && exec setpriv --reuid {NOBODY} --regid {NOBODY} \
         --clear-groups $0/daemon \"$@\""
    );
    let directory = plan.directory().to_str().unwrap().to_owned();
    let plan = plan.under(&["sh", "-c", &become_another, &directory]);
    let daemon = plan.start();
    assert_eq!(fields(&daemon, "Uid:")[0].split('\t').next(), Some("64003"));
    daemon.stop();
    work(&plan);
}

/// All that it does with files and sockets while it is confined.
fn work(plan: &Plan) {
    let etc = plan.directory().join("etc");
    fs::create_dir(&etc).unwrap();
    let [token, rules] = ["token", "rules"].map(|name| etc.join(name));
    fs::write(&token, "first").unwrap();
    fs::write(&rules, "allow anyone all *\n").unwrap();
    // What is named is a link, as it is where a configuration is changed as a whole.
    let link = plan.directory().join("rules");
    symlink(&rules, &link).unwrap();
    let plan = plan
        .clone()
        .with(&["--token-file", token.to_str().unwrap()])
        .with(&["--access", link.to_str().unwrap(), "127.0.0.1:0"]);
    for sync in ["always", "interval=20", "never"] {
        let daemon = plan.clone().with(&["--sync", sync]).start();
        assert!(!daemon.log().contains("WARN"), "{}", daemon.log());
        rewrites(&daemon);
        reloads(&daemon, &token, &rules);
        let socket = daemon.socket();
        let log = daemon.stop();
        assert!(!log.contains("ERROR"), "{log}");
        assert!(!socket.exists(), "{log}");
    }
    recovers(&plan);
}

/// Both journals are written anew.
fn rewrites(daemon: &Daemon) {
    let mut client = daemon.connect();
    let rewrites = client.counter("journal_rewrites");
    let value = "x".repeat(100_000);
    let put = |lifetime: &str| {
        format!(r#"{{"op":"put","key":"{lifetime}.a","value":"{value}","lifetime":"{lifetime}"}}"#)
    };
    for _ in 0..50 {
        client.do_it(&put("durable"));
        client.do_it(&put("boot"));
    }
    until("the durable journal is written anew", || {
        client.counter("journal_rewrites") > rewrites
    });
    until("the boot journal is written anew", || {
        client.counter("boot_journal_bytes") < 40 * 100_000
    });
}

/// Files that have taken the place of others, and names that were not looked up before.
fn reloads(daemon: &Daemon, token: &Path, rules: &Path) {
    let replace = |path: &Path, text: &str| {
        let new = path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, path).unwrap();
    };
    let hello = |token: &str| format!(r#"{{"op":"hello","token":"{token}"}}"#);
    replace(token, "second");
    replace(
        rules,
        "allow anyone all *\nallow user:daemon read a\nallow group:sys read a\n",
    );
    daemon.signal("HUP");
    daemon.wait_for_log("rules ");
    assert!(!daemon.log().contains("stay"), "{}", daemon.log());
    daemon.connect_tcp().do_it(&hello("second"));
    assert_eq!(
        daemon.connect_tcp().fail(&hello("first")),
        "unauthenticated"
    );
    fs::write(token, "first").unwrap();
}

/// What has been damaged is set aside, and what is sound is written anew.
fn recovers(plan: &Plan) {
    for path in [
        plan.data_directory().join("durable.journal"),
        plan.runtime_directory().join("boot.journal"),
    ] {
        let mut bytes = fs::read(&path).unwrap();
        let line_end = bytes.iter().position(|&byte| byte == b'\n').unwrap();
        bytes[line_end + 1] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    let daemon = plan.clone().with(&["--recover"]).start();
    daemon.wait_for_log("durable.journal is kept as");
    daemon.connect().do_it(PUT);
    daemon.stop();
    let daemon = plan.start();
    daemon.connect().do_it(r#"{"op":"get","key":"a"}"#);
}
