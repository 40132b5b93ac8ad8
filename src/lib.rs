//! nkv, notify key value.
#![warn(missing_docs)]
pub mod key;
pub mod wire;
pub use key::{Key, KeyError, KeyRef, Pattern};
