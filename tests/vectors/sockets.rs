//! A daemon as a stage: the built program, over one of its sockets.

use std::collections::BTreeMap;

use crate::daemon::{Client, Daemon, Plan};
use crate::player::Stage;
use crate::story::{Story, TOKEN};

/// How clients reach the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Unix,
    Tcp,
}

pub(crate) struct Sockets {
    daemon: Daemon,
    way: Way,
    /// How many bytes are sent at a time.
    piece: usize,
    clients: BTreeMap<String, Client>,
}

impl Sockets {
    pub(crate) fn new(story: &Story, way: Way, piece: usize) -> Sockets {
        Sockets {
            daemon: start(story),
            way,
            piece,
            clients: BTreeMap::new(),
        }
    }

    fn client(&mut self, name: &str) -> &mut Client {
        self.clients.get_mut(name).unwrap()
    }
}

/// A daemon such as a story needs, with both kinds of socket.
pub(crate) fn start(story: &Story) -> Daemon {
    let mut plan = Plan::new().with(&["127.0.0.1:0"]);
    for (name, value) in &story.limits {
        let option = match name.as_str() {
            "tombstones" => "--tombstones".to_owned(),
            name => format!("--max-{name}"),
        };
        plan = plan.with(&[&option, &value.to_string()]);
    }
    if story.needs("token") {
        let path = plan.directory().join("token");
        std::fs::write(&path, TOKEN).unwrap();
        plan = plan.with(&["--token-file", path.to_str().unwrap()]);
    }
    plan.start()
}

impl Stage for Sockets {
    fn open(&mut self, client: &str) {
        let opened = match self.way {
            Way::Unix => self.daemon.connect(),
            Way::Tcp => self.daemon.connect_tcp(),
        };
        self.clients.insert(client.into(), opened);
    }

    fn send(&mut self, client: &str, bytes: &[u8]) {
        let piece = self.piece;
        let client = self.client(client);
        for piece in bytes.chunks(piece) {
            client.send_bytes(piece);
        }
    }

    fn receive(&mut self, client: &str) -> Option<String> {
        self.client(client).next_line()
    }

    fn end(&mut self, client: &str) {
        self.client(client).end_input();
    }

    fn has_ended(&mut self, client: &str) -> bool {
        self.client(client).next_line().is_none()
    }

    fn close(&mut self, client: &str) {
        self.clients.remove(client);
    }
}
