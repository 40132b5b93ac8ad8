//! nkv-server of this build, or the one that `NKV_SERVER` names; and the static one, if
//! packaging/static has built it.
//!
//! A put is `put`, a get is `get` of the key, an event is what a subscription to `topic.*` is told.
//! `--in-memory`, or `--sync always`.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Keeping, Peer, Place, Role};
use crate::connection::{Address, Counter, Request};

pub(crate) enum Nkv {
    Built,
    Static,
}

impl Peer for Nkv {
    fn name(&self) -> &'static str {
        match self {
            Nkv::Built => "nkv",
            Nkv::Static => "nkv-static",
        }
    }

    fn is_nkv(&self) -> bool {
        true
    }

    fn program(&self) -> Option<PathBuf> {
        match self {
            Nkv::Built => {
                let built = env!("CARGO_BIN_EXE_nkv-server");
                let program = std::env::var_os("NKV_SERVER").unwrap_or_else(|| built.into());
                Some(PathBuf::from(program))
            }
            Nkv::Static => {
                let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent()?;
                let directory = target.join("static").join(std::env::consts::ARCH);
                let program = directory.join("nkv-server");
                program.is_file().then_some(program)
            }
        }
    }

    fn start(&self, program: &Path, place: &Place<'_>) -> Option<(Command, Address)> {
        let socket = place.directory.join("nkv.sock");
        let mut command = Command::new(program);
        command.arg(&socket).args(["--log", "warn"]);
        match place.keeping {
            Keeping::Memory => command.arg("--in-memory"),
            Keeping::Durable => command
                .args(["--sync", "always", "--data-dir"])
                .arg(place.directory)
                .arg("--runtime-dir")
                .arg(place.directory.join("run")),
        };
        command.args(place.options);
        Some((command, Address::Unix(socket)))
    }

    fn counter(&self) -> Counter {
        Counter::Lines
    }

    fn greeting(&self, _role: Role) -> Request {
        Request::new("{\"op\":\"ping\"}\n", 1)
    }

    fn put(&self, key: &str, value: &str) -> Option<Request> {
        let line = format!("{{\"op\":\"put\",\"key\":\"{key}\",\"value\":\"{value}\"}}\n");
        Some(Request::new(line, 1))
    }

    fn get(&self, key: &str) -> Option<Request> {
        let line = format!("{{\"op\":\"get\",\"key\":\"{key}\"}}\n");
        Some(Request::new(line, 1))
    }

    fn publish(&self, key: &str, value: &str) -> Option<Request> {
        self.put(key, value)
    }

    fn subscribe(&self, topic: &str) -> Request {
        self.subscribe_below(topic, 1)
    }

    fn subscribe_below(&self, prefix: &str, id: usize) -> Request {
        let line = format!(
            "{{\"op\":\"subscribe\",\"id\":{id},\"key\":\"{prefix}.*\",\"initial\":false}}\n"
        );
        // The answer, and `sync`.
        Request::new(line, 2)
    }

    fn event_marks(&self) -> usize {
        1
    }

    fn refusal(&self) -> &'static str {
        "\"ok\":false"
    }
}
