//! A daemon that comes and goes, played by scripts: one for each connection, in their order.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use nkv::client::{Link, LinkBuilder};

use crate::peer::Peer;

pub(crate) type Script = Box<dyn FnOnce(Peer) + Send>;

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A socket that scripts answer on.
pub(crate) struct Daemons {
    directory: tempfile::TempDir,
    connections: Arc<AtomicUsize>,
    finished: mpsc::Receiver<Result<(), String>>,
}

/// Waits for what nobody announces.
pub(crate) fn until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::yield_now();
    }
}

/// Makes a script of what is done after the greeting.
pub(crate) fn then(script: impl FnOnce(&mut Peer) + Send + 'static) -> Script {
    Box::new(move |mut peer| {
        peer.hello();
        script(&mut peer);
    })
}

impl Daemons {
    /// Plays one script after the other, each to the next connection.
    pub(crate) fn play(scripts: Vec<Script>) -> Daemons {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("nkv.sock")).unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let (sender, finished) = mpsc::channel();
        let count = Arc::clone(&connections);
        std::thread::spawn(move || {
            for script in scripts {
                let (stream, _) = listener.accept().unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    script(Peer::new(stream));
                }));
                let _ = sender.send(played.map_err(|panic| {
                    let message = panic.downcast_ref::<String>();
                    message.map_or("a script has failed".into(), String::clone)
                }));
            }
        });
        Daemons {
            directory,
            connections,
            finished,
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("nkv.sock")
    }

    pub(crate) fn link(&self) -> Link {
        self.link_with(|builder| builder)
    }

    pub(crate) fn link_with(&self, options: impl FnOnce(LinkBuilder) -> LinkBuilder) -> Link {
        let builder = Link::builder()
            .patience(PATIENCE)
            .pauses(Duration::from_millis(1), Duration::from_millis(20));
        options(builder).link(nkv::Address::Unix(self.path()))
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Waits for the end of a script, which must be a good one.
    pub(crate) fn wait_for_script(&self) {
        self.finished.recv_timeout(PATIENCE).unwrap().unwrap();
    }
}
