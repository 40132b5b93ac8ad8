//! What one user can do to the others: attacks on the built daemon, each with what it got.
//!
//! For each attack there is a fresh daemon with the default limits. **Attackers** are processes of
//! one user, who may open the socket and do whatever comes to their minds. Meanwhile a **client**, of
//! another user, gets and puts one entry at a time at a steady rate, and waits for the event of each of
//! its puts; it measures first while nothing else happens, and then during the attack. And an
//! **operator**, who is root, connects anew a few times a second and asks for `stats`. What has to hold
//! is said with each attack, before it runs: how long the client may have to wait, how much memory the
//! daemon may take, and that the operator is answered.
//!
//! The daemon has one processor and the others have another one, so that what is measured is the
//! daemon, and not the scheduler. Client and operator go before attackers there (`SCHED_FIFO`). All
//! that needs root, as does being other users. The daemon's directories are in memory, unless
//! `--directory` says otherwise, so that what is measured is not a disk either.
//!
//! ```sh
//! cargo bench --bench attacks -- [--only NAME]... [--seconds N] [--json FILE] [--directory DIR]
//! ```
//!
//! ends with exit code 1 where a bound is broken. `docs/attacks.md` has the results.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark prints its figures"
)]
#![allow(clippy::unwrap_used, reason = "a benchmark that can't go on may stop")]

mod attacker;
mod attacks;
mod bystanders;
mod crowd;
mod daemon;
mod report;

use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::Duration;

use attacks::Attack;
use daemon::Daemon;
use report::Outcome;

/// Whoever attacks.
const ATTACKER: &str = "64001";
/// Whoever wants to be served all the same.
const CLIENT: &str = "64002";

/// What the command line says.
struct Options {
    only: Vec<String>,
    seconds: u64,
    json: Option<PathBuf>,
    directory: PathBuf,
    program: PathBuf,
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1).peekable();
    if words.peek().is_some_and(|word| word == "--role") {
        let words: Vec<String> = words.skip(1).collect();
        play(&words);
        return ExitCode::SUCCESS;
    }
    let Some(options) = Options::parse(words) else {
        return ExitCode::SUCCESS;
    };
    if !nix::unistd::geteuid().is_root() {
        eprintln!("attacks: only root can be several users; nothing is measured");
        return ExitCode::from(2);
    }
    let mut outcomes = Vec::new();
    println!("{}", report::HEADING);
    for attack in attacks::ALL {
        if options.only.is_empty() || options.only.iter().any(|name| name == attack.name) {
            let outcome = run(attack, &options);
            outcome.print();
            outcomes.push(outcome);
        }
    }
    println!("\n{}", report::markdown(&outcomes));
    if let Some(path) = &options.json {
        std::fs::write(path, report::json(&outcomes)).unwrap();
    }
    match outcomes.iter().all(|outcome| outcome.broken().is_empty()) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

impl Options {
    /// None where there is nothing to do.
    fn parse(words: impl Iterator<Item = String>) -> Option<Options> {
        let mut options = Options {
            only: Vec::new(),
            seconds: 5,
            json: None,
            directory: PathBuf::from("/dev/shm"),
            program: env!("CARGO_BIN_EXE_nkv-server").into(),
        };
        let mut words = words;
        while let Some(word) = words.next() {
            let mut value = || words.next().unwrap_or_else(|| panic!("{word} what?"));
            match word.as_str() {
                "--test" => return None, // `cargo test --benches` only wants to know that it builds.
                "--bench" => {}
                "--only" => options.only.push(value()),
                "--seconds" => options.seconds = value().parse().unwrap(),
                "--json" => options.json = Some(value().into()),
                "--directory" => options.directory = value().into(),
                "--program" => options.program = value().into(),
                _ => panic!("{word} is no option of this benchmark"),
            }
        }
        let known = |name: &String| attacks::ALL.iter().any(|attack| attack.name == *name);
        if let Some(name) = options.only.iter().find(|name| !known(name)) {
            let names: Vec<&str> = attacks::ALL.iter().map(|attack| attack.name).collect();
            panic!("there is no attack {name}, but {}", names.join(", "));
        }
        Some(options)
    }
}

/// What a child of this process does: `ROLE SOCKET …`.
fn play(words: &[String]) {
    let socket = Path::new(&words[1]);
    match words[0].as_str() {
        "client" => bystanders::client(socket),
        "operator" => bystanders::operator(socket),
        "attacker" => {
            let attack = attacks::ALL.iter().find(|attack| attack.name == words[2]);
            let seconds = Duration::from_secs(words[3].parse().unwrap());
            attacker::attack(attack.unwrap(), socket, seconds);
        }
        role => panic!("nobody plays {role}"),
    }
}

/// One attack from beginning to end.
fn run(attack: &'static Attack, options: &Options) -> Outcome {
    let seconds = Duration::from_secs(options.seconds);
    let daemon = Daemon::start(attack, options);
    (attack.prepare)(&daemon.socket());
    let mut client = Role::start(&daemon, "client", &[]);
    let mut operator = Role::start(&daemon, "operator", &[]);
    std::thread::sleep(Duration::from_millis(300));
    client.ask();
    std::thread::sleep(seconds.min(Duration::from_secs(3)));
    let quiet = client.ask();
    operator.ask();

    let before = daemon.usage();
    daemon.forget_peak();
    let words = [attack.name, &options.seconds.to_string()];
    let mut attacker = Role::start(&daemon, "attacker", &words);
    let private_dirty = daemon.watch_until(|| attacker.has_ended());
    let after = daemon.usage();
    let attacked = client.ask();
    let operated = operator.ask();
    let got = attacker.ask();

    let given_back = daemon.until_given_back(ATTACKER);
    Outcome {
        attack,
        quiet,
        attacked,
        operated,
        got,
        before,
        after,
        private_dirty,
        given_back,
        rest: daemon.usage(),
    }
}

/// A child that plays a role: it says what it has seen when it is asked to.
struct Role {
    child: Child,
    asked: ChildStdin,
    said: std::io::BufReader<ChildStdout>,
}

impl Role {
    fn start(daemon: &Daemon, role: &str, more: &[&str]) -> Role {
        let uid = match role {
            "attacker" => ATTACKER,
            "client" => CLIENT,
            _ => "0",
        };
        // An attacker gets more of its processor than whoever else is there, but not more than these.
        let mut words = match role {
            "attacker" => daemon::with_niceness("-15"),
            _ => ["chrt", "-f", "50"].map(str::to_owned).to_vec(),
        };
        let others = ["taskset", "-c", daemon::OTHERS];
        let whose = ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups"];
        words.extend(others.into_iter().chain(whose).map(str::to_owned));
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(daemon.roles());
        command.args(["--role", role]).arg(daemon.socket());
        command.args(more);
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = pipes
            .spawn()
            .expect("nice, chrt, taskset and setpriv of util-linux are there");
        Role {
            asked: child.stdin.take().unwrap(),
            said: std::io::BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// What it has seen since it was asked before.
    fn ask(&mut self) -> serde_json::Value {
        use std::io::{BufRead, Write};
        // An attacker that has ended has said it all.
        let _ = self.asked.write_all(b"\n");
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        serde_json::from_str(&line).expect("a role ends with what it has seen")
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
