//! All clients that this machine has, each connected to one daemon.

use crate::daemon::Daemon;
use crate::party::{Answer, Command, Door, Held, NAMES, Party, Put, party};

pub(crate) struct Crew(pub(crate) Vec<Member>);

pub(crate) struct Member {
    pub(crate) name: &'static str,
    party: Box<dyn Party>,
}

impl Crew {
    pub(crate) fn of(daemon: &Daemon) -> Crew {
        Crew::at(&Door::of(daemon))
    }

    pub(crate) fn at(door: &Door) -> Crew {
        Crew(
            NAMES
                .iter()
                .filter_map(|name| Member::of(name, door))
                .collect(),
        )
    }

    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|member| member.name).collect()
    }

    pub(crate) fn member(&mut self, name: &str) -> &mut Member {
        let mut members = self.0.iter_mut();
        members.find(|member| member.name == name).unwrap()
    }

    /// Has everyone subscribe to a pattern, and mirror it who can, and take what is there now.
    pub(crate) fn watch(&mut self, pattern: &str) {
        for member in &mut self.0 {
            let pattern = pattern.to_owned();
            member.do_it(Command::Subscribe {
                pattern: pattern.clone(),
            });
            member.do_it(Command::Told);
            if member.has_library() {
                member.do_it(Command::Mirror { pattern });
                member.do_it(Command::State);
            }
        }
    }
}

impl Member {
    pub(crate) fn of(name: &'static str, door: &Door) -> Option<Member> {
        party(name, door).map(|party| Member { name, party })
    }

    /// Whether there is a library, with all that it offers.
    pub(crate) fn has_library(&self) -> bool {
        self.name != "nc"
    }

    pub(crate) fn ask(&mut self, command: Command) -> Answer {
        self.party.ask(&command)
    }

    /// Carries out what is to succeed.
    pub(crate) fn do_it(&mut self, command: Command) -> Answer {
        let answer = self.party.ask(&command);
        let is_done = answer.refused.is_none() && answer.failed.is_none();
        assert!(is_done, "{}: {command:?}: {answer:?}", self.name);
        answer
    }

    /// Puts a value without terms, and gives its revision.
    pub(crate) fn put(&mut self, key: &str, value: &Held) -> u64 {
        let put = Command::Put(Put::new(key, value.clone()));
        self.do_it(put).rev.unwrap()
    }

    pub(crate) fn get(&mut self, key: &str) -> Option<Held> {
        let key = key.to_owned();
        let entries = self.do_it(Command::Get { key }).entries;
        entries.into_iter().next().map(|entry| entry.value)
    }

    /// Asks for states, or for what is told, until it is of this revision or a later one.
    pub(crate) fn follow(&mut self, what: &Command, rev: u64) -> Vec<Answer> {
        let mut steps = Vec::new();
        loop {
            let step = self.do_it(what.clone());
            let is_there = step.rev.unwrap() >= rev;
            steps.push(step);
            if is_there {
                return steps;
            }
        }
    }
}

impl Door {
    pub(crate) fn of(daemon: &Daemon) -> Door {
        Door {
            address: daemon.socket().to_str().unwrap().to_owned(),
            token: None,
        }
    }
}
