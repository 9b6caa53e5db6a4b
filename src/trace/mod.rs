//! Notes who takes each guard and where, and lists these notes in reports (`PEP788_TRACE=1`).
//!
//! Imports `thread` and what is below it. Read `thread/slip.rs` first, then `note`.

pub(crate) mod note;
pub(crate) mod list;
