//! The roles as three processes, as they run in earnest.
