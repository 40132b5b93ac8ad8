//! A daemon of a test's own.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// An nkv-server that keeps everything in memory and ends with the test.
pub(crate) struct Daemon {
    directory: TempDir,
    address: String,
    child: Child,
}

impl Daemon {
    pub(crate) fn start() -> Daemon {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nkv.sock");
        let (child, address) = spawn(&[path.to_str().unwrap()]);
        Daemon {
            directory,
            address,
            child,
        }
    }

    /// One on a free port of the loopback interface, which asks for the token in a file.
    pub(crate) fn on_tcp(token_file: &str) -> Daemon {
        let directory = tempfile::tempdir().unwrap();
        let (child, address) = spawn(&["--token-file", token_file, "127.0.0.1:0"]);
        Daemon {
            directory,
            address,
            child,
        }
    }

    /// Kills it, if it runs, and starts another one at the same address.
    pub(crate) fn restart(&mut self) {
        self.stop();
        let (child, address) = spawn(&[&self.address]);
        assert_eq!(address, self.address);
        self.child = child;
    }

    pub(crate) fn address(&self) -> String {
        self.address.clone()
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Kills it.
    pub(crate) fn stop(&mut self) {
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

/// Starts a daemon, waits until it says that it listens, and returns where.
fn spawn(arguments: &[&str]) -> (Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_nkv-server"))
        .arg("--in-memory")
        .args(arguments)
        .env_remove("NKV_LOG")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    let address = loop {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "the daemon ended");
        if let Some((_, address)) = line.split_once("listening on ") {
            break address.trim_end().to_owned();
        }
    };
    // What it says later is nobody's concern, but must have somewhere to go.
    std::thread::spawn(move || drop(std::io::copy(&mut stderr, &mut std::io::sink())));
    (child, address)
}
