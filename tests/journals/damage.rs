//! What becomes of journals that are not as they were written: cut at any byte, with any bit flipped, and
//! worse.
//!
//! A load either fails with the file, the line and the offset, or what it gives is what the lines that
//! were not touched come to, and in their order without a gap: nothing that nobody put, and no half of
//! a batch. With `recover` it always gives what those lines come to, gap or not.
//!
//! [`check`] knows nothing of checksums: a line is sound where it is one of those that the daemon has
//! written. Both files of a daemon are read together, and one of them is damaged at a time.

use std::collections::HashSet;
use std::sync::LazyLock;

use nkv::journal::{JournalError, Storage};
use nkv::key::KeyRef;
use nkv::keyspace::{Class, Terms};
use nkv::wire::Payload;

use crate::pair::{Bench, Line, Loaded, NOW, Pair, RUN, State, state_of};

const CLASSES: [Class; 2] = [Class::Durable, Class::Boot];

/// Every line that the daemon has written.
static WRITTEN: LazyLock<HashSet<&[u8]>> = LazyLock::new(|| {
    let files = CLASSES.iter().map(|class| RUN.last().file(*class));
    let lines = files.flat_map(|file| file.split(|byte| *byte == b'\n'));
    lines.filter(|line| !line.is_empty()).collect()
});

/// One line of a file as it is now.
struct Found<'a> {
    number: u64,
    offset: usize,
    /// Without the line end.
    text: &'a [u8],
    is_whole: bool,
    is_sound: bool,
}

/// What a pair has to come to.
#[derive(Debug)]
enum Expected {
    Damaged(Class, u64, usize),
    Loads {
        state: State,
        is_unbroken: bool,
        /// Which files have to be kept under another name.
        aside: Vec<Class>,
    },
}

/// What each journal of a pair has that can be counted on.
struct Sound<'a> {
    lines: Vec<&'a [u8]>,
    /// Whether something was here that someone may have heard of.
    has_lost: bool,
    has_header: bool,
    is_aside: bool,
}

fn lines(file: &[u8]) -> Vec<Found<'_>> {
    let mut offset = 0;
    let parts = file.split_inclusive(|byte| *byte == b'\n').enumerate();
    parts
        .map(|(at, part)| {
            let text = part.strip_suffix(b"\n").unwrap_or(part);
            let is_whole = text.len() < part.len();
            offset += part.len();
            Found {
                number: at as u64 + 1,
                offset: offset - part.len(),
                text,
                is_whole,
                is_sound: is_whole && is_header(text) == (at == 0) && WRITTEN.contains(text),
            }
        })
        .collect()
}

fn is_header(text: &[u8]) -> bool {
    text.get(9..)
        .is_some_and(|json| json.starts_with(b"{\"journal\""))
}

/// The sound lines of one file, or where it is damaged.
fn sound(file: &[u8], recover: bool) -> Result<Sound<'_>, (u64, usize)> {
    let lines = lines(file);
    let has_header = lines.first().is_some_and(|line| line.is_sound);
    if !has_header && !recover {
        return Err((1, 0));
    }
    let end = lines.iter().rposition(|line| line.is_sound);
    let end = end.map_or(0, |last| last + 1);
    let gap = lines[..end].iter().find(|line| !line.is_sound);
    if let Some(gap) = gap.filter(|_| !recover) {
        return Err((gap.number, gap.offset));
    }
    let tail = &lines[end..];
    let sound = lines.iter().skip(1).filter(|line| line.is_sound);
    Ok(Sound {
        lines: sound.map(|line| line.text).collect(),
        // The beginning of a line is what a crash leaves, and nobody has heard of it.
        has_lost: gap.is_some() || tail.len() > 1 || tail.iter().any(|line| line.is_whole),
        has_header,
        is_aside: gap.is_some() || !has_header,
    })
}

fn expected(pair: &Pair, recover: bool) -> Expected {
    let durable = match sound(&pair.durable, recover) {
        Ok(durable) => durable,
        Err((line, offset)) => return Expected::Damaged(Class::Durable, line, offset),
    };
    // A boot journal without a single line end is what a power cut leaves of one that was not synced.
    let is_written = pair.boot.contains(&b'\n');
    let mut boot = match sound(&pair.boot, recover || !is_written) {
        Ok(boot) => boot,
        Err((line, offset)) => return Expected::Damaged(Class::Boot, line, offset),
    };
    let mut aside = Vec::new();
    aside.extend(durable.is_aside.then_some(Class::Durable));
    aside.extend((boot.is_aside && is_written).then_some(Class::Boot));
    // Without its name it isn't known whose it is. The durable journal's may be known from there.
    if !boot.has_header {
        boot.lines.clear();
    }
    let rev = durable.lines.iter().map(|line| Line::read(line).rev).max();
    let lacks_half = |line: &&[u8]| Line::read(line).with > rev;
    // The last line of all may be half of a commit that never was.
    boot.lines.pop_if(|line| lacks_half(&&**line));
    let is_unbroken = !durable.has_lost && !boot.has_lost && durable.has_header && boot.has_header;
    Expected::Loads {
        is_unbroken: is_unbroken && !boot.lines.iter().any(lacks_half),
        state: state_of(&durable.lines, &boot.lines),
        aside,
    }
}

/// Loads a pair and holds it against what is expected; returns whether it could be loaded.
fn check(bench: &Bench, pair: &Pair, recover: bool, case: &str) -> Option<Loaded> {
    bench.lay(pair);
    let (state, is_unbroken, aside) = match (bench.load(recover), expected(pair, recover)) {
        (Err(error), Expected::Damaged(class, line, offset)) => {
            assert_damaged(&error, bench, (class, line, offset), case);
            for class in CLASSES {
                let file = std::fs::read(bench.path(class)).unwrap();
                assert_eq!(&file, pair.file(class), "{case}: it is left alone");
            }
            return None;
        }
        (Err(error), expected) => panic!("{case}: {error} instead of {expected:?}"),
        (Ok(loaded), Expected::Damaged(..)) => panic!("{case}: it loads as {loaded:?}"),
        (
            Ok(loaded),
            Expected::Loads {
                state,
                is_unbroken,
                aside,
            },
        ) => {
            loaded.assert_is(&state, case);
            assert_eq!(loaded.epoch == RUN.epoch, is_unbroken, "{case}");
            assert!(
                loaded.keyspace.rev() >= RUN.rev || !is_unbroken,
                "{case}: revision {} was given before",
                loaded.keyspace.rev()
            );
            (state, is_unbroken, aside)
        }
    };
    for class in CLASSES {
        let kept = bench.take_aside(class);
        let wanted = aside.contains(&class).then(|| pair.file(class).clone());
        assert_eq!(kept, Vec::from_iter(wanted), "{case}");
    }
    let again = bench
        .load(false)
        .unwrap_or_else(|error| panic!("{case}: {error}"));
    again.assert_is(&state, case);
    assert_eq!(again.epoch == RUN.epoch, is_unbroken, "{case}");
    Some(again)
}

fn assert_damaged(error: &JournalError, bench: &Bench, at: (Class, u64, usize), case: &str) {
    let (class, number, start) = at;
    let JournalError::Damaged {
        path, line, offset, ..
    } = error
    else {
        panic!("{case}: {error}");
    };
    assert_eq!(
        (path, *line, *offset),
        (&bench.path(class), number, start as u64),
        "{case}: {error}"
    );
}

/// The reader that says what is expected is right.
#[test]
fn lines_come_to_what_the_daemon_had() {
    let bench = Bench::new();
    for (pair, answered) in RUN.pairs.iter().zip(&RUN.states) {
        let case = format!("after {} bytes", pair.durable.len());
        let Expected::Loads { state, .. } = expected(pair, false) else {
            panic!("it is not damaged");
        };
        let mut shown = state.clone();
        for held in shown.values_mut() {
            held.deadline = None;
        }
        assert_eq!(&shown, answered);
        let loaded = check(&bench, pair, false, &case).unwrap();
        assert_eq!(loaded.epoch, RUN.epoch);
    }
}

#[test]
fn a_file_cut_anywhere_is_a_prefix() {
    let bench = Bench::new();
    for class in CLASSES {
        let file = RUN.last().file(class);
        let first_line = file.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for len in 0..file.len() {
            let case = format!("{class:?} cut at {len}");
            let cut = RUN.last().with(class, file[..len].to_vec());
            let loaded = check(&bench, &cut, false, &case);
            let is_readable = len >= first_line || class == Class::Boot;
            assert_eq!(loaded.is_some(), is_readable, "{case}");
            // The rest of it for some.
            if len < first_line || len % 8 == 0 {
                drop(loaded);
                check(&bench, &cut, true, &case).unwrap();
            } else if let Some(loaded) = loaded.filter(|_| len % 4 == 0) {
                goes_on(&bench, loaded, &case);
            }
        }
    }
}

/// What is written next is not spoilt by what was there.
fn goes_on(bench: &Bench, mut loaded: Loaded, case: &str) {
    let before = loaded.keyspace.rev();
    let (key, value) = (KeyRef::new("next").unwrap(), Payload::Json("1".into()));
    loaded.keyspace.begin();
    let rev = loaded.keyspace.put(key, &value, Terms::default());
    let committed = loaded.journals.commit(&loaded.keyspace, before, NOW);
    committed.unwrap();
    drop(loaded);
    let loaded = bench.load(false).unwrap();
    let entry = loaded.keyspace.entry(key).expect(case);
    assert_eq!(entry.rev, rev, "{case}");
}

#[test]
fn a_flipped_bit_of_the_durable_journal_is_noticed() {
    flip_each_bit(Class::Durable);
}

#[test]
fn a_flipped_bit_of_the_boot_journal_is_noticed() {
    flip_each_bit(Class::Boot);
}

fn flip_each_bit(class: Class) {
    let bench = Bench::new();
    let file = RUN.last().file(class);
    for at in 0..file.len() {
        for bit in 0..8 {
            let case = format!("bit {bit} of byte {at} flipped");
            check(&bench, &flipped(class, at, bit), false, &case);
        }
    }
}

fn flipped(class: Class, at: usize, bit: usize) -> Pair {
    let mut file = RUN.last().file(class).clone();
    file[at] ^= 1 << bit;
    RUN.last().with(class, file)
}

/// Each bit of some bytes, for it takes longer; every line has its turn.
#[test]
fn what_is_sound_is_recovered_after_a_flipped_bit() {
    let bench = Bench::new();
    for class in CLASSES {
        let file = RUN.last().file(class);
        for at in (0..file.len()).step_by(5) {
            let bit = at % 8;
            let case = format!("{class:?} with bit {bit} of byte {at} flipped");
            check(&bench, &flipped(class, at, bit), true, &case).unwrap();
        }
    }
}

#[test]
fn worse_things_happen_to_files() {
    let bench = Bench::new();
    for class in CLASSES {
        let file = RUN.last().file(class);
        let lines: Vec<&[u8]> = file.split_inclusive(|byte| *byte == b'\n').collect();
        let joined = |lines: Vec<&[u8]>| lines.concat();
        let garbage = b"garbage".as_slice();
        let mut several = file.clone();
        for line in [2, 4, 5] {
            let offset = lines[..line].concat().len();
            several[offset + 20] ^= 0xff;
        }
        let mut one_more = lines.clone();
        one_more.insert(4, b"a whole line of garbage\n");
        let mut empty_line = lines.clone();
        empty_line.insert(4, b"\n");
        // A checksum says nothing of the order or the number of lines: a record that comes twice says
        // the same again, and what stood in a line that is gone was never written.
        let mut twice = lines.clone();
        twice.insert(4, lines[4]);
        let mut last_twice = lines.clone();
        last_twice.extend(lines.last());
        let mut one_less = lines.clone();
        one_less.remove(4);
        for (case, file) in [
            ("empty", Vec::new()),
            ("several lines damaged", several),
            ("a line of garbage within", joined(one_more)),
            ("an empty line within", joined(empty_line)),
            ("zeros at the end", joined(vec![file, &[0; 5000]])),
            ("garbage at the end", joined(vec![file, garbage])),
            (
                "lines of garbage at the end",
                joined(vec![file, b"a\nb\nc"]),
            ),
            ("nothing but zeros", vec![0; file.len()]),
            ("nothing but garbage", garbage.repeat(100)),
            ("a line twice", joined(twice)),
            ("the last line twice", joined(last_twice)),
            ("a line less", joined(one_less)),
            ("the header twice", joined(vec![lines[0], file])),
        ] {
            let case = format!("{class:?}: {case}");
            let pair = RUN.last().with(class, file);
            check(&bench, &pair, false, &case);
            check(&bench, &pair, true, &case).unwrap();
        }
    }
}

#[test]
fn a_directory_is_no_journal() {
    for class in CLASSES {
        let bench = Bench::new();
        bench.lay(RUN.last());
        let path = bench.path(class);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        for recover in [false, true] {
            let error = bench.load(recover).unwrap_err();
            assert!(matches!(error, JournalError::Io { .. }), "{error}");
            assert!(
                error.to_string().contains(path.to_str().unwrap()),
                "{error}"
            );
        }
    }
}
