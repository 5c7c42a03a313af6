//! Sessions against a server that is a model of the protocol.

mod differential;
mod flows;
mod masks;
mod model;
mod oblige;
mod open;
mod rig;
mod through;
