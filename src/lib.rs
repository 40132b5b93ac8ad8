//! nkv, notify key value.
#![warn(missing_docs)]
pub mod address;
pub mod client;
pub mod key;
pub mod wire;
pub use address::{Address, AddressError};
pub use client::Client;
pub use key::{Key, KeyError, KeyRef, Pattern};
