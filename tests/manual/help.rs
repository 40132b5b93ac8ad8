//! What the programs say about themselves with `--help`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

/// An option as the help lists it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Listed {
    /// `--keys`, `-k`.
    pub(crate) names: BTreeSet<String>,
    /// What its argument is called, where it has one.
    pub(crate) argument: Option<String>,
}

/// Words of a default that say nothing by themselves.
pub(crate) const FILLERS: [&str; 5] = ["", "as", "else", "or", "the"];

pub(crate) fn of_server() -> String {
    printed(Command::new(env!("CARGO_BIN_EXE_nkv-server")).arg("--help"))
}

/// The help of the client or of one of its commands.
pub(crate) fn of_client(command: &[&str]) -> String {
    printed(
        Command::new(env!("CARGO_BIN_EXE_nkv-client"))
            .args(command)
            .arg("--help"),
    )
}

/// What `help` says in the shell. It needs no daemon.
pub(crate) fn of_shell() -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_nkv-client"))
        .args(["-a", "/nowhere/nkv.sock"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"help\n").unwrap();
    let output = child.wait_with_output().unwrap();
    format!("Commands:\n{}", String::from_utf8(output.stdout).unwrap())
}

fn printed(command: &mut Command) -> String {
    let output = command
        .stdin(Stdio::null())
        .env_remove("NKV_TOKEN_FILE")
        .output()
        .unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The lines that begin an option, without what is said about it.
fn option_lines(help: &str) -> impl Iterator<Item = (usize, &str)> {
    let (_, list) = help.split_once("Options:\n").unwrap();
    let offset = help.len() - list.len();
    list.split_inclusive('\n')
        .scan(offset, |at, line| {
            let start = *at;
            *at += line.len();
            Some((start, line.trim_end()))
        })
        .filter(|(_, line)| {
            let indent = line.len() - line.trim_start().len();
            (1..=6).contains(&indent) && line.trim_start().starts_with('-')
        })
}

pub(crate) fn options(help: &str) -> BTreeSet<Listed> {
    let listed = option_lines(help).map(|(_, line)| {
        let head = line.trim_start().split("  ").next().unwrap();
        let (names, arguments): (Vec<&str>, Vec<&str>) =
            head.split(' ').partition(|word| word.starts_with('-'));
        Listed {
            names: names
                .iter()
                .map(|name| name.trim_end_matches(',').to_owned())
                .collect(),
            argument: arguments
                .first()
                .map(|argument| argument.trim_matches(['<', '>']).to_owned()),
        }
    });
    listed.collect()
}

/// What stands in brackets at the end of each option of the server's help.
pub(crate) fn defaults(help: &str) -> BTreeMap<String, String> {
    let starts: Vec<(usize, &str)> = option_lines(help).collect();
    let mut defaults = BTreeMap::new();
    for (index, (start, line)) in starts.iter().enumerate() {
        let end = starts.get(index + 1).map_or(help.len(), |next| next.0);
        let text = help[*start..end].split("\n\n").next().unwrap();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let name = line
            .trim_start()
            .split(' ')
            .find(|word| word.starts_with("--"));
        if let Some(rest) = text.strip_suffix(']') {
            let default = rest.rsplit('[').next().unwrap();
            defaults.insert(name.unwrap().to_owned(), default.to_owned());
        }
    }
    defaults
}

/// Commands with their other names.
pub(crate) fn commands(help: &str) -> BTreeMap<String, Vec<String>> {
    let (_, list) = help.split_once("Commands:\n").unwrap();
    let lines = list.lines().take_while(|line| line.starts_with("  "));
    let commands = lines.map(|line| {
        let name = line.split_whitespace().next().unwrap().to_owned();
        let aliases = line
            .split_once("[alias: ")
            .or(line.split_once("[aliases: "));
        let aliases = aliases.map(|(_, aliases)| aliases.trim_end_matches(']').split(", "));
        (
            name,
            aliases.into_iter().flatten().map(str::to_owned).collect(),
        )
    });
    commands.collect()
}

/// A command with its arguments, those that may be left out in brackets.
pub(crate) fn usage(help: &str) -> String {
    let line = help
        .lines()
        .find_map(|line| line.strip_prefix("Usage: nkv-client "));
    line.unwrap()
        .replace("[OPTIONS] ", "")
        .replace(" [OPTIONS]", "")
        .replace("]...", "...]")
        .replace(['<', '>'], "")
}

pub(crate) fn exit_codes(help: &str) -> BTreeSet<String> {
    let (_, codes) = help.split_once("Exit codes: ").unwrap();
    let codes = codes
        .split([',', '\n'])
        .filter_map(|code| code.trim().split(' ').next());
    let is_number = |code: &&str| !code.is_empty() && code.bytes().all(|b| b.is_ascii_digit());
    codes.filter(is_number).map(str::to_owned).collect()
}
