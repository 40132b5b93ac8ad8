//! Many connections of one thread, each with something to say over and over, as fast as it goes.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use crate::attacker::{Ground, outcome};

/// How a connection treats what it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Appetite {
    /// It reads whatever there is.
    All,
    /// It reads nothing.
    Nothing,
}

/// One of the crowd.
pub(crate) struct Member<S> {
    stream: S,
    words: Rc<[u8]>,
    said: usize,
    /// Where it begins again when it has said all; it falls silent where there is nothing.
    again: Option<usize>,
    appetite: Appetite,
    /// How much it writes at once.
    pub(crate) bite: usize,
    head: Vec<u8>,
    is_open: bool,
}

impl<S: Read + Write> Member<S> {
    /// `first` is said once, `then` over and over. The stream must not block.
    pub(crate) fn new(stream: S, first: &[u8], then: &[u8], appetite: Appetite) -> Member<S> {
        let words: Rc<[u8]> = [first, then].concat().into();
        Member::saying(
            stream,
            words,
            (!then.is_empty()).then_some(first.len()),
            appetite,
        )
    }

    /// The same with words that several share.
    pub(crate) fn saying(
        stream: S,
        words: Rc<[u8]>,
        again: Option<usize>,
        appetite: Appetite,
    ) -> Member<S> {
        Member {
            stream,
            words,
            said: 0,
            again,
            appetite,
            bite: usize::MAX,
            head: Vec::new(),
            is_open: true,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.is_open
    }

    pub(crate) fn has_said_all(&self) -> bool {
        self.said == self.words.len() && self.again.is_none()
    }

    /// Writes what the socket takes; true where that was something.
    fn say(&mut self) -> bool {
        if self.said == self.words.len() {
            match self.again {
                Some(again) => self.said = again,
                None => return false,
            }
        }
        let rest = &self.words[self.said..];
        match self.stream.write(&rest[..rest.len().min(self.bite)]) {
            Ok(written) => self.said += written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(_) => self.is_open = false,
        }
        true
    }

    /// Reads what there is; true where that was something.
    fn hear(&mut self, buffer: &mut [u8], ground: &mut Ground) -> bool {
        if self.appetite == Appetite::Nothing {
            return false;
        }
        let read = match self.stream.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Ok(0) | Err(_) => {
                self.is_open = false;
                ground.tally.add("ended by the daemon", 1);
                return true;
            }
            Ok(read) => read,
        };
        self.count_lines(&buffer[..read], ground);
        true
    }

    fn count_lines(&mut self, mut bytes: &[u8], ground: &mut Ground) {
        const HEAD: usize = 200;
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            if self.head.is_empty() {
                ground.tally.add(outcome(&bytes[..end]), 1);
            } else {
                let more = end.min(HEAD.saturating_sub(self.head.len()));
                self.head.extend_from_slice(&bytes[..more]);
                ground.tally.add(outcome(&self.head), 1);
                self.head.clear();
            }
            bytes = &bytes[end + 1..];
        }
        let more = bytes.len().min(HEAD.saturating_sub(self.head.len()));
        self.head.extend_from_slice(&bytes[..more]);
    }
}

/// Lets all of them say and hear what they can until the time is over, or until `enough`.
pub(crate) fn run<S: Read + Write>(
    ground: &mut Ground,
    members: &mut [Member<S>],
    mut enough: impl FnMut(&[Member<S>]) -> bool,
) {
    while !ground.is_over() && !enough(members) {
        if !sweep(ground, members) {
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
    }
}

/// Lets each say and hear what it can, once; false where that is nothing.
pub(crate) fn sweep<S: Read + Write>(ground: &mut Ground, members: &mut [Member<S>]) -> bool {
    let mut buffer = vec![0; 64 << 10];
    let mut any = false;
    for member in members.iter_mut().filter(|member| member.is_open) {
        any |= member.say();
        any |= member.hear(&mut buffer, ground);
    }
    any
}

/// Lets them talk until all have come to the same place of what they say over and over.
pub(crate) fn run_until_said<S: Read + Write>(
    ground: &mut Ground,
    members: &mut [Member<S>],
    place: usize,
) {
    let end = members.first().map_or(0, |member| member.words.len());
    let place = if place == 0 { end } else { place };
    let is_there = |member: &Member<S>| !member.is_open || member.said == place;
    let mut buffer = vec![0; 64 << 10];
    while !ground.is_over() && !members.iter().all(is_there) {
        let mut any = false;
        for member in members.iter_mut().filter(|member| member.is_open) {
            if member.said != place {
                let left = if member.said < place {
                    place - member.said
                } else {
                    place
                };
                let bite = std::mem::replace(&mut member.bite, left.min(64 << 10));
                any |= member.say();
                member.bite = bite;
            }
            any |= member.hear(&mut buffer, ground);
        }
        if !any {
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
    }
}

/// That nothing is enough: it goes on until the time is over.
pub(crate) fn never<S>(_: &[Member<S>]) -> bool {
    false
}

/// A crowd over Unix sockets in which each says the same: `first` once and `then` over and over.
pub(crate) fn gather(
    ground: &mut Ground,
    count: usize,
    first: &[u8],
    then: &[u8],
    appetite: Appetite,
) -> Vec<Member<UnixStream>> {
    let words: Rc<[u8]> = [first, then].concat().into();
    let again = (!then.is_empty()).then_some(first.len());
    let streams = ground.connect_up_to(count);
    let members = streams.into_iter().map(|stream| {
        stream.set_nonblocking(true).unwrap();
        Member::saying(stream, Rc::clone(&words), again, appetite)
    });
    members.collect()
}

/// The same, until the time is over.
pub(crate) fn flood(
    ground: &mut Ground,
    count: usize,
    first: &[u8],
    then: &[u8],
    appetite: Appetite,
) {
    let mut members = gather(ground, count, first, then, appetite);
    run(ground, &mut members, never);
}
