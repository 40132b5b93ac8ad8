//! Passages of documents: fenced blocks, and the commands in them with what they print.
//!
//! A command is a line after `$ `, with the lines after `> ` that continue it; the lines up to the next
//! command are what it prints. `…` stands for any text within a line.

#![allow(dead_code, reason = "each test takes what it needs")]

/// A fenced block of a document.
pub(crate) struct Block {
    /// What stands behind the backticks.
    pub(crate) info: String,
    /// Its lines, each with its number in the file.
    pub(crate) lines: Vec<(usize, String)>,
}

/// A command and what it is to print.
pub(crate) struct Step {
    /// Its line in the document.
    pub(crate) number: usize,
    pub(crate) command: String,
    pub(crate) expected: Vec<String>,
}

/// Every fenced block of a text.
pub(crate) fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in (1..).zip(text.lines()) {
        match (line.strip_prefix("```"), &mut open) {
            (Some(info), None) => {
                open = Some(Block {
                    info: info.trim().into(),
                    lines: Vec::new(),
                })
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => block.lines.push((number, line.into())),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a fence is not closed");
    blocks
}

/// The commands of a block. `path` is the document's, for messages.
pub(crate) fn steps(path: &str, block: &Block) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut lines = block.lines.iter().peekable();
    while let Some((number, line)) = lines.next() {
        let command = line.strip_prefix("$ ");
        let command = command.unwrap_or_else(|| panic!("{path}:{number}: no command: {line}"));
        let mut command = command.to_owned();
        while let Some((_, line)) = lines.next_if(|(_, line)| is_continuation(line)) {
            command.push('\n');
            command.push_str(line.get(2..).unwrap_or_default());
        }
        let mut expected = Vec::new();
        while let Some((_, line)) = lines.next_if(|(_, line)| !line.starts_with("$ ")) {
            expected.push(line.clone());
        }
        steps.push(Step {
            number: *number,
            command,
            expected,
        });
    }
    steps
}

/// An empty line of a command has nothing after its `>`.
fn is_continuation(line: &str) -> bool {
    line == ">" || line.starts_with("> ")
}

impl Step {
    /// Fails where something else was printed than what is expected.
    pub(crate) fn check(&self, path: &str, printed: &str) {
        let printed: Vec<&str> = printed.lines().collect();
        let mut pairs = printed.iter().zip(&self.expected);
        let holds = printed.len() == self.expected.len()
            && pairs.all(|(line, expected)| matches(expected, line));
        assert!(
            holds,
            "{path}:{}: {}\nexpected:\n{}\nprinted:\n{}",
            self.number,
            self.command,
            self.expected.join("\n"),
            printed.join("\n")
        );
    }
}

/// Whether a line is what is expected, `…` standing for any text.
pub(crate) fn matches(expected: &str, line: &str) -> bool {
    let mut parts = expected.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}
