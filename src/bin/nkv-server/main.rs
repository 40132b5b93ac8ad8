//! The daemon: arguments, logging, signals; then the loop.
//!
//! What is said before the loop runs, and why a start failed, goes to stderr as it is; from then on
//! everything is a line of the log. Each way to end has its exit code (`--help` lists them), so that
//! a supervisor can tell a bad option from an address in use.

mod arguments;
mod check_access;
mod confinement;
mod logging;
mod places;

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use log::{info, warn};
use nkv::Address;
use nkv::server::{BindError, Handle, Options, Server};
use nkv::systemd::{self, Supervisor};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};

use arguments::{Arguments, Asked};
use confinement::Needs;

/// Descriptors that are no connection: the loop's own, listening sockets, standard streams.
const OTHER_DESCRIPTORS: u64 = 64;

fn main() -> ExitCode {
    let arguments = match arguments::parse(std::env::args_os()) {
        Ok(Asked::Serve(arguments)) => arguments,
        Ok(Asked::Print(text)) => return print(&text),
        Ok(Asked::CheckAccess(question)) => match check_access::explain(&question) {
            Ok(text) => return print(&text),
            Err(message) => {
                logging::complain(&message);
                return ExitCode::from(2);
            }
        },
        Err(message) => {
            logging::complain(&message);
            logging::complain("try `nkv-server --help`");
            return ExitCode::from(2);
        }
    };
    logging::start(&arguments.log);
    match serve(*arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            logging::complain(&failure.message);
            ExitCode::from(failure.code)
        }
    }
}

fn print(text: &str) -> ExitCode {
    // Nobody is left to tell when standard output is closed.
    let _ = io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

/// Why the daemon ends other than by a clean stop.
struct Failure {
    code: u8,
    message: String,
}

fn serve(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { mut options, .. } = arguments;
    choose_sockets(&mut options)?;
    options.supervisor = Supervisor::from_environment();
    let keeping = match &options.journals {
        None => "keeping everything in memory: nothing outlives this process".to_owned(),
        Some(journals) => {
            make_own_under_tmp(Some(&journals.runtime_directory), 4)?;
            format!(
                "keeping durable entries in {}, boot and session entries in {}",
                journals.data_directory.display(),
                journals.runtime_directory.display()
            )
        }
    };
    let granted = raise_descriptor_limit(options.limits.clients + OTHER_DESCRIPTORS);
    if let Some(clients) = clients_with(granted) {
        options.limits.clients = options.limits.clients.min(clients);
    }
    if let Some(supervisor) = &options.supervisor {
        supervisor.status("Reading the journals");
    }
    // A limit of the size of files is to be an error of a write, not the end: a handler that nobody
    // asks for anything is enough.
    let refused = signal_hook::flag::register(SIGXFSZ, Arc::default());
    refused.map_err(signals_failed)?;
    // Reading long journals takes time, in which these are not to be the end either.
    let early_reload = Arc::new(AtomicBool::new(false));
    let early = signal_hook::flag::register(SIGHUP, Arc::clone(&early_reload))
        .and_then(|_| signal_hook::flag::register(SIGUSR1, Arc::default()));
    early.map_err(signals_failed)?;
    let needs = needs(&options);
    let server = Server::bind(options).map_err(|error| Failure {
        code: match error {
            BindError::TokenNeeded(_)
            | BindError::Unusable { .. }
            | BindError::UnknownGroup(_)
            | BindError::Access { .. }
            | BindError::TokenFile { .. } => 2,
            BindError::InUse { .. } => 3,
            BindError::Storage(_) => 4,
            _ => 1,
        },
        message: error.to_string(),
    })?;
    hear_signals(&server.handle()).map_err(signals_failed)?;
    if early_reload.load(Ordering::Relaxed) {
        server.handle().reload();
    }
    confinement::confine(&needs);
    info!("{keeping}");
    server.run().map_err(|error| Failure {
        code: 1,
        message: format!("the event loop failed: {error}"),
    })
}

fn signals_failed(error: io::Error) -> Failure {
    Failure {
        code: 1,
        message: format!("can't install signal handlers: {error}"),
    }
}

/// Where the user names no address: what the service manager passes, else the default place.
fn choose_sockets(options: &mut Options) -> Result<(), Failure> {
    let passed = systemd::passed_sockets().map_err(|error| Failure {
        code: 2,
        message: format!("can't take the sockets that the service manager passes: {error}"),
    })?;
    if !options.addresses.is_empty() {
        for socket in passed {
            warn!(
                "the socket passed as {} is not served: addresses are given on the command line",
                socket.name()
            );
        }
    } else if passed.is_empty() {
        let address = Address::server_default();
        if let Address::Unix(path) = &address {
            make_own_under_tmp(path.parent(), 1)?;
        }
        options.addresses.push(address);
    } else {
        options.passed_sockets = passed;
    }
    Ok(())
}

/// What a server with these options has to reach while it serves.
fn needs(options: &Options) -> Needs {
    let journals = options.journals.iter();
    let sockets = options
        .addresses
        .iter()
        .filter_map(|address| match address {
            Address::Unix(path) => Some(path.clone()),
            Address::Tcp(_) => None,
        });
    let read_again = [&options.token_file, &options.access];
    let manager = std::env::var_os("NOTIFY_SOCKET").unwrap_or_default();
    Needs {
        kept: journals
            .flat_map(|journals| {
                [
                    journals.data_directory.clone(),
                    journals.runtime_directory.clone(),
                ]
            })
            .collect(),
        sockets: sockets.collect(),
        read_again: read_again.into_iter().flatten().cloned().collect(),
        looks_up_names: options.access.is_some(),
        speaks_to_abstract: manager.as_bytes().starts_with(b"@"),
    }
}

/// Lets SIGTERM and SIGINT stop the server (a second one at once), SIGHUP reload, SIGUSR1 log the
/// statistics. A broken pipe is an error of a write, as Rust has it from the start.
fn hear_signals(handle: &Handle) -> io::Result<()> {
    let flags = handle.flags();
    let asked_before = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        // The order counts: the first signal finds the flag unset, and sets it.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&asked_before))?;
        signal_hook::flag::register(signal, Arc::clone(&asked_before))?;
        signal_hook::flag::register(signal, Arc::clone(&flags.stop))?;
    }
    signal_hook::flag::register(SIGHUP, Arc::clone(&flags.reload))?;
    signal_hook::flag::register(SIGUSR1, Arc::clone(&flags.log_statistics))?;
    for signal in [SIGTERM, SIGINT, SIGHUP, SIGUSR1] {
        signal_hook::low_level::pipe::register(signal, handle.waker()?)?;
    }
    Ok(())
}

/// Makes this user's own place under `/tmp`, where someone else may have made it first; `code` is the
/// exit code where that can't be used.
fn make_own_under_tmp(directory: Option<&Path>, code: u8) -> Result<(), Failure> {
    let Some(directory) = directory.filter(|directory| *directory == places::own_under_tmp())
    else {
        return Ok(());
    };
    places::make_own(directory).map_err(|error| Failure {
        code,
        message: format!("can't use {}: {error}", directory.display()),
    })
}

/// How many clients there may be with so many descriptors. Limits and quotas go by that number, so that no
/// user can take all there are, and root's places stay. Where there are next to none, nothing is left to
/// be shared out, and accepting pauses when they run out.
fn clients_with(descriptors: u64) -> Option<u64> {
    let clients = descriptors.saturating_sub(OTHER_DESCRIPTORS);
    (clients >= OTHER_DESCRIPTORS).then_some(clients)
}

/// Each client takes a descriptor. Returns how many there may be.
fn raise_descriptor_limit(wanted: u64) -> u64 {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < wanted {
            setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard)?;
        }
        Ok(hard)
    });
    let granted = getrlimit(Resource::RLIMIT_NOFILE).map_or(wanted, |(soft, _)| soft);
    match raised {
        Ok(hard) if hard < wanted => {
            warn!("only {hard} descriptors are allowed, {wanted} would serve all clients");
        }
        Ok(_) => {}
        Err(error) => warn!("the limit of descriptors stays as it is: {error}"),
    }
    granted
}
