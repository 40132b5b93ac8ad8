//! What the daemon logs, held against what operators are told of it.
//!
//! A message is found in the source by the macro that logs it. Of each, the longest piece of text between
//! values and colons has to stand in the document.

use std::path::Path;

/// What makes a line that operators see; `debug!` and `trace!` are for whoever changes the code.
const MACROS: [&str; 3] = ["info!(", "warn!(", "error!("];

pub(crate) fn check(path: &str, text: &str) {
    let mut count = 0;
    for source in sources(&crate::root().join("src")) {
        let code = std::fs::read_to_string(&source).unwrap();
        for piece in MACROS.iter().flat_map(|name| code.split(name).skip(1)) {
            // Without a text of its own it logs what was put together elsewhere.
            let Some(message) = piece.trim_start().strip_prefix('"') else {
                continue;
            };
            let Some((message, _)) = message.split_once('"') else {
                continue;
            };
            let between_values = message.split(['{', '}']).step_by(2);
            let pieces = between_values.flat_map(|piece| piece.split(": "));
            let longest = pieces.max_by_key(|piece| piece.len()).unwrap_or_default();
            // Line ends within a message are continued with a backslash.
            let longest = longest.split("\\\n").next().unwrap_or_default().trim();
            // A message that is all values says nothing to look for.
            if !longest.is_empty() {
                let source = source.display();
                assert!(
                    text.contains(longest),
                    "{path} lacks {longest:?} of {source}"
                );
                count += 1;
            }
        }
    }
    assert!(count > 20, "only {count} messages are found");
}

fn sources(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        // The client logs nothing.
        if path.ends_with("nkv-client") {
            continue;
        }
        if path.is_dir() {
            found.extend(sources(&path));
        } else {
            found.push(path);
        }
    }
    found
}
