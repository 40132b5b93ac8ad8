//! A machine that a real systemd has booted, in namespaces of its own.
//!
//! The script `boot` makes it: process, mount and network namespaces, control groups, and this
//! machine's files with a tmpfs laid over them, so that whatever a test does in there is gone with it.
//! [`Machine::run`] runs a command inside. Files inside are reached through `/proc/PID/root` of the
//! init ([`Machine::path`]), and so are Unix sockets: a test connects from where it is.
//!
//! A machine goes down when it is dropped, also by a panic, and takes along all that runs in it. What
//! would remain after a test that was itself killed are empty control groups, and [`Machine::boot`]
//! removes these.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use crate::support::{Client, PATIENCE, has_program, skip, until};

/// The beginning of the names of control groups. The process id of the test and a number follow.
const GROUP: &str = "nkv-test-";

/// A booted machine.
pub(crate) struct Machine {
    /// The process that all of it depends on.
    keeper: Child,
    /// The machine's init, as it is numbered outside.
    init: u32,
    group: String,
    /// Where it is mounted, for itself alone.
    _directory: TempDir,
}

impl Machine {
    /// Boots one; none where that can't be done here, which has then been said.
    pub(crate) fn boot() -> Option<Machine> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if let Some(reason) = obstacle() {
            skip(reason);
            return None;
        }
        remove_old_groups();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let group = format!("{GROUP}{}-{number}", std::process::id());
        let directory = tempfile::tempdir().unwrap();
        // Should this process be killed, the kernel does what it can't do any more.
        let mut keeper = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "bash"])
            .arg(source("tests/systemd/boot"))
            .arg(directory.path())
            .arg(&group)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = keeper.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        let machine = Machine {
            keeper,
            init: line.trim().parse().unwrap_or(0),
            group,
            _directory: directory,
        };
        assert_ne!(machine.init, 0, "the machine does not boot");
        // Until systemd listens there is nobody to wait for.
        until("systemd listens", || {
            machine.path("/run/systemd/private").exists()
        });
        let state = machine.output(&["systemctl", "is-system-running", "--wait"]);
        let state = String::from_utf8_lossy(&state.stdout).trim().to_owned();
        // Units of this very machine may fail in there, which is not what is tested.
        assert!(["running", "degraded"].contains(&&*state), "{state}");
        Some(machine)
    }

    /// A machine on which nkv is installed, and its socket listens.
    pub(crate) fn with_nkv() -> Option<Machine> {
        let machine = Machine::boot()?;
        machine.install_program("nkv-server", env!("CARGO_BIN_EXE_nkv-server"));
        machine.install_program("nkv-client", env!("CARGO_BIN_EXE_nkv-client"));
        for (from, to) in [
            ("systemd/nkv.socket", "/usr/lib/systemd/system/nkv.socket"),
            ("systemd/nkv.service", "/usr/lib/systemd/system/nkv.service"),
            ("systemd/nkv.sysusers", "/usr/lib/sysusers.d/nkv.conf"),
            ("packaging/nkv.default", "/etc/default/nkv"),
        ] {
            machine.write(to, &fs::read_to_string(source(from)).unwrap());
        }
        machine.run("systemd-sysusers");
        machine.run("systemctl daemon-reload");
        machine.run("systemctl enable --now nkv.socket");
        Some(machine)
    }

    fn install_program(&self, name: &str, from: &str) {
        let to = self.path(&format!("/usr/bin/{name}"));
        fs::copy(from, &to).unwrap();
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Its init, as it is numbered outside.
    pub(crate) fn init(&self) -> u32 {
        self.init
    }

    /// Where a path inside is from outside. Absolute symbolic links on the way would lead astray.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        format!("/proc/{}/root{inside}", self.init).into()
    }

    /// Writes a file inside, with its directory.
    pub(crate) fn write(&self, inside: &str, text: &str) {
        let path = self.path(inside);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn read(&self, inside: &str) -> String {
        fs::read_to_string(self.path(inside)).unwrap()
    }

    /// A command that will run inside.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.init.to_string(), "-a", "-r", "-w"]);
        command.args(["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]);
        command.args(words).stdin(Stdio::null());
        command
    }

    /// Runs a command inside, whatever becomes of it.
    pub(crate) fn output(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// Runs a command inside, given as words with white space between them, which must succeed.
    /// Returns what it says.
    pub(crate) fn run(&self, command: &str) -> String {
        let words: Vec<&str> = command.split_whitespace().collect();
        let output = self.output(&words);
        assert!(
            output.status.success(),
            "{command}: {}\n{}{}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            self.journal("nkv.service")
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same for one that must fail. Returns its exit code and what it complains of.
    pub(crate) fn fail(&self, command: &str) -> (i32, String) {
        let words: Vec<&str> = command.split_whitespace().collect();
        let output = self.output(&words);
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{command} succeeds: {complaint}");
        (output.status.code().unwrap(), complaint)
    }

    /// A property of a unit.
    pub(crate) fn property(&self, unit: &str, name: &str) -> String {
        let output = self.output(&["systemctl", "show", "--value", "-p", name, unit]);
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Waits until a property of a unit is what is wanted.
    pub(crate) fn wait_for(&self, unit: &str, name: &str, wanted: &str) {
        until(&format!("{name} of {unit} is {wanted}"), || {
            self.property(unit, name) == wanted
        });
    }

    /// Adds to a unit's settings, as `systemctl edit` does.
    pub(crate) fn add_to(&self, unit: &str, settings: &str) {
        self.write(&format!("/etc/systemd/system/{unit}.d/test.conf"), settings);
        self.run("systemctl daemon-reload");
    }

    /// What the journal has of a unit, systemd's own lines about it included.
    pub(crate) fn journal(&self, unit: &str) -> String {
        // What was just said may still be under way to the journal.
        self.output(&["journalctl", "--sync"]);
        let output = self.output(&["journalctl", "-q", "-o", "cat", "-u", unit]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits until a line of a unit's journal contains this.
    pub(crate) fn wait_for_journal(&self, unit: &str, text: &str) {
        until(&format!("{text:?} is in the journal"), || {
            self.journal(unit).contains(text)
        });
    }

    /// The main process of a service as it is numbered outside; none where it doesn't run.
    pub(crate) fn main_process(&self, unit: &str) -> Option<u32> {
        let inside: u32 = self.property(unit, "MainPID").parse().unwrap();
        if inside == 0 {
            return None;
        }
        // Only a process that shares the init's namespace has its number in both.
        let is_it = |status: &str| {
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            let numbers: Vec<&str> = numbers.unwrap_or_default().split_whitespace().collect();
            numbers.len() > 1 && numbers.last() == Some(&&*inside.to_string())
        };
        let namespace = fs::read_link(format!("/proc/{}/ns/pid", self.init)).unwrap();
        processes().find(|&pid| {
            let own = fs::read_link(format!("/proc/{pid}/ns/pid"));
            own.is_ok_and(|own| own == namespace)
                && fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|text| is_it(&text))
        })
    }

    /// Where the daemon's socket is for a test.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path("/run/nkv.sock")
    }

    /// A connection to the daemon.
    pub(crate) fn connect(&self) -> Client {
        Client::unix(&self.socket())
    }

    /// Ends it as losing power would.
    fn end(&mut self) {
        // Its init dies with the keeper, and with the init everything inside.
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
        let init = PathBuf::from(format!("/proc/{}", self.init));
        let start = std::time::Instant::now();
        while self.init != 0 && init.exists() && start.elapsed() < PATIENCE {
            std::thread::yield_now();
        }
        // A group is busy until the last process has gone entirely.
        while !remove_groups(&self.group) && start.elapsed() < PATIENCE {
            std::thread::yield_now();
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() && self.init != 0 {
            let journal = self.journal("nkv.*");
            let lines: Vec<&str> = journal.lines().collect();
            let tail = &lines[lines.len().saturating_sub(40)..];
            eprintln!("the end of the journal: {tail:#?}");
        }
        self.end();
    }
}

/// A file of this source tree.
pub(crate) fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Why no machine can be booted here.
fn obstacle() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("booting a systemd in namespaces takes root");
    }
    if !Path::new("/lib/systemd/systemd").exists() || !has_program("systemctl") {
        return Some("there is no systemd");
    }
    if !["unshare", "nsenter", "setpriv"]
        .into_iter()
        .all(has_program)
    {
        return Some("unshare, nsenter and setpriv of util-linux are missing");
    }
    let words = ["--mount", "--pid", "--net", "--cgroup", "--fork"];
    let unshared = Command::new("unshare")
        .args(words)
        .args(["mount", "-t", "tmpfs", "tmpfs", "/tmp"])
        .output();
    if !unshared.is_ok_and(|output| output.status.success()) {
        return Some("namespaces and mounts are not permitted");
    }
    if !hierarchies().any(|hierarchy| is_writable(&hierarchy)) {
        return Some("control groups can't be made");
    }
    None
}

/// Whether the control groups of a hierarchy can be changed.
fn is_writable(hierarchy: &Path) -> bool {
    let tried = hierarchy.join(format!("{GROUP}{}", std::process::id()));
    fs::create_dir(&tried).is_ok() && fs::remove_dir(&tried).is_ok()
}

/// The directories in which control groups can be.
fn hierarchies() -> impl Iterator<Item = PathBuf> {
    let all = Path::new("/sys/fs/cgroup");
    let several = fs::read_dir(all).into_iter().flatten().flatten();
    [all.to_owned()]
        .into_iter()
        .chain(several.map(|entry| entry.path()))
        .filter(|path| path.join("cgroup.procs").exists())
}

/// Removes the control groups of a machine; false where one is still in use.
fn remove_groups(name: &str) -> bool {
    hierarchies().all(|hierarchy| remove_group(&hierarchy.join(name)))
}

fn remove_group(group: &Path) -> bool {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_group(&entry.path());
        }
    }
    fs::remove_dir(group).is_ok() || !group.exists()
}

/// Removes what tests that were killed have left.
fn remove_old_groups() {
    for hierarchy in hierarchies() {
        for entry in fs::read_dir(hierarchy).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(rest) = name.strip_prefix(GROUP) else {
                continue;
            };
            let owner = rest.split('-').next().unwrap_or_default();
            if !Path::new("/proc").join(owner).exists() {
                remove_group(&entry.path());
            }
        }
    }
}

/// The processes that there are.
fn processes() -> impl Iterator<Item = u32> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}
