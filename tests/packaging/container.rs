//! The container's image: built, used in containers, and nothing of it left behind.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::support::{self, until};
use crate::{run, script};

/// What the check says at least, one line each.
const PROMISES: [&str; 12] = [
    "the image is below 3 MB",
    "the version is that of the programs",
    "the server runs as that user",
    "a client in another container gets what was put",
    "a subscriber in a container is told",
    "its own client can be run in it",
    "export reads all",
    "it stops cleanly",
    "a new container has the durable entries",
    "and those of this boot",
    "over TCP a client gets it after a crash too",
    "over TCP nobody is served without the token",
];

#[test]
fn the_image_holds_what_it_promises_and_leaves_nothing() {
    if !nix::unistd::geteuid().is_root() {
        return support::skip("containers are run as root here");
    }
    for program in ["buildah", "podman", "crun"] {
        if !support::has_program(program) {
            return support::skip(&format!("there is no {program}"));
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let mounts = || std::fs::read_to_string("/proc/self/mounts").unwrap();
    let before = mounts();
    let mut command = script("packaging/container/check");
    command.env("TMPDIR", directory.path());
    let Some(output) = run(command) else { return };
    let said = String::from_utf8_lossy(&output.stderr);
    for promise in PROMISES {
        let line = format!("container: holds: {promise}");
        assert!(said.contains(&line), "{promise:?} is not in:\n{said}");
    }
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    // Other tests may mount something of their own meanwhile, but nothing in that directory.
    let name = directory.path().to_str().unwrap();
    assert!(!before.contains(name) && !mounts().contains(name));
    // A container's supervisor ends by itself, a moment after the container.
    until("no process of a container is left", || {
        !is_in_use(directory.path())
    });
}

/// Whether a process has the directory in its command line.
fn is_in_use(directory: &Path) -> bool {
    let needle = directory.as_os_str().as_bytes();
    let processes = std::fs::read_dir("/proc").unwrap();
    processes.flatten().any(|process| {
        // Not everything there is a process, and any may be gone by now.
        let words = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        memchr::memmem::find(&words, needle).is_some()
    })
}
