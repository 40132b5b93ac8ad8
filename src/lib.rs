//! nkv, *notify key value*: the services of one host share state through a small daemon that keeps a
//! hierarchical keyspace and tells subscribers what changed.
//!
//! This crate is the daemon, its command line and the library to both. What stands where:
//!
//! - [`key`] and [`address`]: what keys, patterns and addresses are;
//! - [`wire`]: the protocol's lines as types;
//! - [`client`]: the blocking client, and with the feature `async` the asynchronous one;
//! - `keyspace` and `watch`: the entries, the order of their changes, and whom a change concerns;
//! - `session`: one connection without its socket (private);
//! - `access`: who may do what;
//! - `journal`: what is written down, so that it outlives the daemon;
//! - `broker`: every decision, without input or output;
//! - `systemd`: what a service manager and the daemon tell each other;
//! - `server`: the event loop, which programs can also run on a thread of their own.
//!
//! # Features
//! Without features the library is the blocking client and brings in nothing of the daemon.
//! `async` adds `client::asynchronous`, for programs with a tokio runtime.
//! `server` adds the daemon's half as a library, `daemon` and `cli` the two programs. The default is
//! both programs.

#[cfg(feature = "server")]
pub mod access;
pub mod address;
#[cfg(feature = "server")]
pub mod broker;
pub mod client;
#[cfg(feature = "server")]
pub mod journal;
pub mod key;
#[cfg(feature = "server")]
pub mod keyspace;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
mod session;
#[cfg(feature = "server")]
pub mod systemd;
#[cfg(feature = "server")]
pub mod watch;
pub mod wire;

pub use address::{Address, AddressError};
pub use client::Client;
pub use key::{Key, KeyError, KeyRef, Pattern};
