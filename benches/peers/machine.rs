//! What the kernel says of processes: processor time, memory, and the cores they may use.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;

/// The cores for the server and for the load generator.
#[derive(Clone, Copy)]
pub(crate) struct Cores {
    pub(crate) server: usize,
    pub(crate) load: usize,
}

impl Cores {
    /// The first two that this process may use; the same twice where there is but one.
    pub(crate) fn find() -> io::Result<Cores> {
        let allowed = sched_getaffinity(Pid::this())?;
        let mut cores =
            (0..CpuSet::count()).filter(|core| allowed.is_set(*core).is_ok_and(|is_set| is_set));
        let server = cores.next().unwrap_or(0);
        let load = cores.next().unwrap_or(server);
        Ok(Cores { server, load })
    }
}

/// Binds the calling thread to a core, and with it the processes that it starts from now on.
pub(crate) fn bind_self(core: usize) -> io::Result<()> {
    bind(Pid::from_raw(0), core)
}

/// Binds all threads of a process to a core.
pub(crate) fn bind_process(process: Pid, core: usize) -> io::Result<()> {
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let name = thread?.file_name();
        if let Some(thread) = name.to_str().and_then(|name| name.parse().ok()) {
            bind(Pid::from_raw(thread), core)?;
        }
    }
    Ok(())
}

fn bind(thread: Pid, core: usize) -> io::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core)?;
    Ok(sched_setaffinity(thread, &cores)?)
}

/// Lets this process, and those that it starts, open as many files as they may.
pub(crate) fn raise_file_limit() -> io::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}

/// Measures what passes, and what a server and this process compute meanwhile.
pub(crate) struct Stopwatch {
    server_clock: ClockId,
    wall: Instant,
    server: Duration,
    load: Duration,
}

/// What has passed.
#[derive(Clone, Copy)]
pub(crate) struct Elapsed {
    pub(crate) wall: f64,
    /// Seconds of processor time of the server.
    pub(crate) server: f64,
    /// Seconds of processor time of this process, which is the load generator.
    pub(crate) load: f64,
}

impl Stopwatch {
    pub(crate) fn start(server: Pid) -> io::Result<Stopwatch> {
        let server_clock = clock_getcpuclockid(server)?;
        Ok(Stopwatch {
            server_clock,
            server: server_clock.now()?.into(),
            load: ClockId::CLOCK_PROCESS_CPUTIME_ID.now()?.into(),
            wall: Instant::now(),
        })
    }

    /// What a process has computed since it began.
    pub(crate) fn so_far(process: Pid) -> io::Result<Duration> {
        Ok(clock_getcpuclockid(process)?.now()?.into())
    }

    pub(crate) fn stop(&self) -> io::Result<Elapsed> {
        let wall = self.wall.elapsed();
        let server = Duration::from(self.server_clock.now()?);
        let load = Duration::from(ClockId::CLOCK_PROCESS_CPUTIME_ID.now()?);
        Ok(Elapsed {
            wall: wall.as_secs_f64(),
            server: (server - self.server).as_secs_f64(),
            load: (load - self.load).as_secs_f64(),
        })
    }
}

/// The memory that the machine could still give, in bytes.
pub(crate) fn available_memory() -> io::Result<f64> {
    kilobytes(&fs::read_to_string("/proc/meminfo")?, "MemAvailable:")
}

/// About how much of a process is in memory, in bytes; cheaper than [`Memory::of`].
pub(crate) fn resident(process: Pid) -> io::Result<f64> {
    kilobytes(
        &fs::read_to_string(format!("/proc/{process}/status"))?,
        "VmRSS:",
    )
}

/// A field of a file of the kernel's, in bytes.
fn kilobytes(text: &str, name: &str) -> io::Result<f64> {
    let line = text.lines().find(|line| line.starts_with(name));
    let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    let number = number.ok_or_else(|| io::Error::other(format!("there is no {name}")))?;
    Ok(number * 1024.0)
}

/// Memory of a process, in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) resident: f64,
    /// What the process has written, and so nobody shares with it.
    pub(crate) private_dirty: f64,
}

impl Memory {
    pub(crate) fn of(process: Pid) -> io::Result<Memory> {
        let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
        Ok(Memory {
            resident: kilobytes(&text, "Rss:")?,
            private_dirty: kilobytes(&text, "Private_Dirty:")?,
        })
    }
}
