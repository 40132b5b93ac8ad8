//! Bytes to a history: what several clients do, a line an act.
//!
//! A line's first byte says what is done ([`ACTS`]) and the second at which seat; each byte behind
//! chooses among what the act can be, in the order in which it is told. A digit chooses by its value,
//! any other byte somehow, and a byte that is missing is a `0`. So every text is a history, and a line
//! that is cut, doubled or moved changes what it says and no other line. The first line of all says what
//! the place is like.
//!
//! A new act is a letter in [`ACTS`] and what it reads; the rest of it is the model's.

use nkv::access::Action;
use nkv::keyspace::Class;
use nkv::wire::Limits;

use crate::acts::{
    Act, Ask, Condition, Item, JSON, KEYS, LIFETIMES, NAMES, PATTERNS, Put, RESOURCES, SEATS,
    STARRED, Since, Taste, Value, WHO,
};
use crate::office::Office;
use crate::rights::{Line, Rights};

/// More acts than these tell nothing new, and take long.
const ACTS_MAX: usize = 100;
const ITEMS_MAX: usize = 8;

/// Requests first, then what else can happen.
const ACTS: &[u8] = b"pgldDbsucChixB.aqe+!mRr";

/// What is left of a line.
struct Row<'a>(&'a [u8]);

/// Carries out a history.
pub fn history(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n').map(Row);
    let mut place = lines.next().unwrap_or(Row(b""));
    let keeps = place.flag();
    let limits = limits(&mut place);
    let taste = Taste {
        more_keys: 0,
        burns: u32::from(!keeps),
        rules: 0,
        faults: u32::from(keeps),
        acts: ACTS_MAX,
    };
    let mut office = Office::new(limits, taste);
    for mut line in lines.take(ACTS_MAX) {
        office.perform(&line.act(keeps));
    }
    office.finish();
}

fn limits(place: &mut Row<'_>) -> Limits {
    let mut limits = Limits::default();
    limits.tombstones = [10_000, 0, 1, 2, 3][place.number(5)];
    if place.flag() {
        limits.message = 5000;
        limits.page = 2;
        limits.output = 300;
        limits.subscriptions = 2;
        limits.keys = 6;
        limits.bytes = 9000;
    }
    limits
}

impl Row<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&b'0', &[]));
        self.0 = rest;
        *first
    }

    /// A number below this one.
    fn number(&mut self, below: usize) -> usize {
        usize::from(self.byte().wrapping_sub(b'0')) % below
    }

    fn flag(&mut self) -> bool {
        self.number(2) == 1
    }

    fn one_of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.number(all.len())].clone()
    }

    fn act(&mut self, keeps: bool) -> Act {
        let letter = self.byte();
        let letter = match ACTS.contains(&letter) {
            true => letter,
            false => ACTS[usize::from(letter) % ACTS.len()],
        };
        match letter {
            b'.' => Act::Turn(self.one_of(&[usize::MAX, 1, 7, 40, 200])),
            b'+' => Act::Pass(self.one_of(&[1, 10, 25, 4000, 10_000])),
            // Only what is kept can fail to be, and can be there again.
            b'!' if keeps => Act::Break(self.class()),
            b'm' if keeps => Act::Mend(self.class()),
            b'R' if keeps => Act::Restart,
            b'r' => Act::Rules(self.rights()),
            b'!' | b'm' | b'R' => Act::Turn(usize::MAX),
            letter => {
                let seat = self.number(SEATS);
                match letter {
                    b'a' => Act::Appetite(seat, self.one_of(&[usize::MAX, 0, 1, 30, 300, 9000])),
                    b'q' => Act::Disconnect(seat),
                    b'e' => Act::End(seat),
                    // What is undone with its turn has to have taken no more than the turn.
                    b'B' if keeps => Act::Send(seat, Ask::Hello),
                    letter => Act::Send(seat, self.ask(letter)),
                }
            }
        }
    }

    fn ask(&mut self, letter: u8) -> Ask {
        match letter {
            b'p' => Ask::Put(self.put()),
            b'g' => Ask::Get(self.number(KEYS.len())),
            b'l' => Ask::List {
                pattern: self.number(STARRED),
                limit: self.option(5).map(|limit| limit as u64),
                after: self.option(KEYS.len()),
                keys_only: self.flag(),
            },
            b'd' => Ask::Delete(self.number(KEYS.len()), self.condition()),
            b'D' => Ask::DeleteAll(self.number(STARRED)),
            b'b' => Ask::Batch(self.items()),
            b's' => Ask::Subscribe {
                name: self.number(NAMES.len()),
                pattern: self.number(PATTERNS.len()),
                since: self.since(),
                exact: self.flag(),
                initial: !self.flag(),
                cuts: self.flag(),
            },
            b'u' => Ask::Unsubscribe(self.number(NAMES.len())),
            b'c' => Ask::Claim(self.number(KEYS.len())),
            b'C' => Ask::Release(self.number(KEYS.len())),
            b'h' => Ask::Hello,
            b'i' => Ask::Stats,
            b'B' => Ask::Burn(self.number(8)),
            _ => Ask::Garbage,
        }
    }

    fn put(&mut self) -> Put {
        Put {
            key: self.number(KEYS.len()),
            value: self.value(),
            lifetime: self
                .option(LIFETIMES.len() + 1)
                .map(|number| LIFETIMES[number - 1]),
            ttl: self.option(40).map(|ttl| ttl as u64),
            condition: self.condition(),
            if_changed: self.flag(),
        }
    }

    fn items(&mut self) -> Vec<Item> {
        let mut items = Vec::new();
        while !self.0.is_empty() && items.len() < ITEMS_MAX {
            items.push(match self.byte() {
                b'd' => Item::Delete(self.number(KEYS.len()), self.condition()),
                b'D' => Item::DeleteAll(self.number(STARRED)),
                b'c' => Item::Check(self.number(KEYS.len()), self.condition()),
                _ => Item::Put(self.put()),
            });
        }
        items
    }

    fn value(&mut self) -> Value {
        match self.byte().wrapping_sub(b'0') % 16 {
            number @ 0..=2 => Value::Number(number),
            number @ 3..=9 => Value::Json(usize::from(number - 3) % JSON.len()),
            number @ 10..=12 => Value::Bytes(number - 10),
            number => Value::Big(number - 13),
        }
    }

    fn condition(&mut self) -> Condition {
        match self.number(6) {
            0 | 4 | 5 => Condition::None,
            1 => Condition::Right,
            2 => Condition::Absent,
            _ => Condition::Off(1),
        }
    }

    fn since(&mut self) -> Since {
        match self.number(8) {
            0 => Since::None,
            1 => Since::LastSync,
            2 => Since::Ahead(1),
            3 => Since::OtherEpoch,
            number => Since::Ago([0, 1, 3, 9][number - 4]),
        }
    }

    fn class(&mut self) -> Class {
        self.one_of(&[Class::Durable, Class::Boot])
    }

    /// Four bytes a rule; no rules at all where there are none.
    fn rights(&mut self) -> Option<Rights> {
        let mut lines = Vec::new();
        while !self.0.is_empty() && lines.len() < ITEMS_MAX {
            let verdict = self.number(6);
            if verdict == 5 {
                lines.push(self.quota());
                continue;
            }
            let pattern = PATTERNS[self.number(PATTERNS.len())].to_owned();
            lines.push(match verdict {
                4 => Line::Lifetime {
                    pattern,
                    lifetime: self.one_of(&LIFETIMES),
                },
                verdict => Line::Rule {
                    is_allowed: verdict % 2 == 0,
                    who: self.one_of(&WHO),
                    actions: self.actions(),
                    pattern,
                },
            });
        }
        (!lines.is_empty()).then(|| Rights::new(lines))
    }

    fn quota(&mut self) -> Line {
        Line::Quota {
            who: self.one_of(&WHO),
            resource: self.one_of(&RESOURCES),
            amount: self.one_of(&[0, 1, 2, 3, 20, 5000]),
        }
    }

    /// A set of actions with something in it: a bit each.
    fn actions(&mut self) -> Vec<Action> {
        let bits = self.number(7) + 1;
        let all = Action::ALL.into_iter().enumerate();
        all.filter(|(bit, _)| bits & (1 << bit) != 0)
            .map(|(_, action)| action)
            .collect()
    }

    /// Nothing, or a number from 1 up to below this one.
    fn option(&mut self, below: usize) -> Option<usize> {
        Some(self.number(below)).filter(|number| *number > 0)
    }
}
