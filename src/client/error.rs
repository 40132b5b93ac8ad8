//! What can go wrong for a client, in one enum.
//!
//! The variants answer the question that a caller has: may I ask again? [`Error::Closed`] and
//! [`Error::Io`] say that the request never left, [`Error::Server`] that it was refused and changed
//! nothing, [`Error::Unanswered`] and [`Error::Timeout`] that nobody here can know.

use std::fmt;
use std::io;

use crate::address::{Address, AddressError};
use crate::key::KeyError;
use crate::wire::{ErrorCode, Failure};

/// Why a client could not do what it was asked.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The text is no address.
    Address(AddressError),
    /// Nobody could be reached there.
    Connect {
        /// Where the daemon was looked for.
        address: Address,
        /// What the system said.
        source: io::Error,
    },
    /// The connection failed before the request was sent.
    Io(io::Error),
    /// The text is no key, or no pattern. Nothing was sent.
    Key(KeyError),
    /// A value could not be made into JSON (nothing was sent), or read as the type asked for (the
    /// request was carried out).
    Value(serde_json::Error),
    /// The daemon refused. Nothing was changed.
    Server(Failure),
    /// The peer does not keep to the protocol. The connection has been closed.
    Protocol(String),
    /// No answer came in time. **Whether the request was carried out is unknown**: it may be yet.
    /// The connection stays usable; the late answer will be dropped.
    Timeout,
    /// The connection has ended, by the daemon or by [`Client::close`](super::Client::close).
    /// The request was not sent.
    Closed,
    /// The connection ended after the request was sent and before its answer came. **Whether it was
    /// carried out is unknown.** It is never repeated by itself: read the key to find out, or
    /// make requests that may be repeated (`if_rev`, `if_changed`).
    Unanswered(Box<Error>),
}

/// Why a direction of a connection is of no more use. Unlike an [`Error`] it can be told to many.
#[derive(Clone, Debug)]
pub(super) enum End {
    Closed,
    Failed(io::ErrorKind, String),
    Protocol(String),
}

impl End {
    pub(super) fn of(error: &io::Error) -> End {
        End::Failed(error.kind(), error.to_string())
    }

    pub(super) fn error(&self) -> Error {
        match self {
            End::Closed => Error::Closed,
            End::Failed(kind, message) => Error::Io(io::Error::new(*kind, message.clone())),
            End::Protocol(what) => Error::Protocol(what.clone()),
        }
    }
}

impl Error {
    /// The daemon's error code, where it was the daemon that refused.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Error::Server(failure) => Some(failure.code),
            _ => None,
        }
    }

    /// Whether the connection is of no more use: a new one is needed.
    #[must_use]
    pub fn is_disconnect(&self) -> bool {
        matches!(
            self,
            Error::Connect { .. }
                | Error::Io(_)
                | Error::Protocol(_)
                | Error::Closed
                | Error::Unanswered(_)
        )
    }
}

impl Error {
    /// The same for another one who waits for the same thing.
    #[cfg(feature = "async")]
    pub(super) fn again(&self) -> Error {
        match self {
            Error::Address(error) => Error::Address(error.clone()),
            Error::Connect { address, source } => Error::Connect {
                address: address.clone(),
                source: io::Error::new(source.kind(), source.to_string()),
            },
            Error::Io(error) => Error::Io(io::Error::new(error.kind(), error.to_string())),
            Error::Key(error) => Error::Key(error.clone()),
            Error::Value(error) => Error::Value(serde::de::Error::custom(error)),
            Error::Server(failure) => Error::Server(failure.clone()),
            Error::Protocol(what) => Error::Protocol(what.clone()),
            Error::Timeout => Error::Timeout,
            Error::Closed => Error::Closed,
            Error::Unanswered(cause) => Error::Unanswered(Box::new(cause.again())),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Address(error) => error.fmt(f),
            Error::Connect { address, source } => {
                write!(f, "cannot connect to {address}: {source}")
            }
            Error::Io(error) => write!(f, "the connection failed: {error}"),
            Error::Key(error) => error.fmt(f),
            Error::Value(error) => write!(f, "the value does not fit: {error}"),
            Error::Server(failure) => failure.fmt(f),
            Error::Protocol(what) => write!(f, "the peer does not speak this protocol: {what}"),
            Error::Timeout => f.write_str("no answer in time; it may have been done, or be yet"),
            Error::Closed => f.write_str("the daemon closed the connection"),
            Error::Unanswered(cause) => {
                write!(
                    f,
                    "the answer never came, it may have been done or not: {cause}"
                )
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Address(error) => Some(error),
            Error::Connect { source, .. } => Some(source),
            Error::Io(error) => Some(error),
            Error::Key(error) => Some(error),
            Error::Value(error) => Some(error),
            Error::Server(failure) => Some(failure),
            Error::Unanswered(cause) => Some(cause.as_ref()),
            Error::Protocol(_) | Error::Timeout | Error::Closed => None,
        }
    }
}

impl From<KeyError> for Error {
    fn from(error: KeyError) -> Error {
        Error::Key(error)
    }
}

impl From<AddressError> for Error {
    fn from(error: AddressError) -> Error {
        Error::Address(error)
    }
}
