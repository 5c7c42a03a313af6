//! Jobs: that they were heard of ([`Beats`]), and the end of those that were not ([`sweep`]).

mod beats;
mod sweep;

pub(crate) use beats::Beats;
pub(crate) use sweep::sweep;
