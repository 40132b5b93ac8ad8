//! The clients of other languages: a small program around each, which is told commands by lines.

use std::path::PathBuf;
use std::process::{Command as Program, Stdio};
use std::sync::OnceLock;

use crate::conversation::Conversation;
use crate::party::{Answer, Command, Door, Party, repository};

pub(crate) struct Agent(Conversation);

impl Agent {
    /// `go/main.go`, which is built once.
    pub(crate) fn go(door: &Door) -> Result<Agent, String> {
        static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        let program = BUILT.get_or_init(build).clone()?;
        Ok(Agent::start(Program::new(program), door))
    }

    /// `python/agent.py`, with the client's sources as they are.
    pub(crate) fn python(door: &Door) -> Result<Agent, String> {
        if !runs("python3", "--version") {
            return Err("there is no python3".into());
        }
        let mut program = Program::new("python3");
        program
            .args(["-B", "-W", "error"])
            .arg(repository("tests/interop/python/agent.py"))
            .env("PYTHONPATH", repository("clients/python/src"));
        Ok(Agent::start(program, door))
    }

    fn start(mut program: Program, door: &Door) -> Agent {
        program.arg(&door.address).args(&door.token);
        Agent(Conversation::start(&mut program))
    }
}

impl Party for Agent {
    fn ask(&mut self, command: &Command) -> Answer {
        self.0.say(&serde_json::to_string(command).unwrap());
        let line = self.0.hear();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line}"))
    }
}

fn build() -> Result<PathBuf, String> {
    if !runs("go", "version") {
        return Err("there is no go".into());
    }
    let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("nkv-interop-go");
    // Another process may run the same tests, and the program, at this moment.
    let fresh = program.with_extension(std::process::id().to_string());
    let built = Program::new("go")
        .args(["build", "-buildvcs=false", "-o"])
        .arg(&fresh)
        .arg(".")
        .current_dir(repository("tests/interop/go"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "go build: {said}");
    std::fs::rename(&fresh, &program).unwrap();
    Ok(program)
}

/// Whether a program can be started.
pub(crate) fn runs(program: &str, argument: &str) -> bool {
    let tried = Program::new(program)
        .arg(argument)
        .stdin(Stdio::null())
        .output();
    tried.is_ok_and(|output| output.status.success())
}
