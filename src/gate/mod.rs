//! Counts the guards of each interpreter, and decides who may still take one.
//!
//! The code here is pure concurrency: an interpreter is an address, and nothing calls Python. A model checker runs
//! it (`make model`).
//!
//! Imports `support`. Read `gate`, then `fence` and `tally` (how a thread counts its own holds), then `record` and
//! `registry`.

pub(crate) mod fence;
#[cfg_attr(loom, allow(dead_code))]
pub(crate) mod tally;
#[cfg_attr(loom, allow(dead_code))]
#[allow(clippy::module_inception)]
pub(crate) mod gate;
#[cfg_attr(loom, allow(dead_code))]
pub(crate) mod record;
#[cfg(not(loom))]
pub(crate) mod registry;
