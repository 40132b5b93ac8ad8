//! What the fuzz targets do with their bytes. The targets themselves are one line each, so that an
//! ordinary test can do the same with the seeds.
//!
//! The model and the broker in memory are those of the tests; the reader of the command line is the
//! daemon's own, which is no part of the library.

#![allow(
    dead_code,
    reason = "what is shared has more to it than one target takes"
)]

#[path = "../../tests/support/mod.rs"]
mod support;

#[path = "../../tests/model/acts.rs"]
mod acts;
#[path = "../../tests/model/desk.rs"]
mod desk;
#[path = "../../tests/model/model.rs"]
mod model;
#[path = "../../tests/model/number.rs"]
mod number;
#[path = "../../tests/model/office.rs"]
mod office;
#[path = "../../tests/model/pattern.rs"]
mod pattern;
#[path = "../../tests/model/rights.rs"]
mod rights;
#[path = "../../tests/model/subscriber.rs"]
mod subscriber;

#[path = "../../src/bin/nkv-server/arguments.rs"]
mod arguments;
#[path = "../../src/bin/nkv-server/places.rs"]
mod places;

pub mod targets;
