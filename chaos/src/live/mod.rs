//! Real parts on free ports: a PostgreSQL, a Postern, stock clients. All that a test starts ends with it, also when it panics or is killed.
//!
//! Nothing here skips silently: a program that cannot be found is an error which says how to get it.

mod cli;
pub mod cluster;
pub mod crowd;
pub mod disk;
pub mod fleet;
pub mod idle;
mod issuer;
pub mod net;
mod object_store;
pub mod people;
mod postern;
mod postgres;
mod process;
mod provider;
mod psql;
mod roles;
pub mod saml;
pub mod token;
pub mod vault;
mod versions;
pub mod wire;

pub use cli::Cli;
pub use issuer::Issuer;
pub use object_store::{Fault, ObjectStore};
pub use postern::{Postern, PosternOptions, next_binary, postern_binary, shop_objects};
pub use postgres::{BY_BOTH, BY_CERTIFICATE, Postgres, PostgresOptions, Role, is_root};
pub use process::{Finished, Process, free_port, run, wait_until};
pub use provider::Provider;
pub use psql::{Connection, Psql, PsqlOutput};
pub use roles::{RoleOptions, ThreeProcesses};
pub use vault::Vault;
pub use versions::{INSTALLED, asked_version, with_version};
