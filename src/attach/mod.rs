//! Attaches a thread to an interpreter, and undoes that.
//!
//! Imports `trace` and what is below it. Read `ensure`, then `holding`, `release` and `keep`.

pub(crate) mod ensure;
pub(crate) mod holding;
pub(crate) mod release;
pub(crate) mod keep;
