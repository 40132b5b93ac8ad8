//! A process that announces things, changes what it says of them, takes some back and says them again.
//!
//! Whatever becomes of its calls, there is to be in the end what it has last said of each key that it has
//! not taken back.

use std::collections::BTreeMap;

use nkv::client::Announcement;

use crate::children::{Stage, say};

const KEYS: u64 = 4;

/// Plays an announcer: on `pause` it says what it announces, on `go` it goes on.
pub(crate) fn play(mut stage: Stage) {
    let mut announced: BTreeMap<String, (Announcement, u64)> = BTreeMap::new();
    let mut value = 0;
    loop {
        if let Ok(order) = stage.orders.try_recv() {
            match order.as_str() {
                "pause" => {
                    let told: BTreeMap<&String, u64> = announced
                        .iter()
                        .map(|(key, (_, value))| (key, *value))
                        .collect();
                    say(&serde_json::to_string(&told).unwrap());
                    assert_eq!(stage.orders.recv().unwrap(), "go");
                }
                order => panic!("what is {order}?"),
            }
        }
        value += 1;
        let key = format!("here.{}.{}", stage.number, stage.random.below(KEYS));
        match announced.get_mut(&key) {
            None => {
                // Where this fails it is not announced.
                if let Ok(announcement) = stage.link.announce(&key, &value) {
                    announced.insert(key, (announcement, value));
                }
            }
            Some(_) if stage.random.once_in(3) => drop(announced.remove(&key)),
            Some((announcement, announced)) => {
                // Where this fails, the value counts all the same.
                let _ = announcement.set(&value);
                *announced = value;
            }
        }
        if stage.random.once_in(2) {
            std::thread::sleep(stage.random.pause(50));
        }
    }
}
