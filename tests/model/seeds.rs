//! The fuzz targets, played with their seeds: each seed is a finding, or where a search begins. Those
//! that are named were written, the others are what searches have come to.

use std::path::Path;

#[allow(unreachable_pub, reason = "the fuzz targets are another crate")]
#[path = "../../fuzz/src/targets.rs"]
pub(crate) mod targets;

#[expect(
    clippy::print_stdout,
    reason = "a test that fails shows what it printed: the last seed is the one"
)]
fn play(name: &str, target: fn(&[u8])) {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(name);
    let mut played = 0;
    for seed in std::fs::read_dir(&seeds).expect("every target has seeds") {
        let seed = seed.expect("the directory is readable").path();
        let bytes = std::fs::read(&seed).expect("a seed is readable");
        println!("{}", seed.display());
        target(&bytes);
        // A search would cut it anywhere. What a search has found is what such cuts come to already.
        if !is_found(&seed) {
            (0..bytes.len()).for_each(|end| target(&bytes[..end]));
        }
        played += 1;
    }
    assert!(played > 0, "{} has no seeds", seeds.display());
}

/// Whether a seed has the name that a search gives, the hash of what is in it.
fn is_found(seed: &Path) -> bool {
    let name = seed.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[test]
fn requests() {
    play("request", targets::request);
}

#[test]
fn lines_from_the_daemon() {
    play("incoming", targets::incoming);
}

#[test]
fn keys_and_patterns() {
    play("key", targets::key);
}

#[test]
fn sessions() {
    play("session", targets::session);
}

#[test]
fn journals() {
    play("journal", targets::journal);
}

#[test]
fn rules() {
    play("rules", targets::rules);
}

#[test]
fn options() {
    play("options", targets::options);
}

#[test]
fn addresses() {
    play("address", targets::address);
}

#[test]
fn tokens() {
    play("token", targets::token);
}

#[test]
fn histories() {
    play("history", targets::history);
}
