//! The score of classification: statements run one by one in a scratch database, and what the server itself reports of each is held against what
//! Postern read out of it beforehand.
//!
//! Of a query the server tells its parse tree (`debug_print_parse`): the relations with the permissions that it will ask for, and the functions that
//! it calls. Of a definition, event triggers tell the objects. A transaction id that was assigned tells that something was written.

mod before;
mod judge;
mod objects;
mod report;
mod script;
mod server;
mod tree;

pub use judge::{Class, Found, Judgement};
pub use objects::{Before, Object};
pub use report::Score;
pub use script::{Line, Variables, filled, lines, value};
pub use server::{Session, TRIGGERS};
