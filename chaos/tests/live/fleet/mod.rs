//! Many gateways and agents: any client reaches any target through any gateway, and a node that is lost is nothing special.

mod basics;
mod fail_static;
mod weather;
