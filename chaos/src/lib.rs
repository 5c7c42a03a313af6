//! What breaks Postern on purpose, and the harness of real parts that tests drive it with.

pub mod fuzz;
pub mod live;
pub mod score;
pub mod sim;
