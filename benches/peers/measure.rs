//! What is measured, a file for each kind.

pub(crate) mod events;
pub(crate) mod requests;

/// The value where its length doesn't matter.
pub(crate) const VALUE: &str = "0123456789abcdefghij0123456789abcdefghij";
