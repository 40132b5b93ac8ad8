//! The code map of `docs/architecture.md`, held against the sources.
//!
//! Every source file stands in the map, everything in the map exists, and what a file imports stands
//! above it or in the same module.

use std::path::Path;

use crate::table::table;

pub(crate) fn check(path: &str, text: &str) {
    let (_, rows) = table(path, text, "file");
    let files: Vec<&str> = rows.iter().flat_map(|row| row[0].split(", ")).collect();
    let sources = crate::root().join("src");
    for file in &files {
        assert!(sources.join(file).exists(), "{path}: there is no {file}");
    }
    let mut found = Vec::new();
    collect(&sources, &mut found);
    for file in &found {
        let name = file.strip_prefix(&sources).unwrap().to_str().unwrap();
        let is_named =
            |named: &&&str| name == **named || (named.ends_with('/') && name.starts_with(**named));
        assert!(
            files.iter().any(|named| is_named(&named)),
            "{path}: {name} is not in the map"
        );
        let module = module_of(name);
        let text = std::fs::read_to_string(file).unwrap();
        for import in text.split("crate::").skip(1) {
            let end = import.find(|c: char| !c.is_ascii_lowercase()).unwrap();
            let place = |module: &str| files.iter().position(|file| module_of(file) == module);
            // What begins with a capital is lib.rs's; in a program, `crate` is the program.
            if let (Some(imported), Some(own)) = (place(&import[..end]), place(module)) {
                assert!(imported <= own, "{path}: {name} imports {}", &import[..end]);
            }
        }
    }
}

/// The module of the library that a file is a part of.
fn module_of(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap_or_default()
}

fn collect(directory: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else {
            found.push(path);
        }
    }
}
