//! The list of `unsafe` blocks in `SECURITY.md`, held against the source.
//!
//! The source is read as text, without comments: the word `unsafe`, as a whole word, is a block, a
//! function or an implementation, and each has to be on the list. What tests do is not.

use std::collections::BTreeMap;
use std::path::Path;

use crate::table::table;

pub(crate) fn check(path: &str, text: &str) {
    let (heading, rows) = table(path, text, "file");
    assert_eq!(heading[1], "blocks");
    let listed: BTreeMap<String, usize> = rows
        .into_iter()
        .map(|row| {
            assert!(
                row[2..].iter().all(|reason| !reason.is_empty()),
                "{path}: {row:?}"
            );
            (row[0].clone(), row[1].parse().expect("blocks are counted"))
        })
        .collect();
    let mut found = BTreeMap::new();
    collect(Path::new("src"), &mut found);
    assert_eq!(found, listed, "left: the source; right: {path}");
}

/// How often a source says `unsafe`.
pub(crate) fn count(source: &str) -> usize {
    let is_of_word = |c: char| c.is_alphanumeric() || c == '_';
    let code = source
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default());
    code.flat_map(|line| line.split(|c| !is_of_word(c)))
        .filter(|word| *word == "unsafe")
        .count()
}

fn collect(directory: &Path, found: &mut BTreeMap<String, usize>) {
    for entry in std::fs::read_dir(crate::root().join(directory)).unwrap() {
        let path = directory.join(entry.unwrap().file_name());
        let full = crate::root().join(&path);
        if full.is_dir() {
            collect(&path, found);
            continue;
        }
        let count = count(&std::fs::read_to_string(full).unwrap());
        if count > 0 {
            found.insert(path.to_string_lossy().into_owned(), count);
        }
    }
}
