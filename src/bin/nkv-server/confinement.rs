//! What the daemon takes from itself before it serves the first request, so that whoever takes it over
//! gets little with it.
//!
//! Three layers, each of which a kernel may lack, and each of which holds for the threads that are
//! started later as well:
//!
//! - **no new privileges**: a program that it executes can't become another user;
//! - **Landlock**: the [`Needs`] say which directories it uses and how, and beneath all others nothing
//!   can be opened, made or removed; TCP is not bound to and not connected to; other processes get no
//!   signal;
//! - a **filter of system calls** ([`calls`]): what it never calls, and neither of the other two forbids.
//!
//! It comes after everything that a start alone needs: the sockets are open, the journals are read,
//! damaged ones are set aside, the limit of descriptors is raised. And it comes before any other thread.
//!
//! Who has to look up names again after a reload (rules name users and groups) leaves the places open
//! in which the system's name service reads. A service that it asks over a Unix socket is reached as
//! before: of such sockets only abstract names are closed, and that only where the manager has none.
//!
//! A layer that the kernel refuses is left out, and the log says so: the daemon is needed more than its
//! confinement.
//!
//! Left out: everything about memory (a module of the name service has code to be mapped), and what the
//! manager does better from outside, such as an own network or a read-only system.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod calls;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod calls {
    pub(super) fn filter() -> Result<(), Box<dyn super::Error>> {
        Err("there is no list of calls for this processor".into())
    }
}

use std::error::Error;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, PathFd, PathFdError,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope, make_bitflags,
};
use log::{info, warn};

/// What the daemon has to reach while it serves.
#[derive(Debug, Default)]
pub(crate) struct Needs {
    /// Directories whose files it reads, writes, makes, renames and removes.
    pub(crate) kept: Vec<PathBuf>,
    /// Sockets whose files it removes in the end.
    pub(crate) sockets: Vec<PathBuf>,
    /// Files that it reads again. Another one may have taken the name by then.
    pub(crate) read_again: Vec<PathBuf>,
    /// Whether it looks up names of users and groups.
    pub(crate) looks_up_names: bool,
    /// Whether it writes to a Unix socket with an abstract name.
    pub(crate) speaks_to_abstract: bool,
}

/// Takes from this process what it does not need, as far as the kernel lets it, and logs what holds and
/// what does not. There must be no other thread.
pub(crate) fn confine(needs: &Needs) {
    let no_new_privileges = nix::sys::prctl::set_no_new_privs().map_err(Into::into);
    let layers = [
        no_new_privileges.map(|()| "no new privileges".to_owned()),
        restrict(needs).map(|version| format!("Landlock (version {version})")),
        calls::filter().map(|()| "a filter of system calls".to_owned()),
    ];
    let names = ["no new privileges", "Landlock", "a filter of system calls"];
    let mut held = Vec::new();
    for (name, layer) in names.into_iter().zip(layers) {
        match layer {
            Ok(layer) => held.push(layer),
            Err(reason) => warn!("not confined by {name}: {reason}"),
        }
    }
    if !held.is_empty() {
        info!("confined by {}", held.join(", "));
    }
}

/// The newest version of Landlock that all this was tried with. What a later one could forbid is not
/// asked for; what an earlier one can't is left out.
const VERSION: ABI = ABI::V7;

/// For the files of a directory that is its own.
const KEEP: BitFlags<AccessFs> = make_bitflags!(AccessFs::{
    ReadFile | ReadDir | WriteFile | Truncate | MakeReg | RemoveFile
});

/// Where the name service reads (nsswitch.conf(5)), its own modules included: glibc's, systemd's and
/// sssd's, and what other distributions have elsewhere. Those that are not there are not needed.
const NAME_SERVICE: [&str; 9] = [
    "/etc",
    "/usr",
    "/lib",
    "/lib64",
    "/nix/store",
    "/run/systemd/userdb",
    "/run/userdb",
    "/var/lib/extrausers",
    "/var/lib/sss/mc",
];

/// Restricts this thread, and those that it starts, by Landlock. Returns the version that the kernel has.
fn restrict(needs: &Needs) -> Result<i32, Box<dyn Error>> {
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(VERSION))?
        .handle_access(AccessNet::from_all(VERSION))?
        .scope(Scope::Signal)?;
    if !needs.speaks_to_abstract {
        rules = rules.scope(Scope::AbstractUnixSocket)?;
    }
    let mut rules = rules.create()?;
    for directory in &needs.kept {
        rules = rules.add_rule(PathBeneath::new(PathFd::new(directory)?, KEEP))?;
    }
    for socket in &needs.sockets {
        let directory = PathFd::new(directory_of(socket))?;
        rules = rules.add_rule(PathBeneath::new(directory, AccessFs::RemoveFile))?;
    }
    for file in &needs.read_again {
        // Behind a link stands another directory, in which the file may be replaced as well.
        for file in [file.clone(), file.canonicalize()?] {
            let directory = PathFd::new(directory_of(&file))?;
            rules = rules.add_rule(PathBeneath::new(directory, AccessFs::ReadFile))?;
        }
    }
    if needs.looks_up_names {
        for path in NAME_SERVICE {
            match PathFd::new(path) {
                Ok(directory) => {
                    let read = AccessFs::ReadFile | AccessFs::ReadDir;
                    rules = rules.add_rule(PathBeneath::new(directory, read))?;
                }
                Err(PathFdError::OpenCall { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    let status = rules.restrict_self()?;
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, LandlockStatus::NotEnabled) => {
            Err("it was not turned on when the kernel started".into())
        }
        (
            RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced,
            LandlockStatus::Available {
                effective_abi,
                kernel_abi,
            },
        ) => Ok(kernel_abi.unwrap_or(effective_abi as i32)),
        _ => Err("the kernel does not offer it".into()),
    }
}

/// The directory in which a file stands.
fn directory_of(file: &Path) -> &Path {
    match file.parent() {
        Some(directory) if directory != Path::new("") => directory,
        _ => Path::new("."),
    }
}
