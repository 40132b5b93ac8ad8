//! What the fuzz targets do with their bytes. The targets themselves are one line each, so that an
//! ordinary test can do the same with the seeds.

#[path = "../../tests/support/mod.rs"]
mod support;

pub mod targets;
