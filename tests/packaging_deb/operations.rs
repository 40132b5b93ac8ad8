//! The passages of `docs/operations.md` that are about a host: run as they stand, one after the
//! other, on a booted machine on which there is the package and nothing of nkv yet.

use crate::document::{blocks, steps};
use crate::life;
use crate::machine::source;

const PATH: &str = "docs/operations.md";

#[test]
fn the_guide_for_a_host_does_what_it_says() {
    let Some((machine, package)) = life::machine() else {
        return;
    };
    std::fs::copy(package, machine.path("/root/nkv.deb")).unwrap();
    let text = std::fs::read_to_string(source(PATH)).unwrap();
    let mut count = 0;
    for block in blocks(&text) {
        if block.info != "system" {
            continue;
        }
        for step in steps(PATH, &block) {
            let command = format!("cd /root; exec 2>&1\n{}", step.command);
            let output = machine.output(&["timeout", "60", "sh", "-c", &command]);
            step.check(PATH, &String::from_utf8_lossy(&output.stdout));
            count += 1;
        }
    }
    assert!(count > 20, "only {count} commands");
}
