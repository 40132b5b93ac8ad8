//! A program that one talks to by lines, and that is killed when one is done.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use crate::daemon::PATIENCE;

pub(crate) struct Conversation {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Conversation {
    pub(crate) fn start(program: &mut Command) -> Conversation {
        let started = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = started.unwrap_or_else(|error| panic!("{program:?}: {error}"));
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (sender, lines) = channel();
        // So that a program which says nothing fails a test instead of keeping it.
        std::thread::spawn(move || {
            let lines = BufReader::new(output).lines();
            lines
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        Conversation {
            child,
            input,
            lines,
        }
    }

    pub(crate) fn say(&mut self, line: &str) {
        let line = format!("{line}\n");
        // One that has ended shows in what it says, which is nothing.
        let _ = self.input.write_all(line.as_bytes());
    }

    pub(crate) fn hear(&mut self) -> String {
        let line = self.lines.recv_timeout(PATIENCE);
        line.unwrap_or_else(|error| panic!("no line comes: {error}"))
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
