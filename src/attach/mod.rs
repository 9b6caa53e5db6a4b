//! Attaching a thread to an interpreter, and undoing that.
//!
//! Imports `trace` and what is below it. Read `ensure`, then `holding`, then `release`.

pub(crate) mod ensure;
pub(crate) mod holding;
pub(crate) mod release;
