//! The static programs: that they are static, small, for the machine they are said to be for, and that
//! they work. Those for another machine type are run by qemu.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::{self, Client};
use crate::{root, run, script, target};

/// What a static `nkv-server` may have at most.
const SERVER_BYTES: u64 = 700 << 10;

/// What it may hold in memory, its code included: without journals, after a client's `ping`; and with them,
/// after it has served. The kernel counts a program's file in pieces of 64 KiB, of which
/// `packaging/static.ld` keeps some out.
const IDLE_KIBIBYTES: u64 = 512;
const SERVED_KIBIBYTES: u64 = 656;

/// The numbers of machine types and program headers in an ELF file.
const X86_64: u16 = 62;
const AARCH64: u16 = 183;
const DYNAMIC: u32 = 2;
const INTERPRETER: u32 = 3;

#[test]
fn x86_64_is_static_and_works() {
    if build("x86_64", X86_64) && cfg!(target_arch = "x86_64") {
        let in_memory = Server::start(&[], &programs("x86_64"), &["--in-memory"]);
        in_memory.is_there();
        let idle = in_memory.resident_kibibytes();
        assert!(idle <= IDLE_KIBIBYTES, "{idle} KiB when idle");
        let server = Server::start(&[], &programs("x86_64"), &[]);
        server.serves();
        let served = server.resident_kibibytes();
        assert!(
            served <= SERVED_KIBIBYTES,
            "{served} KiB after it has served"
        );
    }
}

#[test]
fn aarch64_is_static_and_works() {
    if build("aarch64", AARCH64) {
        let starter: &[&str] = match cfg!(target_arch = "aarch64") {
            true => &[],
            false => &["qemu-aarch64-static"],
        };
        if starter.iter().all(|program| support::has_program(program)) {
            Server::start(starter, &programs("aarch64"), &[]).serves();
        } else {
            support::skip("there is no qemu-aarch64-static to run it");
        }
    }
}

#[test]
fn another_machine_type_is_refused() {
    for words in [&[][..], &["sparc"], &["x86_64", "aarch64"]] {
        let output = script("packaging/static").args(words).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(output.stderr.starts_with(b"static: usage: "), "{words:?}");
    }
}

fn programs(arch: &str) -> PathBuf {
    target().join("static").join(arch)
}

/// Builds for a machine type and looks at the files. False where it can't be built here.
fn build(arch: &str, machine: u16) -> bool {
    let mut command = script("packaging/static");
    command.arg(arch).current_dir(root().join("docs"));
    if run(command).is_none() {
        return false;
    }
    for name in ["nkv-server", "nkv-client"] {
        let path = programs(arch).join(name);
        let elf = Elf(std::fs::read(&path).unwrap());
        assert_eq!(elf.machine(), machine, "{path:?}");
        let headers = elf.program_headers();
        assert!(!headers.is_empty(), "{path:?}");
        for kind in [DYNAMIC, INTERPRETER] {
            assert!(!headers.contains(&kind), "{path:?} is linked dynamically");
        }
    }
    let server = programs(arch).join("nkv-server");
    let bytes = server.metadata().unwrap().len();
    assert!(bytes < SERVER_BYTES, "{server:?} has {bytes} bytes");
    true
}

/// A file in the form of 64 bits, little-endian.
struct Elf(Vec<u8>);

impl Elf {
    fn machine(&self) -> u16 {
        self.half(18)
    }

    /// The kind of each program header.
    fn program_headers(&self) -> Vec<u32> {
        assert_eq!(&self.0[..6], b"\x7fELF\x02\x01");
        let start = usize::try_from(u64::from_le_bytes(self.bytes(32))).unwrap();
        let (size, count) = (usize::from(self.half(54)), usize::from(self.half(56)));
        (0..count)
            .map(|index| u32::from_le_bytes(self.bytes(start + index * size)))
            .collect()
    }

    fn half(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.bytes(at))
    }

    fn bytes<const SIZE: usize>(&self, at: usize) -> [u8; SIZE] {
        self.0[at..at + SIZE].try_into().unwrap()
    }
}

/// A static server with its journals in a directory of its own.
struct Server {
    child: Child,
    directory: tempfile::TempDir,
    starter: Vec<String>,
    programs: PathBuf,
}

impl Server {
    /// Starts it and waits until it listens.
    fn start(starter: &[&str], programs: &Path, options: &[&str]) -> Server {
        let directory = tempfile::tempdir().unwrap();
        let starter: Vec<String> = starter.iter().map(|word| (*word).into()).collect();
        let mut command = command(&starter, &programs.join("nkv-server"));
        command
            .args(options)
            .arg("--data-dir")
            .arg(directory.path().join("data"))
            .arg("--runtime-dir")
            .arg(directory.path().join("runtime"))
            .arg(directory.path().join("nkv.sock"))
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let serving = log.find(|line| line.as_ref().unwrap().contains("keeping "));
        assert!(serving.is_some(), "{command:?} does not serve");
        std::thread::spawn(move || log.for_each(drop));
        Server {
            child,
            directory,
            starter,
            programs: programs.to_owned(),
        }
    }

    /// It answers.
    fn is_there(&self) {
        let mut client = Client::unix(&self.directory.path().join("nkv.sock"));
        let response = client.do_it(r#"{"op":"ping"}"#);
        assert_eq!(response["ok"], true, "{response}");
    }

    /// Both programs do what they are for.
    fn serves(&self) {
        let socket = self.directory.path().join("nkv.sock");
        let put = command(&self.starter, &self.programs.join("nkv-client"))
            .arg("-a")
            .arg(&socket)
            .args(["put", "config.web.port", "8080"])
            .status()
            .unwrap();
        assert!(put.success());
        let mut client = Client::unix(&socket);
        let response = client.do_it(r#"{"op":"get","key":"config.web.port"}"#);
        assert_eq!(response["value"], 8080, "{response}");
        let journal = self.directory.path().join("data/durable.journal");
        assert!(std::fs::read_to_string(journal).unwrap().contains("8080"));
    }

    fn resident_kibibytes(&self) -> u64 {
        let rollup = format!("/proc/{}/smaps_rollup", self.child.id());
        let rollup = std::fs::read_to_string(rollup).unwrap();
        let resident = rollup.lines().find_map(|line| line.strip_prefix("Rss:"));
        let words = resident.unwrap().trim_end_matches("kB").trim();
        words.parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The command that runs a program, itself or by another one.
fn command(starter: &[String], program: &Path) -> Command {
    let mut words = starter
        .iter()
        .map(AsRef::as_ref)
        .chain([program.as_os_str()]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words);
    for name in ["NKV_LOG", "NKV_ADDRESS", "JOURNAL_STREAM", "LISTEN_FDS"] {
        command.env_remove(name);
    }
    command
}
