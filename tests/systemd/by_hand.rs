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
    let built = Path::new(env!("CARGO_BIN_EXE_nkv-server"))
        .parent()
        .unwrap();
    for (number, line) in lines {
        // The programs under test are what stands for a release build.
        let line = line.replace("target/release", built.to_str().unwrap());
        let root = source("");
        let command = format!("cd {} && {line}", root.display());
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
