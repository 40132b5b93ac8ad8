//! Installing without a package, with the commands that `docs/operations.md` gives for it.

use std::fs;
use std::path::Path;

use crate::document::blocks;
use crate::machine::{Machine, source};

const PATH: &str = "docs/operations.md";

#[test]
fn the_commands_of_the_guide_install_it() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    let text = fs::read_to_string(source(PATH)).unwrap();
    let blocks = blocks(&text);
    let block = blocks.iter().find(|block| block.info == "sh by-hand");
    let lines = &block.expect("there are such commands").lines;
    copy_tree(&machine);
    for (number, line) in lines {
        let command = format!("cd /root/nkv && {line}");
        let output = machine.output(&["sh", "-c", &command]);
        assert!(
            output.status.success(),
            "{PATH}:{number}: {line}: {output:?}"
        );
    }
    assert_eq!(machine.property("nkv.socket", "ActiveState"), "active");
    machine.run("nkv-client put a 1");
    assert_eq!(machine.run("nkv-client get a"), "1\n");
    assert_eq!(machine.property("nkv.socket", "UnitFileState"), "enabled");
}

/// The tree as it is after the release build, for which the programs under test stand.
fn copy_tree(machine: &Machine) {
    let tree = machine.path("/root/nkv");
    for directory in ["systemd", "packaging", "target/release"] {
        fs::create_dir_all(tree.join(directory)).unwrap();
    }
    for file in [
        "systemd/nkv.socket",
        "systemd/nkv.service",
        "systemd/nkv.sysusers",
        "packaging/nkv.default",
    ] {
        fs::copy(source(file), tree.join(file)).unwrap();
    }
    for program in [
        env!("CARGO_BIN_EXE_nkv-server"),
        env!("CARGO_BIN_EXE_nkv-client"),
    ] {
        let name = Path::new(program).file_name().unwrap();
        fs::copy(program, tree.join("target/release").join(name)).unwrap();
    }
}
