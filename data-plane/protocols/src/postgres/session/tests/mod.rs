//! Sessions against a server that is a model of the protocol.

mod differential;
mod flows;
mod model;
mod rig;
