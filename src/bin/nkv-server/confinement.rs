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
    pub(super) fn filter() -> std::io::Result<()> {
        Err(std::io::Error::other(
            "there is no list of calls for this processor",
        ))
    }
}

use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, AddRuleError, AddRulesError, BitFlags, CreateRulesetError,
    LandlockStatus, PathBeneath, PathFd, PathFdError, RestrictSelfError, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, make_bitflags,
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
    let no_new_privileges = nix::sys::prctl::set_no_new_privs().map_err(io::Error::from);
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
fn restrict(needs: &Needs) -> io::Result<i32> {
    let mut rules = rules(needs)?;
    let read = AccessFs::ReadFile.into();
    for directory in &needs.kept {
        rules = open(rules, directory, KEEP)?;
    }
    for socket in &needs.sockets {
        rules = open(rules, directory_of(socket), AccessFs::RemoveFile.into())?;
    }
    for file in &needs.read_again {
        // Behind a link stands another directory, in which the file may be replaced as well.
        rules = open(rules, directory_of(file), read)?;
        rules = open(rules, directory_of(&file.canonicalize()?), read)?;
    }
    if needs.looks_up_names {
        for directory in NAME_SERVICE.map(Path::new) {
            if directory.exists() {
                rules = open(rules, directory, read | AccessFs::ReadDir)?;
            }
        }
    }
    let status = rules.restrict_self().map_err(reason)?;
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, LandlockStatus::NotEnabled) => {
            Err(io::Error::other("it is turned off in the kernel"))
        }
        (
            RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced,
            LandlockStatus::Available {
                effective_abi,
                kernel_abi,
            },
        ) => Ok(kernel_abi.unwrap_or(effective_abi as i32)),
        _ => Err(io::Error::other("the kernel does not offer it")),
    }
}

/// What is forbidden, so far without any exception.
fn rules(needs: &Needs) -> io::Result<RulesetCreated> {
    let scopes = match needs.speaks_to_abstract {
        true => Scope::Signal.into(),
        false => Scope::from_all(VERSION),
    };
    Ruleset::default()
        .handle_access(AccessFs::from_all(VERSION))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(VERSION)))
        .and_then(|rules| rules.scope(scopes))
        .and_then(Ruleset::create)
        .map_err(reason)
}

/// Allows something beneath a directory.
fn open(
    rules: RulesetCreated,
    directory: &Path,
    access: BitFlags<AccessFs>,
) -> io::Result<RulesetCreated> {
    let directory = PathFd::new(directory).map_err(|error| match error {
        PathFdError::OpenCall { source, .. } => source,
        _ => unexpected(),
    })?;
    let rule = PathBeneath::new(directory, access);
    rules.add_rule(rule).map_err(reason)
}

/// What the system says of a failure. The crate's own words would be tens of kilobytes of the program.
fn reason(error: RulesetError) -> io::Error {
    match error {
        RulesetError::CreateRuleset(CreateRulesetError::CreateRulesetCall { source, .. })
        | RulesetError::AddRules(AddRulesError::Fs(AddRuleError::AddRuleCall { source, .. }))
        | RulesetError::RestrictSelf(RestrictSelfError::RestrictSelfCall { source, .. }) => source,
        _ => unexpected(),
    }
}

fn unexpected() -> io::Error {
    io::Error::other("the rules are not what they should be")
}

/// The directory in which a file stands.
fn directory_of(file: &Path) -> &Path {
    match file.parent() {
        Some(directory) if directory != Path::new("") => directory,
        _ => Path::new("."),
    }
}
