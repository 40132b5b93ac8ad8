//! The processes that mirror. They are asked for their `state`, and what it has come to at the `end`.
//!
//! One has two mirrors with threads over one link, of everything as it is and of a part as a type; its
//! handlers are slow at times. The other has one without a thread, and is slow most of the time.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use nkv::client::{Mirror, Value};

use crate::children::{Stage, say};
use crate::random::Random;
use crate::witness::{Item, Told, Witness};

/// Plays mirrors with threads.
pub(crate) fn play(mut stage: Stage) {
    let all = Arc::new(Mutex::new(Witness::<Value>::new()));
    let items = Arc::new(Mutex::new(Witness::<Item>::new()));
    let builder = stage.link.mirror("*").unwrap();
    let mirror = builder
        .on_cut(taking(&all, Random::new(stage.random.below(1000), 1)))
        .start()
        .unwrap();
    let builder = stage.link.mirror("w").unwrap().typed::<Item>();
    let item_mirror = builder
        .on_cut(taking(&items, Random::new(stage.random.below(1000), 2)))
        .start()
        .unwrap();
    for order in &stage.orders {
        match order.as_str() {
            "state" => say(&format!(
                "{} {}",
                state(&all, &mirror),
                state(&items, &item_mirror)
            )),
            "revs" => say(&all.lock().unwrap().revs(&mirror.view()).join(" ")),
            "end" => say(&account(&all.lock().unwrap())),
            order => panic!("what is {order}?"),
        }
    }
}

fn taking<T: Told>(
    witness: &Arc<Mutex<Witness<T>>>,
    mut random: Random,
) -> impl FnMut(&nkv::client::Cut<T>) + use<T> {
    let witness = Arc::clone(witness);
    move |cut| {
        witness.lock().unwrap().take(cut);
        if random.once_in(100) {
            std::thread::sleep(random.pause(500));
        }
    }
}

/// The sum over what a mirror holds, if it has told all of it.
fn state<T: Told>(witness: &Mutex<Witness<T>>, mirror: &Mirror<T>) -> String {
    let witness = witness.lock().unwrap();
    let view = mirror.view();
    if view.rev().unwrap_or(0) == witness.rev() && witness.cuts > 0 {
        witness.check(&view).to_string()
    } else {
        "busy".into()
    }
}

fn account<T>(witness: &Witness<T>) -> String {
    let Witness {
        cuts,
        resets,
        changes,
        ..
    } = witness;
    format!("{cuts} {resets} {changes}")
}

/// Plays a mirror without a thread.
pub(crate) fn follow(mut stage: Stage) {
    let mut witness = Witness::<Value>::new();
    let mut follower = stage.link.mirror("*").unwrap().follow();
    loop {
        if let Some(cut) = follower.next_cut(Some(Duration::from_millis(20))).unwrap() {
            witness.take(&cut);
            witness.check(&follower.view());
        }
        // Long enough to be left behind.
        if stage.random.once_in(40) {
            std::thread::sleep(stage.random.pause(2000));
        }
        while let Ok(order) = stage.orders.try_recv() {
            match order.as_str() {
                "state" if witness.cuts == 0 => say("busy busy"),
                "state" => say(&format!("{} -", witness.check(&follower.view()))),
                "revs" => say(&witness.revs(&follower.view()).join(" ")),
                "end" => say(&account(&witness)),
                order => panic!("what is {order}?"),
            }
        }
    }
}
