//! `PEP788_TRACE=1`: what is noted of each guard that is taken, and how it is told.
//!
//! Imports `thread` and what is below it. Read `thread/slip.rs` first, then `note`.

pub(crate) mod note;
pub(crate) mod list;
