//! Completion of commands and keys in the shell.
//!
//! Keys are completed segment by segment, as a shell completes paths. They are asked from the daemon
//! one at a time: after each, the question skips all that lies below the segment that was found. So the
//! cost is bounded by the number of proposals, however large the keyspace is.

use nkv::Key;
use nkv::client::Client;
use rustyline::completion::Completer as Complete;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Helper};

use crate::arguments::shell_commands;

/// How many keys are proposed at most.
const PROPOSALS_MAX: usize = 64;

/// Completes what is being typed.
#[derive(Default)]
pub(crate) struct Completer {
    /// The daemon to ask for keys.
    pub(crate) client: Option<Client>,
}

impl Complete for Completer {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = &line[..position];
        let start = typed
            .rfind(char::is_whitespace)
            .map_or(0, |space| space + 1);
        let word = &typed[start..];
        if typed[..start].trim().is_empty() {
            return Ok((start, commands(word)));
        }
        let keys = match &self.client {
            Some(client) if takes_key(typed[..start].trim_start()) => keys(client, word),
            _ => Vec::new(),
        };
        Ok((start, keys))
    }
}

impl Hinter for Completer {
    type Hint = String;
}

impl Highlighter for Completer {}
impl Validator for Completer {}
impl Helper for Completer {}

/// Commands that begin with a word, in the case in which the word is written.
fn commands(word: &str) -> Vec<String> {
    let is_upper = word.chars().any(char::is_uppercase);
    let mut names = shell_commands();
    names.retain(|name| name.starts_with(&word.to_lowercase()));
    if is_upper {
        names
            .iter_mut()
            .for_each(|name| name.make_ascii_uppercase());
    }
    names.sort();
    names.iter_mut().for_each(|name| name.push(' '));
    names
}

/// Whether a key may come after these words: the first one is a command that takes one.
fn takes_key(before: &str) -> bool {
    let mut words = before.split_whitespace();
    let command = words.next().unwrap_or_default().to_lowercase();
    let has_key = words.any(|word| !word.starts_with('-'));
    let takes = [
        "get",
        "put",
        "delete",
        "del",
        "subscribe",
        "sub",
        "unsubscribe",
        "wait",
        "tree",
        "export",
        "announce",
        "record",
    ];
    takes.contains(&command.as_str()) && !has_key
}

/// Keys that begin with a text, up to the end of the segment. Errors are no proposals.
fn keys(client: &Client, prefix: &str) -> Vec<String> {
    let pattern = match prefix.rfind('.') {
        Some(dot) => format!("{}.*", &prefix[..dot]),
        None => "*".to_owned(),
    };
    let mut proposals = Vec::new();
    // The prefix itself may be a key, but completes nothing.
    let mut after = Key::new(prefix.trim_end_matches('.')).ok();
    while proposals.len() < PROPOSALS_MAX {
        let Ok(mut list) = client.list_keys(&pattern).map(|list| list.page(1)) else {
            break;
        };
        if let Some(key) = &after {
            list = list.after(key);
        }
        let Some(Ok(key)) = list.next() else { break };
        let Some(rest) = key.as_str().strip_prefix(prefix) else {
            if key.as_str() > prefix {
                break;
            }
            after = Some(key);
            continue;
        };
        match rest.find('.') {
            Some(dot) => {
                let segment = &key.as_str()[..prefix.len() + dot];
                proposals.push(format!("{segment}."));
                // The first text beyond everything below: the character after the dot.
                after = Key::new(&format!("{segment}/")).ok();
                if after.is_none() {
                    break;
                }
            }
            None => {
                proposals.push(key.to_string());
                after = Some(key);
            }
        }
    }
    proposals
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_completed() {
        assert_eq!(commands("unsub"), ["unsubscribe "]);
        assert_eq!(commands("EXI"), ["EXIT "]);
        assert_eq!(commands("s"), ["stats ", "sub ", "subscribe "]);
        assert!(commands("x").is_empty());
    }

    #[test]
    fn keys_stand_where_commands_take_them() {
        assert!(takes_key("get "));
        assert!(takes_key("GET --json "));
        assert!(!takes_key("put a "));
        assert!(!takes_key("stats "));
        assert!(!takes_key(""));
    }
}
