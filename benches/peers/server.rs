//! Running servers: started here, stopped here, and asleep while another has its turn.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::connection::{Address, Buffer, Connection, Request, Swarm};
use crate::machine;
use crate::peer::{Keeping, Peer, Place, Role};

/// How long a server may take to come up.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// A server that runs, and is killed when dropped.
pub(crate) struct Server {
    pub(crate) peer: &'static dyn Peer,
    child: Child,
    address: Address,
    _directory: TempDir,
}

impl Server {
    /// None where it is not installed, or can't do this.
    pub(crate) fn start(
        peer: &'static dyn Peer,
        keeping: Keeping,
        below: &Path,
    ) -> io::Result<Option<Server>> {
        let Some(program) = peer.program() else {
            return Ok(None);
        };
        let directory = tempfile::tempdir_in(below)?;
        let place = Place {
            directory: directory.path(),
            port: TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port(),
            keeping,
        };
        let Some((mut command, address)) = peer.start(&program, &place) else {
            return Ok(None);
        };
        let log = fs::File::create(directory.path().join("log"))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .map_err(|error| io::Error::other(format!("{}: {error}", program.display())))?;
        let mut server = Server {
            peer,
            child,
            address,
            _directory: directory,
        };
        server.wait_until_up()?;
        Ok(Some(server))
    }

    fn wait_until_up(&mut self) -> io::Result<()> {
        let end = Instant::now() + START_PATIENCE;
        while let Err(error) = self.connect(Role::Client, &mut Buffer::new()) {
            if Instant::now() > end || self.child.try_wait()?.is_some() {
                let log = fs::read_to_string(self._directory.path().join("log"))?;
                let name = self.peer.name();
                return Err(io::Error::other(format!(
                    "{name} does not come up: {error}\n{log}"
                )));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
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
        let mut connection = Connection::open(&self.address, self.peer.counter(role))?;
        connection.send(&self.peer.greeting(role))?;
        connection.settle(buffer)?;
        Ok(connection)
    }

    pub(crate) fn subscriber(&self, topic: &str, buffer: &mut Buffer) -> io::Result<Connection> {
        let mut connection = self.connect(Role::Subscriber, buffer)?;
        self.ask(&mut connection, &self.peer.subscribe(topic), buffer)?;
        Ok(connection)
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
