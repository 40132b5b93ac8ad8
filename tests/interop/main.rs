//! One daemon and four clients: the Rust library, the one for Go, the one for Python, and `nc` with
//! lines written by hand. What one of them puts, all of them see.
//!
//! `cases.json` is the list of what is put and asked. A [`party::Party`] is one client, which is
//! told commands and answers with what its library said; what is right stands in the tests alone:
//! `reads` for what is there, `changes` for what happens, `refusals` for what is refused. Bytes are
//! compared where a client gives the text as it was put, and all of them do; values of each
//! language's own types besides.
//!
//! A client whose language is missing on the machine is left out with a message.

#![cfg(feature = "daemon")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that can't go on has failed, and says why"
)]

mod agent;
mod by_hand;
mod cases;
mod changes;
mod conversation;
mod crew;
#[path = "../support/daemon.rs"]
mod daemon;
mod library;
mod party;
mod reads;
mod refusals;
