//! The built daemon as a test sees it: a process, its log, its sockets.
//!
//! A [`Plan`] says how it is to be started; [`Plan::start`] returns a [`Daemon`] that listens, in a
//! directory of its own that goes with it, and is killed when it is dropped. [`Client`] speaks raw
//! lines, so that a test depends on the wire alone. [`Process`] reads what the kernel knows.
//!
//! Everything that waits waits for an event: a line of the log or of a socket, the end of either.
//! [`PATIENCE`] is no part of any test's meaning, it only makes a failure of what would be a hang.
//! The end of the daemon shows as the end of its log, because nobody else holds its stderr.

#![allow(dead_code, reason = "each test takes what it needs")]
#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test that asked for it"
)]

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take before it counts as never.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How the last line of the log begins before it serves; those with its addresses come before.
const SERVING: &str = "keeping ";

/// Says that a test can't be made on this machine. Where `CI=true` that is a failure, so that
/// nothing is left out there without anyone noticing.
pub(crate) fn skip(reason: &str) {
    assert_ne!(
        std::env::var("CI").as_deref(),
        Ok("true"),
        "nothing may be skipped here: {reason}"
    );
    // Not println: what a passing test prints is shown to nobody.
    let line = format!("skipped: {reason}\n");
    io::stderr().write_all(line.as_bytes()).unwrap();
}

/// The full size where there is time for it, else the small one.
pub(crate) fn scaled(full: usize, small: usize) -> usize {
    if cfg!(debug_assertions) && std::env::var_os("NKV_TEST_FULL").is_none() {
        small
    } else {
        full
    }
}

/// Whether a program can be started.
pub(crate) fn has_program(name: &str) -> bool {
    let tried = Command::new(name).arg("--version").output();
    tried.is_ok_and(|output| output.status.success())
}

/// Waits until a question asked over and over has the wanted answer. For what nobody announces.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::yield_now();
    }
}

/// How a daemon is to be started.
#[derive(Clone)]
pub(crate) struct Plan {
    directory: Arc<TempDir>,
    launcher: Vec<String>,
    arguments: Vec<String>,
    /// Whether it serves [`Plan::socket`].
    with_socket: bool,
    environment: Vec<(String, String)>,
    /// What it gets as a service manager passes sockets: descriptors with their names.
    passed: Vec<(Arc<OwnedFd>, String)>,
}

impl Plan {
    /// A daemon without files of its own but one Unix socket, in a new directory.
    pub(crate) fn new() -> Plan {
        Plan {
            directory: Arc::new(tempfile::tempdir().unwrap()),
            launcher: Vec::new(),
            arguments: vec!["--in-memory".into()],
            with_socket: true,
            environment: Vec::new(),
            passed: Vec::new(),
        }
    }

    /// A daemon that keeps journals, in the directories [`Plan::data_directory`] and
    /// [`Plan::runtime_directory`]. Each start of the plan goes on where the one before has ended.
    pub(crate) fn keeping() -> Plan {
        let mut plan = Plan::new();
        plan.arguments.clear();
        let (data, runtime) = (plan.data_directory(), plan.runtime_directory());
        plan.with(&["--data-dir", data.to_str().unwrap()])
            .with(&["--runtime-dir", runtime.to_str().unwrap()])
    }

    pub(crate) fn data_directory(&self) -> PathBuf {
        self.directory().join("data")
    }

    pub(crate) fn runtime_directory(&self) -> PathBuf {
        self.directory().join("runtime")
    }

    /// Adds options or addresses, one word each.
    pub(crate) fn with(mut self, words: &[&str]) -> Plan {
        self.arguments
            .extend(words.iter().map(|word| (*word).into()));
        self
    }

    /// Leaves the Unix socket out.
    pub(crate) fn without_socket(mut self) -> Plan {
        self.with_socket = false;
        self
    }

    /// Sets a variable of its environment.
    pub(crate) fn with_variable(mut self, name: &str, value: &str) -> Plan {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Passes a descriptor under a name, as a service manager does: two at the most.
    pub(crate) fn passing(mut self, descriptor: impl Into<OwnedFd>, name: &str) -> Plan {
        self.passed
            .push((Arc::new(descriptor.into()), name.to_owned()));
        self
    }

    /// Sets the words before the daemon's own: a program that becomes the daemon.
    pub(crate) fn under(mut self, words: &[&str]) -> Plan {
        self.launcher = words.iter().map(|word| (*word).into()).collect();
        self
    }

    /// The directory that is there as long as this plan or a daemon of it.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where the Unix socket is, or will be.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory().join("nkv.sock")
    }

    /// Starts the daemon and waits until it listens everywhere.
    pub(crate) fn start(&self) -> Daemon {
        let daemon = self.launch();
        daemon.wait_for_log(SERVING);
        daemon
    }

    /// Starts the daemon, which may end before it listens: [`Daemon::serves`] tells.
    pub(crate) fn launch(&self) -> Daemon {
        let mut child = self.command().spawn().unwrap();
        let log = Arc::new(Log::default());
        let stderr = child.stderr.take().unwrap();
        std::thread::spawn({
            let log = Arc::clone(&log);
            move || log.collect(stderr)
        });
        Daemon {
            child,
            log,
            plan: self.clone(),
        }
    }

    /// Runs the program to its end, which is to come by itself.
    pub(crate) fn run(&self) -> Output {
        let child = self.command().stdout(Stdio::piped()).spawn().unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let pid = child.id();
        std::thread::spawn(move || sender.send(child.wait_with_output()));
        match receiver.recv_timeout(PATIENCE) {
            Ok(output) => output.unwrap(),
            Err(_) => {
                send_signal(pid, "KILL");
                panic!("{:?} does not end", self.arguments);
            }
        }
    }

    fn command(&self) -> Command {
        let mut words = self.launcher.clone();
        if !self.passed.is_empty() {
            // The shell gets them as its standard streams, and becomes the daemon, so that it knows
            // the daemon's process id.
            const PASS: &str = r#"LISTEN_PID=$$ exec "$@" 3<&0 4>&1 0</dev/null >/dev/null"#;
            words.extend(["sh", "-c", PASS, "sh"].map(str::to_owned));
        }
        words.push(env!("CARGO_BIN_EXE_nkv-server").into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(&self.arguments);
        if self.with_socket {
            command.arg(self.socket());
        }
        for name in [
            "NKV_LOG",
            "NKV_ADDRESS",
            "JOURNAL_STREAM",
            "LISTEN_FDS",
            "NOTIFY_SOCKET",
            "WATCHDOG_USEC",
        ] {
            command.env_remove(name);
        }
        // Whatever looks for a place of its own finds it here.
        for name in [
            "HOME",
            "XDG_RUNTIME_DIR",
            "STATE_DIRECTORY",
            "RUNTIME_DIRECTORY",
        ] {
            command.env(name, self.directory());
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
            .stdin(self.passed_stream(0))
            .stdout(self.passed_stream(1))
            .stderr(Stdio::piped());
        if !self.passed.is_empty() {
            let names: Vec<&str> = self.passed.iter().map(|(_, name)| name.as_str()).collect();
            command
                .env("LISTEN_FDS", names.len().to_string())
                .env("LISTEN_FDNAMES", names.join(":"));
        }
        command
    }

    fn passed_stream(&self, number: usize) -> Stdio {
        match self.passed.get(number) {
            Some((descriptor, _)) => descriptor.try_clone().unwrap().into(),
            None => Stdio::null(),
        }
    }
}

/// A daemon that runs.
pub(crate) struct Daemon {
    child: Child,
    log: Arc<Log>,
    plan: Plan,
}

impl Daemon {
    /// One with the given options and a Unix socket.
    pub(crate) fn start(options: &[&str]) -> Daemon {
        Plan::new().with(options).start()
    }

    pub(crate) fn directory(&self) -> &Path {
        self.plan.directory()
    }

    /// The path of its Unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.plan.socket()
    }

    /// A connection to its Unix socket.
    pub(crate) fn connect(&self) -> Client {
        Client::unix(&self.socket())
    }

    /// A connection over TCP; it must have been given `127.0.0.1:0` or the like.
    pub(crate) fn connect_tcp(&self) -> Client {
        Client::tcp(&self.tcp_address("127.0.0.1:"))
    }

    /// The TCP address that it listens on and that begins like this.
    pub(crate) fn tcp_address(&self, beginning: &str) -> String {
        let line = self.wait_for_log(&format!("listening on {beginning}"));
        line.rsplit(' ').next().unwrap().to_owned()
    }

    pub(crate) fn process(&self) -> Process {
        Process(self.child.id())
    }

    /// Sends a signal, named without `SIG`.
    pub(crate) fn signal(&self, name: &str) {
        send_signal(self.child.id(), name);
    }

    /// Waits for a line of the log, from the start on, that contains the text.
    pub(crate) fn wait_for_log(&self, text: &str) -> String {
        let found = self
            .log
            .wait(|lines| lines.iter().find(|line| line.contains(text)).cloned());
        found.unwrap_or_else(|| panic!("{text:?} is not in the log:\n{}", self.log()))
    }

    /// Waits until it serves; false where it ends before.
    pub(crate) fn serves(&self) -> bool {
        self.says(SERVING)
    }

    /// Waits for a line of the log that contains the text; false where none does until its end.
    pub(crate) fn says(&self, text: &str) -> bool {
        let is_said = |lines: &[String]| lines.iter().any(|line| line.contains(text)).then_some(());
        self.log.wait(is_said).is_some()
    }

    /// All of the log until now.
    pub(crate) fn log(&self) -> String {
        self.log.state.lock().unwrap().lines.join("\n")
    }

    /// Waits until the process has ended.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        let ended = self.log.wait_for_end();
        assert!(ended, "the daemon runs on after {:?}", start.elapsed());
        self.child.wait().unwrap()
    }

    /// Ends it as a crash would, and returns its log.
    pub(crate) fn kill(mut self) -> String {
        self.child.kill().unwrap();
        self.wait();
        self.log()
    }

    /// Stops it cleanly and returns its log.
    pub(crate) fn stop(mut self) -> String {
        self.signal("TERM");
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "{}", self.log());
        self.log()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let tail = log.lines().rev().take(20).collect::<Vec<_>>();
            eprintln!("the end of the daemon's log, last line first: {tail:#?}");
        }
    }
}

fn send_signal(pid: u32, name: &str) {
    let status = Command::new("sh")
        .args(["-c", "kill -s \"$1\" \"$2\"", "kill", name])
        .arg(pid.to_string())
        .status();
    assert!(status.unwrap().success(), "can't send {name}");
}

/// What the daemon has said on stderr.
#[derive(Default)]
struct Log {
    state: Mutex<LogState>,
    changed: Condvar,
}

#[derive(Default)]
struct LogState {
    lines: Vec<String>,
    ended: bool,
}

impl Log {
    fn collect(&self, stderr: impl Read) {
        for line in BufReader::new(stderr).lines() {
            let Ok(line) = line else { break };
            self.state.lock().unwrap().lines.push(line);
            self.changed.notify_all();
        }
        self.state.lock().unwrap().ended = true;
        self.changed.notify_all();
    }

    /// What `find` finds, as soon as it does; none where the log ends or patience does.
    fn wait<T>(&self, mut find: impl FnMut(&[String]) -> Option<T>) -> Option<T> {
        let mut found = None;
        let state = self.state.lock().unwrap();
        let wait = self.changed.wait_timeout_while(state, PATIENCE, |state| {
            found = find(&state.lines);
            found.is_none() && !state.ended
        });
        drop(wait.unwrap());
        found
    }

    fn wait_for_end(&self) -> bool {
        let state = self.state.lock().unwrap();
        let wait = self
            .changed
            .wait_timeout_while(state, PATIENCE, |state| !state.ended);
        wait.unwrap().0.ended
    }
}

/// A connection that speaks lines.
pub(crate) struct Client {
    reader: BufReader<Socket>,
    /// Events that came while a response was waited for.
    events: VecDeque<Value>,
}

pub(crate) enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Client {
    pub(crate) fn unix(path: &Path) -> Client {
        Client::new(Socket::Unix(UnixStream::connect(path).unwrap()))
    }

    pub(crate) fn tcp(address: &str) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Client::new(Socket::Tcp(stream))
    }

    pub(crate) fn new(socket: Socket) -> Client {
        socket.set_timeouts(PATIENCE);
        Client {
            reader: BufReader::new(socket),
            events: VecDeque::new(),
        }
    }

    pub(crate) fn socket(&self) -> &Socket {
        self.reader.get_ref()
    }

    /// The same socket for another thread to write to.
    pub(crate) fn writer(&self) -> Socket {
        self.socket().try_clone()
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.reader.get_mut().write_all(bytes).unwrap();
    }

    /// Sends as much as the daemon lets it send while nothing is read, and returns how much that is.
    /// `turn` makes sure that the daemon has had a turn of its loop; a client that can send nothing
    /// more over a hundred of these is taken to be stuck.
    pub(crate) fn send_until_stuck(&mut self, bytes: &[u8], mut turn: impl FnMut()) -> usize {
        self.socket().set_nonblocking(true);
        let (mut sent, mut turns) = (0, 0);
        while turns < 100 {
            assert!(sent < bytes.len(), "all is sent and nothing is stuck");
            match self.reader.get_mut().write(&bytes[sent..]) {
                Ok(written) => (sent, turns) = (sent + written, 0),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    turns += 1;
                    turn();
                }
                Err(error) => panic!("after {sent} bytes: {error}"),
            }
        }
        self.socket().set_nonblocking(false);
        sent
    }

    /// Sends a line.
    pub(crate) fn send(&mut self, line: &str) {
        self.send_bytes(format!("{line}\n").as_bytes());
    }

    /// Says that nothing more will be sent.
    pub(crate) fn end_input(&self) {
        self.socket().shutdown(Shutdown::Write);
    }

    /// The next line, whatever it is; none at the end.
    pub(crate) fn next_line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => {
                assert!(line.ends_with('\n'), "the end within a line: {line:?}");
                line.pop();
                Some(line)
            }
            // The daemon has closed without reading all that was sent to it.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no line comes: {error}"),
        }
    }

    pub(crate) fn line(&mut self) -> String {
        self.next_line().expect("the connection has ended")
    }

    /// All lines that come until the connection ends.
    pub(crate) fn rest(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.next_line()).collect()
    }

    /// Whether something has come in, or the end has. To be asked of a non-blocking socket.
    pub(crate) fn has_input(&mut self) -> bool {
        match self.reader.fill_buf() {
            Ok(_) => true,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
                false
            }
        }
    }

    /// The next line as JSON.
    pub(crate) fn value(&mut self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line}"))
    }

    /// The next response; events before it are kept for [`Client::event`].
    pub(crate) fn response(&mut self) -> Value {
        loop {
            let value = self.value();
            if value.get("ok").is_some() {
                return value;
            }
            self.events.push_back(value);
        }
    }

    /// The next event.
    pub(crate) fn event(&mut self) -> Value {
        let value = self.events.pop_front().unwrap_or_else(|| self.value());
        assert!(value.get("event").is_some(), "no event: {value}");
        value
    }

    /// Sends a request and returns its response.
    pub(crate) fn ask(&mut self, line: &str) -> Value {
        self.send(line);
        self.response()
    }

    /// The same where the daemon may be gone: then there is no response.
    pub(crate) fn ask_if_there(&mut self, line: &str) -> Option<Value> {
        let line = format!("{line}\n");
        self.reader.get_mut().write_all(line.as_bytes()).ok()?;
        let line = self.next_line()?;
        Some(serde_json::from_str(&line).unwrap())
    }

    /// Sends a request that must succeed.
    pub(crate) fn do_it(&mut self, line: &str) -> Value {
        let response = self.ask(line);
        assert_eq!(response["ok"], true, "{line}: {response}");
        response
    }

    /// Sends a request that must fail, and returns the code.
    pub(crate) fn fail(&mut self, line: &str) -> String {
        let response = self.ask(line);
        assert_eq!(response["ok"], false, "{line}: {response}");
        response["error"].as_str().unwrap().to_owned()
    }

    pub(crate) fn ping(&mut self) {
        self.do_it(r#"{"op":"ping"}"#);
    }

    /// Subscribes under the id `s` and returns the events up to the first `sync`, without it.
    pub(crate) fn subscribe(&mut self, pattern: &str) -> Vec<Value> {
        self.do_it(&format!(
            r#"{{"op":"subscribe","id":"s","key":"{pattern}"}}"#
        ));
        let mut events = Vec::new();
        loop {
            let event = self.event();
            if event["event"] == "sync" {
                return events;
            }
            events.push(event);
        }
    }

    /// One of the daemon's counters.
    pub(crate) fn counter(&mut self, name: &str) -> u64 {
        let stats = self.do_it(r#"{"op":"stats"}"#);
        stats[name].as_u64().unwrap_or_else(|| panic!("{stats}"))
    }
}

impl Socket {
    pub(crate) fn try_clone(&self) -> Socket {
        match self {
            Socket::Unix(stream) => Socket::Unix(stream.try_clone().unwrap()),
            Socket::Tcp(stream) => Socket::Tcp(stream.try_clone().unwrap()),
        }
    }

    pub(crate) fn shutdown(&self, how: Shutdown) {
        match self {
            Socket::Unix(stream) => stream.shutdown(how).unwrap(),
            Socket::Tcp(stream) => stream.shutdown(how).unwrap(),
        }
    }

    pub(crate) fn set_nonblocking(&self, nonblocking: bool) {
        match self {
            Socket::Unix(stream) => stream.set_nonblocking(nonblocking).unwrap(),
            Socket::Tcp(stream) => stream.set_nonblocking(nonblocking).unwrap(),
        }
    }

    /// Bounds what the kernel takes in before it is read.
    pub(crate) fn set_receive_buffer(&self, bytes: usize) {
        let buffer = nix::sys::socket::sockopt::RcvBuf;
        match self {
            Socket::Unix(stream) => nix::sys::socket::setsockopt(stream, buffer, &bytes),
            Socket::Tcp(stream) => nix::sys::socket::setsockopt(stream, buffer, &bytes),
        }
        .unwrap();
    }

    fn set_timeouts(&self, patience: Duration) {
        let patience = Some(patience);
        match self {
            Socket::Unix(stream) => stream
                .set_read_timeout(patience)
                .and_then(|()| stream.set_write_timeout(patience))
                .unwrap(),
            Socket::Tcp(stream) => stream
                .set_read_timeout(patience)
                .and_then(|()| stream.set_write_timeout(patience))
                .unwrap(),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Unix(stream) => stream.read(buffer),
            Socket::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Unix(stream) => stream.write(bytes),
            Socket::Tcp(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A process as the kernel shows it.
#[derive(Clone, Copy)]
pub(crate) struct Process(u32);

impl Process {
    pub(crate) fn id(self) -> u32 {
        self.0
    }

    /// How much memory it holds that is no file's: heap, stacks, in bytes. Counted page by page
    /// where it is asked for, so it is exact.
    pub(crate) fn memory(self) -> u64 {
        let rollup = self.file("smaps_rollup");
        let kibibytes = |name| number_after(&rollup, name);
        (kibibytes("Anonymous:") + kibibytes("Swap:")) << 10
    }

    /// How often it has gone to sleep of its own accord.
    pub(crate) fn voluntary_switches(self) -> u64 {
        number_after(&self.file("status"), "voluntary_ctxt_switches:")
    }

    /// The soft limit of open files.
    pub(crate) fn descriptor_limit(self) -> u64 {
        number_after(&self.file("limits"), "Max open files")
    }

    /// How many TCP sockets it has, of whichever kind and state.
    pub(crate) fn tcp_sockets(self) -> usize {
        let tables = self.file("net/tcp") + &self.file("net/tcp6");
        let inodes: Vec<&str> = tables
            .lines()
            .filter_map(|line| line.split_whitespace().nth(9))
            .collect();
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", self.0)).unwrap();
        let targets =
            descriptors.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
        targets
            .filter(|target| {
                let target = target.to_string_lossy();
                let inode = target.strip_prefix("socket:[").unwrap_or_default();
                inodes.contains(&inode.trim_end_matches(']'))
            })
            .count()
    }

    /// How much processor time it has used, in clock ticks.
    pub(crate) fn ticks(self) -> u64 {
        let user_and_system = self.stat().skip(11).take(2).collect::<Vec<_>>();
        user_and_system
            .iter()
            .map(|ticks| ticks.parse::<u64>().unwrap())
            .sum()
    }

    /// Whether it waits for something.
    pub(crate) fn is_asleep(self) -> bool {
        self.stat().next().unwrap() == "S"
    }

    /// The fields of `stat` from the state on.
    fn stat(self) -> impl Iterator<Item = String> {
        let stat = self.file("stat");
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let fields: Vec<String> = fields.split(' ').map(str::to_owned).collect();
        fields.into_iter()
    }

    fn file(self, name: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{name}", self.0)).unwrap()
    }
}

/// The number after a name at the start of a line.
fn number_after(text: &str, name: &str) -> u64 {
    let rest = text.lines().find_map(|line| line.strip_prefix(name));
    let number = rest.and_then(|rest| rest.split_whitespace().next());
    number.unwrap().parse().unwrap()
}
