//! Finds the record of an interpreter, or makes one at the first use.
//!
//! There are three ways to a record: from an attached thread state, from nothing (the main interpreter), and by the
//! interpreter's address.
//!
//! Imports `exit` and what is below it. Read `records`, then `first_use`.

pub(crate) mod records;
mod guard;
pub(crate) mod first_use;
pub(crate) mod by_address;
pub(crate) mod daemon;
