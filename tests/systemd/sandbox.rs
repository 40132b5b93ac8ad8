//! What the daemon could not do if somebody took it over, seen from a process in its place.

use std::fs;

use crate::machine::Machine;

const SERVICE: &str = "nkv.service";

#[test]
fn the_units_are_sound_and_strict() {
    let Some(machine) = Machine::with_nkv() else {
        return;
    };
    // That the manual pages are there is for the package to show.
    let words = "systemd-analyze verify --man=no nkv.socket nkv.service";
    let words: Vec<&str> = words.split(' ').collect();
    let output = machine.output(&words);
    assert!(output.status.success(), "{output:?}");
    // Keys that it does not know are no failure to it.
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    let report = machine.run(
        "systemd-analyze security --offline=true --threshold=10 --no-pager \
         /usr/lib/systemd/system/nkv.service",
    );
    println!("{}", report.lines().last().unwrap());
}

#[test]
fn the_process_has_no_powers() {
    let Some(machine) = Machine::with_nkv() else {
        return;
    };
    machine.connect().ping();
    let process = machine.main_process(SERVICE).unwrap();
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim().to_owned()
    };
    assert_eq!(field("Seccomp:"), "2");
    assert_eq!(field("NoNewPrivs:"), "1");
    // The daemon is let to add walls of its own.
    let journal = machine.journal(SERVICE);
    assert!(journal.contains("confined by "), "{journal}");
    assert!(!journal.contains("not confined"), "{journal}");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    let user = machine.run("id -u nkv");
    assert_eq!(field("Uid:").split('\t').next(), Some(user.trim()));
    let group = machine.run("id -g nkv");
    assert_eq!(field("Groups:"), group.trim());
    assert_eq!(field("Umask:"), "0077");
    let limit = machine.property(SERVICE, "LimitNOFILE");
    assert!(limit.parse::<u64>().unwrap() >= 1024 + 64, "{limit}");
    // A network of its own, in which there is nobody.
    let network = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    let init = fs::read_link(machine.path("/proc/1/ns/net")).unwrap();
    assert_ne!(network(process), init);
}

/// What is tried in the daemon's place, and what the journal is to say of it.
const TRIALS: [(&str, &str); 15] = [
    ("mkdir /var/lib/nkv/probe", ""),
    ("mkdir /run/nkv/probe", ""),
    ("mkdir /etc/probe", "Read-only file system"),
    ("mkdir /usr/probe", "Read-only file system"),
    ("mkdir /var/lib/probe", "Read-only file system"),
    ("mkdir /run/probe", "Read-only file system"),
    ("mkdir /run/lock/probe", "Read-only file system"),
    ("mkdir /tmp/probe", "Read-only file system"),
    ("mkdir /var/tmp/probe", "Read-only file system"),
    ("mkdir /root/probe", "Permission denied"),
    ("cat /dev/kmsg", "No such file or directory"),
    ("ls /tmp/secret", "No such file or directory"),
    // Calls that are not in the list are errors, and the program lives to say so.
    ("ln -s probe /var/lib/nkv/link", "Function not implemented"),
    ("chmod 777 /var/lib/nkv", "Function not implemented"),
    ("unshare --user true", "Function not implemented"),
];

#[test]
fn it_writes_to_its_directories_and_nowhere_else() {
    let Some(machine) = Machine::with_nkv() else {
        return;
    };
    let mut settings = String::from("[Service]\n");
    for (command, _) in TRIALS {
        settings.push_str(&format!("ExecStartPre=-/usr/bin/{command}\n"));
    }
    machine.add_to(SERVICE, &settings);
    // Of other users' temporary files it sees nothing.
    machine.write("/tmp/secret", "");
    machine.connect().ping();
    let journal = machine.journal(SERVICE);
    for (command, expected) in TRIALS {
        let program = command.split(' ').next().unwrap();
        let place = command.split(' ').find(|word| word.starts_with('/'));
        let is_of_it = |line: &&str| {
            line.contains(&format!("{program}: ")) && line.contains(place.unwrap_or_default())
        };
        let complaint = journal.lines().find(is_of_it).unwrap_or_default();
        if expected.is_empty() {
            assert_eq!(complaint, "", "{command}");
        } else {
            assert!(
                complaint.contains(expected),
                "{command}: {complaint:?} in\n{journal}"
            );
        }
    }
    for place in ["/var/lib/nkv/probe", "/run/nkv/probe"] {
        assert!(machine.path(place).is_dir(), "{place}");
    }
}

#[test]
fn the_limits_of_its_group_are_in_force() {
    let Some(machine) = Machine::with_nkv() else {
        return;
    };
    machine.connect().ping();
    let limit = |name: &str| {
        let value = machine.property(SERVICE, name);
        value
            .parse::<u64>()
            .unwrap_or_else(|_| panic!("{name}={value}"))
    };
    assert!(limit("TasksMax") <= 16);
    // Its own limits let it become so large, and more than that is no accident.
    assert!((2 << 30..8 << 30).contains(&limit("MemoryMax")));
    // Whether the kernel knows of it depends on the controllers that this machine has.
    let group = machine.property(SERVICE, "ControlGroup");
    for (file, expected) in [
        (
            format!("/sys/fs/cgroup/pids{group}/pids.max"),
            limit("TasksMax"),
        ),
        (format!("/sys/fs/cgroup{group}/pids.max"), limit("TasksMax")),
        (
            format!("/sys/fs/cgroup/memory{group}/memory.limit_in_bytes"),
            limit("MemoryMax"),
        ),
        (
            format!("/sys/fs/cgroup{group}/memory.max"),
            limit("MemoryMax"),
        ),
    ] {
        let output = machine.output(&["cat", &file]);
        if output.status.success() {
            let found = String::from_utf8(output.stdout).unwrap();
            assert_eq!(found.trim(), expected.to_string(), "{file}");
        }
    }
}
