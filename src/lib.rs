//! nkv, notify key value.
#![warn(missing_docs)]
pub mod address;
#[cfg(feature = "server")]
pub mod broker;
pub mod key;
#[cfg(feature = "server")]
pub mod keyspace;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
mod session;
#[cfg(feature = "server")]
pub mod watch;
pub mod wire;
pub use address::{Address, AddressError};
pub use key::{Key, KeyError, KeyRef, Pattern};
