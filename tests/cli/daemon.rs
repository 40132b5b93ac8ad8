//! A daemon of a test's own.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// An nkv-server that keeps everything in memory and ends with the test.
pub(crate) struct Daemon {
    directory: TempDir,
    child: Child,
}

impl Daemon {
    pub(crate) fn start() -> Daemon {
        let directory = tempfile::tempdir().unwrap();
        let child = spawn(directory.path());
        Daemon { directory, child }
    }

    /// Ends it and starts another one at the same address.
    pub(crate) fn restart(&mut self) {
        self.stop();
        self.child = spawn(self.directory.path());
    }

    pub(crate) fn address(&self) -> String {
        self.directory
            .path()
            .join("nkv.sock")
            .to_str()
            .unwrap()
            .to_owned()
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}

/// nkv-client, asked to speak to the daemon at this address, with nothing of the tester's around it.
pub(crate) fn client(address: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nkv-client"));
    command
        .env("NKV_ADDRESS", address)
        .env_remove("NKV_TOKEN_FILE")
        .stdin(Stdio::null());
    command
}

/// Starts a daemon and waits until it says that it listens.
fn spawn(directory: &Path) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_nkv-server"))
        .arg("--in-memory")
        .arg(directory.join("nkv.sock"))
        .env_remove("NKV_LOG")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("listening on") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "the daemon ended");
    }
    // What it says later is nobody's concern, but must have somewhere to go.
    std::thread::spawn(move || drop(std::io::copy(&mut stderr, &mut std::io::sink())));
    child
}
