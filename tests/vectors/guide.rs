//! The small client of `docs/writing-a-client.md`: what the page prints is what it does.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::daemon::{Plan, has_program, skip};
use crate::document::{Block, blocks};

fn page() -> Vec<Block> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/writing-a-client.md");
    blocks(&std::fs::read_to_string(path).unwrap())
}

/// The texts of the page's blocks of a kind.
fn texts(kind: &str) -> Vec<String> {
    let page = page();
    let blocks = page.iter().filter(|block| block.info == kind);
    let text = |block: &Block| {
        let lines = block.lines.iter().map(|(_, line)| format!("{line}\n"));
        lines.collect()
    };
    blocks.map(text).collect()
}

/// A directory with the client, and beside it a program that uses it.
fn written(program: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let client = &texts("python")[0];
    std::fs::write(directory.path().join("nkv.py"), client).unwrap();
    std::fs::write(directory.path().join("program.py"), program).unwrap();
    directory
}

#[test]
fn the_small_client_does_what_the_page_says() {
    if !has_program("python3") {
        return skip("there is no python3");
    }
    let daemon = Plan::new().start();
    let directory = written(&texts("python")[1]);
    let output = Command::new("python3")
        .args(["-W", "error", "program.py"])
        .arg(daemon.socket())
        .current_dir(directory.path())
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let failed = String::from_utf8(output.stderr).unwrap();
    assert_eq!(printed, texts("text")[0], "{failed}");
    assert!(output.status.success(), "{failed}");
}

/// It goes on after a restart of the daemon, and tells only what is different.
#[test]
fn the_small_client_resumes() {
    if !has_program("python3") {
        return skip("there is no python3");
    }
    let plan = Plan::keeping();
    let daemon = plan.start();
    daemon
        .connect()
        .do_it(r#"{"op":"put","key":"a","value":1}"#);
    let directory = written(
        "import sys, nkv\n\
         for state in nkv.states(sys.argv[1], '*'):\n    print(state, flush=True)\n",
    );
    let mut program = Command::new("python3")
        .arg("program.py")
        .arg(daemon.socket())
        .current_dir(directory.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "{'a': 1}");
    daemon.kill();
    let daemon = plan.start();
    daemon
        .connect()
        .do_it(r#"{"op":"put","key":"b","value":[2]}"#);
    assert_eq!(lines.next().unwrap().unwrap(), "{'a': 1, 'b': [2]}");
    // Without its history the daemon tells everything anew.
    daemon.stop();
    std::fs::remove_dir_all(plan.data_directory()).unwrap();
    let daemon = plan.start();
    daemon
        .connect()
        .do_it(r#"{"op":"put","key":"c","value":3}"#);
    let last = lines.find(|line| line.as_ref().unwrap() == "{'c': 3}");
    assert!(last.is_some());
    program.kill().unwrap();
    program.wait().unwrap();
}

/// Its escapes are those of this library, for every character of one unit and for more.
#[test]
fn the_small_client_makes_the_same_segments() {
    if !has_program("python3") {
        return skip("there is no python3");
    }
    let directory = written(
        "import nkv\n\
         for number in [*range(0xd800), *range(0xe000, 0x11000), 0x1f321]:\n    \
         print(nkv.segment(chr(number) * 2))\n",
    );
    let output = Command::new("python3")
        .arg("program.py")
        .env("PYTHONIOENCODING", "utf-8")
        .current_dir(directory.path())
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let mut lines = printed.split_terminator('\n');
    for number in (0..0xd800).chain(0xe000..0x11000).chain([0x1f321]) {
        let text = char::from_u32(number).unwrap().to_string().repeat(2);
        let key = nkv::Key::from_segments([&text]).unwrap();
        assert_eq!(lines.next(), Some(key.as_str()), "U+{number:04X}");
    }
}
