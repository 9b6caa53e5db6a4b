//! The ways to the record of an interpreter: from an attached thread state, from nothing (the main interpreter), by the
//! interpreter's address.
//!
//! Imports `exit` and what is below it. Read `records`, then `first_use`.

pub(crate) mod records;
mod guard;
pub(crate) mod first_use;
pub(crate) mod by_address;
pub(crate) mod daemon;
