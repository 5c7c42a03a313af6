//! Files of declared objects: `apiVersion: postern/v1`, `kind`, `metadata`, `spec`. Reading, and writing what reads back.

mod cedar;
mod duration;
mod faults;
mod kinds;
mod load;
mod masking;
mod object;
pub(crate) mod obligations;
mod render;

pub(crate) use duration::{parse_duration, show_duration};
pub(crate) use faults::{Fault, Faults};
pub(crate) use load::{Manifest, load, read_file};
pub(crate) use object::Object;
pub(crate) use render::render;

/// The version of the format that is read and written.
pub(crate) const API_VERSION: &str = "postern/v1";
