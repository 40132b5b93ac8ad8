//! nkv, notify key value.
#![warn(missing_docs)]
pub mod address;
pub mod key;
#[cfg(feature = "server")]
pub mod broker;
#[cfg(feature = "server")]
pub mod keyspace;
#[cfg(feature = "server")]
mod session;
#[cfg(feature = "server")]
pub mod watch;
pub mod wire;
pub use address::{Address, AddressError};
pub use key::{Key, KeyError, KeyRef, Pattern};
