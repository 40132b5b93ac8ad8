//! Running servers: started here, stopped here, and asleep while another has its turn.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::connection::{Address, Buffer, Connection, Request, Swarm};
use crate::machine;
use crate::peer::{Keeping, Peer, Place, Role};

/// How long a server may take to come up.
const START_PATIENCE: Duration = Duration::from_secs(20);
/// Ports are looked for from here on. The kernel gives these to nobody who doesn't ask for them, so
/// that a connection to a server that isn't there yet can't end up at itself.
const FIRST_PORT: u16 = 21_000;

/// A server that runs, and is killed when dropped.
pub(crate) struct Server {
    pub(crate) peer: &'static dyn Peer,
    child: Child,
    started: Instant,
    address: Address,
    directory: PathBuf,
    /// Removes the directory if nobody else is to.
    _own: Option<TempDir>,
}

impl Server {
    /// Starts it in a new directory, and waits until it answers. None where it is not installed, or
    /// can't do this.
    pub(crate) fn start(
        peer: &'static dyn Peer,
        keeping: Keeping,
        below: &Path,
    ) -> io::Result<Option<Server>> {
        let own = tempfile::tempdir_in(below)?;
        let directory = own.path().to_owned();
        let Some(mut server) = Server::launch(peer, keeping, &directory, &[])? else {
            return Ok(None);
        };
        server._own = Some(own);
        server.wait_for_answer(|| std::thread::sleep(Duration::from_millis(1)))?;
        Ok(Some(server))
    }

    /// Starts it in this directory, and doesn't wait.
    pub(crate) fn launch(
        peer: &'static dyn Peer,
        keeping: Keeping,
        directory: &Path,
        options: &[&str],
    ) -> io::Result<Option<Server>> {
        let Some(program) = peer.program() else {
            return Ok(None);
        };
        let place = Place {
            directory,
            ports: [free_port()?, free_port()?],
            keeping,
            options,
        };
        let Some((mut command, address)) = peer.start(&program, &place) else {
            return Ok(None);
        };
        let log = fs::File::create(directory.join("log"))?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let started = Instant::now();
        let child = command
            .spawn()
            .map_err(|error| io::Error::other(format!("{}: {error}", program.display())))?;
        Ok(Some(Server {
            peer,
            child,
            started,
            address,
            directory: directory.to_owned(),
            _own: None,
        }))
    }

    /// Tries until a connection is greeted, with a pause between. How long it took since the start.
    pub(crate) fn wait_for_answer(&mut self, pause: impl Fn()) -> io::Result<Duration> {
        let mut buffer = Buffer::new();
        while let Err(error) = self.connect(Role::Client, &mut buffer) {
            if self.started.elapsed() > START_PATIENCE || self.child.try_wait()?.is_some() {
                let log = fs::read_to_string(self.directory.join("log"))?;
                let name = self.peer.name();
                return Err(io::Error::other(format!(
                    "{name} does not come up: {error}\n{log}"
                )));
            }
            pause();
        }
        Ok(self.started.elapsed())
    }

    pub(crate) fn process(&self) -> Pid {
        // Process ids are positive and fit.
        Pid::from_raw(self.child.id().try_into().unwrap_or_default())
    }

    pub(crate) fn bind(&self, core: usize) -> io::Result<()> {
        machine::bind_process(self.process(), core)
    }

    pub(crate) fn pause(&self) -> io::Result<()> {
        Ok(kill(self.process(), Signal::SIGSTOP)?)
    }

    pub(crate) fn go_on(&self) -> io::Result<()> {
        Ok(kill(self.process(), Signal::SIGCONT)?)
    }

    /// A connection that has been greeted.
    pub(crate) fn connect(&self, role: Role, buffer: &mut Buffer) -> io::Result<Connection> {
        let mut connection = Connection::open(&self.address, self.peer.counter())?;
        connection.send(&self.peer.greeting(role))?;
        connection.settle(buffer)?;
        Ok(connection)
    }

    pub(crate) fn subscriber(&self, topic: &str, buffer: &mut Buffer) -> io::Result<Connection> {
        let mut connection = self.connect(Role::Subscriber, buffer)?;
        self.ask(&mut connection, &self.peer.subscribe(topic), buffer)?;
        Ok(connection)
    }

    pub(crate) fn subscribers(&self, topic: &str, count: usize) -> io::Result<Vec<Connection>> {
        let mut buffer = Buffer::new();
        let subscribe = |_| self.subscriber(topic, &mut buffer);
        (0..count).map(subscribe).collect()
    }

    pub(crate) fn clients(&self, count: usize) -> io::Result<Swarm> {
        let mut buffer = Buffer::new();
        let connect = |_| self.connect(Role::Client, &mut buffer);
        Swarm::new((0..count).map(connect).collect::<io::Result<Vec<_>>>()?)
    }

    /// Sends, waits for all that comes, and looks whether it was refused.
    pub(crate) fn ask(
        &self,
        connection: &mut Connection,
        request: &Request,
        buffer: &mut Buffer,
    ) -> io::Result<()> {
        connection.send(request)?;
        connection.settle(buffer)?;
        self.check(buffer)
    }

    /// Whether what was read last says no.
    pub(crate) fn check(&self, buffer: &Buffer) -> io::Result<()> {
        let text = String::from_utf8_lossy(buffer.last_read());
        if text.contains(self.peer.refusal()) {
            let name = self.peer.name();
            return Err(io::Error::other(format!("{name} refuses: {text}")));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> io::Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(FIRST_PORT);
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(_) => return Ok(port),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
}
