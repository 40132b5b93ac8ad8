//! The daemon that is attacked, and what the kernel says of it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Options;
use crate::attacks::Attack;

/// The processor of the daemon, and that of all others.
const OWN: &str = "0";
pub(crate) const OTHERS: &str = "1";
/// How long it may take until all is given back.
const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon, killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    directory: tempfile::TempDir,
}

/// What it has used so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) at: Instant,
    pub(crate) processor: Duration,
    /// How long it was kept waiting for its processor by processes that have nothing to do with this.
    pub(crate) waited: Duration,
    pub(crate) resident: u64,
    pub(crate) peak: u64,
}

impl Daemon {
    pub(crate) fn start(attack: &Attack, options: &Options) -> Daemon {
        let directory = tempfile::Builder::new()
            .prefix("nkv-attacks-")
            .tempdir_in(&options.directory)
            .unwrap();
        let path = directory.path();
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
        // The build's directory may be one that nobody else may enter.
        let this = std::env::current_exe().unwrap();
        std::fs::copy(this, path.join("roles")).unwrap();
        let mut words = with_niceness("-20");
        let of_its_own = ["setpriv", "--pdeathsig", "KILL", "taskset", "-c", OWN];
        words.extend(of_its_own.map(str::to_owned));
        if let Some(limit) = attack.descriptors {
            words.extend(["prlimit".into(), format!("--nofile={limit}")]);
        }
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .arg(&options.program)
            .args(["--socket-mode", "666", "--data-dir"])
            .arg(path.join("data"))
            .arg("--runtime-dir")
            .arg(path.join("run"))
            .arg(path.join("nkv.sock"));
        if attack.with_tcp {
            let token = path.join("token");
            std::fs::write(&token, "a token that no attacker knows").unwrap();
            command.arg("--token-file").arg(token).arg("127.0.0.1:0");
        }
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut tcp = String::new();
        loop {
            let line = log.next().expect("the daemon starts").unwrap();
            if let Some((_, address)) = line.split_once("listening on 127") {
                tcp = format!("127{address}");
            }
            if line.contains("keeping ") {
                break;
            }
        }
        std::fs::write(path.join("tcp"), tcp).unwrap();
        std::thread::spawn(move || log.for_each(drop));
        Daemon { child, directory }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("nkv.sock")
    }

    /// This program, where every user finds it.
    pub(crate) fn roles(&self) -> PathBuf {
        self.directory.path().join("roles")
    }

    pub(crate) fn usage(&self) -> Usage {
        let status = self.file("status");
        let stat = self.file("schedstat");
        let times: Vec<u64> = stat
            .split_whitespace()
            .map(|time| time.parse().unwrap())
            .collect();
        Usage {
            at: Instant::now(),
            processor: Duration::from_nanos(times[0]),
            waited: Duration::from_nanos(times[1]),
            resident: kibibytes(&status, "VmRSS:") << 10,
            peak: kibibytes(&status, "VmHWM:") << 10,
        }
    }

    /// Makes the peak of its memory what it is now.
    pub(crate) fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").unwrap();
    }

    /// Looks at its memory until something is over, and returns the most that was private.
    pub(crate) fn watch_until(&self, mut is_over: impl FnMut() -> bool) -> u64 {
        let mut most = 0;
        while !is_over() {
            // Not too often: to count its pages is to keep the daemon from getting more.
            std::thread::sleep(Duration::from_millis(500));
            most = most.max(kibibytes(&self.file("smaps_rollup"), "Private_Dirty:") << 10);
        }
        most
    }

    /// Waits until a user holds no connection and nothing in memory any more; none where that does not
    /// come.
    pub(crate) fn until_given_back(&self, uid: &str) -> Option<Duration> {
        let start = Instant::now();
        let uid: u64 = uid.parse().unwrap();
        while start.elapsed() < PATIENCE {
            let stats = Operator::connect(&self.socket()).and_then(|mut root| root.ask("stats"));
            let Ok(stats) = stats else { continue };
            let users = stats["users"].as_array().unwrap();
            let is_held = |user: &&Value| user["uid"] == uid && user["connections"] != 0;
            if !users.iter().any(|user| is_held(&user)) {
                return Some(start.elapsed());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{name}", self.child.id()))
            .expect("the daemon is still there")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection that asks one thing after the other.
pub(crate) struct Operator(BufReader<UnixStream>);

impl Operator {
    pub(crate) fn connect(socket: &Path) -> std::io::Result<Operator> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.set_write_timeout(Some(Duration::from_secs(20)))?;
        Ok(Operator(BufReader::new(stream)))
    }

    /// Sends a line and gives the next one that comes.
    pub(crate) fn exchange(&mut self, line: &str) -> std::io::Result<Value> {
        let line = format!("{line}\n");
        self.0.get_mut().write_all(line.as_bytes())?;
        self.next()
    }

    pub(crate) fn next(&mut self) -> std::io::Result<Value> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        let value: Value = serde_json::from_str(&line)?;
        match value["ok"] == false {
            true => Err(std::io::Error::other(line)),
            false => Ok(value),
        }
    }

    pub(crate) fn ask(&mut self, op: &str) -> std::io::Result<Value> {
        self.exchange(&format!(r#"{{"op":"{op}"}}"#))
    }
}

/// Words before a program that make it so nice, in a session of its own. Where the kernel shares its
/// time out between sessions first (`CONFIG_SCHED_AUTOGROUP`) it is the session that has to be.
pub(crate) fn with_niceness(nice: &str) -> Vec<String> {
    let become_nice = format!("echo {nice} 2> /dev/null > /proc/$$/autogroup; exec \"$@\"");
    let words = ["setsid", "nice", "-n", nice, "sh", "-c", &become_nice, "sh"];
    words.map(str::to_owned).to_vec()
}

fn kibibytes(text: &str, name: &str) -> u64 {
    let rest = text.lines().find_map(|line| line.strip_prefix(name));
    let number = rest.and_then(|rest| rest.split_whitespace().next());
    number.unwrap().parse().unwrap()
}
