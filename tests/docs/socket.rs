//! Plays a transcript to a server over sockets, in real time.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nkv::Address;
use nkv::server::{Options, Running, Server};

use crate::transcript::{Direction, Script, Step};

/// How long a line that is expected may take.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn play(script: &Script) {
    let mut stage = Stage::set(script);
    for (number, step) in &script.steps {
        match step {
            Step::Send(name, line) => {
                let line = line.replace("EPOCH", &stage.epoch);
                let client = stage.client(*name);
                client.send(&format!("{line}\n"));
                // The next line may be another client's: each request is done before the next is sent.
                client.read_until_response();
            }
            Step::Receive(name, expected) => {
                let received = stage.client(*name).next_line();
                script.compare(*number, expected, received.as_deref(), &stage.epoch);
            }
            Step::Direct(Direction::Later(ms)) => std::thread::sleep(Duration::from_millis(*ms)),
            Step::Direct(Direction::Closes(name)) => {
                stage.client(*name);
                stage.clients.remove(name);
            }
            Step::Direct(Direction::HalfCloses(name)) => stage.client(*name).half_close(),
            Step::Direct(Direction::IsClosed(name)) => {
                if let Some(line) = stage.client(*name).next_line() {
                    script.fail(*number, &format!("expected the end, received {line}"));
                }
                stage.clients.remove(name);
            }
            Step::Direct(Direction::StopsReading(_) | Direction::ReadsAgain(_)) => {
                script.fail(
                    *number,
                    "the kernel reads on for a client: this needs `memory`",
                );
            }
        }
    }
    stage.end();
}

struct Stage<'s> {
    script: &'s Script,
    server: Running,
    address: Option<String>,
    epoch: String,
    clients: BTreeMap<char, Client>,
    _directory: tempfile::TempDir,
}

struct Client {
    reader: BufReader<Box<dyn Read>>,
    writer: Socket,
    /// Lines that have been read and not compared.
    lines: std::collections::VecDeque<String>,
}

enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl<'s> Stage<'s> {
    fn set(script: &'s Script) -> Stage<'s> {
        let directory = tempfile::tempdir().unwrap();
        let mut options = Options::default();
        options.limits = script.limits();
        if script.tcp {
            options.addresses.push(Address::Tcp("127.0.0.1:0".into()));
        }
        if let Some(token) = &script.token {
            let path = directory.path().join("token");
            std::fs::write(&path, token).unwrap();
            options.token_file = Some(path);
        }
        let server = Server::bind(options).unwrap();
        let address = server.addresses().next().map(ToString::to_string);
        let server = server.spawn().unwrap();
        let mut scout = Client::new(Socket::Unix(server.handle().connect().unwrap()));
        scout.send("{\"op\":\"hello\"}\n");
        let hello = scout.next_line().unwrap();
        let (_, epoch) = hello.split_once("\"epoch\":\"").unwrap();
        let epoch = epoch[..epoch.find('"').unwrap()].to_owned();
        Stage {
            script,
            server,
            address,
            epoch,
            clients: BTreeMap::new(),
            _directory: directory,
        }
    }

    fn client(&mut self, name: char) -> &mut Client {
        let (address, server) = (&self.address, &self.server);
        self.clients.entry(name).or_insert_with(|| {
            Client::new(match address {
                Some(address) => Socket::Tcp(TcpStream::connect(address).unwrap()),
                None => Socket::Unix(server.handle().connect().unwrap()),
            })
        })
    }

    /// Sees that nobody receives more than the document says.
    fn end(mut self) {
        for (name, client) in &mut self.clients {
            client.send("{\"op\":\"ping\",\"id\":\"the end\"}\n");
            while let Some(line) = client.next_line() {
                if line.starts_with("{\"id\":\"the end\"") {
                    break;
                }
                self.script.forbid(*name, &line);
            }
        }
        self.server.stop().unwrap();
    }
}

impl Client {
    fn new(socket: Socket) -> Client {
        let reader: Box<dyn Read> = match &socket {
            Socket::Unix(stream) => {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                Box::new(stream.try_clone().unwrap())
            }
            Socket::Tcp(stream) => {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                Box::new(stream.try_clone().unwrap())
            }
        };
        Client {
            reader: BufReader::new(reader),
            writer: socket,
            lines: Default::default(),
        }
    }

    fn send(&mut self, text: &str) {
        match &mut self.writer {
            Socket::Unix(stream) => stream.write_all(text.as_bytes()),
            Socket::Tcp(stream) => stream.write_all(text.as_bytes()),
        }
        .unwrap();
    }

    fn half_close(&mut self) {
        match &self.writer {
            Socket::Unix(stream) => stream.shutdown(std::net::Shutdown::Write),
            Socket::Tcp(stream) => stream.shutdown(std::net::Shutdown::Write),
        }
        .unwrap();
    }

    /// Reads on until a line is no event.
    fn read_until_response(&mut self) {
        while let Some(line) = self.read_line() {
            let is_event = line.starts_with("{\"sub\":");
            self.lines.push_back(line);
            if !is_event {
                return;
            }
        }
    }

    /// The next line; nothing where the connection has ended or nothing comes for long.
    fn next_line(&mut self) -> Option<String> {
        self.lines.pop_front().or_else(|| self.read_line())
    }

    fn read_line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(read) if read > 0 => Some(line.trim_end_matches('\n').to_owned()),
            _ => None,
        }
    }
}
