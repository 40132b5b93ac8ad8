//! Reaching the daemon from another machine, as `docs/tcp.md` says it: two machines that a test boots,
//! with a cable between them, on which the page's commands are run as they stand.
//!
//! `edge` is where the daemon is, `desk` the other one. A fence says which machine its commands are for;
//! they are run from the top of the page to its end. What the page takes for granted is made before it:
//! names, addresses, the user `keeper`, and a key with which root on `desk` may log in on `edge`.
//!
//! Where the kernel has no WireGuard, `wireguard-go` takes its place, as wg-quick(8) does it by itself.

#![cfg(all(feature = "cli", feature = "daemon"))]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "these are tests")]

#[path = "../support/daemon.rs"]
mod support;

#[path = "../systemd/machine.rs"]
mod machine;

#[path = "../support/document.rs"]
mod document;

use std::path::Path;
use std::process::Command;

use document::{blocks, steps};
use machine::{Machine, source};
use support::skip;

const PATH: &str = "docs/tcp.md";

/// From outside, addresses for documentation: no real machine has them.
const ADDRESSES: [(&str, &str); 2] = [("edge", "192.0.2.1"), ("desk", "192.0.2.2")];

#[test]
fn the_page_does_what_it_says() {
    if let Some(reason) = obstacle() {
        return skip(reason);
    }
    let (Some(edge), Some(desk)) = (Machine::with_nkv(), Machine::with_nkv()) else {
        return;
    };
    // One daemon is there, and it is not here.
    desk.run("systemctl disable --now nkv.socket nkv.service");
    connect(&edge, &desk);
    let_in(&edge, &desk);
    let text = std::fs::read_to_string(source(PATH)).unwrap();
    let mut count = 0;
    for block in blocks(&text) {
        let machine = match &*block.info {
            "edge" => &edge,
            "desk" => &desk,
            _ => continue,
        };
        for step in steps(PATH, &block) {
            step.check(PATH, &run(machine, &step.command));
            count += 1;
        }
    }
    assert!(count > 40, "only {count} commands");
    assert_no_secrets(&edge);
}

/// Why the page can't be run here.
fn obstacle() -> Option<&'static str> {
    let has = |program: &str| {
        let directories = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
        directories
            .iter()
            .any(|directory| Path::new(directory).join(program).exists())
    };
    let programs = ["ip", "ssh", "sshd", "stunnel4", "wg", "iptables", "jq"];
    if !programs.into_iter().all(has) {
        return Some(
            "iproute2, ssh, sshd, stunnel4, wireguard-tools, iptables and jq are not all there",
        );
    }
    let has_tunnels = Path::new("/sys/module/wireguard").exists()
        || (has("wireguard-go") && Path::new("/dev/net/tun").exists());
    (!has_tunnels).then_some("neither the kernel's WireGuard nor wireguard-go is there")
}

/// Runs a command of the page and returns what it prints. What it leaves running may hold its output
/// open, so that goes to a file.
fn run(machine: &Machine, command: &str) -> String {
    let printed = "/run/printed";
    let script = format!("export HOME=/root; cd; exec > {printed} 2>&1\n{command}");
    machine.output(&["timeout", "60", "sh", "-c", &script]);
    machine.read(printed)
}

/// Lays a cable between two machines and gives them names.
fn connect(edge: &Machine, desk: &Machine) {
    let (left, right) = (edge.init().to_string(), desk.init().to_string());
    let words = [
        "link", "add", "cable", "netns", &left, "type", "veth", "peer",
    ];
    let made = Command::new("ip")
        .args(words)
        .args(["name", "cable", "netns", &right])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let hosts: String = ADDRESSES
        .iter()
        .map(|(name, address)| format!("{address} {name}\n"))
        .collect();
    for (machine, (name, address)) in [edge, desk].into_iter().zip(ADDRESSES) {
        machine.write("/etc/hosts", &format!("127.0.0.1 localhost\n{hosts}"));
        machine.run(&format!("hostname {name}"));
        machine.run(&format!("ip address add {address}/24 dev cable"));
        machine.run("ip link set cable up");
        if !machine.path("/dev/net/tun").exists() {
            machine.run("mkdir -p /dev/net");
            machine.run("mknod /dev/net/tun c 10 200");
        }
    }
}

/// Lets root on `desk` log in on `edge`, as root and as `keeper`.
fn let_in(edge: &Machine, desk: &Machine) {
    edge.run("useradd --create-home --shell /bin/sh keeper");
    edge.run("ssh-keygen -A");
    // The first ends the time in which nobody but root may log in.
    edge.run("systemctl start systemd-user-sessions.service ssh.service");
    desk.run("rm -rf /root/.ssh");
    desk.run("mkdir -m 700 /root/.ssh");
    let (file, none) = ("/root/.ssh/id_ed25519", "");
    desk.output(&["ssh-keygen", "-q", "-t", "ed25519", "-N", none, "-f", file]);
    let key = desk.read(&format!("{file}.pub"));
    for home in ["/root", "/home/keeper"] {
        edge.write(&format!("{home}/.ssh/authorized_keys"), &key);
    }
    edge.run("chown -R keeper /home/keeper/.ssh");
    let known = desk.run("ssh-keyscan -t ed25519 edge");
    desk.write("/root/.ssh/known_hosts", &known);
}

/// The log of the day has nothing of the token in it.
fn assert_no_secrets(edge: &Machine) {
    let token = edge.read("/etc/nkv/token");
    let journal = edge.run("journalctl --quiet");
    assert!(!journal.contains(token.trim()), "the token is in the log");
}
