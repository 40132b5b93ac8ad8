//! The notation for lines in and out of connections.
//!
//! `> LINE` is sent and `< LINE` is received; with more than one client, each stands behind a
//! capital letter, as in `A> LINE`. What is received is compared as text, in order, and whole: a line
//! that the daemon sends and the document leaves out fails as well. A line that begins with `--` is a
//! stage direction ([`Direction`]).
//!
//! Words behind `nkv` in the fence set the stage: `tombstones=2` and other limits, `tcp` for clients
//! that come over TCP, `token=TEXT` for what they have to know; `memory` or `socket` where a block makes
//! sense only there.

use crate::document::Block;

pub(crate) struct Script {
    /// For messages: the document.
    path: String,
    pub(crate) only_in_memory: bool,
    pub(crate) only_over_a_socket: bool,
    pub(crate) tcp: bool,
    pub(crate) token: Option<String>,
    /// Limits that differ from the defaults, by their names in `hello`.
    pub(crate) limits: Vec<(String, u64)>,
    pub(crate) steps: Vec<(usize, Step)>,
}

pub(crate) enum Step {
    Send(char, String),
    Receive(char, String),
    Direct(Direction),
}

pub(crate) enum Direction {
    /// `-- 200 ms later`
    Later(u64),
    /// `-- A stops reading`
    StopsReading(char),
    /// `-- A reads again`
    ReadsAgain(char),
    /// `-- A closes its connection`
    Closes(char),
    /// `-- A half-closes`
    HalfCloses(char),
    /// `-- the daemon closes A's connection`
    IsClosed(char),
}

pub(crate) fn parse(path: &str, block: &Block) -> Script {
    let mut script = Script {
        path: path.into(),
        only_in_memory: false,
        only_over_a_socket: false,
        tcp: false,
        token: None,
        limits: Vec::new(),
        steps: Vec::new(),
    };
    for word in block.info.split(' ').skip(1) {
        match (word, word.split_once('=')) {
            ("memory", _) => script.only_in_memory = true,
            ("socket", _) => script.only_over_a_socket = true,
            ("tcp", _) => script.tcp = true,
            (_, Some(("token", token))) => script.token = Some(token.into()),
            (_, Some((name, limit))) => {
                script
                    .limits
                    .push((name.into(), limit.parse().expect("a limit is a number")));
            }
            _ => panic!("{path}: what does {word:?} in a fence mean?"),
        }
    }
    for (number, line) in &block.lines {
        let step = if let Some(words) = line.strip_prefix("-- ") {
            direction(words).map(Step::Direct)
        } else {
            let (client, rest) = match line.as_bytes() {
                [client @ b'A'..=b'Z', b'>' | b'<', ..] => (char::from(*client), &line[1..]),
                _ => ('A', &line[..]),
            };
            match rest.split_at_checked(2) {
                Some(("> ", text)) => Some(Step::Send(client, text.into())),
                Some(("< ", text)) => Some(Step::Receive(client, text.into())),
                _ => None,
            }
        };
        match step {
            Some(step) => script.steps.push((*number, step)),
            None => script.fail(*number, &format!("no line of a transcript: {line}")),
        }
    }
    script
}

fn direction(words: &str) -> Option<Direction> {
    let words: Vec<&str> = words.split(' ').collect();
    let client = |name: &str| name.parse::<char>().ok().filter(char::is_ascii_uppercase);
    match words[..] {
        [time, "ms", "later"] => time.parse().ok().map(Direction::Later),
        [name, "stops", "reading"] => client(name).map(Direction::StopsReading),
        [name, "reads", "again"] => client(name).map(Direction::ReadsAgain),
        [name, "closes", "its", "connection"] => client(name).map(Direction::Closes),
        [name, "half-closes"] => client(name).map(Direction::HalfCloses),
        ["the", "daemon", "closes", name, "connection"] => {
            client(name.strip_suffix("'s")?).map(Direction::IsClosed)
        }
        _ => None,
    }
}

impl Script {
    /// The limits that the script is played under.
    pub(crate) fn limits(&self) -> nkv::wire::Limits {
        let mut limits = nkv::wire::Limits::default();
        for (name, number) in &self.limits {
            match &**name {
                "message" => limits.message = *number,
                "page" => limits.page = *number,
                "output" => limits.output = *number,
                "clients" => limits.clients = *number,
                "subscriptions" => limits.subscriptions = *number,
                "keys" => limits.keys = *number,
                "bytes" => limits.bytes = *number,
                "tombstones" => limits.tombstones = *number,
                _ => panic!("{}: there is no limit {name:?}", self.path),
            }
        }
        limits
    }

    /// Holds a received line against what the document has there.
    pub(crate) fn compare(
        &self,
        number: usize,
        expected: &str,
        received: Option<&str>,
        epoch: &str,
    ) {
        let expected = expected.replace("EPOCH", epoch);
        match received {
            Some(line) if crate::document::matches(&expected, line) => {}
            Some(line) => self.fail(number, &format!("expected {expected}\nreceived {line}")),
            None => self.fail(number, &format!("expected {expected}\nreceived nothing")),
        }
    }

    /// What a client received over and above the document.
    pub(crate) fn forbid(&self, client: char, line: &str) {
        panic!(
            "{}: the document never said that {client} receives {line}",
            self.at_end()
        );
    }

    pub(crate) fn fail(&self, number: usize, message: &str) -> ! {
        panic!("{}:{number}: {message}", self.path)
    }

    fn at_end(&self) -> String {
        let last = self.steps.last().map_or(0, |(number, _)| *number);
        format!("{}:{last}", self.path)
    }
}
