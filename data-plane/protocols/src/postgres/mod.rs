//! PostgreSQL: frontend/backend protocol 3.

pub mod analyze;
pub mod catalog;
pub mod mask;
