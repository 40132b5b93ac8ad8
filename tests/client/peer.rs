//! The scripted peer: a thread at the other end of a socket pair.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

use nkv::Client;

/// What the peer answers to `hello`.
pub(crate) const GREETING: &str = r#"{"id":1,"ok":true,"server":"nkv 9.9","protocol":1,"epoch":"e1","rev":41,"limits":{"message":1048576,"key":512,"page":1000,"output":65536,"clients":1024,"subscriptions":1024,"keys":1000000,"bytes":268435456,"tombstones":16384}}"#;

/// The script's side of the connection. It blocks, as a peer that waits for its reader does.
pub(crate) struct Peer {
    reader: BufReader<UnixStream>,
}

/// A socket whose other end follows a script, and is closed at the script's end. Where the script
/// fails, the test sees the connection end, and the panic's message on stderr.
pub(crate) fn scripted(script: impl FnOnce(Peer) + Send + 'static) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    std::thread::spawn(move || {
        script(Peer {
            reader: BufReader::new(theirs),
        })
    });
    ours
}

/// A client that has been greeted. The script goes on from there.
pub(crate) fn client(script: impl FnOnce(Peer) + Send + 'static) -> Client {
    let stream = scripted(move |mut peer| {
        peer.hello();
        script(peer);
    });
    Client::builder()
        .reply_timeout(None)
        .from_stream(stream)
        .unwrap()
}

impl Peer {
    pub(crate) fn new(stream: UnixStream) -> Peer {
        Peer {
            reader: BufReader::new(stream),
        }
    }

    pub(crate) fn hello(&mut self) {
        let line = self.line();
        assert!(
            line.starts_with(r#"{"id":1,"op":"hello","client":""#),
            "{line}"
        );
        self.say(GREETING);
    }

    /// The next line, which must come.
    pub(crate) fn line(&mut self) -> String {
        self.try_line().expect("the client has hung up")
    }

    /// The next line, if the client has not hung up.
    pub(crate) fn try_line(&mut self) -> Option<String> {
        let mut line = String::new();
        let bytes = self.reader.read_line(&mut line).ok()?;
        (bytes > 0).then(|| line.trim_end_matches('\n').to_owned())
    }

    /// Everything until the client hangs up.
    pub(crate) fn rest(&mut self) -> String {
        let mut rest = String::new();
        drop(self.reader.read_to_string(&mut rest));
        rest
    }

    pub(crate) fn say(&mut self, line: &str) {
        self.write(format!("{line}\n").as_bytes());
    }

    /// A client that has hung up does not mind.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        drop(self.reader.get_mut().write_all(bytes));
    }

    /// A success that answers this request line, with these fields.
    pub(crate) fn answer_to(request: &str, fields: &str) -> String {
        let id = request
            .strip_prefix(r#"{"id":"#)
            .unwrap()
            .split(',')
            .next()
            .unwrap();
        format!(r#"{{"id":{id},"ok":true,{fields}}}"#)
    }
}
