//! How the program fails: an exit code that scripts can tell apart, and one line for a person.

use std::io;

use nkv::client::{Error, ErrorCode};

/// No such key, or a condition was not met.
pub(crate) const NOT_MET: u8 = 1;
/// The program was called wrongly, or given something that it can't read.
pub(crate) const USAGE: u8 = 2;
/// The daemon can't be reached, or no longer.
pub(crate) const UNREACHABLE: u8 = 3;
/// The daemon refused.
pub(crate) const REFUSED: u8 = 4;
/// `--timeout` ran out. What timeout(1) uses.
pub(crate) const TIMED_OUT: u8 = 124;

/// Why the program ends, or a command of the shell failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    /// One line; where it is empty there is nothing to say.
    pub(crate) message: String,
    /// Whether the connection is of no more use.
    pub(crate) is_disconnect: bool,
    /// Whether the daemon did not answer in time.
    pub(crate) is_late: bool,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Failure {
        Failure {
            code,
            message: message.into(),
            is_disconnect: false,
            is_late: false,
        }
    }

    /// Whoever read the output has gone: no failure, but the end.
    pub(crate) fn is_reader_gone(&self) -> bool {
        self.code == 0
    }

    /// The same failure with what was being done.
    pub(crate) fn during(self, what: &str) -> Failure {
        Failure {
            message: format!("{what}: {}", self.message),
            ..self
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::from(&error)
    }
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Failure {
        let code = match error {
            Error::Server(failure) => match failure.code {
                ErrorCode::NotFound | ErrorCode::Conflict => NOT_MET,
                ErrorCode::BadKey => USAGE,
                _ => REFUSED,
            },
            Error::Key(_) | Error::Value(_) | Error::Address(_) => USAGE,
            _ => UNREACHABLE,
        };
        let advice = match error {
            Error::Connect { source, .. } => match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    " (is nkv-server running? -a or NKV_ADDRESS name another address)"
                }
                io::ErrorKind::PermissionDenied => {
                    " (may this user open the socket? see nkv-server --socket-group)"
                }
                _ => "",
            },
            Error::Server(failure) if failure.code == ErrorCode::Unauthenticated => {
                " (--token-file or NKV_TOKEN_FILE name a file with the token)"
            }
            Error::Protocol(_) => " (is it nkv-server that listens there?)",
            _ => "",
        };
        let message = format!("{}{advice}", without_number(&error.to_string()));
        Failure {
            code,
            message,
            is_disconnect: error.is_disconnect(),
            is_late: match error {
                Error::Timeout => true,
                Error::Connect { source, .. } => source.kind() == io::ErrorKind::TimedOut,
                _ => false,
            },
        }
    }
}

impl From<io::Error> for Failure {
    /// For writing to stdout; other errors are given their context where they happen.
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::new(0, ""),
            _ => Failure::new(
                NOT_MET,
                format!("cannot write the output: {}", plain(&error)),
            ),
        }
    }
}

/// An error of the system without its number.
pub(crate) fn plain(error: &io::Error) -> String {
    without_number(&error.to_string())
}

fn without_number(message: &str) -> String {
    match (message.find(" (os error "), message.ends_with(')')) {
        (Some(end), true) => message[..end].to_owned(),
        _ => message.to_owned(),
    }
}
