//! Counts the guards of each interpreter, and decides who may still take one.
//!
//! The code here is pure concurrency: an interpreter is an address, and nothing calls Python. A model checker runs
//! it (`make model`).
//!
//! Imports `support`. Read `gate`, then `fence`, `tally` (how a thread counts its own holds) and `stripe` (how threads
//! count guards apart), then `record`, `records` and `registry`.

pub(crate) mod fence;
#[cfg_attr(loom, allow(dead_code))]
pub(crate) mod tally;
#[cfg_attr(loom, allow(dead_code))]
pub(crate) mod stripe;
#[cfg_attr(loom, allow(dead_code))]
#[allow(clippy::module_inception)]
pub(crate) mod gate;
#[cfg_attr(loom, allow(dead_code))]
pub(crate) mod record;
#[cfg_attr(loom, allow(dead_code))]
pub(crate) mod records;
#[cfg(not(loom))]
pub(crate) mod registry;
