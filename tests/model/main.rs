//! Random work by several clients, held against a model that is too simple to be wrong.
//!
//! A case is a list of acts ([`acts::Act`]) that several clients perform on a broker in memory, in
//! lines of text, in pieces of any size, reading as much or as little as they like. The model
//! ([`model::Model`]) does the same on a map. Every answer must be the model's; every subscriber
//! makes a copy of what it covers out of its events alone, and the copy must be what the model had:
//! at each `sync`, whenever the broker says that it has nothing more to tell, and in the end.
//!
//! `NKV_MODEL_CASES` says how many cases each variant runs; some hundreds by default.

#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code, reason = "only what reads the command line is played")]
#[path = "../../src/bin/nkv-server/arguments.rs"]
mod arguments;
#[allow(dead_code, reason = "only what reads the command line is played")]
#[path = "../../src/bin/nkv-server/places.rs"]
mod places;

mod acts;
mod contradictions;
mod desk;
mod journals;
mod model;
mod number;
mod office;
mod pattern;
mod rights;
mod seeds;
mod strategy;
mod subscriber;

use nkv::wire::{Lifetime, Limits};
use proptest::test_runner::{Config, TestRunner};

use acts::{Act, Taste};
use office::Office;

/// A kind of case.
#[derive(Clone, Debug)]
struct Variant {
    limits: Limits,
    taste: Taste,
    /// Keys that are there before the case begins, and what they end with.
    furniture: (usize, Option<Lifetime>),
    /// How many cases make one of those that are asked for.
    cost: u32,
}

fn variant(set: impl FnOnce(&mut Limits)) -> Variant {
    let mut limits = Limits::default();
    set(&mut limits);
    Variant {
        limits,
        taste: Taste {
            more_keys: 0,
            burns: 1,
            rules: 0,
            faults: 0,
            acts: 100,
        },
        furniture: (0, None),
        cost: 1,
    }
}

/// Runs a case.
fn run(variant: &Variant, acts: &[Act]) {
    let mut office = Office::new(variant.limits.clone(), variant.taste);
    let (keys, lifetime) = variant.furniture;
    office.furnish(keys, lifetime);
    for act in acts {
        office.perform(act);
    }
    office.finish();
}

/// Runs as many cases as were asked for, and shrinks one that fails.
fn check(variant: &Variant) {
    let asked = std::env::var("NKV_MODEL_CASES").ok();
    let asked = asked.map(|cases| cases.parse().expect("NKV_MODEL_CASES is a number"));
    let cases = (asked.unwrap_or(256) / variant.cost).max(1);
    let config = Config {
        cases,
        max_shrink_iters: 20_000 / variant.cost,
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = TestRunner::new(config);
    let outcome = runner.run(&strategy::acts(variant.taste), |acts| {
        run(variant, &acts);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{variant:?}\n{failure}");
    }
}

#[test]
fn everything_is_remembered() {
    check(&variant(|_| {}));
}

#[test]
fn no_deletion_is_remembered() {
    check(&variant(|limits| limits.tombstones = 0));
}

#[test]
fn one_deletion_is_remembered() {
    check(&variant(|limits| limits.tombstones = 1));
}

#[test]
fn three_deletions_are_remembered() {
    check(&variant(|limits| limits.tombstones = 3));
}

#[test]
fn limits_are_tight() {
    check(&variant(|limits| {
        limits.message = 5000;
        limits.page = 2;
        limits.output = 300;
        limits.subscriptions = 2;
        limits.keys = 6;
        limits.bytes = 9000;
        limits.tombstones = 2;
    }));
}

/// The rules change while everybody is at work.
#[test]
fn rules_change() {
    let mut variant = variant(|limits| limits.tombstones = 3);
    variant.taste.rules = 8;
    check(&variant);
}

/// So many keys that walks, lists and deletions take several turns.
#[test]
fn there_are_many_keys() {
    check(&Variant {
        taste: Taste {
            more_keys: 6000,
            burns: 4,
            rules: 0,
            faults: 0,
            acts: 60,
        },
        furniture: (6000, Some(Lifetime::Session)),
        cost: 32,
        ..variant(|limits| limits.tombstones = 500)
    });
}

/// A kind of case in which commits fail, and the daemon is gone, at any time. Nothing in it takes more
/// than a turn.
fn keeping(set: impl FnOnce(&mut Limits)) -> Variant {
    let mut variant = variant(set);
    variant.taste.faults = 12;
    variant.taste.burns = 0;
    variant
}

#[test]
fn storage_fails() {
    check(&keeping(|_| {}));
}

#[test]
fn storage_fails_and_three_deletions_are_remembered() {
    check(&keeping(|limits| limits.tombstones = 3));
}

#[test]
fn storage_fails_and_rules_change() {
    let mut variant = keeping(|_| {});
    variant.taste.rules = 8;
    check(&variant);
}

#[test]
fn storage_fails_and_limits_are_tight() {
    check(&keeping(|limits| {
        limits.output = 300;
        limits.subscriptions = 2;
        limits.keys = 6;
        limits.tombstones = 1;
    }));
}
