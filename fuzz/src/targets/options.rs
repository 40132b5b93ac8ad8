//! The daemon's command line: what it takes, what its numbers are, and that it can be written again.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

use nkv::journal::Policy;
use nkv::server::Options;

use crate::arguments::{self, Arguments, Asked};
use crate::number::{number, size};

/// Longer command lines tell nothing new.
const WORDS_MAX: usize = 64;

/// Each line is a word of the command line. By itself, it is also a value of each option that takes a
/// number.
pub fn options(bytes: &[u8]) {
    let words: Vec<OsString> = bytes
        .split(|byte| *byte == b'\n')
        .take(WORDS_MAX)
        .map(|word| OsString::from_vec(word.to_vec()))
        .collect();
    match parse(&words) {
        Ok(Asked::Serve(arguments)) => {
            let again = parse(&written(&arguments));
            let Ok(Asked::Serve(again)) = again else {
                panic!(
                    "{arguments:?} can be written and read",
                    arguments = arguments.options
                );
            };
            let [told, again] =
                [arguments, again].map(|read| (read.log, format!("{:?}", read.options)));
            assert_eq!(told, again, "{words:?}");
        }
        Ok(Asked::CheckAccess(question)) => {
            let asked = [
                question.file.as_os_str().as_bytes(),
                question.user.as_bytes(),
                question.key.as_bytes(),
            ];
            let is_said = |said: &[u8]| words.iter().any(|word| word.as_bytes().ends_with(said));
            assert!(asked.into_iter().all(is_said), "{words:?}");
        }
        Ok(Asked::Print(text)) => assert!(text.ends_with('\n')),
        Err(message) => assert!(!message.is_empty()),
    }
    for value in words.iter().filter_map(|word| word.to_str()).take(3) {
        numbers(value);
    }
}

fn parse(words: &[OsString]) -> Result<Asked, String> {
    let program = OsString::from("nkv-server");
    arguments::parse(std::iter::once(program).chain(words.iter().cloned()))
}

/// The words that ask for the same.
fn written(arguments: &Arguments) -> Vec<OsString> {
    let Options {
        limits,
        socket_mode,
        addresses,
        token_file,
        access,
        socket_group,
        send_buffer,
        idle_exit,
        journals,
        ..
    } = &arguments.options;
    let mut words = Vec::new();
    let mut say = |name: &str, value: String| words.push(format!("--{name}={value}"));
    let path = |path: &std::path::Path| path.to_str().expect("it was text").to_owned();
    say("max-clients", limits.clients.to_string());
    say("max-message", limits.message.to_string());
    say("max-keys", limits.keys.to_string());
    say("max-bytes", limits.bytes.to_string());
    say("max-subscriptions", limits.subscriptions.to_string());
    say("tombstones", limits.tombstones.to_string());
    say("socket-mode", format!("{socket_mode:o}"));
    say(
        "send-buffer",
        send_buffer.expect("it has a default").to_string(),
    );
    say("log", arguments.log.clone());
    if let Some(file) = token_file {
        say("token-file", path(file));
    }
    if let Some(file) = access {
        say("access", path(file));
    }
    if let Some(group) = socket_group {
        say("socket-group", group.clone());
    }
    if let Some(idle) = idle_exit {
        say("idle-exit", idle.as_secs().to_string());
    }
    match journals {
        None => words.push("--in-memory".into()),
        Some(journals) => {
            say("data-dir", path(&journals.data_directory));
            say("runtime-dir", path(&journals.runtime_directory));
            let policy = match journals.policy {
                Policy::Always => "always".into(),
                Policy::Never => "never".into(),
                Policy::Interval(interval) => format!("interval={}", interval.as_millis()),
            };
            say("sync", policy);
            words.extend(journals.recover.then(|| "--recover".to_owned()));
        }
    }
    words.push("--".into());
    words.extend(addresses.iter().map(ToString::to_string));
    words.into_iter().map(OsString::from).collect()
}

/// A value of each option that takes a number, beside what it is by the definition.
fn numbers(value: &str) {
    let given = |name: &str| {
        let words = [
            "--in-memory".into(),
            format!("--{name}").into(),
            value.into(),
        ];
        match parse(&words) {
            Ok(Asked::Serve(arguments)) => Some(arguments.options),
            Ok(_) => panic!("{value:?} is a value"),
            Err(message) => {
                assert!(message.contains(name), "{name}: {message}");
                None
            }
        }
    };
    let check = |name: &str, least: u64, read: fn(&Options) -> u64| {
        let expected = size(value).filter(|size| *size >= least);
        assert_eq!(
            given(name).as_ref().map(read),
            expected,
            "--{name} {value:?}"
        );
    };
    check("max-clients", 1, |options| options.limits.clients);
    check("max-message", 4096, |options| options.limits.message);
    check("max-keys", 0, |options| options.limits.keys);
    check("max-bytes", 0, |options| options.limits.bytes);
    check("max-subscriptions", 0, |options| {
        options.limits.subscriptions
    });
    check("tombstones", 0, |options| options.limits.tombstones);
    check("send-buffer", 0, |options| {
        options.send_buffer.unwrap_or_default() as u64
    });
    let mode = number(value, 8).filter(|mode| *mode <= 0o777);
    let told = given("socket-mode").map(|options| u64::from(options.socket_mode));
    assert_eq!(told, mode, "--socket-mode {value:?}");
    let seconds = number(value, 10).filter(|seconds| *seconds >= 1);
    let told = given("idle-exit").and_then(|options| options.idle_exit);
    assert_eq!(
        told,
        seconds.map(Duration::from_secs),
        "--idle-exit {value:?}"
    );
}
