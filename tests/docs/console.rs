//! Commands and what they print.
//!
//! Each command is given to a shell, and prints standard output and error together. A block with `needs=PROGRAM` in its fence is left out where there is no such program, which is
//! said. The commands of one document share
//! a directory, and find on their path the two programs and at `/run/nkv.sock` (written as that, or where
//! `nkv-client` looks by itself) a daemon that the test has started. Its journals are in `/var/lib/nkv` and
//! `/run/nkv`. These names stand for the test's own places, in commands and in what they print.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::document::{Block, steps};

/// What documents call the daemon's places, and where these are in the test's directory. The order
/// counts: the first name begins like the last.
const PLACES: [(&str, &str); 3] = [
    ("/run/nkv.sock", "nkv.sock"),
    ("/var/lib/nkv", "data"),
    ("/run/nkv", "runtime"),
];

/// Runs the commands of a document and returns the directory that they have used.
pub(crate) fn play(path: &str, blocks: &[Block]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("nkv.sock");
    let daemon = Daemon::start(&socket);
    for block in blocks {
        let needed = block
            .info
            .split(' ')
            .find_map(|word| word.strip_prefix("needs="));
        if let Some(program) = needed.filter(|program| !is_there(program)) {
            println!("{path}: a passage is left out, there is no {program}");
            continue;
        }
        for step in steps(path, block) {
            step.check(path, &run(&step.command, directory.path(), &socket));
        }
    }
    drop(daemon);
    directory
}

fn run(command: &str, directory: &Path, socket: &Path) -> String {
    let place = |name: &str| {
        let path = directory.join(name).into_os_string().into_string();
        path.expect("a temporary directory's name is text")
    };
    let programs = Path::new(env!("CARGO_BIN_EXE_nkv-client"))
        .parent()
        .unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = format!("exec 2>&1\n{command}");
    for (written, name) in PLACES {
        command = command.replace(written, &place(name));
    }
    let output = Command::new("timeout")
        .args(["30", "sh", "-c", &command])
        .current_dir(directory)
        .env("PATH", format!("{}:{path}", programs.display()))
        .env("NKV_ADDRESS", socket)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let mut printed = String::from_utf8(output.stdout).unwrap();
    for (written, name) in PLACES {
        printed = printed.replace(&place(name), written);
    }
    printed
}

fn is_there(program: &str) -> bool {
    let command = format!("command -v {program}");
    let found = Command::new("sh")
        .args(["-c", &command])
        .stdout(Stdio::null())
        .status();
    found.unwrap().success()
}

/// A daemon that ends with the test, whatever becomes of it.
struct Daemon(Child);

impl Daemon {
    fn start(socket: &Path) -> Daemon {
        let directory = socket.parent().expect("the socket is in a directory");
        let mut command = Command::new(env!("CARGO_BIN_EXE_nkv-server"));
        command
            .arg("--data-dir")
            .arg(directory.join("data"))
            .arg("--runtime-dir")
            .arg(directory.join("runtime"))
            .arg(socket);
        let daemon = Daemon(command.stderr(Stdio::null()).spawn().unwrap());
        let patience = Instant::now() + Duration::from_secs(10);
        while std::os::unix::net::UnixStream::connect(socket).is_err() {
            assert!(Instant::now() < patience, "the daemon does not come up");
            std::thread::sleep(Duration::from_millis(10));
        }
        daemon
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}
