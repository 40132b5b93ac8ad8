//! Where a daemon is found: a Unix socket's path or a TCP host and port, and the places that are
//! looked at when nobody says.
//!
//! An address is told from its text alone, never from what exists: anything with a `/` in it is a
//! path, everything else needs a port. So a word that is neither (a command, a mistyped host) is an
//! error that says so, and `./nkv.sock` or `unix:nkv.sock` names a socket in the working directory.
//!
//! The default places are the only part that looks at the world: the environment, the user's id,
//! and, for clients, which sockets exist. A socket under `/tmp` counts only where its directory
//! belongs to this user, because anyone may make a directory there.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::net::SocketAddrV6;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::wire::DEFAULT_SOCKET;

/// The environment variable that tells clients where the daemon is.
pub const ADDRESS_VARIABLE: &str = "NKV_ADDRESS";

/// Where a daemon listens.
///
/// Its text form is what both programs take: a path (anything with a `/`, or `unix:PATH`), or
/// `HOST:PORT`, `tcp:HOST:PORT`, or a bare port number, then on `localhost`. An IPv6 host stands in
/// brackets. [`Display`](fmt::Display) writes a text that reads back as the same address.
///
/// ```
/// use nkv::Address;
/// assert_eq!("/run/nkv.sock".parse(), Ok(Address::Unix("/run/nkv.sock".into())));
/// assert_eq!("4222".parse(), Ok(Address::Tcp("localhost:4222".into())));
/// assert_eq!("tcp:[::1]:4222".parse(), Ok(Address::Tcp("[::1]:4222".into())));
/// assert!("edge".parse::<Address>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// The path of a Unix socket.
    Unix(PathBuf),
    /// `HOST:PORT`, in the form in which the standard library resolves it.
    Tcp(String),
}

/// Why a text is no address.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AddressError {
    /// There is no text, or none after `unix:`.
    Empty,
    /// Neither a path nor a port: a word without `/` and `:`.
    Unclear(String),
    /// The text before the port is no host.
    Host(String),
    /// What stands where the port should is no number up to 65535.
    Port(String),
}

impl Address {
    /// Where a daemon listens that is told nothing else: `/run/nkv.sock` as root, else
    /// `$XDG_RUNTIME_DIR/nkv.sock`, else `/tmp/nkv-UID/nkv.sock`.
    ///
    /// The user's id comes from `/proc`. Where that is not mounted, root's place is taken.
    #[must_use]
    pub fn server_default() -> Address {
        let places = own_places(effective_uid(), std::env::var_os("XDG_RUNTIME_DIR"));
        let first = places.into_iter().next();
        Address::Unix(first.unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET)))
    }

    /// Where a client looks that is told nothing else: `$NKV_ADDRESS`, else the first of this
    /// user's own places (see [`Address::server_default`]) and `/run/nkv.sock` at which there is a
    /// socket, else [`Address::server_default`].
    ///
    /// # Errors
    /// [`AddressError`] where `$NKV_ADDRESS` is set and is no address.
    pub fn client_default() -> Result<Address, AddressError> {
        if let Some(text) = std::env::var_os(ADDRESS_VARIABLE).filter(|text| !text.is_empty()) {
            return text.to_string_lossy().parse();
        }
        let uid = effective_uid();
        let mut places = own_places(uid, std::env::var_os("XDG_RUNTIME_DIR"));
        places.push(PathBuf::from(DEFAULT_SOCKET));
        let found = places.into_iter().find(|path| is_socket(path, uid));
        Ok(found.map_or_else(Address::server_default, Address::Unix))
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err(AddressError::Empty),
                path => Ok(Address::Unix(PathBuf::from(path))),
            };
        }
        match text.strip_prefix("tcp:") {
            Some(rest) => tcp(rest),
            None if text.contains('/') => Ok(Address::Unix(PathBuf::from(text))),
            None => tcp(text),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => {
                let text = path.to_string_lossy();
                let is_plain =
                    text.contains('/') && !text.starts_with("unix:") && !text.starts_with("tcp:");
                write!(f, "{}{text}", if is_plain { "" } else { "unix:" })
            }
            // A host can have the name of a kind.
            Address::Tcp(place) => {
                let is_plain = !place.starts_with("unix:") && !place.starts_with("tcp:");
                write!(f, "{}{place}", if is_plain { "" } else { "tcp:" })
            }
        }
    }
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddressError::Empty => f.write_str("an address is a path or HOST:PORT, not nothing"),
            AddressError::Unclear(text) => write!(
                f,
                "{text:?} is no address: a path has a '/' (or 'unix:' before it), \
                 TCP is HOST:PORT or a port"
            ),
            AddressError::Host(host) => write!(
                f,
                "{host:?} is no host: a name or an address, an IPv6 address in brackets, \
                 is needed before the port"
            ),
            AddressError::Port(port) => {
                write!(f, "{port:?} is no port: a number up to 65535 is needed")
            }
        }
    }
}

impl std::error::Error for AddressError {}

/// Reads `HOST:PORT` or a bare port.
fn tcp(text: &str) -> Result<Address, AddressError> {
    if text.is_empty() {
        return Err(AddressError::Empty);
    }
    let (host, port) = match text.rsplit_once(':') {
        Some(parts) => parts,
        None if text.bytes().all(|byte| byte.is_ascii_digit()) => ("localhost", text),
        None => return Err(AddressError::Unclear(text.to_owned())),
    };
    let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number || port.parse::<u16>().is_err() {
        return Err(AddressError::Port(port.to_owned()));
    }
    let place = format!("{host}:{port}");
    let is_host = if host.contains([':', '[', ']']) {
        place.parse::<SocketAddrV6>().is_ok()
    } else {
        !host.is_empty()
            && !host.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control())
    };
    if is_host {
        Ok(Address::Tcp(place))
    } else {
        Err(AddressError::Host(host.to_owned()))
    }
}

/// The places that belong to a user, best first. Without a known user there is none.
fn own_places(uid: Option<u32>, runtime_dir: Option<OsString>) -> Vec<PathBuf> {
    match uid {
        None => Vec::new(),
        Some(0) => vec![PathBuf::from(DEFAULT_SOCKET)],
        Some(uid) => {
            // The base directory specification says that a relative path here is to be ignored.
            let runtime_dir = runtime_dir
                .map(PathBuf::from)
                .filter(|path| path.is_absolute());
            let temporary = PathBuf::from(format!("/tmp/nkv-{uid}"));
            runtime_dir
                .into_iter()
                .chain([temporary])
                .map(|dir| dir.join("nkv.sock"))
                .collect()
        }
    }
}

/// Whether there is a socket at this path that a client may trust to be this user's daemon's.
fn is_socket(path: &Path, uid: Option<u32>) -> bool {
    let is_trusted = !path.starts_with("/tmp")
        || path
            .parent()
            .and_then(|dir| fs::symlink_metadata(dir).ok())
            .is_some_and(|dir| Some(dir.uid()) == uid && dir.is_dir());
    is_trusted && fs::metadata(path).is_ok_and(|file| file.file_type().is_socket())
}

/// The effective user id: the second number of the `Uid:` line in `/proc/self/status`.
///
/// The owner of `/proc/self` would be shorter, but that is root for a process that may not be
/// dumped, whoever runs it.
fn effective_uid() -> Option<u32> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart() {
        let unix = |path: &str| Ok(Address::Unix(PathBuf::from(path)));
        let tcp = |place: &str| Ok(Address::Tcp(place.to_owned()));
        let check = |text: &str, expected: Result<Address, AddressError>| {
            assert_eq!(text.parse(), expected, "{text:?}");
            if let Ok(address) = expected {
                assert_eq!(
                    address.to_string().parse(),
                    Ok(address),
                    "{text:?} round-trips"
                );
            }
        };
        check("/run/nkv.sock", unix("/run/nkv.sock"));
        check("./nkv.sock", unix("./nkv.sock"));
        check("a:1/b", unix("a:1/b"));
        check("unix:nkv.sock", unix("nkv.sock"));
        check("unix:unix:a/b", unix("unix:a/b"));
        check("unix:tcp:a/b", unix("tcp:a/b"));
        check("4222", tcp("localhost:4222"));
        check("tcp:4222", tcp("localhost:4222"));
        check("0", tcp("localhost:0"));
        check("edge-7.example.org:4222", tcp("edge-7.example.org:4222"));
        check("tcp:127.0.0.1:4222", tcp("127.0.0.1:4222"));
        check("tcp:tcp:4222", tcp("tcp:4222"));
        check("tcp:unix:4222", tcp("unix:4222"));
        check("[::1]:4222", tcp("[::1]:4222"));
        check("tcp:[fe80::1%2]:4222", tcp("[fe80::1%2]:4222"));
        check("", Err(AddressError::Empty));
        check("unix:", Err(AddressError::Empty));
        check("tcp:", Err(AddressError::Empty));
        check("get", Err(AddressError::Unclear("get".into())));
        check("localhost:", Err(AddressError::Port("".into())));
        check("localhost:+1", Err(AddressError::Port("+1".into())));
        check("localhost:http", Err(AddressError::Port("http".into())));
        check("65536", Err(AddressError::Port("65536".into())));
        check(":4222", Err(AddressError::Host("".into())));
        check("a b:4222", Err(AddressError::Host("a b".into())));
        check("::1", Err(AddressError::Host(":".into())));
        check("[::1:4222", Err(AddressError::Host("[::1".into())));
        check("tcp:a/b:1", Err(AddressError::Host("a/b".into())));
    }

    #[test]
    fn every_user_has_places() {
        let check = |uid: Option<u32>, runtime_dir: Option<&str>, expected: &[&str]| {
            let places = own_places(uid, runtime_dir.map(OsString::from));
            let expected: Vec<_> = expected.iter().map(PathBuf::from).collect();
            assert_eq!(places, expected, "{uid:?} {runtime_dir:?}");
        };
        let temporary = "/tmp/nkv-1000/nkv.sock";
        check(Some(0), Some("/run/user/0"), &["/run/nkv.sock"]);
        check(Some(1000), None, &[temporary]);
        check(Some(1000), Some(""), &[temporary]);
        check(Some(1000), Some("relative"), &[temporary]);
        check(
            Some(1000),
            Some("/run/user/1000"),
            &["/run/user/1000/nkv.sock", temporary],
        );
        check(None, Some("/run/user/1000"), &[]);
        assert!(effective_uid().is_some());
    }
}
