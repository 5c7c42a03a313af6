//! Many gateways and agents: any client reaches any target through any gateway, and a node that is lost is nothing special.

mod agents;
mod basics;
mod fail_static;
mod relay;
mod rolling;
mod weather;
